"""What comes of the two fits: positions, fluxes, numbers that judge them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from calibration.joint.model.astrometry import AstrometryProblem
from calibration.joint.model.data import ARCSEC
from calibration.joint.model.photometry import POGSON, PhotometryProblem
from calibration.joint.model.stars import Associated
from calibration.joint.solve.fit import FitReport
from calibration.joint.solve.minimize import evaluate
from tasks.arrays import F64, I64, Flags

__all__ = ["Half", "astrometric_scatter", "photometric_scatter", "positions", "star_table"]

BRIGHT = 100.0  # S/N of the stars that the scatter metrics are of


@dataclass
class Half:
    """One half of a joint fit, finished.

    Parameters
    ----------
    problem, held
        Stars of the fit, and those held out (None without).
    which, held_which
        Their indices in the association.
    """

    associated: Associated
    problem: Any
    held: Any
    which: I64
    held_which: I64
    report: FitReport
    builder: Any
    metrics: dict[str, float] = field(default_factory=dict)


def _bright(a: Associated, problem: Any, which: I64) -> Flags:
    index, _ = a.stars.measurements_of(which)
    flux, error = a.measurements.flux[index], a.measurements.flux_err[index]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = flux / error
    return np.asarray(np.where(np.isfinite(ratio), ratio > BRIGHT, True))


def _residuals(problem: Any) -> tuple[F64, I64]:
    """Residuals (N, d) with the stars where they are, and how many kept measurements each measurement's star has."""
    from calibration.joint.solve.minimize import star_blocks

    out = np.concatenate([problem.rows(a, b).residual for a, b in star_blocks(problem)])
    count = np.bincount(problem.star_index[problem.kept], minlength=problem.offsets.size - 1)
    return out, count[problem.star_index]


def astrometric_scatter(half_problem: AstrometryProblem, a: Associated, which: I64) -> tuple[float, float]:
    """Return rms per axis (mas) of measurements about their stars and of stars about their reference stars, S/N > 100.

    The first is over kept measurements of stars that have two or more. For the second a star stands where its own
    measurements put it: with the pull of the reference star it would agree by construction.
    """
    residual, count = _residuals(half_problem)
    bright = _bright(a, half_problem, which)
    use = half_problem.kept & bright & (count >= 2)
    inner = 1e3 * float(np.sqrt((residual[use] ** 2).mean())) if use.any() else float("nan")
    star_bright = np.zeros(which.size, bool)
    star_bright[half_problem.star_index[half_problem.kept & bright]] = True
    return inner, _without_references(half_problem, star_bright)


def _without_references(problem: AstrometryProblem, chosen: Flags) -> float:
    """Rms per axis (mas) of stars about their reference stars, each star where its measurements alone put it."""
    tied = (problem.stars.prior[:, 0, 0] > 0) & chosen
    if not tied.any():
        return float("nan")
    place, prior = problem.stars.coordinates, problem.stars.prior
    problem.stars.coordinates, problem.stars.prior = place.copy(), prior.copy()
    problem.stars.prior[:, :2, :2] = 0.0
    try:
        evaluate(problem)
        off = problem.stars.coordinates[tied, :2] - problem.stars.target[tied, :2]
    finally:
        problem.stars.coordinates, problem.stars.prior = place, prior
    return 1e3 * float(np.sqrt((off**2).mean()))


def photometric_scatter(problem: PhotometryProblem, a: Associated, which: I64) -> float:
    """Return the repeatability (mmag) of S/N > 100 measurements: rms about their stars, times sqrt(n / (n - 1))."""
    residual, count = _residuals(problem)
    use = problem.kept & _bright(a, problem, which) & (count >= 2)
    if not use.any():
        return float("nan")
    off = residual[use, 0]
    if not problem.layout.magnitude:
        off = POGSON * off / problem.stars.value[problem.star_index[use], 0]
    return 1e3 * float(np.sqrt((off**2 * count[use] / (count[use] - 1)).mean()))


