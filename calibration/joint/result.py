"""What comes of the two fits: positions, fluxes, numbers that judge them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pandas as pd

from calibration.errors import JointCalibrationError
from calibration.joint.data import ARCSEC, Images
from calibration.joint.matching.stars import Associated
from calibration.joint.model.astrometry import AstrometryProblem
from calibration.joint.model.build_astrometry import AstrometryBuilder
from calibration.joint.model.build_photometry import PhotometryBuilder
from calibration.joint.model.photometry import POGSON, PhotometryProblem
from calibration.joint.solve.draws import star_covariances
from calibration.joint.solve.fit import FitReport
from calibration.joint.solve.minimize import evaluate, star_blocks
from calibration.joint.solve.problem import Fittable
from exposure import PhotoCalib
from exposure.photocalib import AB_ZEROPOINT
from exposure.wcs.mapped import ComposedWcs
from tasks.arrays import F64, I64, Flags
from tasks.sphere import sky_positions

if TYPE_CHECKING:
    from calibration.joint.whiteness import Whiteness

__all__ = [
    "AstrometryHalf",
    "Half",
    "JointResult",
    "PhotometryHalf",
    "astrometric_scatter",
    "photometric_scatter",
    "positions",
    "residuals",
    "star_table",
]

BRIGHT = 100.0  # S/N of the stars that the scatter metrics are of


ProblemT = TypeVar("ProblemT", AstrometryProblem, PhotometryProblem)
BuilderT = TypeVar("BuilderT", AstrometryBuilder, PhotometryBuilder)


@dataclass
class Half(Generic[ProblemT, BuilderT]):
    """One half of a joint fit, finished.

    Parameters
    ----------
    problem, held
        Stars of the fit, and those held out (None without).
    which, held_which
        Their indices in the association.
    draws
        (P, R) of the errors of the parameters; None where they are not known.
    quality
        One row per image that was given, see `calibration.joint.image_quality.image_table`.
    white
        Whether the residuals of each visit are independent of each other over the focal plane.
    """

    associated: Associated
    problem: ProblemT
    held: ProblemT | None
    which: I64
    held_which: I64
    report: FitReport
    builder: BuilderT
    metrics: dict[str, float] = field(default_factory=dict)
    draws: F64 | None = None
    quality: pd.DataFrame = field(default_factory=pd.DataFrame)
    white: "Whiteness | None" = None

    def parts(self) -> list[tuple[ProblemT, I64, bool]]:
        """Return problem, indices of stars (M,), and whether they were held out, of all that has stars."""
        every = ((self.problem, self.which, False), (self.held, self.held_which, True))
        return [(problem, which, held) for problem, which, held in every if problem is not None and which.size]


AstrometryHalf = Half[AstrometryProblem, AstrometryBuilder]
PhotometryHalf = Half[PhotometryProblem, PhotometryBuilder]


@dataclass(frozen=True)
class JointResult:
    """What a joint fit gives, under its published names.

    Parameters
    ----------
    outputWcs, outputPhotoCalib
        By (visit, detector); None where that half is off.
    metrics, job
        The same numbers by name.
    stars
        See `star_table`.
    images
        Those that were fitted.
    image_quality
        One row per image that was given, see `calibration.joint.image_quality.by_image`.
    reference_field
        Fitted minus reference places over the sky, see `calibration.joint.reference_field.field`; None without astrometry.
    photometry_reference_field
        Fitted minus reference magnitudes; None without photometry.
    """

    outputWcs: dict[tuple[int, int], ComposedWcs] | None
    outputPhotoCalib: dict[tuple[int, int], PhotoCalib] | None
    metrics: dict[str, Any]
    job: dict[str, Any]
    converged: bool
    stars: pd.DataFrame
    images: Images
    image_quality: pd.DataFrame
    astrometry: AstrometryHalf | None
    photometry: PhotometryHalf | None
    astrometryRefObjLoader: pd.DataFrame | None
    photometryRefObjLoader: pd.DataFrame | None
    reference_field: pd.DataFrame | None = None
    photometry_reference_field: pd.DataFrame | None = None


def _bright(a: Associated, which: I64) -> Flags:
    """Return which measurements (N,) of some stars have S/N > 100; those of unknown flux count as bright."""
    index, _ = a.stars.measurements_of(which)
    flux, error = a.measurements.flux[index], a.measurements.flux_err[index]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = flux / error
    return np.asarray(np.where(np.isfinite(ratio), ratio > BRIGHT, True))


def residuals(problem: Fittable) -> tuple[F64, I64]:
    """Return residuals (N, d) with the stars where they are, and how many kept measurements (N,) the star of each has."""
    out = np.concatenate([problem.light(a, b).rows.residual for a, b in star_blocks(problem, light=True)])
    count = np.bincount(problem.star_index[problem.kept], minlength=problem.offsets.size - 1)
    return out, count[problem.star_index]


def astrometric_scatter(problem: AstrometryProblem, a: Associated, which: I64) -> float:
    """Return the rms per axis (mas) of kept measurements with S/N > 100 about their stars, of stars that have two or more."""
    residual, count = residuals(problem)
    use = problem.kept & _bright(a, which) & (count >= 2)
    return 1e3 * float(np.sqrt((residual[use] ** 2).mean())) if use.any() else float("nan")


def photometric_scatter(problem: PhotometryProblem, a: Associated, which: I64) -> float:
    """Return the repeatability (mmag) of S/N > 100 measurements: rms about their stars, times sqrt(n / (n - 1))."""
    residual, count = residuals(problem)
    use = problem.kept & _bright(a, which) & (count >= 2)
    if not use.any():
        return float("nan")
    off = residual[use, 0]
    if not problem.layout.magnitude:
        off = POGSON * off / problem.stars.value[problem.star_index[use], 0]
    return 1e3 * float(np.sqrt((off**2 * count[use] / (count[use] - 1)).mean()))


def positions(problem: AstrometryProblem) -> tuple[F64, F64]:
    """Return fitted RA and Dec (M,) of the stars at the epoch of the fit, degrees."""
    s = problem.stars
    vectors = s.vector + ARCSEC * (s.coordinates[:, :1] * s.east + s.coordinates[:, 1:2] * s.north)
    return sky_positions(vectors)


def star_table(astrometry: AstrometryHalf | None, photometry: PhotometryHalf | None) -> pd.DataFrame:
    """Return the stars: ra, dec (deg), flux (nJy), variances, n, and whether they were held out.

    Positions are those of the astrometric fit; fluxes those of the photometric fit of the star with the same measurements.
    Variances (mas^2, nJy^2) hold the errors of the star's own measurements and what the errors of the model add to them,
    which neighbouring stars have in common.

    Raises
    ------
    JointCalibrationError
        Neither half was fitted.
    """
    if astrometry is not None:
        out = pd.concat([_position_rows(astrometry, *part) for part in astrometry.parts()], ignore_index=True)
        if photometry is not None:
            out = _with_fluxes(out, astrometry, photometry)
    elif photometry is not None:
        out = pd.concat([_flux_rows(photometry, *part) for part in photometry.parts()], ignore_index=True)
    else:
        raise JointCalibrationError("neither half was fitted: there are no stars")
    return out.sort_values(["dec", "ra"], ignore_index=True)


def _position_rows(half: AstrometryHalf, problem: AstrometryProblem, which: I64, held: bool) -> pd.DataFrame:
    evaluate(problem)
    inverse = star_covariances(problem, half.draws)
    nan = np.full(which.size, np.nan)
    ra, dec = positions(problem)
    columns: dict[str, Any] = {
        "ra": ra,
        "dec": dec,
        "flux": nan,
        "ra_var": inverse[:, 0, 0] * 1e6,
        "dec_var": inverse[:, 1, 1] * 1e6,
        "ra_dec_cov": inverse[:, 0, 1] * 1e6,
        "flux_var": nan,
    }
    if problem.n_star == 4:
        motion = problem.stars.motion + problem.stars.coordinates[:, 2:]
        columns |= {"pm_ra": motion[:, 0] * 1e3, "pm_dec": motion[:, 1] * 1e3}
        columns |= {"pm_ra_var": inverse[:, 2, 2] * 1e6, "pm_dec_var": inverse[:, 3, 3] * 1e6}
    return pd.DataFrame(columns | _common(problem, which, held))


def _flux_rows(half: PhotometryHalf, problem: PhotometryProblem, which: I64, held: bool) -> pd.DataFrame:
    evaluate(problem)
    flux, variance = _flux(problem, star_covariances(problem, half.draws))
    nan, stars = np.full(which.size, np.nan), half.associated.stars
    columns = {
        "ra": stars.ra[which],
        "dec": stars.dec[which],
        "flux": flux,
        "ra_var": nan,
        "dec_var": nan,
        "ra_dec_cov": nan,
        "flux_var": variance,
    }
    return pd.DataFrame(columns | _common(problem, which, held))


def _common(problem: Fittable, which: I64, held: bool) -> dict[str, Any]:
    """Return how many measurements of each star are kept, and whether it was held out."""
    return {"n": np.bincount(problem.star_index[problem.kept], minlength=which.size), "validation": held}


def _flux(problem: PhotometryProblem, inverse: F64) -> tuple[F64, F64]:
    """Return flux (nJy) and its variance (M,) of the stars, whose covariances are (M, 1, 1) in the model's unit."""
    value, variance = problem.stars.value[:, 0], inverse[:, 0, 0]
    if not problem.layout.magnitude:
        return value, variance
    flux = 10.0 ** (-0.4 * (value - AB_ZEROPOINT))
    return flux, (flux / POGSON) ** 2 * variance


