"""The light curve of an object over HTTP, column by column for programs that draw, and its periods."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from psycopg import sql
from pydantic_core import to_json

from apdb.errors import BadQuery, NotFound
from apdb.schema.columns import Column
from service.media import FITS, kinds
from service.pages.objects.periods import strongest_periods
from service.pages.shared import Pages, curve_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "binned", "curves", "points_of"]

curves = APIRouter(tags=["pages"])

MOST_DRAWN = 120_000  # points that a browser draws at once; more are binned here
MOST = 2_000_000
MOST_FOR_PERIODS = 200_000
COLUMNS: tuple[Column, ...] = (
    Column("forced", "boolean", False, None, "", "forced photometry, else a detection"),
    Column("diaSourceId", "long", True, None, "", "of a detection"),
    Column("visit", "long", False), Column("detector", "short", False), Column("band", "string", True, 1),
    Column("midpointMjdTai", "double", False, None, "d"), Column("psfFlux", "float", True, None, "nJy"),
    Column("psfFluxErr", "float", True, None, "nJy"), Column("scienceFlux", "float", True, None, "nJy"),
    Column("scienceFluxErr", "float", True, None, "nJy"), Column("snr", "float", True),
)  # fmt: skip
_FLUXES = 'visit, detector, band, "midpointMjdTai", "psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr"'
_POINTS = sql.SQL(
    f'SELECT * FROM (SELECT false AS forced, "diaSourceId", {_FLUXES}, snr FROM "DiaSource" WHERE "diaObjectId" = %s AND '
    f'"timeWithdrawnMjdTai" IS NULL UNION ALL SELECT true, NULL, {_FLUXES}, NULL FROM "DiaForcedSource" WHERE "diaObjectId" = %s '
    'AND "timeWithdrawnMjdTai" IS NULL) p ORDER BY "midpointMjdTai", forced, visit, detector LIMIT %s'
)


def points_of(shared: Pages, object_id: int, most: int = MOST) -> "pd.DataFrame":
    """Return detections and forced photometry in order of time, columns as `COLUMNS`."""
    return curve_frame(shared.database, _POINTS, COLUMNS, (object_id, object_id, most))


def binned(points: "pd.DataFrame", days: float) -> "pd.DataFrame":
    """Return weighted means by band, kind and bin of time; errors are those of the mean, ids and visits those of one point.

    A point without error has no weight, as one without flux.
    """
    import pandas as pd

    frame = points.assign(bin=np.floor(points.midpointMjdTai / days))
    out: dict[str, Any] = {}
    groups = [frame.band.fillna("").rename("_band"), frame.forced.rename("_forced"), frame.bin]
    for flux, error in (("psfFlux", "psfFluxErr"), ("scienceFlux", "scienceFluxErr")):
        e = frame[error].to_numpy(np.float64)
        good = np.isfinite(frame[flux]) & np.isfinite(e) & (e > 0)
        weight = pd.Series(np.where(good, 1 / np.where(good, e, 1) ** 2, 0.0), index=frame.index)
        sums = pd.DataFrame({"w": weight, "wf": weight * frame[flux].fillna(0)}).groupby(groups).sum()
        out[flux] = sums.wf / sums.w.where(sums.w > 0)
        out[error] = 1 / np.sqrt(sums.w.where(sums.w > 0))
    first = frame.groupby(groups).agg(
        {"forced": "first", "diaSourceId": "first", "visit": "first", "detector": "first", "band": "first",
         "midpointMjdTai": "mean", "snr": "max"}
    )  # fmt: skip
    table = first.assign(**out)[[c.name for c in COLUMNS]]
    return table.sort_values(["midpointMjdTai", "forced"], ignore_index=True)


@curves.get("/v1/objects/{object_id}/curve", response_class=Response, responses=kinds("application/json", FITS))
def curve(
    object_id: int,
    shared: Pages,
    kind: Annotated[Literal["json", "fits"], Query(alias="format", description="of the answer")] = "json",
    days: Annotated[float, Query(ge=0, le=1e5, description="width of time bins; 0: none are made")] = 0.0,
    points: Annotated[int, Query(ge=100, le=MOST_DRAWN, description="more than so many are binned")] = MOST_DRAWN,
) -> Response:
    """The light curve by columns (nJy, MJD TAI), weighted means in bins of time where there are too many points to draw."""
    table = points_of(shared, object_id)
    if table.empty:
        raise NotFound(f"no light curve of object {object_id}")
    total = len(table)
    if total > points and kind == "json":  # bins of no width are no bins
        bands = max(1, table.band.nunique()) * 2
        days = max(days, float(np.ptp(table.midpointMjdTai)) / max(1, points // bands))
    if days > 0:
        table = binned(table, days)
    if kind == "fits":
        return _fits(table, object_id)
    told = {"count": len(table), "total": total, "binDays": days, "columns": _columns(table)}
    # pydantic's writer takes a fifth of json's time for 100 000 points
    return Response(to_json(told), media_type="application/json")


def _columns(table: "pd.DataFrame") -> dict[str, list[Any]]:
    """Return columns as JSON takes them: ids as text (they are longer than the numbers of browsers), no NaN."""
    out: dict[str, list[Any]] = {
        "forced": table.forced.astype(int).tolist(), "band": table.band.fillna("").tolist(),
        "diaSourceId": [str(v) if v else "" for v in table.diaSourceId.fillna(0).astype(np.int64).tolist()],
        "visit": table.visit.tolist(), "detector": table.detector.tolist(),
        "mjd": np.round(table.midpointMjdTai.to_numpy(), 6).tolist(),
    }  # fmt: skip
    for name in ("psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr", "snr"):
        values = np.round(table[name].to_numpy(np.float64, na_value=np.nan), 2)
        out[name] = [v if v == v else None for v in values.tolist()]
    return out


def _fits(table: "pd.DataFrame", object_id: int) -> Response:
    import io

    from astropy.table import Table

    units = {c.name: c.unit for c in COLUMNS if c.unit}
    filled = table.assign(
        diaSourceId=table.diaSourceId.fillna(0).astype(np.int64), band=table.band.fillna("").astype(str)
    )
    written, out = Table.from_pandas(filled, units=units), io.BytesIO()
    written.meta["EXTNAME"] = "LIGHTCURVE"
    written.write(out, format="fits")
    headers = {"Content-Disposition": f'attachment; filename="light_curve_{object_id}.fits"'}
    return Response(out.getvalue(), media_type=FITS, headers=headers)


@curves.get("/v1/objects/{object_id}/period")
def period(
    object_id: int,
    request: Request,
    shared: Pages,
    shortest: Annotated[float, Query(gt=0, le=1e5, description="days")] = 0.05,
    longest: Annotated[float, Query(gt=0, le=1e5, description="days")] = 100.0,
) -> dict[str, Any]:
    """The five strongest periods (days) of the fluxes on the science image, or of the difference where it has none.

    Each says how many cycles were seen and of which others it may be an alias; ``warnings`` says in words what to mind.
    """
    if longest <= shortest:
        raise BadQuery("the longest period must be longer than the shortest")
    table = points_of(shared, object_id, MOST_FOR_PERIODS)
    return strongest_periods(table, shortest, longest)