def positions(problem: AstrometryProblem) -> tuple[F64, F64]:
    """Return fitted (ra, dec) of the stars at the epoch of the fit, degrees."""
    s = problem.stars
    vectors = s.vector + ARCSEC * (s.coordinates[:, :1] * s.east + s.coordinates[:, 1:2] * s.north)
    ra = np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0])) % 360.0
    return ra, np.degrees(np.arctan2(vectors[:, 2], np.hypot(vectors[:, 0], vectors[:, 1])))


def star_table(astrometry: "Half | None", photometry: "Half | None") -> pd.DataFrame:
    """Return the stars: ra, dec, flux, variances, n, and whether they were held out.

    Positions are those of the astrometric fit; fluxes those of the photometric fit of the star at the same place.
    Covariances are for the fitted model: the model's own errors are common to many stars and are not in them.
    """
    first = astrometry if astrometry is not None else photometry
    assert first is not None
    tables = []
    for problem, which, held in ((first.problem, first.which, False), (first.held, first.held_which, True)):
        if problem is not None and which.size:
            tables.append(_rows(first, problem, which, held, astrometry is not None))
    out = pd.concat(tables, ignore_index=True)
    if astrometry is not None and photometry is not None:
        out = _with_fluxes(out, photometry)
    return out.drop(columns="_first").sort_values(["dec", "ra"], ignore_index=True)


def _rows(half: Half, problem: Any, which: I64, held: bool, astrometric: bool) -> pd.DataFrame:
    inverse = evaluate(problem).star_inverse
    first = half.associated.measurements.source_id[half.associated.stars.offsets[which]]
    n = np.bincount(problem.star_index[problem.kept], minlength=which.size)
    nan = np.full(which.size, np.nan)
    if astrometric:
        ra, dec = positions(problem)
        columns: dict[str, Any] = {
            "ra": ra, "dec": dec, "flux": nan, "ra_var": inverse[:, 0, 0] * 1e6, "dec_var": inverse[:, 1, 1] * 1e6,
            "ra_dec_cov": inverse[:, 0, 1] * 1e6, "flux_var": nan,
        }  # fmt: skip
        if problem.n_star == 4:
            motion = problem.stars.motion + problem.stars.coordinates[:, 2:]
            columns |= {"pm_ra": motion[:, 0] * 1e3, "pm_dec": motion[:, 1] * 1e3}
            columns |= {"pm_ra_var": inverse[:, 2, 2] * 1e6, "pm_dec_var": inverse[:, 3, 3] * 1e6}
    else:
        flux, variance = _flux(problem, inverse)
        columns = {
            "ra": half.associated.stars.ra[which], "dec": half.associated.stars.dec[which], "flux": flux,
            "ra_var": nan, "dec_var": nan, "ra_dec_cov": nan, "flux_var": variance,
        }  # fmt: skip
    return pd.DataFrame(columns | {"n": n, "validation": held, "_first": first})


def _flux(problem: PhotometryProblem, inverse: F64) -> tuple[F64, F64]:
    value, variance = problem.stars.value[:, 0], inverse[:, 0, 0]
    if not problem.layout.magnitude:
        return value, variance
    flux = 10.0 ** (-0.4 * (value - 31.4))
    return flux, (flux / POGSON) ** 2 * variance


def _with_fluxes(stars: pd.DataFrame, photometry: Half) -> pd.DataFrame:
    parts = []
    for problem, which in ((photometry.problem, photometry.which), (photometry.held, photometry.held_which)):
        if problem is not None and which.size:
            flux, variance = _flux(problem, evaluate(problem).star_inverse)
            first = photometry.associated.measurements.source_id[photometry.associated.stars.offsets[which]]
            parts.append(pd.DataFrame({"_first": first, "flux": flux, "flux_var": variance}))
    fluxes = pd.concat(parts).drop_duplicates("_first")
    return stars.drop(columns=["flux", "flux_var"]).merge(fluxes, on="_first", how="left")[
        [*[c for c in stars.columns if c not in ("n", "validation", "_first")], "n", "validation", "_first"]
    ]
