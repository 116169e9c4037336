"""How a fit and its reference catalogue differ over the sky: what is common to neighbouring stars is no noise of theirs.

A catalogue that is wrong over part of the field pulls the maps along, and the stars that still contradict it go as outliers:
neither chi2 nor the scatter of what is kept tells. So all reference stars are asked, those that the fit gave up too, each
against the place that the measurements alone give its star.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from calibration.joint.config import JointcalConfig
from calibration.joint.data import ARCSEC, tangent_frames
from calibration.joint.model.photometry import POGSON
from calibration.joint.result import BRIGHT, AstrometryHalf, PhotometryHalf
from calibration.joint.solve.minimize import evaluate
from exposure.photocalib import AB_ZEROPOINT
from tasks.arrays import F64, I64, Flags
from tasks.sphere import sky_positions

__all__ = [
    "Differences",
    "absolute_rms",
    "differences",
    "field",
    "field_metrics",
    "flux_differences",
    "flux_field_metrics",
]

log = logging.getLogger("alertprod.jointcal")
_STARS_PER_CELL = 12
_MOST_CELLS = 12  # per axis
_LEAST = 3  # stars of a cell
_FAR = 10.0  # robust sigma: beyond it a star is another star
_SIGNIFICANT = 5.0


@dataclass(frozen=True)
class Differences:
    """Fitted minus reference place, or magnitude, of stars with a reference star.

    Parameters
    ----------
    vector
        (T, 3) directions.
    offset
        (T, 2) arcsec east and north, or (T, 1) mag.
    variance
        (T, 2) arcsec^2 or (T, 1) mag^2, of measurements and reference star. What the model is off by is not in it: the maps were fitted to
        these very stars, and follow their errors.
    bright
        (T,) whether a measurement of the star has S/N > 100.
    """

    vector: F64
    offset: F64
    variance: F64
    bright: Flags


def differences(half: AstrometryHalf, config: JointcalConfig) -> Differences:
    """Return the differences of all stars that have a reference star and a measurement that is kept."""
    a = half.associated
    tied, kept = _tied(half)
    problem = half.builder.problem(a, tied, config)
    index, offsets = a.stars.measurements_of(tied)
    problem.kept = kept[index]
    problem.stars.prior[:, :2, :2] = 0.0
    for _ in range(2):
        alone = evaluate(problem).star_inverse
    there = alone[:, 0, 0] > 0
    reference = a.references.take(a.stars.reference[tied])
    own = np.stack([alone[:, k, k] for k in (0, 1)], 1)
    m = a.measurements
    with np.errstate(invalid="ignore", divide="ignore"):
        bright = problem.kept & ~(m.flux[index] / m.flux_err[index] <= BRIGHT)
    is_bright = np.logical_or.reduceat(bright, offsets[:-1]) if tied.size else np.zeros(0, bool)
    return Differences(
        reference.vector[there],
        problem.stars.coordinates[there, :2],
        (own + reference.error**2)[there],
        is_bright[there],
    )


def _tied(half: AstrometryHalf | PhotometryHalf) -> tuple[I64, Flags]:
    """Return the fitted stars (T,) that have a reference star, and which measurements (N,) of the association are kept."""
    a = half.associated
    kept, fitted = np.zeros(len(a.measurements), bool), np.zeros(len(a.stars), bool)
    for problem, which, _ in half.parts():
        kept[a.stars.measurements_of(which)[0]] = problem.kept
        fitted[which] = True
    return np.flatnonzero(fitted & (a.stars.reference >= 0)), kept


def flux_differences(half: PhotometryHalf, config: JointcalConfig) -> Differences:
    """Return the differences (mag) of all stars that have a reference star and a measurement that is kept."""
    a = half.associated
    tied, kept = _tied(half)
    problem = half.builder.problem(a, tied, config, use_references=False)
    index, _ = a.stars.measurements_of(tied)
    problem.kept = kept[index]
    evaluate(problem)
    problem.freeze_errors()
    alone = evaluate(problem).star_inverse[:, 0, 0]  # stars enter linearly: they are at rest
    value = problem.stars.value[:, 0]
    reference = a.references.take(a.stars.reference[tied])
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = AB_ZEROPOINT - 2.5 * np.log10(reference.flux)
        own = alone
        if not problem.layout.magnitude:
            value, own = AB_ZEROPOINT - 2.5 * np.log10(value), alone * (POGSON / value) ** 2
        variance = own + (POGSON * reference.flux_err / reference.flux) ** 2
    there = (alone > 0) & np.isfinite(value - expected) & np.isfinite(variance)
    off = (value - expected)[there, None]
    return Differences(reference.vector[there], off, variance[there, None], np.ones(len(off), bool))


def absolute_rms(d: Differences) -> float:
    """Return the rms per axis (mas) of the bright stars' differences; what lies beyond ten robust sigma of all is another
    star, and left out.
    """
    off = d.offset[d.bright]
    if not len(off):
        return float("nan")
    sigma = 1.4826 * float(np.median(np.abs(off)))
    near = off[(np.abs(off) <= _FAR * max(sigma, 1e-6)).all(1)]
    return 1e3 * float(np.sqrt((near**2).mean()))


def field(d: Differences, names: Sequence[str] = ("d_ra", "d_dec")) -> pd.DataFrame:
    """Return the mean differences in cells over the field.

    Returns
    -------
    table
        ra, dec (deg) of the cells' middles, n stars, and under `names` fitted minus reference, on the sky, and NAME_err, their
        errors; mas or mmag. The errors follow the scatter inside the cells where that is larger than the formal one.
    """
    columns = ["ra", "dec", "n", *names, *(f"{name}_err" for name in names)]
    if len(d.offset) < _LEAST:
        return pd.DataFrame({name: np.zeros(0, np.int64 if name == "n" else np.float64) for name in columns})
    cell, n_cells = _cells(d.vector)
    own = np.maximum(d.variance, 1e-12)
    middle = np.stack([_medians(d.offset[:, k], cell, n_cells) for k in range(len(names))], 1)
    pull = (d.offset - middle[cell]) / np.sqrt(own)
    alone = np.bincount(cell, minlength=n_cells)[cell] < _LEAST
    scale = max(1.0, 1.4826 * float(np.median(np.abs(pull[~alone])))) if not alone.all() else 1.0
    good: Flags = np.asarray((np.abs(pull) < _FAR * scale).all(1))
    weight = np.where(good[:, None], 1.0 / (own * scale**2), 0.0)
    total, mean = np.zeros(middle.shape), np.zeros(middle.shape)
    np.add.at(total, cell, weight)
    np.add.at(mean, cell, weight * d.offset)
    n = np.bincount(cell[good], minlength=n_cells)
    use = n >= _LEAST
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, error = mean / total, np.sqrt(1.0 / total)
    direction = np.stack([np.bincount(cell, d.vector[:, k], n_cells) for k in range(3)], 1)[use]
    ra, dec = sky_positions(direction / np.linalg.norm(direction, axis=1)[:, None])
    values = (ra, dec, n[use], *(1e3 * mean[use]).T, *(1e3 * error[use]).T)
    return pd.DataFrame(dict(zip(columns, values, strict=True)))


def field_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Return rms (mas per axis, noise taken off) and significance (sigma) of a field of differences; a warning where it is
    significant.
    """
    rms, significance, worst = _excess(table, ("d_ra", "d_dec"))
    if significance > _SIGNIFICANT:
        log.warning(
            "stars differ from the reference catalogue by a field over the sky: %.1f mas rms per axis (%.0f sigma), %s: the "
            "catalogue is wrong over part of the field, or the maps cannot follow the images",
            rms,
            significance,
            worst.format("mas"),
        )
    return {"reference_field_rms_mas": rms, "reference_field_significance": significance}


