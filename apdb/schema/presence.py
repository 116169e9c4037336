"""Whether the tables of a database are those of its schema: a dropped table or column is named before anything is read."""

from collections.abc import Iterable
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from apdb.errors import InconsistentSchemaError
from apdb.schema.columns import PublishedSchema
from apdb.schema.tables import PARTITIONED, make_metadata

__all__ = ["check_tables"]


def check_tables(connection: psycopg.Connection[Any], schema: PublishedSchema | None = None) -> None:
    """Compare the tables, columns and types that are there with those that belong there.

    Parameters
    ----------
    schema
        That of the published tables, by default the standard one.

    Raises
    ------
    InconsistentSchemaError
        A table or column is missing, or has another type: the message names the first ones and what to do.
    """
    rows = connection.execute(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class c JOIN pg_attribute a "
        "ON a.attrelid = c.oid WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND c.relkind IN ('r', 'p') "
        "AND NOT (c.relispartition AND c.relname <> ALL (%s)) AND a.attnum > 0 AND NOT a.attisdropped",
        ([f"{t}_default" for t in PARTITIONED],),
    ).fetchall()
    held: dict[str, dict[str, str]] = {}
    for table, column, kind in rows:
        held.setdefault(table, {})[column] = kind
    wrong = list(_differences(held, schema))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InconsistentSchemaError(
            f"the tables are not those of the schema: {'; '.join(wrong[:3])}{more}. Restore them from a backup, or use "
            "another database: a part of what was stored is gone"
        )


def _differences(held: dict[str, dict[str, str]], schema: PublishedSchema | None) -> Iterable[str]:
    """Yield what is missing or of another type; what is there beside it is not looked at."""
    for name, table in make_metadata(schema).tables.items():
        if name not in held:
            yield f"no table {name}"
            continue
        for column in table.columns:
            want = _type_name(column.type)
            have = held[name].get(column.name)
            if have is None:
                yield f"no column {name}.{column.name}"
            elif have != want:
                yield f"{name}.{column.name} is {have}, not {want}"
    for name in PARTITIONED:
        if name in held and f"{name}_default" not in held:
            yield f"no table {name}_default"


def _type_name(kind: sa.types.TypeEngine[Any]) -> str:
    """Return the name of a type as PostgreSQL prints it."""
    name = kind.compile(dialect=pg.dialect()).lower()  # type: ignore[no-untyped-call]
    return name.replace("varchar", "character varying")
