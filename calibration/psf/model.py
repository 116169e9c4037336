"""The PSF model: a pixel basis that varies over the CCD, measured from stars.

Stars are moved to the pixel grid and divided by their flux. Their mean, the changes of its shape and what is left in each
pixel (`calibration.psf.variation`) are fitted as Chebyshev polynomials of the position, with rejection of outlying stars.
Beyond the core the noisy pixels give way to an elliptical Moffat fitted to the mean profile, which also tells how much
light falls outside the stamp. Every fifth star is held out and judges the model; then all of them are fitted.
"""

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calibration.errors import TooFewStars
from calibration.psf.crowding import Crowd, is_crowded
from calibration.psf.follow import stretched
from calibration.psf.misfit import MOST_MISFIT, MOST_NEGATIVE, Misfit, negative_light, size_misfit, warn_of
from calibration.psf.stamps import Stamps
from calibration.psf.variation import varying_basis
from calibration.psf.wings import normalised, with_wings
from calibration.stars import psf_stars
from exposure import Exposure, PolynomialPsf, Psf
from exposure.field import polynomial_terms
from exposure.psf import FWHM_PER_SIGMA, fwhm_of
from exposure.stamps import sided
from exposure.stars import EVIDENCE
from tasks.arrays import F64, I64, Box, Flags
from tasks.reprs import short_repr

__all__ = ["PsfFit", "fit_psf", "star_residuals"]

MIN_STARS, MOST_STARS = 4, 600
MODEL_NOISE = 0.03  # of the light of a pixel, that a model misses of a star
WIDEST = 121  # px, of a stamp
NARROWEST = 1.0  # px, of a FWHM: light that falls into pixels makes none that is much narrower
PER_TERM = 3  # stars: what fewer tell of a term is not told from their scatter
LEAST_LEFT = 2  # after those whose pixels are all covered by neighbours are gone
_ADVICE = (
    "it takes stars that are bright, not saturated, away from edges and brighter than their neighbours. Give a larger part "
    "of the image, or the PSF itself (a PSF extension or file)"
)
ROUNDS = 4  # in which stars that disagree with the others are left out
CROWD_ROUNDS = 2  # more change nothing
PLACES = 6  # along a side: where models are compared
PARTS = 6  # of the stars, each of which is left out of a model once
TYPICAL = 0.87  # median over mean of a variance that so many models tell (chi2 of PARTS - 1)
COMMON = 8.0  # stars: errors of 31 simulated frames over what parts of their n stars say are 1 + COMMON / n, as all have one sky
BRIGHT_SNR = 60  # centroid noise of fainter stars would broaden the model by more than 0.1 %


@dataclass(frozen=True)
class PsfFit:
    """A PSF model and how good it is.

    ``held_out_residual`` is the median over held-out stars of rms residual / peak in the core (0.01 = 1 %),
    ``held_out_chi2`` the median reduced chi2 there; NaN when no star could be held out. ``star_evidence`` says whether
    there are stars at all (`exposure.star_locus.EVIDENT`), ``misfit`` where the model is not as large as they are, ``flux_error``
    by what share of themselves its fluxes are off, rms over the image: what models without a part of the stars make of it; NaN where the stars
    are few, or the model follows them cell by cell (`calibration.psf.follow`).
    """

    psf: Psf
    fwhm: float
    wing_fraction: float
    n_stars: int
    n_held_out: int
    held_out_residual: float
    held_out_chi2: float
    star_evidence: float
    misfit: Misfit
    flux_error: float

    __repr__ = short_repr


