"""The page of the database: how large its tables and partitions are, and what should be done about them."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from apdb.operate.health import advice, table_sizes
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, need_answer, reading

__all__ = ["database_pages"]

database_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

_PARTITIONS = (
    'SELECT p."table", p.partition, b[1] AS begin, b[2] AS "end", greatest(p."rowsEstimated", s.n_live_tup) AS rows, '
    'p."tableBytes" AS bytes, p."indexBytes" AS indices FROM partition_size p LEFT JOIN pg_stat_user_tables s ON '
    "s.relname = p.partition AND s.schemaname = current_schema() LEFT JOIN LATERAL regexp_match(p.bounds, "
    "'FROM \\(''?([^'')]+)''?\\) TO \\(''?([^'')]+)''?\\)') b ON true ORDER BY p.\"table\", p.partition DESC"
)
_GROWTH = (
    'SELECT night, sum("nVisits") AS visits, sum("nDiaSources") AS sources, sum("nNewDiaObjects") AS objects, sum("nAlerts") AS alerts '
    "FROM night_summary GROUP BY night ORDER BY night DESC NULLS LAST LIMIT 60"
)
_RUNNING = (
    "SELECT pid, application_name AS program, state, extract(epoch FROM now() - query_start)::float8 AS seconds, left(query, 300) AS query "
    "FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid() AND query_start < now() - "
    "interval '1 second' ORDER BY query_start LIMIT 20"
)


@database_pages.get("/database")
def database(request: Request, shared: Pages) -> Response:
    """Sizes, growth, advice, and statements that run for more than a second."""
    need_answer(shared.database)
    return page(request, "database.html", rest=lambda: _rest(shared))


def _rest(shared: Pages) -> dict[str, Any]:
    with shared.database.session() as connection:
        tables, findings = table_sizes(connection), advice(connection)
    with reading(shared.database) as cursor:
        partitions = cursor.execute(_PARTITIONS).fetchall()
        growth = cursor.execute(_GROWTH).fetchall()
        slow = cursor.execute(_RUNNING).fetchall()
    return {"tables": tables, "findings": findings, "partitions": partitions, "growth": growth, "slow": slow}
