"""Values and conditions of ADQL as SQL: arithmetic, comparisons, functions of an allow-list, circles on the sky."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lsst.sphgeom import Angle, Circle, LonLat, UnitVector3d
from psycopg import sql

from apdb.adql.words import Words
from apdb.errors import BadQuery
from apdb.schema.columns import Column

__all__ = ["Conditions"]

T = TypeVar("T")

_FUNCTIONS = {
    "ABS": ("abs", 1), "SQRT": ("sqrt", 1), "FLOOR": ("floor", 1), "CEILING": ("ceiling", 1), "EXP": ("exp", 1), "LOG": ("ln", 1),
    "LOG10": ("log", 1), "POWER": ("power", 2), "SIN": ("sin", 1), "COS": ("cos", 1), "TAN": ("tan", 1), "RADIANS": ("radians", 1),
    "DEGREES": ("degrees", 1), "UPPER": ("upper", 1), "LOWER": ("lower", 1),
}  # fmt: skip
_COMPARED = ("=", "<>", "!=", "<", "<=", ">", ">=")
_OF_CONDITIONS = {*_COMPARED, "NOT", "AND", "OR", "BETWEEN", "IN", "IS", "LIKE", "CONTAINS"}
_DISTANCE = sql.SQL(
    "degrees(2 * asin(least(1, sqrt(sin(radians({dec} - {d}) / 2) ^ 2 + cos(radians({dec})) * cos(radians({d})) * "
    "sin(radians({ra} - {r}) / 2) ^ 2))))"
)


class Conditions:
    """Reads values and conditions about the columns of one table, which is called ``t`` in the SQL.

    Parameters
    ----------
    words
        What is read.
    columns
        Columns by name in lower case.
    names
        Names that the table goes by, in lower case.
    pixels
        SQL that restricts the table to HTM ranges, with ``{}`` for the condition on ``"pixelId"``; None: it has none.
    """

    def __init__(self, words: Words, columns: Mapping[str, Column], names: set[str], pixels: str | None) -> None:
        self._words, self._columns, self._names, self._pixels = words, columns, names, pixels

    def column(self) -> Column:
        """Read the name of a column, with that of its table or without.

        Raises
        ------
        BadQuery
            It is none.
        """
        word = self._words.now
        if word.kind not in ("name", "quoted"):
            raise self._words.wrong("expected the name of a column")
        self._words.next()
        name = word.text.strip('"').lower()
        if name in self._names and self._words.take("."):
            return self.column()
        if name not in self._columns:
            raise BadQuery(
                f"ADQL: no column {word.text}; there are {', '.join(c.name for c in self._columns.values())}"
            )
        return self._columns[name]

    def has_column(self, name: str) -> bool:
        """Whether the table has a column of this name."""
        return name.lower() in self._columns

    def condition(self) -> sql.Composable:
        """Read a condition: predicates joined by OR, AND and NOT."""
        return self._joined("OR", lambda: self._joined("AND", self._negated))

    def _joined(self, word: str, inner: Any) -> sql.Composable:
        parts = [inner()]
        while self._words.take(word):
            parts.append(inner())
        return parts[0] if len(parts) == 1 else sql.SQL("({})").format(sql.SQL(f" {word} ").join(parts))

    def _negated(self) -> sql.Composable:
        negative = False
        while self._words.take("NOT"):
            negative = not negative
        inner = self._predicate()
        return sql.SQL("(NOT {})").format(inner) if negative else inner

    def _predicate(self) -> sql.Composable:
        if self._words.now.kind == "number" and self._words.follows("=", "CONTAINS"):
            inside = self._number()
            self._words.take("=", "CONTAINS")
            return self._contains(inside)
        if self._words.take("CONTAINS"):
            return self._contains()
        if self._words.opens(_OF_CONDITIONS):
            self._words.need("(")
            inner = self.condition()
            self._words.need(")")
            return inner
        return self._compared(self.value())

    def _compared(self, left: sql.Composable) -> sql.Composable:
        take = self._words.take
        if take("IS", "NOT", "NULL"):
            return sql.SQL("({} IS NOT NULL)").format(left)
        if take("IS", "NULL"):
            return sql.SQL("({} IS NULL)").format(left)
        negative = sql.SQL("NOT " if take("NOT") else "")
        if take("BETWEEN"):
            low = self.value()
            self._words.need("AND")
            return sql.SQL("({} {}BETWEEN {} AND {})").format(left, negative, low, self.value())
        if take("IN"):
            self._words.need("(")
            return sql.SQL("({} {}IN ({}))").format(left, negative, sql.SQL(", ").join(self._arguments()))
        if take("LIKE"):
            return sql.SQL("({} {}LIKE {})").format(left, negative, self.value())
        sign = self._words.now.text
        if sign not in _COMPARED:
            raise self._words.wrong("expected a comparison")
        self._words.next()
        return sql.SQL("({} {} {})").format(left, sql.SQL("<>" if sign == "!=" else sign), self.value())

    def value(self) -> sql.Composable:
        """Read a value: columns, numbers, texts, functions, arithmetic."""
        return self._chain(("+", "-"), lambda: self._chain(("*", "/"), self._factor))

    def _chain(self, signs: tuple[str, ...], inner: Any) -> sql.Composable:
        out: sql.Composable = inner()
        while self._words.now.kind == "sign" and self._words.now.text in signs:
            sign = self._words.next().text
            out = sql.SQL("({} {} {})").format(out, sql.SQL(sign), inner())
        return out

    def _factor(self) -> sql.Composable:
        words = self._words
        negative = False
        while words.take("-"):
            negative = not negative
        if negative:
            return sql.SQL("(- {})").format(self._factor())
        if words.take("("):
            inner = self.value()
            words.need(")")
            return inner
        word = words.now
        if word.kind == "number":
            text = words.next().text
            return sql.Literal(int(text)) if text.isdigit() else sql.Literal(float(text))
        if word.kind == "string":
            return sql.Literal(words.next().text[1:-1].replace("''", "'").replace("%", "%%"))  # no placeholder
        if words.take("DISTANCE", "("):
            (r, d), (ra, dec) = self._point(), self._second_point()
            return _DISTANCE.format(ra=r, dec=d, r=ra, d=dec)
        if word.upper in _FUNCTIONS and words.take(word.upper, "("):
            name, count = _FUNCTIONS[word.upper]
            given = self._arguments()
            if len(given) != count:
                raise BadQuery(f"ADQL: {word.upper} takes {count} values, got {len(given)}")
            return sql.SQL("{}({})").format(sql.SQL(name), sql.SQL(", ").join(given))
        return sql.Identifier("t", self.column().name)

    def _arguments(self) -> list[sql.Composable]:
        out = [self.value()]
        while self._words.take(","):
            out.append(self.value())
        self._words.need(")")
        return out

    def _point(self) -> tuple[sql.Composable, sql.Composable]:
        self._words.need("POINT")
        return self._pair(self.value)

    def _pair(self, read: Callable[[], T]) -> tuple[T, T]:
        """Read what is in the brackets of a POINT."""
        self._words.need("(")
        self._pass_frame()
        ra = read()
        self._words.need(",")
        dec = read()
        self._words.need(")")
        return ra, dec

    def _pass_frame(self) -> None:
        """Read over the frame that older versions name first: it can only be ICRS here."""
        if self._words.now.kind == "string":
            self._words.next()
            self._words.need(",")

    def _second_point(self) -> tuple[sql.Composable, sql.Composable]:
        self._words.need(",")
        point = self._point()
        self._words.need(")")
        return point

    def _contains(self, inside: float | None = None) -> sql.Composable:
        """``CONTAINS(POINT(ra, dec), CIRCLE(a, b, r)) = 1``, or ``1 = CONTAINS`` with `inside` read: the distance, and the HTM pixels of the circle for the index."""
        words = self._words
        words.need("(")
        ra, dec = self._point()
        words.need(",")
        words.need("CIRCLE")
        words.need("(")
        self._pass_frame()
        given = self._centre()
        while words.take(","):
            given.append(self._number())
        if len(given) != 3:
            raise BadQuery("ADQL: CIRCLE takes the right ascension, the declination and the radius, in degrees")
        words.need(")")
        words.need(")")
        if inside is None:
            words.need("=")
            inside = self._number()
        if inside not in (0, 1):
            raise BadQuery(f"ADQL: CONTAINS is 1 or 0, never {inside:g}")
        a, b, radius = given
        if not (0 <= a <= 360 and -90 <= b <= 90 and 0 <= radius <= 180):
            raise BadQuery(f"ADQL: no circle on the sky: {a}, {b}, {radius} (degrees)")
        near = _DISTANCE.format(ra=ra, dec=dec, r=sql.Literal(a), d=sql.Literal(b))
        exact = sql.SQL("({} <= {})").format(near, sql.Literal(radius))
        if inside == 0:
            return sql.SQL("(NOT {})").format(exact)
        own = ra == sql.Identifier("t", "ra") and dec == sql.Identifier("t", "dec")
        return sql.SQL("({} AND {})").format(self._in_pixels(a, b, radius), exact) if own and self._pixels else exact

    def _centre(self) -> list[float]:
        """Read the first numbers of a circle: those of a POINT, or one."""
        return list(self._pair(self._number)) if self._words.take("POINT") else [self._number()]

    def _number(self) -> float:
        negative = self._words.take("-")
        if self._words.now.kind != "number":
            raise self._words.wrong("expected a number")
        return float(self._words.next().text) * (-1 if negative else 1)

    def _in_pixels(self, ra: float, dec: float, radius: float) -> sql.Composable:
        from apdb.visit.load import pixel_ranges

        region = Circle(UnitVector3d(LonLat.fromDegrees(ra, dec)), Angle.fromDegrees(radius * (1 + 1e-9) + 1e-9))
        ranges = [
            sql.SQL('("pixelId" >= {} AND "pixelId" < {})').format(sql.Literal(low), sql.Literal(high))
            for low, high in zip(*pixel_ranges(region), strict=True)
        ]
        return sql.SQL(self._pixels or "{}").format(sql.SQL("({})").format(sql.SQL(" OR ").join(ranges)))
