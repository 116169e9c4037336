"""The page of one object: its light curve, the cutouts of its detections, statistics, neighbours, history."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import psycopg
from fastapi import APIRouter, Request
from fastapi.responses import Response
from psycopg import sql

from apdb.errors import NotFound
from service.pages.objects.curve import binned, points_of
from service.pages.objects.plot import curve_plot
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading, with_distance
from service.pages.visits.classes import CLASS_WORDS, COLUMNS, SNR_WORDS, describe_source, longest_point

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["object_pages"]

object_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

NEAR_ARCSEC = 30.0
NEIGHBOURS = 50
MOST = 200_000  # points that are read for the picture
SHOWN = 100  # detections of the table, the newest
DRAWN = 400  # points of the picture for readers without scripts: means of more are drawn for those who ask
MOST_CORRECTIONS = 100  # the newest
CORRECTED = 5000  # detections whose corrections are looked for, the newest
BANDS = "ugrizy"
_VERSIONS = (
    'SELECT "validityStartMjdTai" AS start, "validityEndMjdTai" AS "end", "nDiaSources" AS n, ra, dec FROM "DiaObject" WHERE '
    '"diaObjectId" = %s ORDER BY "validityStartMjdTai" DESC LIMIT 50'
)
_NEWEST = (
    'SELECT "diaSourceId" AS id, visit, detector, "midpointMjdTai" AS mjd FROM "DiaSource" WHERE "diaObjectId" = %s '
    f'AND "timeWithdrawnMjdTai" IS NULL ORDER BY "midpointMjdTai" DESC, visit DESC, detector DESC LIMIT {CORRECTED}'
)
_COUNT = 'SELECT count(*) AS n FROM "{}" WHERE "diaObjectId" = %s AND "timeWithdrawnMjdTai" IS NULL'
_WHAT = (
    f'SELECT {COLUMNS}, visit, detector, band, "midpointMjdTai" AS mjd, "scienceFlux" AS total, "scienceFluxErr" AS "totalError", '
    "(SELECT (q.metrics->>'seeingArcsec')::float8 FROM \"VisitQuality\" q WHERE q.visit = d.visit AND q.detector = d.detector) AS seeing "
    'FROM "DiaSource" d WHERE "diaSourceId" = ANY(%s) AND "midpointMjdTai" >= %s AND "timeWithdrawnMjdTai" IS NULL '
    'ORDER BY "midpointMjdTai" DESC, visit DESC, detector DESC'
)
_CORRECTIONS = (
    'SELECT c."diaSourceId" AS source, c."oldDiaObjectId" AS old, c."newDiaObjectId" AS new, c.visit, c.detector, c.kind, c.reason, '
    'c."mjdTai" AS mjd FROM "AlertCorrection" c WHERE c."diaSourceId" = ANY(%s) OR c."newDiaObjectId" = %s OR c."oldDiaObjectId" = %s '
    f"ORDER BY c.batch DESC, c.number LIMIT {MOST_CORRECTIONS}"
)


@object_pages.get("/object/{object_id}")
def one_object(object_id: int, request: Request, shared: Pages, drawn: bool = False) -> Response:
    """One DiaObject; `drawn`: with the picture of its light curve, however many points that has."""
    with reading(shared.database) as cursor:
        row = cursor.execute(
            'SELECT * FROM "DiaObject" WHERE "diaObjectId" = %s AND "validityEndMjdTai" IS NULL', (object_id,)
        ).fetchone()
        if row is None:
            raise NotFound(f"there is no object {object_id}")
        forced = _count(cursor, "DiaForcedSource", object_id)
    return page(
        request, "object.html", it=row, object_id=object_id, forced=forced, drawn=drawn, most=MOST, bands=_by_band(row),
        near_arcsec=NEAR_ARCSEC, neighbours=NEIGHBOURS, most_corrections=MOST_CORRECTIONS, elsewhere=_elsewhere(float(row["ra"]), float(row["dec"])), class_words=CLASS_WORDS,
        snr_words=SNR_WORDS, rest=lambda: _rest(shared, row, object_id, forced, drawn),
    )  # fmt: skip


def _count(cursor: psycopg.Cursor[dict[str, Any]], table: str, object_id: int) -> int:
    return int(next(iter(cursor.execute(_COUNT.format(table), (object_id,))))["n"])


def _rest(shared: Pages, row: dict[str, Any], object_id: int, forced: int, drawn: bool) -> dict[str, Any]:
    """Return what the page shows below its main numbers."""
    with reading(shared.database) as cursor:
        versions = cursor.execute(_VERSIONS, (object_id,)).fetchall()
        newest = cursor.execute(_NEWEST, (object_id,)).fetchall()
        detections = len(newest) if len(newest) < CORRECTED else _count(cursor, "DiaSource", object_id)
        corrections = cursor.execute(_CORRECTIONS, ([n["id"] for n in newest], object_id, object_id)).fetchall()
        since = newest[:SHOWN][-1]["mjd"] if newest else 0.0  # which partitions they are in
        sources = cursor.execute(_WHAT, ([n["id"] for n in newest[:SHOWN]], since)).fetchall()
    for source in sources:
        describe_source(source, longest_point(source["seeing"]))
    points = forced + detections
    plot = curve_plot(_few(points_of(shared, object_id, MOST))) if drawn or points <= DRAWN else None
    return {
        "versions": versions, "corrections": corrections, "points": points, "plot": plot, "cut": points > DRAWN,
        "last": newest[0] if newest else None, "near": _near(shared, object_id, float(row["ra"]), float(row["dec"])),
        "sources": sources,
    }  # fmt: skip


def _few(points: "pd.DataFrame") -> "pd.DataFrame":
    """Return points, or means of bins of time where they are too many."""
    return points if len(points) <= DRAWN else binned(points, float(np.ptp(points.midpointMjdTai)) / DRAWN * 4)


def _by_band(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the statistics of the bands that have any."""
    names = ("psfFluxNdata", "psfFluxMean", "psfFluxMeanErr", "psfFluxSigma", "psfFluxMin", "psfFluxMax", "fpFluxMean",
             "fpFluxMeanErr", "scienceFluxMean", "scienceFluxMeanErr")  # fmt: skip
    out: list[dict[str, Any]] = [{"band": b, **{n: row.get(f"{b}_{n}") for n in names}} for b in BANDS]
    for band in out:
        n, scatter = band["psfFluxNdata"] or 0, band["psfFluxSigma"]
        band["scatterError"] = scatter / n**0.5 if n > 1 and scatter is not None else None  # whatever the errors say
    return [b for b in out if b["psfFluxNdata"]]