def _with_fluxes(stars: pd.DataFrame, astrometry: AstrometryHalf, photometry: PhotometryHalf) -> pd.DataFrame:
    """Return the stars of the astrometric fit with the fluxes of those of the photometric fit that share measurements with them.

    A star's flux is that of its first measurement which has one: the halves match by other WCS, and ids need not be unique.
    """
    a = photometry.associated
    flux, variance = np.full(len(a.stars) + 1, np.nan), np.full(len(a.stars) + 1, np.nan)
    for problem, which, _ in photometry.parts():
        evaluate(problem)
        flux[which], variance[which] = _flux(problem, star_covariances(problem, photometry.draws))
    own = astrometry.associated
    size = 1 + max(int(half.associated.measurements.row.max(initial=0)) for half in (astrometry, photometry))
    of_row = np.full(size, len(a.stars))
    of_row[a.measurements.row] = a.stars.of_measurement
    which = np.concatenate([which for _, which, _ in astrometry.parts()])
    index, offsets = own.stars.measurements_of(which)
    other = of_row[own.measurements.row[index]]
    place = np.where(np.isfinite(flux[other]), np.arange(index.size), index.size)
    first = np.minimum.reduceat(place, offsets[:-1])
    chosen = np.append(other, len(a.stars))[first]
    return stars.assign(flux=flux[chosen], flux_var=variance[chosen])