def fit_psf(exposure: Exposure, sources: pd.DataFrame, order: int = 2, size: int = 0) -> PsfFit:
    """Fit the model to the rows of `sources` (x, y frame px; snr; size) whose ``star`` is set.

    The other rows are neighbours, whose pixels are left out. Where the field is crowded, their light is then subtracted
    as that first model has it, and the model is fitted anew.

    Parameters
    ----------
    order
        Highest spatial order; lowered where there are less than `PER_TERM` stars per term. Each term is held back as far
        as the stars do not ask for it (`calibration.psf.shrinkage`).
    size
        Stamp side; 0 takes it from the seeing: 8 FWHM, odd, within 21..51, at least 6 FWHM.

    Raises
    ------
    TooFewStars
        Fewer than `MIN_STARS` usable stars, those there are narrower than a pixel, or the model of them with dark rings.
    """
    rows = _chosen(sources)
    stars = sources.iloc[rows]
    if len(stars) < MIN_STARS:
        raise TooFewStars(
            f"{len(stars)} usable stars among {len(sources)} sources, need {MIN_STARS} for a PSF model: {_ADVICE}",
            **exposure.where,
        )
    fwhm = 2.3548 * float(np.sqrt(np.nanmedian(stars["size"])))
    _refuse_points(fwhm, len(stars), exposure)
    side = size or _side(fwhm)
    data = Stamps.cut(exposure, stars, sources, side, fwhm)
    held = (np.arange(len(stars)) % 5 == 4) if len(stars) >= 10 else np.zeros(len(stars), bool)
    orders = _orders(_countable(order, int((~held).sum())))
    try:
        final, wing, use = _fit(data, held, orders, exposure.bbox, fwhm)
        crowded = is_crowded(exposure, sources, side)
        if crowded:
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
    model, (residual, chi2), misfit = _checked(final, data, held, use, exposure.bbox, fwhm)
    if model is final:
        model, wing, use = _fitted_to_all(data, held, orders, exposure.bbox, fwhm, crowded, (final, wing, use))
    _refuse_dark_rings(model, int(use.sum()), exposure)
    mean = fwhm_of(model.moments_at(*final.average_position()))[0]
    evidence = float(sources.attrs.get(EVIDENCE, np.nan))
    warn_of(evidence, misfit, exposure)
    share = float("nan")
    if isinstance(model, PolynomialPsf):
        share = _flux_error(data, use, orders, exposure.bbox, fwhm, final)
        model = replace(model, flux_error=share if np.isfinite(share) else 0.0)
    return PsfFit(model, float(mean), wing, int(use.sum()), int(held.sum()), residual, chi2, evidence, misfit, share)


def _fitted_to_all(
    data: Stamps,
    held: Flags,
    orders: I64,
    bbox: Box,
    fwhm: float,
    leveled: bool,
    judged: tuple[PolynomialPsf, float, Flags],
) -> tuple[PolynomialPsf, float, Flags]:
    """Return a model of all stars, its wings and the stars: those that `judged` it tell their part. Where they make none it stays."""
    if held.any():
        with suppress(TooFewStars, np.linalg.LinAlgError):
            return _fit(data, np.zeros_like(held), orders, bbox, fwhm, leveled, (judged[0], judged[2] | held))
    return judged


def _flux_error(data: Stamps, use: Flags, orders: I64, bbox: Box, fwhm: float, model: PolynomialPsf) -> float:
    """Return the relative error of fluxes by a model of the stars `use`, rms over the image; NaN where they are few.

    A delete-a-group jackknife: models that lack one of `PARTS` groups of the stars differ from each other by as much as a model of all
    is off, but for what is wrong with all of them (`COMMON`). What a star's noise says of it is less: its neighbours' light and
    the level around it count too. The middle of the places is taken: at the rim of the stars few of them tell of models without
    a part, and all of them of the model itself.
    """
    rows = np.flatnonzero(use)
    if len(rows) < 2 * MIN_STARS:
        return float("nan")
    models = []
    for first in range(PARTS):
        part = np.zeros(use.size, np.bool_)
        part[np.delete(rows, np.s_[first::PARTS])] = True
        try:
            models.append(with_wings(_fit_once(data, part, orders, bbox, fwhm, model)[0], fwhm, False)[0])
        except (TooFewStars, np.linalg.LinAlgError):
            return float("nan")
    x, y = ((np.arange(PLACES) + 0.5) / PLACES * n + o - 0.5 for n, o in zip(bbox[2:], bbox[:2], strict=True))
    gx, gy = (a.ravel() for a in np.meshgrid(x, y))
    own = model.kernel_at(gx, gy).astype(np.float64)
    flux = np.array([(m.kernel_at(gx, gy) * own).sum((1, 2)) for m in models]) / (own * own).sum((1, 2))
    variance = (PARTS - 1) / PARTS * ((flux - flux.mean(axis=0)) ** 2).sum(axis=0)
    return float((1 + COMMON / len(rows)) * np.sqrt(np.median(variance) / TYPICAL))


