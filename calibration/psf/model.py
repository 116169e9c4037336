"""The PSF model: a pixel basis that varies over the CCD, measured from stars.

Stars are moved to the pixel grid, divided by their flux, and each pixel is fitted as a Chebyshev polynomial of the
position with rejection of outlying stars. Beyond the core the noisy pixels give way to an elliptical Moffat fitted to
the mean profile, which also tells how much light falls outside the stamp. Every fifth star is held out and judges the
model.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from calibration.errors import TooFewStars
from calibration.psf.crowding import Crowd, is_crowded
from calibration.psf.stamps import Stamps, ring
from exposure import Exposure, PolynomialPsf, Psf
from exposure.field import polynomial_terms
from exposure.psf import fwhm_of
from exposure.quantiles import scatter
from tasks.arrays import F32, F64, I64, Box, Flags
from tasks.reprs import short_repr

__all__ = ["PsfFit", "fit_psf", "star_residuals"]

MIN_STARS = 4
LEAST_LEFT = 2  # after those whose pixels are all covered by neighbours are gone
_ADVICE = (
    "it takes stars that are bright, not saturated, away from edges and brighter than their neighbours. Give a larger part "
    "of the image, or the PSF itself (a PSF extension or file)"
)
NARROWEST = -3.0  # logarithm of a Moffat's width, px
STEEPEST = 3.0  # logarithm of a Moffat's power beyond which it is a Gaussian
CROWD_ROUNDS = 2  # more change nothing
BRIGHT_SNR = 60  # centroid noise of fainter stars would broaden the model by more than 0.1 %


@dataclass(frozen=True)
class PsfFit:
    """A PSF model and how good it is.

    ``held_out_residual`` is the median over held-out stars of rms residual / peak in the core (0.01 = 1 %),
    ``held_out_chi2`` the median reduced chi2 there; NaN when no star could be held out.
    """

    psf: PolynomialPsf
    fwhm: float
    wing_fraction: float
    n_stars: int
    n_held_out: int
    held_out_residual: float
    held_out_chi2: float

    __repr__ = short_repr


def fit_psf(exposure: Exposure, sources: pd.DataFrame, order: int = 2, size: int = 0) -> PsfFit:
    """Fit the model to the rows of `sources` (x, y frame px; snr; size) whose ``star`` is set.

    The other rows are neighbours, whose pixels are left out. Where the field is crowded, their light is then subtracted
    as that first model has it, and the model is fitted anew.

    Parameters
    ----------
    order
        Highest spatial order; lowered when stars are few (10 stars per term).
    size
        Stamp side; 0 takes 8 FWHM, odd, within 21..51.

    Raises
    ------
    TooFewStars
        Fewer than `MIN_STARS` usable stars.
    """
    chosen = sources.star.to_numpy(np.bool_)
    bright = chosen & (sources.snr.to_numpy() > BRIGHT_SNR)
    rows = np.flatnonzero(bright if bright.sum() >= 40 else chosen)
    stars = sources.iloc[rows]
    if len(stars) < MIN_STARS:
        raise TooFewStars(
            f"{len(stars)} usable stars among {len(sources)} sources, need {MIN_STARS} for a PSF model: {_ADVICE}",
            **exposure.where,
        )
    fwhm = 2.3548 * float(np.sqrt(np.nanmedian(stars["size"])))
    side = size or int(np.clip(int(8 * fwhm) | 1, 21, 51))
    data = Stamps.cut(exposure, stars, sources, side, fwhm)
    held = (np.arange(len(stars)) % 5 == 4) if len(stars) >= 10 else np.zeros(len(stars), bool)
    orders = _orders(min(order, _affordable(int((~held).sum()))))
    try:
        final, wing, use = _fit(data, held, orders, exposure.bbox, fwhm)
        if is_crowded(exposure, sources, side):
            crowd = Crowd(exposure, sources, rows, side, fwhm)
            for _ in range(CROWD_ROUNDS):
                crowd.take_off(data, final)
                final, wing, use = _fit(data, held, orders, exposure.bbox, fwhm, leveled=True)
    except TooFewStars as error:
        raise error.at(**exposure.where) from None
    except np.linalg.LinAlgError as error:  # the equations of stars that cover each other
        raise TooFewStars(
            f"{len(stars)} stars do not determine a PSF model: {_ADVICE}",
            **exposure.where,
        ) from error
    residual, chi2 = _judge(final, data, held)
    mean = fwhm_of(final.moments_at(*final.average_position()))[0]
    return PsfFit(final, float(mean), wing, int(use.sum()), int(held.sum()), residual, chi2)


def star_residuals(exposure: Exposure, sources: pd.DataFrame, psf: Psf) -> tuple[F64, F64, F64, F64]:
    """Return model, its peak in the star, data minus model and variance (N,) at pixels of the rows whose ``star`` is
    set.

    Flux and position of every star are fitted; the residuals are scaled for the degrees of freedom that this takes.
    """
    stars = sources[sources.star]
    size = float(np.sqrt(np.nanmedian(stars["size"]))) if len(stars) else 1.0
    shape = psf.image_at(stars.x.to_numpy(np.float64), stars.y.to_numpy(np.float64)).shape
    if not len(stars):
        raise TooFewStars("no star", **exposure.where)
    data = Stamps.cut(exposure, stars, sources, shape[-1], 2.3548 * size)
    for _ in range(3):
        data.refine(psf)
    profile = psf.image_at(data.x, data.y).astype(np.float64)
    core = (
        (profile > 0.02 * profile.max(axis=(1, 2), keepdims=True))
        & np.isfinite(data.raw)
        & (data.flux > 0)[:, None, None]
    )
    number = core.sum(axis=(1, 2), keepdims=True)
    freedom = np.sqrt(number / np.maximum(number - 3, 1) * len(stars) / max(len(stars) - 1, 1))
    model = profile * data.flux[:, None, None]
    peak = np.broadcast_to(model.max(axis=(1, 2), keepdims=True), model.shape)
    return model[core], peak[core], ((data.raw - model) * freedom)[core], data.variance[core].astype(np.float64)


def _affordable(n: int) -> int:
    return 0 if n < 30 else 1 if n < 80 else 2 if n < 400 else 3


def _orders(top: int) -> I64:
    return np.array([(d - j, j) for d in range(top + 1) for j in range(d + 1)], dtype=np.int64)


def _fit(
    data: Stamps,
    held: Flags,
    orders: I64,
    bbox: Box,
    fwhm: float,
    leveled: bool = False,
) -> tuple[PolynomialPsf, float, Flags]:
    """Return the model with its wings, the light outside the stamp, and the stars it was fitted to."""
    use = ~held
    for _ in range(4):
        model, keep = _fit_once(data, use, orders, bbox, fwhm)
        data.refine(model)
        use = ~held & (keep | ~use)
    final, wing = _with_wings(model, fwhm, leveled)
    return final, wing, use


def _fit_once(data: Stamps, use: Flags, orders: I64, bbox: Box, fwhm: float) -> tuple[PolynomialPsf, Flags]:
    """Return the model of one robust polynomial fit per pixel, and which stars (N,) agree with it."""
    stamps = data.centred()
    side = stamps.shape[-1]
    terms = polynomial_terms(orders, bbox, data.x, data.y)
    g = np.arange(side) - side // 2
    core = np.hypot(g[:, None], g[None, :]) < 1.5 * fwhm
    keep = use & (data.flux > 0)
    sky = float(np.nanmedian(data.variance)) * np.pi * fwhm**2
    flux = np.clip(data.flux, 0, None)
    weight_star = flux**2 / (sky + flux + (0.01 * flux) ** 2)  # inverse variance of a stamp divided by its flux
    weight_star /= max(float(weight_star.max()), 1e-30)
    for _ in range(3):
        if keep.sum() < LEAST_LEFT:
            raise TooFewStars(f"{int(keep.sum())} stars are left for a PSF model, need {LEAST_LEFT}: {_ADVICE}")
        basis = _solve_pixels(stamps[keep], terms[keep], weight_star[keep])
        fitted = np.tensordot(terms, basis, axes=1)
        miss = _core_miss(np.where(core, stamps - fitted, np.nan))
        typical = np.median(miss[keep])
        agree = miss < max(3.5 * typical, 1e-4)
        if (agree & use).sum() < MIN_STARS or np.array_equal(agree & keep, keep):
            break
        keep = use & agree & (data.flux > 0)
    if not (np.isfinite(basis).all() and basis[0].sum() > 0):
        raise TooFewStars(f"the light of {int(keep.sum())} stars makes no PSF model: {_ADVICE}")
    centre = (float(data.x[keep].mean()), float(data.y[keep].mean()))
    return PolynomialPsf(_normalised(basis).astype(np.float32), orders, bbox, centre), keep


def _core_miss(left: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the rms (N,) of what is left of each star (N, S, S), infinite where no pixel is known."""
    seen = np.isfinite(left)
    squares = np.where(seen, left, 0) ** 2
    count = seen.sum(axis=(1, 2))
    return np.where(count > 0, np.sqrt(squares.sum(axis=(1, 2)) / np.maximum(count, 1)), np.inf)