def _near(shared: Pages, object_id: int, ra: float, dec: float) -> list[dict[str, Any]]:
    """Return the objects around, the nearest first, with their distance (arcsec)."""
    from apdb import queries

    query = queries.cone(
        ra % 360, dec, NEAR_ARCSEC / 3600, limit=NEIGHBOURS + 1, nearest=True,
        wanted=["diaObjectId", "ra", "dec", "nDiaSources", "lastDiaSourceMjdTai"],
    )  # fmt: skip
    with reading(shared.database) as cursor:
        neighbours = cursor.execute(sql.Composed([query.statement]), query.parameters).fetchall()
    return with_distance([r for r in neighbours if r["diaObjectId"] != object_id], ra, dec)


def _elsewhere(ra: float, dec: float) -> list[tuple[str, str]]:
    """Return links to what others know of the place; followed by a click alone."""
    coordinates = quote(f"{ra:.6f} {dec:+.6f}")
    return [
        ("SIMBAD", f"https://simbad.cds.unistra.fr/simbad/sim-coo?Coord={coordinates}&Radius=10&Radius.unit=arcsec"),
        ("Aladin Lite", f"https://aladin.cds.unistra.fr/AladinLite/?target={coordinates}&fov=0.05"),
        (
            "NED",
            f"https://ned.ipac.caltech.edu/conesearch?search_type=Near%20Position%20Search&coordinates={coordinates}&radius=0.2",
        ),
        ("TNS", f"https://www.wis-tns.org/search?ra={ra:.6f}&decl={dec:.6f}&radius=10&coords_unit=arcsec"),
    ]
