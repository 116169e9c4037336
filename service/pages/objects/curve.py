"""The light curve of an object over HTTP, column by column for programs that draw, and its periods."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from psycopg import sql

from apdb.errors import BadQuery, NotFound
from apdb.schema.columns import Column
from service.media import FITS, kinds
from service.pages.shared import Pages, curve_frame
from tasks.arrays import F64

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "binned", "curves", "points_of", "strongest_periods"]

curves = APIRouter(tags=["pages"])

MOST_DRAWN = 120_000  # points that a browser draws at once; more are binned here
MOST = 2_000_000
MOST_FOR_PERIODS = 200_000
FREQUENCIES = 200_000
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
    points: Annotated[int, Query(ge=100, le=MOST, description="more than so many are binned")] = MOST_DRAWN,
) -> Response:
    """The light curve by columns (nJy, MJD TAI), weighted means in bins of time where there are too many points to draw."""
    table = points_of(shared, object_id)
    if table.empty:
        raise NotFound(f"no light curve of object {object_id}")
    total = len(table)
    if days == 0 and total > points and kind == "json":
        bands = max(1, table.band.nunique()) * 2
        days = float(np.ptp(table.midpointMjdTai)) / max(1, points // bands)
    if days > 0:
        table = binned(table, days)
    if kind == "fits":
        return _fits(table, object_id)
    return JSONResponse({"count": len(table), "total": total, "binDays": days, "columns": _columns(table)})


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


def _top(frequency: F64, power: F64, k: int) -> float:
    """Return the frequency of the top of the parabola through a peak and its neighbours."""
    if not 0 < k < len(power) - 1:
        return float(frequency[k])
    before, here, after = (float(p) for p in power[k - 1 : k + 2])
    bend = before - 2 * here + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(frequency[k] + shift * (frequency[1] - frequency[0]))


@curves.get("/v1/objects/{object_id}/period")
def period(
    object_id: int,
    request: Request,
    shared: Pages,
    shortest: Annotated[float, Query(gt=0, le=1e5, description="days")] = 0.05,
    longest: Annotated[float, Query(gt=0, le=1e5, description="days")] = 100.0,
) -> dict[str, Any]:
    """The five strongest periods (days) of the fluxes on the science image, or of the difference where it has none."""
    if longest <= shortest:
        raise BadQuery("the longest period must be longer than the shortest")
    table = points_of(shared, object_id, MOST_FOR_PERIODS)
    return strongest_periods(table, shortest, longest)


def strongest_periods(table: "pd.DataFrame", shortest: float, longest: float) -> dict[str, Any]:
    """Return the highest peaks of the generalised Lomb-Scargle periodogram (Zechmeister & Kuerster 2009) of all bands.

    The weighted mean of each band is taken off first; frequencies are at most `FREQUENCIES`, ten to a resolution
    element, and each peak is the top of a parabola through three of them.

    Raises
    ------
    BadQuery
        Fewer than five points can be used.
    """
    from astropy.timeseries import LombScargle

    name = "scienceFlux" if table.scienceFlux.notna().sum() >= 5 else "psfFlux"
    use = table[table[name].notna() & (table[f"{name}Err"] > 0)]
    if len(use) < 5:
        raise BadQuery("a period needs five points with errors at least")
    time, flux = use.midpointMjdTai.to_numpy(np.float64), use[name].to_numpy(np.float64)
    error = use[f"{name}Err"].to_numpy(np.float64)
    codes = use.band.fillna("").astype("category").cat.codes.to_numpy()
    weight = error**-2.0
    means = np.bincount(codes, weight * flux) / np.bincount(codes, weight)
    span = max(float(np.ptp(time)), 1e-6)
    count = int(np.clip(10 * span * (1 / shortest - 1 / longest), 100, FREQUENCIES))
    frequency = np.linspace(1 / longest, 1 / shortest, count)
    fit = LombScargle(time - time[0], flux - means[codes], error)
    power = fit.power(frequency, method="fast", assume_regular_frequency=True)
    peaks = np.flatnonzero((power[1:-1] > power[:-2]) & (power[1:-1] >= power[2:])) + 1
    best = peaks[np.argsort(power[peaks])[::-1][:5]] if peaks.size else np.array([int(np.argmax(power))])
    chance = float(fit.false_alarm_probability(power[best[0]], maximum_frequency=1 / shortest))
    periods = [{"period": float(1 / _top(frequency, power, k)), "power": float(power[k])} for k in best.tolist()]
    return {"flux": name, "points": len(use), "periods": periods, "falseAlarmProbability": chance}