def _solve_pixels(stamps: F32, terms: F64, weight: F64) -> F64:
    """Return the basis (terms, S, S) by weighted least squares for every pixel of stamps (N, S, S) at once.

    `terms` is (N, terms), `weight` (N,). Robust reweighting holds against neighbours' light.
    """
    n, side = stamps.shape[0], stamps.shape[1]
    flat = stamps.reshape(n, -1).astype(np.float64)
    holes = ~np.isfinite(flat)
    flat = np.where(holes, 0, flat)
    w = weight[:, None] * ~holes
    for _ in range(3):
        normal = _contracted("nk,nl,np->pkl", terms, terms, w)
        normal += 1e-9 * (np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-12) * np.eye(terms.shape[1])
        right = _contracted("nk,np->pk", terms, w * flat)
        solution = np.linalg.solve(normal, right[..., None])[..., 0]
        residual = np.abs(flat - terms @ solution.T) * np.sqrt(weight)[:, None]
        scale = 1.4826 * np.median(residual, axis=0) + 1e-12
        w = weight[:, None] * ~holes / np.maximum(1.0, residual / (2.5 * scale)) ** 2
    return np.asarray(solution.T.reshape(-1, side, side))


def _contracted(subscripts: str, *arrays: F64) -> F64:
    path = _path(subscripts, tuple(a.shape for a in arrays))
    return np.asarray(np.einsum(subscripts, *arrays, optimize=path))


