"""A SELECT of ADQL as a query: columns, aggregates, WHERE, GROUP BY, ORDER BY, TOP."""

from dataclasses import dataclass, replace

from psycopg import sql

from apdb.adql.conditions import Conditions
from apdb.adql.words import Words
from apdb.errors import BadQuery
from apdb.queries import LIGHT_CURVE_COLUMNS, MAX_ROWS, NIGHT_COLUMNS, VISIT_COLUMNS, Query
from apdb.schema.columns import Column, columns_of

__all__ = ["ADQL_TABLES", "AdqlTable", "adql_query"]

_OBJECT_ID = replace(next(c for c in columns_of("DiaSource") if c.name == "diaObjectId"), nullable=True)
_AGGREGATES = ("COUNT", "MIN", "MAX", "AVG", "SUM")
_ENDS = ("FROM", "WHERE", "GROUP", "ORDER", "AS")


@dataclass(frozen=True)
class AdqlTable:
    """A table that may be asked: its name in the database, its columns, what it is, and how HTM pixels restrict it."""

    relation: str
    columns: tuple[Column, ...]
    description: str
    pixels: str | None = None


ADQL_TABLES: dict[str, AdqlTable] = {
    "dia_object_latest": AdqlTable(
        "dia_object_latest", columns_of("DiaObject"), "the open version of every object",
        't."diaObjectId" IN (SELECT "diaObjectId" FROM "DiaObjectLast" WHERE {})',
    ),
    "dia_source": AdqlTable(
        "DiaSource", columns_of("DiaSource"), "all detections; timeWithdrawnMjdTai is null where they are valid", "{}"
    ),
    "light_curve": AdqlTable(
        "light_curve", (_OBJECT_ID, *LIGHT_CURVE_COLUMNS), "detections and forced photometry, one row each"
    ),
    "visit_summary": AdqlTable("visit_summary", VISIT_COLUMNS, "state, counts and times by visit and detector"),
    "night_summary": AdqlTable("night_summary", NIGHT_COLUMNS, "counts and times by night and band"),
}  # fmt: skip


def adql_query(text: str, max_rows: int = 10_000) -> Query:
    """Return the query that an ADQL text asks; it answers with at most `max_rows` rows.

    Raises
    ------
    BadQuery
        It is not understood, or asks for what is not there; the text says where.
    """
    words = Words(text)
    words.need("SELECT")
    distinct = words.take("DISTINCT")
    top = int(words.next().text) if words.take("TOP") and words.now.text.isdigit() else None
    start = words.index
    _skip_to_from(words)
    table, names = _table(words)
    after = words.index
    words.index = start
    conditions = Conditions(words, {c.name.lower(): c for c in table.columns}, names, table.pixels)
    columns, parts = _items(words, conditions, table)
    words.need("FROM")
    words.index = after
    tail = _tail(words, conditions, {c.name.lower(): c.name for c in columns})
    limit = max(0, min(max_rows, MAX_ROWS))
    rows = limit if top is None else min(top, limit)
    statement = sql.SQL("SELECT {}{} FROM {} t {} LIMIT {}").format(
        sql.SQL("DISTINCT " if distinct else ""), sql.SQL(", ").join(parts), sql.Identifier(table.relation), tail, sql.Literal(rows)
    )  # fmt: skip
    return Query("result", columns, statement, (), limit if top is None or top > limit else limit + 1)


def _skip_to_from(words: Words) -> None:
    while words.now.upper != "FROM":
        if words.next().kind == "end":
            raise words.wrong("expected FROM")
    words.need("FROM")


def _table(words: Words) -> tuple[AdqlTable, set[str]]:
    word = words.next()
    name = word.text.strip('"').lower()
    if name not in ADQL_TABLES:
        raise BadQuery(f"ADQL: no table {word.text!r}; there are {', '.join(ADQL_TABLES)}")
    names = {name}
    words.take("AS")
    if words.now.kind == "name" and words.now.upper not in _ENDS:
        names.add(words.next().text.lower())
    return ADQL_TABLES[name], names


def _items(words: Words, conditions: Conditions, table: AdqlTable) -> tuple[tuple[Column, ...], list[sql.Composable]]:
    if words.take("*"):
        return table.columns, [sql.Identifier("t", c.name) for c in table.columns]
    columns: list[Column] = []
    parts: list[sql.Composable] = []
    while True:
        column, part = _aggregate(words, conditions) if words.now.upper in _AGGREGATES else _plain(conditions)
        if words.take("AS"):
            column = replace(column, name=words.next().text.strip('"')[:63])
        if column.name in {c.name for c in columns}:
            raise BadQuery(f"ADQL: two columns are called {column.name}: name one of them by AS")
        columns.append(column)
        parts.append(sql.SQL("{} AS {}").format(part, sql.Identifier(column.name.replace("%", "%%"))))  # no placeholder
        if not words.take(","):
            return tuple(columns), parts


def _plain(conditions: Conditions) -> tuple[Column, sql.Composable]:
    column = conditions.column()
    return column, sql.Identifier("t", column.name)


def _aggregate(words: Words, conditions: Conditions) -> tuple[Column, sql.Composable]:
    name = words.next().upper
    words.need("(")
    if name == "COUNT":
        inner: sql.Composable = sql.SQL("*")
        if not words.take("*"):
            inner = sql.SQL("DISTINCT " if words.take("DISTINCT") else "") + sql.Identifier(
                "t", conditions.column().name
            )
        words.need(")")
        return Column("count", "long", False), sql.SQL("count({})").format(inner)
    column = conditions.column()
    words.need(")")
    part = sql.SQL("{}({})").format(sql.SQL(name.lower()), sql.Identifier("t", column.name))
    if name in ("MIN", "MAX"):
        return replace(column, name=name.lower(), nullable=True), part
    return Column(name.lower(), "double", True, None, column.unit), sql.SQL("{}::float8").format(part)


def _tail(words: Words, conditions: Conditions, names: dict[str, str]) -> sql.Composable:
    parts: list[sql.Composable] = []
    if words.take("WHERE"):
        parts.append(sql.SQL("WHERE {}").format(conditions.condition()))
    if words.take("GROUP", "BY"):
        parts.append(sql.SQL("GROUP BY {}").format(sql.SQL(", ").join(_list(words, lambda: _plain(conditions)[1]))))
    if words.take("ORDER", "BY"):
        parts.append(
            sql.SQL("ORDER BY {}").format(sql.SQL(", ").join(_list(words, lambda: _ordered(words, conditions, names))))
        )
    if words.now.kind != "end":
        raise words.wrong("expected WHERE, GROUP BY, ORDER BY or the end")
    return sql.SQL(" ").join(parts)


def _ordered(words: Words, conditions: Conditions, names: dict[str, str]) -> sql.Composable:
    name = words.now.text.strip('"')
    if name.lower() in names and not conditions.has_column(name):  # what AS or an aggregate named
        words.next()
        part: sql.Composable = sql.Identifier(names[name.lower()].replace("%", "%%"))
    else:
        part = conditions.value()
    return sql.SQL("{}{}").format(
        part, sql.SQL(" DESC" if words.take("DESC") else "" if not words.take("ASC") else " ASC")
    )


def _list(words: Words, read: "object") -> list[sql.Composable]:
    out = [read()]  # type: ignore[operator]
    while words.take(","):
        out.append(read())  # type: ignore[operator]
    return out