def flux_field_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Return rms (mmag, noise taken off) and significance (sigma) of a field of differences of magnitudes; a warning where
    it is significant.
    """
    rms, significance, worst = _excess(table, ("d_mag",))
    if significance > _SIGNIFICANT:
        log.warning(
            "fluxes differ from the reference catalogue by a field over the sky: %.1f mmag rms (%.0f sigma), %s: the catalogue "
            "is wrong over part of the field, or calibrations cannot follow the images",
            rms,
            significance,
            worst.format("mmag"),
        )
    return {"photometry_reference_field_rms_mmag": rms, "photometry_reference_field_significance": significance}


def _excess(table: pd.DataFrame, names: Sequence[str]) -> tuple[float, float, str]:
    """Return rms per axis with noise taken off, significance (sigma) and the worst cell in words; NaN without cells."""
    values, errors = (table[[name + end for name in names]].to_numpy() for end in ("", "_err"))
    if not values.size:
        return float("nan"), float("nan"), ""
    excess = float((values**2 - errors**2).mean())
    chi2 = float(((values / errors) ** 2).sum())
    size = np.sqrt((values**2).sum(1))
    worst = int(size.argmax())
    words = f"{size[worst]:.0f} {{}} at RA {table.ra[worst]:.4f}, Dec {table.dec[worst]:+.4f}"
    return float(np.sqrt(max(excess, 0.0))), (chi2 - values.size) / float(np.sqrt(2.0 * values.size)), words


def _cells(vector: F64) -> tuple[I64, int]:
    """Return the cell (T,) of each direction (T, 3) in a square grid over the field, and how many cells there are."""
    centre = vector.sum(0) / np.linalg.norm(vector.sum(0))
    east, north = tangent_frames(centre[None])
    plane = np.stack([vector @ east[0], vector @ north[0]], 1) / ARCSEC
    side = int(np.clip(np.sqrt(len(vector) / _STARS_PER_CELL), 1, _MOST_CELLS))
    low, high = plane.min(0), plane.max(0)
    number = np.minimum((side * (plane - low) / np.maximum(high - low, 1e-9)).astype(np.int64), side - 1)
    _, cell = np.unique(number[:, 0] * side + number[:, 1], return_inverse=True)
    return np.asarray(cell, np.int64), int(cell.max()) + 1


def _medians(values: F64, group: I64, n: int) -> F64:
    """Return the median (n,) of the values (N,) of each group (N,), none of which is empty."""
    order = np.lexsort((values, group))
    count = np.bincount(group, minlength=n)
    first = np.concatenate([[0], np.cumsum(count)])[:-1]
    ordered = values[order]
    return np.asarray((ordered[first + (count - 1) // 2] + ordered[first + count // 2]) / 2)