@lru_cache(maxsize=256)
def _path(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> list[Any]:
    """Return the order of contraction: to find it takes longer than to sum over a few stars."""
    return list(np.einsum_path(subscripts, *(np.empty(shape) for shape in shapes), optimize="greedy")[0])


def _moffat(p: F64, gx: F64, gy: F64) -> F64:
    """Return an elliptical Moffat of sum 1 (Moffat 1969) at pixels gx, gy.

    `p` holds the logarithms of alpha (px) and of beta - 1.2, and the inverse hyperbolic tangents of two ellipticities.
    """
    alpha, beta, e1, e2 = np.exp(max(p[0], NARROWEST)), 1.2 + np.exp(min(p[1], STEEPEST)), np.tanh(p[2]), np.tanh(p[3])
    det = np.sqrt(max(1 - e1 * e1 - e2 * e2, 1e-3))
    r2 = ((1 - e1) * gx * gx - 2 * e2 * gx * gy + (1 + e1) * gy * gy) / (det * alpha**2)
    return np.asarray((beta - 1) / (np.pi * alpha**2) * (1 + np.maximum(r2, 0)) ** (-beta))  # a flat one has no inside


def _with_wings(model: PolynomialPsf, fwhm: float, leveled: bool) -> tuple[PolynomialPsf, float]:
    """Blend the mean stamp into a Moffat beyond the core; returns the model and the light outside the stamp.

    The level of the mean is that of its ring, or, where the stamps were `leveled` with a model, one that is fitted.
    """
    mean = model.kernel_at(*model.centre)[0].astype(np.float64)
    side = mean.shape[0]
    p = _fit_moffat(mean, fwhm, leveled)
    gx, gy, radius = _grid(side)
    blend = np.clip((radius - 2.0 * fwhm) / fwhm, 0, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        profile = p[4] * _moffat(p, gx, gy)
    level = p[5] if leveled else -np.mean(profile[ring(side)])
    total = (1 - blend) * (mean - level) + blend * profile
    alpha, beta, equal_area = np.exp(max(p[0], NARROWEST)), 1.2 + np.exp(min(p[1], STEEPEST)), side / np.sqrt(np.pi)
    wing = float(np.clip(p[4] * (1 + (equal_area / alpha) ** 2) ** (1 - beta), 0, 0.1))
    basis = model.basis.astype(np.float64) * (1 - blend)
    at_centre = polynomial_terms(model.orders, model.bbox, *model.centre)[0]
    basis[0] = total - np.tensordot(at_centre[1:], basis[1:], axes=1)
    blended = _normalised(basis).astype(np.float32)
    return PolynomialPsf(blended, model.orders, model.bbox, model.centre), wing


def _fit_moffat(mean: F64, fwhm: float, leveled: bool) -> F64:
    """Return what `_moffat` takes, the flux, and, where `leveled`, the level of a Moffat fitted to a stamp (side,
    side).
    """
    gx, gy, radius = _grid(len(mean))
    outside = ring(len(mean))  # its level was taken for sky when the stamps were cut
    fitted = radius < 3.0 * fwhm
    noise = scatter(mean[outside])
    p = np.array([np.log(fwhm), np.log(1.8), 0.0, 0.0, 1.0, *[0.0] * leveled])
    for _ in range(2):
        # relative: the wings count as much as the core; from a model, as weights from noisy pixels would bias the wings
        scale = np.hypot(0.03 * p[4] * _moffat(p, gx, gy), max(noise, 1e-4 * mean.max()))

        def miss(q: F64, scale: F64 = scale) -> F64:
            profile = q[4] * _moffat(q, gx, gy)
            level = q[5] if leveled else -np.mean(profile[outside])
            return np.asarray(((profile + level - mean) / scale)[fitted])

        with np.errstate(over="ignore", invalid="ignore"):  # steps of the fit to a PSF without wings go far
            p = least_squares(miss, p, max_nfev=200).x
    return np.asarray(p, np.float64)


def _grid(side: int) -> tuple[F64, F64, F64]:
    """Return x, y and distance (side, side) of a stamp's pixels from its middle, px."""
    g = np.arange(side, dtype=np.float64) - side // 2
    gx, gy = np.meshgrid(g, g)
    return gx, gy, np.hypot(gx, gy)


def _normalised(basis: F64) -> F64:
    """Return a basis (terms, side, side) whose first stamp has the sum 1, and the others 0."""
    out = basis / basis[0].sum()
    for k in range(1, len(out)):
        out[k] -= out[k].sum() * out[0]
    return np.asarray(out)


def _judge(model: PolynomialPsf, data: Stamps, held: Flags) -> tuple[float, float]:
    """Return the median residual of held-out stars in the core: rms over the peak, and reduced chi2."""
    if not held.any():
        return float("nan"), float("nan")
    data.refine(model)
    stamps = model.image_at(data.x[held], data.y[held]) * data.flux[held][:, None, None]
    core = stamps > 0.1 * stamps.max(axis=(1, 2), keepdims=True)
    miss = np.where(core, data.raw[held] - stamps, np.nan)
    with np.errstate(invalid="ignore"):
        rms = np.sqrt(np.nanmean(miss**2, axis=(1, 2))) / stamps.max(axis=(1, 2))
        chi2 = np.nanmean(miss**2 / data.variance[held], axis=(1, 2))
    return float(np.nanmedian(rms)), float(np.nanmedian(chi2))