def _refuse_dark_rings(model: Psf, n_stars: int, exposure: Exposure) -> None:
    """Raise `TooFewStars` where a model of so many stars has rings of negative light: no flux would be right."""
    dark = negative_light(model)
    if dark > MOST_NEGATIVE:
        raise TooFewStars(
            f"the light of {n_stars} stars makes no PSF model: {100 * dark:.0f} % of it is negative in rings around the middle, "
            f"as where the sky is not level around stars; {_ADVICE}",
            **exposure.where,
        )


def _refuse_points(fwhm: float, n_stars: int, exposure: Exposure) -> None:
    """Raise `TooFewStars` where so many stars are narrower than a pixel: they are hot pixels."""
    if fwhm < NARROWEST:
        raise TooFewStars(
            f"the {n_stars} sources that are most alike are {fwhm:.2f} px wide (FWHM), less than a pixel, as hot pixels and cosmic "
            f"rays are: they make no PSF model; {_ADVICE}",
            **exposure.where,
        )


def _checked(
    model: Psf, data: Stamps, held: Flags, use: Flags, bbox: Box, fwhm: float
) -> tuple[Psf, tuple[float, float], Misfit]:
    """Return the model, its residuals and its misfit; a model stretched to follow the stars where that suits them better."""
    judged, misfit = _judge(model, data, held), size_misfit(data, model, fwhm)
    other = stretched(data, use, model, fwhm, bbox) if misfit.error > MOST_MISFIT else None
    if other is not None:
        second, smaller = _judge(other, data, held), size_misfit(data, other, fwhm)
        if not second[0] > judged[0] and smaller.error < misfit.error:  # NaN where none was held out
            return other, second, smaller
    return model, judged, misfit


def _chosen(sources: pd.DataFrame) -> I64:
    """Return the rows of the stars that the model is fitted to: bright, alone, and not more than it needs."""
    alone = _alone(sources)
    bright = alone[sources.snr.to_numpy()[alone] > BRIGHT_SNR]
    return (bright if bright.size >= 40 else alone)[:MOST_STARS]


def _alone(sources: pd.DataFrame) -> I64:
    """Return the rows of the stars that are alone."""
    star = sources.star.to_numpy(np.bool_)
    x, y, flux = (sources[c].to_numpy(np.float64) for c in ("x", "y", "apFlux" if "apFlux" in sources else "psfFlux"))
    merged = sources.blended.to_numpy(np.bool_) if "blended" in sources else None
    radius = float(np.sqrt(np.nanmedian(sources["size"][star]))) if star.any() else 0.0
    return np.flatnonzero(psf_stars(x, y, flux, star, merged, 2.3548 * radius))


def _side(fwhm: float) -> int:
    """Return the side of stamps, px: 8 FWHM, within 21 and 51; where stars are so wide that this is not 6 FWHM, that."""
    return max(int(np.clip(int(8 * fwhm) | 1, 21, 51)), min(int(6 * fwhm) | 1, WIDEST))


def star_residuals(exposure: Exposure, sources: pd.DataFrame, psf: Psf) -> tuple[F64, F64, F64, F64]:
    """Return model, its peak in the star, data minus model and variance (N,) at pixels of the rows whose ``star`` is
    set.

    Flux and position of every star are fitted; the residuals are scaled for the degrees of freedom that this takes.
    """
    stars = sources.iloc[_alone(sources)[:MOST_STARS]]
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


