"""What can be read by SQL and by ADQL: views, functions of read-only roles, tables of TAP, column by column."""

from collections.abc import Iterable
from typing import Any

from tools.markdown import code, table

__all__ = ["views_page"]

_HEAD = ("column", "type", "unit", "null", "what it is")


def views_page() -> str:
    """Every view, function and TAP table with its columns."""
    from apdb.adql import ADQL_TABLES
    from apdb.schema.view_columns import FUNCTIONS, VIEWS, view_columns

    parts = [
        "# Views, functions and TAP tables\n\nThe views are what a role of `alertprod apdb reader` reads "
        "([by SQL](../../database.md#reading-with-sql)); five of them or tables are TAP tables as well "
        '([by ADQL](../../database.md#reading-with-adql)). Names with capitals are quoted in SQL (`"nAlerts"`), in ADQL they go by any case. A column without a unit is an id, a number, a flag or text.\n'
    ]
    for name, words in VIEWS.items():
        same = name == "dia_object_latest"
        rows = (
            "Columns: those of [DiaObject](tables.md#diaobject), and `pixelId`.\n"
            if same
            else _columns(view_columns(name))
        )
        parts.append(f"## {name}\n\nView: {words}.{_in_tap(name)}\n\n{rows}")
    for signature, (gives, words, arguments) in FUNCTIONS.items():
        name = signature.partition("(")[0]
        parts.append(
            f"## {name}\n\nFunction `{signature}`: {words}. Its columns are those of [{gives}]({_place(gives)}).\n\n"
            + table(("argument", "what it is"), ((code(n), text) for n, text in arguments.items()))
        )
    rows = (
        (f"[{name}]({_place(t.relation)})", len(t.columns), t.description, _left_out(t))
        for name, t in ADQL_TABLES.items()
    )
    parts.append(
        "## TAP tables\n\n`/v1/tap/tables` of a running service says the same. `dia_source` and `light_curve` hold the rows of replaced and withdrawn "
        "visits too: `WHERE timeWithdrawnMjdTai IS NULL` leaves them out, as `/v1/visits/VISIT/DETECTOR/sources` and "
        "`/v1/objects/ID/lightcurve` do unless `withdrawn=true` is given.\n\n"
        + table(("table", "columns", "what it is", "not in it"), rows)
    )
    return "\n".join(parts)


def _place(relation: str) -> str:
    return f"tables.md#{relation.lower()}" if relation[0].isupper() else f"#{relation}"


def _in_tap(view: str) -> str:
    from apdb.adql import ADQL_TABLES

    return " Also a TAP table." if view in ADQL_TABLES else ""


def _left_out(asked: Any) -> str:
    """Columns of the view that the TAP table of its name has not."""
    from apdb.schema.view_columns import VIEWS, view_columns

    if asked.relation not in VIEWS:
        return ""
    there = {c.name for c in asked.columns}
    return ", ".join(code(c.name) for c in view_columns(asked.relation) if c.name not in there)


def _columns(columns: Iterable[Any]) -> str:
    return table(
        _HEAD, ((code(c.name), c.datatype, c.unit, "yes" if c.nullable else "no", c.description) for c in columns)
    )
