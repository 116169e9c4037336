"""Whether the tables of a database are those of its schema: a dropped table or column is named before anything is read."""

from collections.abc import Iterable
from functools import lru_cache
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
    for name, types in (_standard_types() if schema is None else _types(schema)).items():
        if name not in held:
            yield f"no table {name}"
            continue
        for column, want in types.items():
            have = held[name].get(column)
            if have is None:
                yield f"no column {name}.{column}"
            elif have != want:
                yield f"{name}.{column} is {have}, not {want}"
    for name in PARTITIONED:
        if name in held and f"{name}_default" not in held:
            yield f"no table {name}_default"


@lru_cache(maxsize=1)
def _standard_types() -> dict[str, dict[str, str]]:
    """As `_types`, once: the tables are a megabyte of objects in circles, and every role looks every few seconds."""
    return _types(None)


def _types(schema: PublishedSchema | None) -> dict[str, dict[str, str]]:
    """Return the types of the columns by table and name."""
    tables = make_metadata(schema).tables.items()
    return {name: {column.name: _type_name(column.type) for column in table.columns} for name, table in tables}


def _type_name(kind: sa.types.TypeEngine[Any]) -> str:
    """Return the name of a type as PostgreSQL prints it."""
    name = kind.compile(dialect=pg.dialect()).lower()  # type: ignore[no-untyped-call]
    return name.replace("varchar", "character varying")