def _countable(order: int, n: int) -> int:
    """Return the highest order whose terms `n` stars can tell from their scatter; how much of each, they say themselves."""
    while order > 0 and n < PER_TERM * (order + 1) * (order + 2) // 2:
        order -= 1
    return order


def _orders(top: int) -> I64:
    return np.array([(d - j, j) for d in range(top + 1) for j in range(d + 1)], dtype=np.int64)


def _fit(
    data: Stamps,
    held: Flags,
    orders: I64,
    bbox: Box,
    fwhm: float,
    leveled: bool = False,
    before: tuple[PolynomialPsf, Flags] | None = None,
) -> tuple[PolynomialPsf, float, Flags]:
    """Return the model with its wings, the light outside the stamp, and the stars it was fitted to.

    One round is enough where there was a model `before`, which comes with the stars to use.
    """
    model, use = before or (None, ~held)
    for _ in range(ROUNDS if before is None else 1):
        model, keep = _fit_once(data, use, orders, bbox, fwhm, model)
        data.refine(model)
        use = ~held & (keep | ~use)
    assert model is not None
    final, wing = with_wings(model, fwhm, leveled)
    return final, wing, use


def _fit_once(
    data: Stamps, use: Flags, orders: I64, bbox: Box, fwhm: float, earlier: PolynomialPsf | None
) -> tuple[PolynomialPsf, Flags]:
    """Return the model of one robust fit, and which stars (N,) agree with it.

    An `earlier` model says what stands beside missing pixels when stars are moved to the grid.
    """
    stamps = data.centred(earlier)
    side = stamps.shape[-1]
    terms = polynomial_terms(orders, bbox, data.x, data.y)
    g = np.arange(side) - side // 2
    radius = np.hypot(g[:, None], g[None, :])
    core = radius < 1.5 * fwhm
    keep = use & (data.flux > 0)
    weight = _weights(
        data, _gaussian(g, fwhm) if earlier is None else sided(earlier.kernel_at(*earlier.centre), side)[0]
    )
    for _ in range(3):
        if keep.sum() < LEAST_LEFT:
            raise TooFewStars(f"{int(keep.sum())} stars are left for a PSF model, need {LEAST_LEFT}: {_ADVICE}")
        basis = varying_basis(stamps[keep], weight[keep], terms[keep], orders.sum(1), radius / fwhm)
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
    return PolynomialPsf(normalised(basis).astype(np.float32), orders, bbox, centre), keep


def _weights(data: Stamps, profile: NDArray[np.floating]) -> F64:
    """Return the inverse variance (N, S, S) of the pixels of stamps divided by their flux.

    In the wings that of the sky counts: bright stars tell them. In the core all bright stars are as good: what the
    model (its `profile`, (S, S)) misses of them is a share of their light.
    """
    flux = np.clip(data.flux, 0, None)[:, None, None]
    light = np.clip(profile, 0, None).astype(np.float64)
    sky, photons = data.noise_model(light)
    variance = sky[:, None, None] + photons * flux * light + (MODEL_NOISE * flux * light) ** 2
    return np.asarray(flux**2 / np.maximum(variance, 1e-300))


def _gaussian(g: I64, fwhm: float) -> F64:
    """Return a Gaussian of sum 1 on a grid of offsets (S,)."""
    one = np.exp(-0.5 * (g * FWHM_PER_SIGMA / fwhm) ** 2)
    return np.asarray(one[:, None] * one / one.sum() ** 2)


def _core_miss(left: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the rms (N,) of what is left of each star (N, S, S), infinite where no pixel is known."""
    seen = np.isfinite(left)
    squares = np.where(seen, left, 0) ** 2
    count = seen.sum(axis=(1, 2))
    return np.where(count > 0, np.sqrt(squares.sum(axis=(1, 2)) / np.maximum(count, 1)), np.inf)


def _judge(model: Psf, data: Stamps, held: Flags) -> tuple[float, float]:
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
