"""DiaForcedSource rows: which objects qualify, and their fluxes on difference and science image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from apdb import columns_of, empty_frame
from association.errors import AssociationError
from exposure import Exposure
from forced.calibrated import difference_fluxes, measure_pair
from tasks import IdFactory, IdGenerator
from tasks.arrays import I32, I64

__all__ = ["ForcedRules", "forced_rows", "qualified_objects", "rows_on_difference", "visits_of_objects"]


@dataclass(frozen=True)
class ForcedRules:
    """What makes a source good, and how many an object needs."""

    history_threshold: int = 2
    reliability: float = 0.5
    trail_length_arcsec: float = 1.4
    bad_flags: tuple[str, ...] = ("glint_trail", "isDipole")
    needs_reliability: bool = False


def qualified_objects(objects: pd.DataFrame, sources: pd.DataFrame, rules: ForcedRules) -> I64:
    """Return the ids, shape (N,) ascending, of the objects with good sources in enough visits (this one included).

    A NULL trail length counts as bad, as does a NULL flag, and a NULL reliability where the rules need one; without it a
    source is judged by the rest, whatever others have. Flags that the sources lack are not asked for. Sources of one visit
    count once: they are one epoch.

    Raises
    ------
    AssociationError
        The sources have no column ``reliability`` or ``trailLength``.
    """
    missing = [c for c in ("reliability", "trailLength") if c not in sources]
    if missing:
        raise AssociationError(
            f"sources without {' and '.join(missing)}: objects for forced photometry cannot be chosen"
        )
    with np.errstate(invalid="ignore"):
        good = sources.trailLength.to_numpy(np.float64) <= rules.trail_length_arcsec
        score = sources.reliability.to_numpy(np.float64)
        good &= (score >= rules.reliability) | (np.isnan(score) & (not rules.needs_reliability))
    for flag in rules.bad_flags:
        if flag in sources:
            good &= ~sources[flag].fillna(True).to_numpy(bool)
    counts = visits_of_objects(sources[good])
    enough = counts[counts >= rules.history_threshold].index.to_numpy(np.int64)
    able = objects[(objects.nDiaSources >= min(2, rules.history_threshold)) & objects.diaObjectId.isin(enough)]
    return np.sort(able.diaObjectId.to_numpy(np.int64))


def visits_of_objects(sources: pd.DataFrame) -> "pd.Series[int]":
    """Return in how many visits each object has a source, by diaObjectId (each source is a visit where none is named)."""
    if "visit" in sources:
        sources = sources[["diaObjectId", "visit"]].drop_duplicates()
    return sources.groupby("diaObjectId").size()


def forced_rows(
    objects: pd.DataFrame,
    ids: I64,
    updated: Sequence[int] | I64,
    difference: Exposure,
    science: Exposure,
    generator: IdGenerator | IdFactory,
    processed_mjd_tai: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure the objects `ids`, shape (N,); rows inside the image, and those of objects in `updated`, are kept.

    Fluxes are in nJy on the difference and on the science image; `processed_mjd_tai` is written to timeProcessedMjdTai.

    Returns
    -------
    rows, flags
        DiaForcedSource rows (all published columns) and their packed flags (side table), in order of object id.
    """
    chosen = objects[objects.diaObjectId.isin(ids)].sort_values("diaObjectId")
    x, y = difference.require_wcs().sky_to_pixel(chosen.ra.to_numpy(), chosen.dec.to_numpy())
    keep = difference.contains(x, y) | chosen.diaObjectId.isin(updated).to_numpy()
    chosen, x, y = chosen[keep], x[keep], y[keep]
    fluxes = measure_pair(difference, science, x, y) if len(chosen) else None
    return _rows(chosen, fluxes, difference, generator, processed_mjd_tai)


def rows_on_difference(
    objects: pd.DataFrame, difference: Exposure, generator: IdGenerator | IdFactory, processed_mjd_tai: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure objects on a stored difference image; the flux on the science image is null.

    Returns
    -------
    rows, flags
        As `forced_rows`, of the objects inside the image.
    """
    chosen = objects.sort_values("diaObjectId")
    x, y = difference.require_wcs().sky_to_pixel(chosen.ra.to_numpy(), chosen.dec.to_numpy())
    keep = difference.contains(x, y)
    chosen = chosen[keep]
    fluxes = None
    if len(chosen):
        measured = difference_fluxes(difference, x[keep], y[keep])
        fluxes = pd.DataFrame(
            {
                "psfFlux": measured.flux,
                "psfFluxErr": measured.fluxErr,
                "scienceFlux": np.nan,
                "scienceFluxErr": np.nan,
                "flags": measured["flags"].to_numpy(np.int32),
            }
        )
    return _rows(chosen, fluxes, difference, generator, processed_mjd_tai)


def _rows(
    chosen: pd.DataFrame,
    fluxes: pd.DataFrame | None,
    difference: Exposure,
    generator: IdGenerator | IdFactory,
    processed_mjd_tai: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    if fluxes is None:
        return empty_frame("DiaForcedSource"), _flag_rows(chosen, np.zeros(0, np.int32), difference)
    info = difference.require_visit_info()
    out = pd.DataFrame({"diaForcedSourceId": generator.take(len(chosen)), "diaObjectId": chosen.diaObjectId.to_numpy()})
    out["ra"], out["dec"] = chosen.ra.to_numpy(), chosen.dec.to_numpy()
    out["visit"], out["detector"] = np.int64(info.visit), np.int16(info.detector)
    for name in ("psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr"):
        out[name] = fluxes[name].to_numpy(np.float32)
    out["midpointMjdTai"], out["band"] = info.midpoint_mjd_tai, difference.band
    out["timeProcessedMjdTai"], out["timeWithdrawnMjdTai"] = processed_mjd_tai, np.nan
    return out[[c.name for c in columns_of("DiaForcedSource")]], _flag_rows(out, fluxes["flags"].to_numpy(), difference)


def _flag_rows(rows: pd.DataFrame, flags: I32, difference: Exposure) -> pd.DataFrame:
    visit, detector = difference.key
    out = pd.DataFrame({"diaObjectId": rows.diaObjectId.to_numpy(np.int64)})
    out["visit"], out["detector"], out["flags"] = np.int64(visit), np.int16(detector), flags
    return out
