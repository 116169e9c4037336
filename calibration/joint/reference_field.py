"""How a fit and its reference catalogue differ over the sky: what is common to neighbouring stars is no noise of theirs.

A catalogue that is wrong over part of the field pulls the maps along, and the stars that still contradict it go as outliers:
neither chi2 nor the scatter of what is kept tells. So all reference stars are asked, those that the fit gave up too, each
against the place that the measurements alone give its star.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from calibration.joint.config import JointcalConfig
from calibration.joint.data import ARCSEC, tangent_frames
from calibration.joint.result import BRIGHT, AstrometryHalf
from calibration.joint.solve.minimize import evaluate
from tasks.arrays import F64, I64, Flags
from tasks.sphere import sky_positions

__all__ = ["Differences", "absolute_rms", "differences", "field", "field_metrics"]

log = logging.getLogger("alertprod.jointcal")
_STARS_PER_CELL = 12
_MOST_CELLS = 12  # per axis
_LEAST = 3  # stars of a cell
_FAR = 10.0  # robust sigma: beyond it a star is another star
_SIGNIFICANT = 5.0


@dataclass(frozen=True)
class Differences:
    """Fitted minus reference place of stars with a reference star.

    Parameters
    ----------
    vector
        (T, 3) directions.
    offset
        (T, 2) arcsec east and north.
    variance
        (T, 2) arcsec^2, of measurements and reference star. What the model is off by is not in it: the maps were fitted to
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
    kept, fitted = np.zeros(len(a.measurements), bool), np.zeros(len(a.stars), bool)
    for problem, which, _ in half.parts():
        kept[a.stars.measurements_of(which)[0]] = problem.kept
        fitted[which] = True
    tied = np.flatnonzero(fitted & (a.stars.reference >= 0))
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


def field(d: Differences) -> pd.DataFrame:
    """Return the mean differences in cells over the field.

    Returns
    -------
    table
        ra, dec (deg) of the cells' middles, n stars, d_ra, d_dec (fitted minus reference on the sky) and their errors, mas.
        The errors follow the scatter inside the cells where that is larger than the formal one.
    """
    columns = ["ra", "dec", "n", "d_ra", "d_dec", "d_ra_err", "d_dec_err"]
    if len(d.offset) < _LEAST:
        return pd.DataFrame({name: np.zeros(0, np.int64 if name == "n" else np.float64) for name in columns})
    cell, n_cells = _cells(d.vector)
    own = np.maximum(d.variance, 1e-12)
    middle = np.stack([_medians(d.offset[:, k], cell, n_cells) for k in (0, 1)], 1)
    pull = (d.offset - middle[cell]) / np.sqrt(own)
    alone = np.bincount(cell, minlength=n_cells)[cell] < _LEAST
    scale = max(1.0, 1.4826 * float(np.median(np.abs(pull[~alone])))) if not alone.all() else 1.0
    good: Flags = np.asarray((np.abs(pull) < _FAR * scale).all(1))
    weight = np.where(good[:, None], 1.0 / (own * scale**2), 0.0)
    total, mean = np.zeros((n_cells, 2)), np.zeros((n_cells, 2))
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
    values, errors = (table[list(names)].to_numpy() for names in (("d_ra", "d_dec"), ("d_ra_err", "d_dec_err")))
    if not values.size:
        return {"reference_field_rms_mas": float("nan"), "reference_field_significance": float("nan")}
    excess = float((values**2 - errors**2).mean())
    chi2 = float(((values / errors) ** 2).sum())
    significance = (chi2 - values.size) / float(np.sqrt(2.0 * values.size))
    rms = float(np.sqrt(max(excess, 0.0)))
    if significance > _SIGNIFICANT:
        worst = int(np.hypot(*values.T).argmax())
        log.warning(
            "stars differ from the reference catalogue by a field over the sky: %.1f mas rms per axis (%.0f sigma), %.0f mas at "
            "RA %.4f, Dec %+.4f: the catalogue is wrong over part of the field, or the maps cannot follow the images",
            rms,
            significance,
            np.hypot(*values[worst]),
            table.ra[worst],
            table.dec[worst],
        )
    return {"reference_field_rms_mas": rms, "reference_field_significance": significance}


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
