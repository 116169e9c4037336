"""The search: an id of anything, or coordinates in any usual form."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from psycopg import sql

from apdb import queries
from service.pages.kept import Kept
from service.pages.positions import Position, position_of
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading, with_distance

__all__ = ["search_pages"]

search_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

MOST = 200
VISITS, SHOWN = 8, 25  # the newest ccdVisits, and how many objects are shown where nothing is asked for
MOST_OBJECTS = 5_000_000  # that are looked at for those with most detections: a million takes 0.25 s
_BY_ID = (
    ("object", 'SELECT "diaObjectId" AS id FROM "DiaObjectLast" WHERE "diaObjectId" = %s'),
    ("source", 'SELECT "diaSourceId" AS id, "diaObjectId" AS object, visit, detector, ra, dec FROM "DiaSource" WHERE "diaSourceId" = %s LIMIT 1'),
    ("visits", 'SELECT visit, detector, state, band, "midpointMjdTai" AS mjd FROM "VisitLedger" WHERE visit = %s ORDER BY detector LIMIT 200'),
    ("body", 'SELECT "diaSourceId" AS id, visit, detector, ra, dec, "midpointMjdTai" AS mjd FROM "DiaSource" WHERE "ssObjectId" = %s ORDER BY "midpointMjdTai" DESC LIMIT 200'),
)  # fmt: skip
_DESIGNATION = (
    'SELECT s."diaSourceId" AS id, d.visit, d.detector, d.ra, d.dec, d."midpointMjdTai" AS mjd FROM "SSSource" s JOIN "DiaSource" d '
    'ON d."diaSourceId" = s."diaSourceId" WHERE s.designation = %s ORDER BY d."midpointMjdTai" DESC LIMIT 200'
)
_OF_NEWEST = (
    'SELECT DISTINCT ON (d."diaObjectId") d."diaObjectId" AS object, d.visit, d.detector, d.band, d."midpointMjdTai" AS mjd, d.snr, '
    'o."nDiaSources" AS n, o.ra, o.dec FROM (SELECT visit, detector FROM "VisitLedger" WHERE state = \'done\' ORDER BY "finishedAt" DESC '
    'LIMIT %s) v JOIN "DiaSource" d USING (visit, detector) JOIN "DiaObjectLast" o USING ("diaObjectId") WHERE d."timeWithdrawnMjdTai" '
    'IS NULL ORDER BY d."diaObjectId", d.snr DESC NULLS LAST, d."diaSourceId"'
)
_ORDERS = {
    "significance": 'snr DESC NULLS LAST, object', "detections": "n DESC, object", "time": "mjd DESC, object",
}  # fmt: skip
_HOW_MANY = "SELECT reltuples::bigint AS n FROM pg_class WHERE oid = '\"DiaObjectLast\"'::regclass"
_MOST_DETECTED = (
    'SELECT "diaObjectId" AS object, "nDiaSources" AS n, ra, dec, "firstDiaSourceMjdTai" AS first, "lastDiaSourceMjdTai" AS last '
    'FROM {} o ORDER BY "nDiaSources" DESC, "diaObjectId" LIMIT {}'
)
_ALL, _SOME = sql.SQL('"DiaObjectLast"'), sql.SQL('(SELECT * FROM "DiaObjectLast" LIMIT {})')


@search_pages.get("/search")
def search(
    request: Request,
    shared: Pages,
    q: Annotated[str, Query(max_length=200)] = "",
    radius: Annotated[float, Query(gt=0, le=36_000, description="arcsec")] = 10.0,
    of: Annotated[
        Literal["newest", "all"], Query(description="whose objects are shown where nothing is asked")
    ] = "newest",
    order: Literal["significance", "detections", "time"] = "significance",
) -> Response:
    """What a text names; one thing alone is shown at once."""
    text = q.strip()
    position = position_of(text)
    matches: dict[str, list[dict[str, Any]]] = {}
    if position is not None:
        matches["near"] = _near(shared, position, radius)
    elif text.isdigit() and int(text) < 1 << 63:
        matches = _by_id(shared, int(text))
        if "object" in matches and matches.keys() <= {"object", "source"}:  # an object has the id of its first source
            return RedirectResponse(f"/object/{text}", 303)
        if set(matches) == {"visits"} and len(matches["visits"]) == 1:
            return RedirectResponse(f"/visit/{text}/{matches['visits'][0]['detector']}", 303)
    elif text:
        with reading(shared.database) as cursor:
            matches = {"body": cursor.execute(_DESIGNATION, (text,)).fetchall()}
    begin: dict[str, Any] = {"some": [], "looked_at": None}
    if not text and of == "all":  # made once a minute for all who ask: it reads every object
        counted: Kept = request.app.state.counted
        begin = counted.of("most detected", _has_objects(shared), lambda: _most_detected(shared))
    elif not text:
        begin["some"] = _newest(shared, order)
    return page(
        request, "search.html", q=q, radius=radius, position=position, found={k: v for k, v in matches.items() if v}, most=MOST,
        visits=VISITS, of=of, order=order, **begin,
    )  # fmt: skip


def _has_objects(shared: Pages) -> bool:
    """Whether there is any object: that there is none is not kept for a minute."""
    with reading(shared.database) as cursor:
        return bool(cursor.execute('SELECT 1 FROM "DiaObjectLast" LIMIT 1').fetchall())


def _most_detected(shared: Pages) -> dict[str, Any]:
    """Return the objects with most detections, and how many were looked at where those are not all."""
    with reading(shared.database) as cursor:
        (row,) = cursor.execute(_HOW_MANY).fetchall()
        looked_at = MOST_OBJECTS if row["n"] > MOST_OBJECTS else None
        objects = _ALL if looked_at is None else _SOME.format(sql.Literal(looked_at))
        found = cursor.execute(sql.SQL(_MOST_DETECTED).format(objects, sql.Literal(SHOWN))).fetchall()
    return {"some": found, "looked_at": looked_at}


def _newest(shared: Pages, order: str) -> list[dict[str, Any]]:
    """Return objects of the newest ccdVisits, each once."""
    with reading(shared.database) as cursor:
        statement = sql.SQL("SELECT * FROM ({}) d ORDER BY {} LIMIT {}").format(
            sql.SQL(_OF_NEWEST), sql.SQL(_ORDERS[order]), sql.Literal(SHOWN)
        )
        return cursor.execute(statement, (VISITS,)).fetchall()


def _by_id(shared: Pages, number: int) -> dict[str, list[dict[str, Any]]]:
    with reading(shared.database) as cursor:
        matches = {kind: cursor.execute(statement, (number,)).fetchall() for kind, statement in _BY_ID}
    return {kind: rows for kind, rows in matches.items() if rows}


def _near(shared: Pages, position: Position, radius: float) -> list[dict[str, Any]]:
    """Return the objects around a place, the nearest first."""
    wanted = ["diaObjectId", "ra", "dec", "nDiaSources", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai"]
    query = queries.cone(position.ra, position.dec, radius / 3600, wanted=wanted, limit=MOST, nearest=True)
    with reading(shared.database) as cursor:
        neighbours = cursor.execute(sql.Composed([query.statement]), query.parameters).fetchall()
    return with_distance(neighbours, position.ra, position.dec)
