"""What an operator should know of the tables: sizes, and where vacuum or partitions need help."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from apdb.schema.partitions import archived_months, missing_months, mjd_of, month_bounds, waiting_months
from apdb.schema.tables import PARTITIONED

__all__ = ["Advice", "advice", "table_sizes"]

DEAD_FRACTION = 0.2
DEAD_ROWS = 10_000
XID_AGE = 150_000_000


@dataclass(frozen=True)
class Advice:
    """One finding: the table, what is wrong, and the command that helps."""

    table: str
    finding: str
    command: str


def table_sizes(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Return rows (estimated), bytes and dead rows by table, partitions summed into their table."""
    rows = connection.execute(
        "SELECT coalesce(p.relname, c.relname), sum(greatest(c.reltuples, s.n_live_tup, 0))::bigint, sum(pg_table_size(c.oid))::bigint, "
        "sum(pg_indexes_size(c.oid))::bigint, sum(coalesce(s.n_dead_tup, 0))::bigint, count(i.inhrelid)::int "
        "FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent "
        "LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE c.relkind = 'r' "
        "AND c.relnamespace = current_schema()::regnamespace GROUP BY 1 ORDER BY 3 DESC"
    ).fetchall()
    names = ("table", "rowsEstimated", "tableBytes", "indexBytes", "deadRows", "partitions")
    return [dict(zip(names, row, strict=True)) for row in rows]


def advice(connection: psycopg.Connection[Any], now: datetime | None = None) -> list[Advice]:
    """Return what should be done, worst first: nothing is changed."""
    return [*_wraparound(connection), *_dead_rows(connection), *_unanalysed(connection), *_partitions(connection, now)]


def _wraparound(connection: psycopg.Connection[Any]) -> list[Advice]:
    rows = connection.execute(
        "SELECT relname, age(relfrozenxid) FROM pg_class WHERE relkind = 'r' AND age(relfrozenxid) > %s AND "
        "relnamespace = current_schema()::regnamespace ORDER BY 2 DESC",
        (XID_AGE,),
    ).fetchall()
    return [Advice(t, f"oldest transaction is {age:,} back", f'VACUUM (FREEZE) "{t}"') for t, age in rows]


def _dead_rows(connection: psycopg.Connection[Any]) -> list[Advice]:
    rows = connection.execute(
        "SELECT relname, n_dead_tup, n_live_tup FROM pg_stat_user_tables WHERE schemaname = current_schema() "
        "AND n_dead_tup > %s AND n_dead_tup > %s * (n_live_tup + n_dead_tup) ORDER BY n_dead_tup DESC",
        (DEAD_ROWS, DEAD_FRACTION),
    ).fetchall()
    return [
        Advice(
            t,
            f"{dead:,} dead rows beside {live:,} live ones",
            f'VACUUM (ANALYZE) "{t}"; ALTER TABLE "{t}" SET (autovacuum_vacuum_scale_factor = 0.05)',
        )
        for t, dead, live in rows
    ]


def _unanalysed(connection: psycopg.Connection[Any]) -> list[Advice]:
    rows = connection.execute(
        "SELECT relname, n_mod_since_analyze FROM pg_stat_user_tables WHERE schemaname = current_schema() "
        "AND n_live_tup > %s AND n_mod_since_analyze > n_live_tup / 2 ORDER BY 2 DESC",
        (DEAD_ROWS,),
    ).fetchall()
    return [Advice(t, f"{n:,} changes since the last ANALYZE", f'ANALYZE "{t}"') for t, n in rows]


def _partitions(connection: psycopg.Connection[Any], now: datetime | None) -> list[Advice]:
    today, out = mjd_of(now or datetime.now(UTC)), []
    missing = set(missing_months(connection, today, 1))
    for table in PARTITIONED:
        labels = [month_bounds(today, shift)[0] for shift in range(2)]
        lacking = [k for k, label in enumerate(labels) if f"{table}_{label}" in missing]
        if lacking:
            months = " and ".join(f"{('this', 'next')[k]} month ({labels[k]})" for k in lacking)
            out.append(Advice(table, f"no partition for {months}", "alertprod apdb partitions create"))
    return [*out, *_waiting(connection)]


def _waiting(connection: psycopg.Connection[Any]) -> list[Advice]:
    """What to do about rows that have no partition: late ones of archived months, months that nobody made, times that are none."""
    gone, out = archived_months(connection), []
    for month in waiting_months(connection):
        if month.name in gone:
            text = f"{month.rows:,} late rows of {month.name}, which is archived"
            out.append(Advice(month.table, text, "alertprod apdb archive --to DIRECTORY, or alertprod apdb restore"))
        else:
            text = f"{month.rows:,} rows of {month.name} in the default partition: they slow the making of partitions"
            command = f"alertprod apdb partitions create --at {month.begin_mjd:.0f} --ahead 0"
            out.append(Advice(month.table, text, command))
    return out
