"""Stars as both images show them: as large as the PSF in each, and with the ratio of fluxes that the others have.

A galaxy is larger than the PSF in both images, a transient is in one of them alone, a variable star has another ratio
than its neighbours. Each of these would teach the matching kernel something wrong.
"""

from dataclasses import dataclass

import numpy as np

from exposure import Exposure
from exposure.psf_width import psf_fwhm, psf_sizes
from exposure.quantiles import median, scatter
from exposure.stamps import adaptive_moments, gather
from exposure.star_locus import EVIDENT, local_levels, star_locus
from exposure.stars import Stars
from tasks.arrays import F64, Flags, nearest_pixels

__all__ = ["Judged", "judge_stars"]

MODEL_ERROR = 0.15  # ln size by which a PSF model may be off
STAMP, MOST_STAMP = 25, 91  # px
SEEN = 10.0  # S/N of a source whose size tells
FEW = 8  # stars whose ratios say what most are
OFF = 3.5  # sigma
LEAST_SCATTER, FIRST_SCATTER, MOST_SCATTER = 0.01, 0.02, 0.04  # of ratios, beyond noise
ROUNDS = 5


@dataclass(frozen=True)
class Judged:
    """Which sources (N,) are stars in both images, which keep the flux ratio of the others, and by how much (ln) it differs."""

    star: Flags
    steady: Flags
    change: F64


def judge_stars(sources: Stars, science: Exposure, template: Exposure) -> Judged:
    """Judge sources by both images.

    Where the sizes in an image do not tell (a PSF that is not the image's, hardly any star), what the sources say of
    themselves counts.
    """
    star = np.ones(len(sources), np.bool_)
    sums = []
    for e, sizes in ((science, sources.size), (template, None)):
        fluxes, sizes = _measured(sources, e, sizes)
        sums.append(fluxes)
        star &= _like_psf(sources, e, sizes, fluxes[0] / fluxes[1])
    return Judged(star, *_steady(sources, sums[0], sums[1], star))


def _measured(sources: Stars, e: Exposure, sizes: F64 | None) -> tuple[tuple[F64, F64], F64]:
    """Return the light within a FWHM of each source and its noise, (N,) each, and the adaptive sizes (N,), px^2."""
    fwhm = psf_fwhm(e.require_psf(), e.bbox)
    side = int(np.clip(2 * int(1.9 * fwhm) + 1, STAMP, MOST_STAMP))
    ix, iy = (nearest_pixels(v) for v in (sources.x, sources.y))
    at = ix - e.origin[0], iy - e.origin[1]
    stamps = np.nan_to_num(gather(e.image, *at, side, 0.0))
    g = np.arange(side) - side // 2
    disc = np.hypot(g[:, None], g[None, :]) <= fwhm
    flux = stamps[:, disc].sum(1, dtype=np.float64)
    variance = np.nan_to_num(gather(e.variance, *at, side, 0.0))[:, disc].sum(1, dtype=np.float64)
    if sizes is None:
        moments = adaptive_moments(stamps, sources.x - ix, sources.y - iy)
        sizes = 0.5 * (moments[:, 0] + moments[:, 1])
    return (flux, np.sqrt(np.maximum(variance, 1e-30))), sizes


def _like_psf(sources: Stars, e: Exposure, sizes: F64, snr: F64) -> Flags:
    """Return the sources (N,) that are as large as the PSF of an exposure; those that are said to be stars if none tell.

    The signal to noise is that in the same exposure: a transient is not seen in the other.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = np.log(sizes / psf_sizes(e.require_psf(), e.bbox, sources.x, sources.y))
    locus = star_locus(sources.x, sources.y, snr, excess, (sources.isolated | sources.star) & (snr > SEEN), MODEL_ERROR)
    if locus.evidence < EVIDENT:
        return sources.star & np.isfinite(excess)
    return locus.star


def _steady(sources: Stars, first: tuple[F64, F64], second: tuple[F64, F64], among: Flags) -> tuple[Flags, F64]:
    """Return the sources (N,) whose ratio of fluxes is that of the stars around them, and by how much (ln) it is not.

    Parameters
    ----------
    first, second
        Flux and its error in either image, (N,) each.
    among
        The stars, (N,).
    """
    seen = (first[0] > SEEN * first[1]) & (second[0] > SEEN * second[1])
    ratio, error = np.full(len(sources), np.nan), np.full(len(sources), np.inf)
    ratio[seen] = np.log(second[0][seen] / first[0][seen])
    error[seen] = np.hypot(first[1][seen] / first[0][seen], second[1][seen] / second[0][seen])
    rows = np.flatnonzero(among & seen)
    if rows.size < FEW:
        rows = np.flatnonzero(seen)
    if rows.size < FEW:
        return seen, np.where(seen, 0.0, np.inf)
    side = max(float(np.ptp(sources.x)), float(np.ptp(sources.y)), 1.0)
    spread, level = FIRST_SCATTER, np.full(len(sources), _mode(ratio[rows], error[rows]))
    for _ in range(ROUNDS):
        own = ratio[rows] - level[rows]
        near = np.abs(own) < OFF * np.hypot(spread, error[rows])
        if near.sum() < FEW:
            break
        kept, own = rows[near], own[near]
        square = max(scatter(own) ** 2 - median(error[kept]) ** 2, 0)
        spread = float(np.clip(np.sqrt(square), LEAST_SCATTER, MOST_SCATTER))
        at, sigma = (sources.x[kept], sources.y[kept]), np.hypot(spread, error[kept])
        level = local_levels(sources.x, sources.y, at, ratio[kept], sigma, side)
    with np.errstate(invalid="ignore"):
        change = np.where(seen, np.abs(ratio - level), np.inf)
        return np.asarray(change < OFF * np.hypot(spread, error)), change


def _mode(ratio: F64, error: F64) -> float:
    """Return where the ratios (N,) are densest: where most stars vary, the constant ones are still alike."""
    sigma = np.hypot(error, FIRST_SCATTER)
    z = (ratio[:, None] - ratio[None, :]) / sigma
    return float(ratio[np.argmax((np.exp(-0.5 * z * z) / sigma).sum(1))])
