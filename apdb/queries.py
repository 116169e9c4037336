"""Queries for people: what a cone, an object, a light curve, a visit or a night holds. Built here, run by `stream_frames`.

Every query names its columns (checked against the schema), has a cap on its rows, and is answered in an order that lets a
reader go on after the last row of a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from lsst.sphgeom import Angle, Circle, LonLat, UnitVector3d
from psycopg import sql

from apdb.errors import BadQuery, NotFound
from apdb.schema.columns import Column, columns_of, named
from apdb.schema.view_columns import view_columns

__all__ = [
    "LIGHT_CURVE_COLUMNS",
    "MAX_ROWS",
    "Query",
    "VisitFilter",
    "cone",
    "footprint",
    "light_curve",
    "nights",
    "object_versions",
    "objects_by_id",
    "time_of_visit",
    "visit_rows",
    "visits",
]

MAX_ROWS = 1_000_000
MAX_RADIUS_DEG = 10.0


LIGHT_CURVE_COLUMNS: tuple[Column, ...] = view_columns("light_curve")[1:]  # of one object
VISIT_COLUMNS: tuple[Column, ...] = named(
    view_columns("visit_summary"), "visit", "detector", "instrument", "band", "midpointMjdTai", "night", "state", "attempt", "failures", "priority",
    "errorCode", "nDiaSources", "nNewDiaObjects", "nUpdatedDiaObjects", "nDiaForcedSources", "nAlerts", "secondsToFinish",
    "createdMjdUtc", "finishedMjdUtc",
)  # fmt: skip
NIGHT_COLUMNS: tuple[Column, ...] = view_columns("night_summary")


@dataclass(frozen=True)
class Query:
    """A query that is ready to run: its name, its columns, its SQL; `key` is the column (or columns) that a next page goes on from."""

    name: str
    columns: tuple[Column, ...]
    statement: sql.Composable
    parameters: tuple[Any, ...]
    limit: int
    key: str | tuple[str, ...] | None = None


def choose(columns: Sequence[Column], wanted: Sequence[str] | None, always: Sequence[str] = ()) -> tuple[Column, ...]:
    """Return the wanted columns in the order asked for (all of them for None), those of `always` first.

    Raises
    ------
    BadQuery
        A name that is no column.
    """
    if wanted is None:
        return tuple(columns)
    by_name = {c.name: c for c in columns}
    unknown = [n for n in wanted if n not in by_name]
    if unknown:
        raise BadQuery(f"no column {', '.join(unknown)}; there are {', '.join(by_name)}")
    return tuple(by_name[n] for n in dict.fromkeys([*always, *wanted]))


def check_limit(limit: int) -> int:
    """Return the limit when it is sensible.

    Raises
    ------
    BadQuery
        It is below 1 or above the cap.
    """
    if not 1 <= limit <= MAX_ROWS:
        raise BadQuery(f"limit must be from 1 to {MAX_ROWS}, not {limit}")
    return limit


def _list(columns: Sequence[Column], alias: str = "t") -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier(alias, c.name) for c in columns)


_DISTANCE = sql.SQL(
    "degrees(2 * asin(least(1, sqrt(sin(radians(t.dec - {dec}) / 2) ^ 2 + cos(radians(t.dec)) * cos(radians({dec})) * "
    "sin(radians(t.ra - {ra}) / 2) ^ 2))))"
)


def cone(
    ra: float,
    dec: float,
    radius_deg: float,
    *,
    wanted: Sequence[str] | None = None,
    as_of: float | None = None,
    after: int | None = None,
    limit: int = 10_000,
    nearest: bool = False,
) -> Query:
    """Objects within a circle (degrees, ICRS; the edge is inside), in order of id.

    Parameters
    ----------
    as_of
        MJD (TAI): the versions as they were just before this time; None gives the newest.
    after
        Only ids above this one.
    nearest
        Of more than `limit` the nearest, else those with the lowest ids; their order is then any.

    Raises
    ------
    BadQuery
        A position or radius that is none, or a column that is none.
    """
    from apdb.visit.load import IN_RANGES, pixel_ranges  # which loads what covers a circle with pixels

    if not (np.isfinite(ra) and 0 <= ra <= 360 and np.isfinite(dec) and -90 <= dec <= 90):
        raise BadQuery(f"no position on the sky: ra {ra}, dec {dec} (degrees, ra from 0 to 360)")
    if not (np.isfinite(radius_deg) and 0 <= radius_deg <= MAX_RADIUS_DEG):
        raise BadQuery(f"the radius must be from 0 to {MAX_RADIUS_DEG} degrees, not {radius_deg}")
    table = "DiaObjectLast" if as_of is None else "DiaObject"
    full = columns_of("DiaObject")
    last = {c.name for c in columns_of("DiaObjectLast")}
    columns = choose(full, wanted, ("diaObjectId",))
    # a little more than the circle, so that rounding loses nobody on its edge
    region = Circle(UnitVector3d(LonLat.fromDegrees(ra, dec)), Angle.fromDegrees(radius_deg * (1 + 1e-9) + 1e-9))
    low, high = pixel_ranges(region)
    distance = _DISTANCE.format(ra=sql.Literal(float(ra)), dec=sql.Literal(float(dec)))
    tail = sql.SQL(' AND {} <= {} {} ORDER BY {}t."diaObjectId" LIMIT {}').format(
        distance,
        sql.Literal(float(radius_deg)),
        sql.SQL("") if after is None else sql.SQL('AND t."diaObjectId" > {}').format(sql.Literal(after)),
        sql.SQL("{}, ").format(distance) if nearest else sql.SQL(""),
        sql.Literal(check_limit(limit)),
    )
    if as_of is not None:
        statement = sql.SQL('WITH {} SELECT {} FROM candidates JOIN {} t USING ("diaObjectId") WHERE {} {}').format(
            _CANDIDATES, _list(columns), sql.Identifier(table), _valid_at(as_of), tail
        )
        return Query("objects", columns, statement, (low, high, as_of), limit, "diaObjectId")
    inside = IN_RANGES + sql.SQL(" WHERE TRUE")
    if {c.name for c in columns} <= last:
        statement = sql.SQL('SELECT {} FROM "DiaObjectLast" t {} {}').format(_list(columns), inside, tail)
    else:
        statement = sql.SQL(
            'SELECT {} FROM (SELECT t."diaObjectId" FROM "DiaObjectLast" t {} {}) near JOIN "DiaObject" o '
            'USING ("diaObjectId") WHERE o."validityEndMjdTai" IS NULL ORDER BY o."diaObjectId"'
        ).format(_list(columns, "o"), inside, tail)
    return Query("objects", columns, statement, (low, high), limit, "diaObjectId")


# who can have been in the region at an earlier time: who is there now, who has a source there, who was closed since
_CANDIDATES = sql.SQL(
    "pixels AS (SELECT * FROM unnest(%s::bigint[], %s::bigint[]) r(lo, hi)), candidates AS ("
    'SELECT t."diaObjectId" FROM "DiaObjectLast" t JOIN pixels r ON t."pixelId" >= r.lo AND t."pixelId" < r.hi UNION '
    'SELECT t."diaObjectId" FROM "DiaSource" t JOIN pixels r ON t."pixelId" >= r.lo AND t."pixelId" < r.hi UNION '
    'SELECT t."diaObjectId" FROM "DiaObject" t WHERE "validityEndMjdTai" >= %s AND t."diaObjectId" IN '
    "(SELECT (jsonb_array_elements(detail))::bigint FROM \"ApdbAudit\" WHERE action = 'close validity'))"
)


def _valid_at(mjd: float) -> sql.Composable:
    return sql.SQL(
        't."validityStartMjdTai" < {0} AND (t."validityEndMjdTai" IS NULL OR t."validityEndMjdTai" >= {0})'
    ).format(sql.Literal(float(mjd)))


def objects_by_id(ids: Sequence[int], *, wanted: Sequence[str] | None = None, as_of: float | None = None) -> Query:
    """Versions of objects: the newest, or those just before `as_of` (MJD, TAI)."""
    columns = choose(columns_of("DiaObject"), wanted, ("diaObjectId",))
    when = sql.SQL('t."validityEndMjdTai" IS NULL') if as_of is None else _valid_at(as_of)
    statement = sql.SQL(
        'SELECT {} FROM "DiaObject" t WHERE t."diaObjectId" = ANY(%s) AND {} ORDER BY t."diaObjectId"'
    ).format(_list(columns), when)
    return Query("objects", columns, statement, ([int(i) for i in ids],), len(ids), "diaObjectId")


def object_versions(object_id: int, *, wanted: Sequence[str] | None = None, limit: int = 10_000) -> Query:
    """Every version of an object, in order of time."""
    columns = choose(columns_of("DiaObject"), wanted, ("diaObjectId", "validityStartMjdTai"))
    statement = sql.SQL(
        'SELECT {} FROM "DiaObject" t WHERE t."diaObjectId" = %s ORDER BY t."validityStartMjdTai" LIMIT %s'
    ).format(_list(columns))
    return Query("versions", columns, statement, (object_id, check_limit(limit)), limit)


def light_curve(
    object_id: int,
    *,
    bands: Sequence[str] | None = None,
    since: float | None = None,
    until: float | None = None,
    kind: str = "all",
    withdrawn: bool = False,
    limit: int = 100_000,
) -> Query:
    """Detections and forced photometry of an object (difference and science image, nJy), in order of time.

    Raises
    ------
    BadQuery
        `kind` is neither all, detection nor forced.
    """
    if kind not in ("all", "detection", "forced"):
        raise BadQuery(f"kind must be all, detection or forced, not {kind!r}")
    terms, parameters = [sql.SQL('t."diaObjectId" = %s')], [object_id]
    for text, value in (
        ("t.band = ANY(%s)", None if bands is None else list(bands)),
        ('t."midpointMjdTai" >= %s', since),
        ('t."midpointMjdTai" < %s', until),
        ("t.kind = %s", None if kind == "all" else kind),
    ):
        if value is not None:
            terms.append(sql.SQL(text))
            parameters.append(value)  # type: ignore[arg-type]
    if not withdrawn:
        terms.append(sql.SQL('t."timeWithdrawnMjdTai" IS NULL'))
    statement = sql.SQL(
        'SELECT {} FROM light_curve t WHERE {} ORDER BY t."midpointMjdTai", t.kind, t.visit, t.detector LIMIT {}'
    ).format(_list(LIGHT_CURVE_COLUMNS), sql.SQL(" AND ").join(terms), sql.Literal(check_limit(limit)))
    return Query("light_curve", LIGHT_CURVE_COLUMNS, statement, tuple(parameters), limit)


def visit_rows(
    table: str,
    visit: int,
    detector: int | None = None,
    *,
    wanted: Sequence[str] | None = None,
    withdrawn: bool = False,
    limit: int = 100_000,
) -> Query:
    """The DiaSources or DiaForcedSources of a visit, or of one of its detectors."""
    key = {"DiaSource": "diaSourceId", "DiaForcedSource": "diaForcedSourceId"}[table]
    columns = choose(columns_of(table), wanted, (key,))
    statement = sql.SQL("SELECT {} FROM {} t WHERE t.visit = {} {} {} ORDER BY t.{} LIMIT {}").format(
        _list(columns),
        sql.Identifier(table),
        sql.Literal(visit),
        sql.SQL("") if detector is None else sql.SQL("AND t.detector = {}").format(sql.Literal(detector)),
        sql.SQL("") if withdrawn else sql.SQL('AND t."timeWithdrawnMjdTai" IS NULL'),
        sql.Identifier(key),
        sql.Literal(check_limit(limit)),
    )
    return Query(table, columns, statement, (), limit, key)


@dataclass(frozen=True)
class VisitFilter:
    """Which visits are listed: those of which everything that is given here is true.

    Parameters
    ----------
    night, state, visit, detector, instrument, band, error
        As the columns say (`error`: errorCode).
    since, until
        Mid-exposure from and before (MJD, TAI).
    """

    night: int | None = None
    state: str | None = None
    visit: int | None = None
    detector: int | None = None
    instrument: str | None = None
    band: str | None = None
    error: str | None = None
    since: float | None = None
    until: float | None = None

    def terms(self) -> list[sql.Composable]:
        """Return the conditions of SQL."""
        columns = {"error": "errorCode", "since": "midpointMjdTai", "until": "midpointMjdTai"}
        operators = {"since": ">=", "until": "<"}
        return [
            sql.SQL("t.{} {} {}").format(
                sql.Identifier(columns.get(name, name)), sql.SQL(operators.get(name, "=")), sql.Literal(value)
            )
            for name, value in vars(self).items()
            if value is not None
        ]


def visits(
    which: VisitFilter | None = None,
    *,
    after: tuple[int, int | None] | None = None,
    newest: bool = False,
    limit: int = 10_000,
) -> Query:
    """Visits with state, counts and time to finish, in order of visit and detector, or those that came last first.

    Parameters
    ----------
    after
        Visit and detector of the last row of the page before; without a detector: only later visits.
    """
    terms = [sql.SQL("TRUE"), *(which or VisitFilter()).terms()]
    order = sql.SQL("t.visit, t.detector")
    if newest:
        order = sql.SQL('t."createdAt" DESC, t.visit DESC, t.detector DESC')
    if after is not None:
        visit, detector = after
        last = sql.Literal(visit), sql.Literal((1 << 15) - 1 if detector is None else detector)
        beyond = sql.SQL("(t.visit, t.detector) > ({}, {})").format(*last)
        if newest:
            beyond = sql.SQL(
                '(t."createdAt", t.visit, t.detector) < (SELECT "createdAt", visit, detector FROM "VisitLedger" WHERE visit = {} '
                "AND detector = {})"
            ).format(*last)
        terms.append(beyond)
    statement = sql.SQL("SELECT {} FROM visit_summary t WHERE {} ORDER BY {} LIMIT {}").format(
        _list(VISIT_COLUMNS), sql.SQL(" AND ").join(terms), order, sql.Literal(check_limit(limit))
    )
    return Query("visits", VISIT_COLUMNS, statement, (), limit, ("visit", "detector"))


def nights(night: int | None = None, *, limit: int = 10_000) -> Query:
    """Nights by band: visits, detections, new objects, alerts, times."""
    where = sql.SQL("TRUE") if night is None else sql.SQL("t.night = {}").format(sql.Literal(night))
    statement = sql.SQL("SELECT {} FROM night_summary t WHERE {} ORDER BY t.night, t.band LIMIT {}").format(
        _list(NIGHT_COLUMNS), where, sql.Literal(check_limit(limit))
    )
    return Query("nights", NIGHT_COLUMNS, statement, (), limit)


def footprint(
    connection: psycopg.Connection[Any],
    *,
    bands: Sequence[str] | None = None,
    since: float | None = None,
    until: float | None = None,
) -> list[int]:
    """Return the HTM pixels, ascending, each of its level, that images of visits touch which were processed to their end."""
    parts = ["SELECT DISTINCT unnest(region) AS pixel FROM \"VisitLedger\" WHERE state = 'done'"]
    given: list[Any] = []
    for condition, value in (('band = ANY(%s)', list(bands) if bands else None), ('"midpointMjdTai" >= %s', since),
                             ('"midpointMjdTai" < %s', until)):  # fmt: skip
        if value is not None:
            parts.append(f"AND {condition}")
            given.append(value)
    return [pixel for (pixel,) in connection.execute(" ".join([*parts, "ORDER BY pixel"]), given)]


def time_of_visit(connection: psycopg.Connection[Any], visit: int, detector: int) -> float:
    """Return the processing time (MJD, TAI) of a visit: its association saw what was valid just before.

    Raises
    ------
    NotFound
        It was never stored.
    """
    row = connection.execute(
        'SELECT max("visitTimeMjdTai") FROM "StoreLedger" WHERE visit = %s AND detector = %s', (visit, detector)
    ).fetchone()
    if row is None or row[0] is None:
        raise NotFound("nothing of it is stored", visit=visit, detector=detector)
    return float(row[0])
