"""Stars as both images show them: as large as the PSF in each, and with the ratio of fluxes that the others have.

A galaxy is larger than the PSF in both images, a transient is in one of them alone, a variable star has another ratio
than its neighbours. Each of these would teach the matching kernel something wrong.
"""

from dataclasses import dataclass

import numpy as np

from diffim.matching.kernel_basis import kernel_sizes
from diffim.matching.kernel_stamps import convolve_each
from diffim.matching.psf_kernel import psf_kernels
from exposure import Exposure
from exposure.psf_width import psf_fwhm, psf_sizes
from exposure.stamps import adaptive_moments, gather
from exposure.star_locus import EVIDENT, local_levels, star_locus
from exposure.stars import Stars
from tasks.arrays import F64, Flags, nearest_pixels

__all__ = ["Judged", "judge_stars"]

MODEL_ERROR = 0.15  # ln size by which a PSF model may be off
STAMP, MOST_STAMP = 25, 91  # px
SEEN = 10.0  # S/N of a source whose size tells
FEW = 8  # stars whose ratios say what most are
MANY = 100  # stars among which few enough vary that no others are asked
OFF = 3.5  # sigma
LEAST_SCATTER, FIRST_SCATTER, MOST_SCATTER = 0.01, 0.02, 0.04  # of ratios, beyond noise
ROUNDS, STEPS = 5, 8
GAIN = 0.15  # of ln likelihood per source, by levels that vary over the image
CHANGE = 0.15  # ln ratio: scale of the changes of those that changed, in whose tails (Cauchy's) are new and lost ones


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
    among = star
    if star.sum() < MANY:
        matched = _matched(sources, science, template)
        sums, among = (sums, star) if matched is None else (matched, np.ones(len(sources), np.bool_))
    return Judged(star, *_steady(sources, sums[0], sums[1], among))


def _measured(sources: Stars, e: Exposure, sizes: F64 | None) -> tuple[tuple[F64, F64], F64]:
    """Return the light within a FWHM of each source and its noise, (N,) each, and the adaptive sizes (N,), px^2."""
    fwhm = psf_fwhm(e.require_psf(), e.bbox)
    side = int(np.clip(2 * int(1.9 * fwhm) + 1, STAMP, MOST_STAMP))
    ix, iy = (nearest_pixels(v) for v in (sources.x, sources.y))
    corner = ix - e.origin[0], iy - e.origin[1]
    stamps = np.nan_to_num(gather(e.image, *corner, side, 0.0))
    g = np.arange(side) - side // 2
    disc = np.hypot(g[:, None], g[None, :]) <= fwhm
    flux = stamps[:, disc].sum(1, dtype=np.float64)
    variance = np.nan_to_num(gather(e.variance, *corner, side, 0.0))[:, disc].sum(1, dtype=np.float64)
    if sizes is None:
        moments = adaptive_moments(stamps, sources.x - ix, sources.y - iy)
        sizes = 0.5 * (moments[:, 0] + moments[:, 1])
    return (flux, np.sqrt(np.maximum(variance, 1e-30))), sizes


def _matched(sources: Stars, science: Exposure, template: Exposure) -> list[tuple[F64, F64]] | None:
    """Return the light and its noise, (N,) each, in both images with the sharper brought to the PSF of the other.

    Galaxies have then the ratio that stars have: where most of a few bright stars vary, they tell what it is. None where
    a PSF is defined nowhere.
    """
    images = [science, template]
    widths = [psf_fwhm(e.require_psf(), e.bbox) for e in images]
    sharp = int(np.argmin(widths))
    size, inner = kernel_sizes(max(widths))[1], 2 * int(max(widths)) + 3
    kernels = psf_kernels(images[sharp].require_psf(), images[1 - sharp].require_psf(), science.bbox, size)
    if kernels is None:
        return None
    ix, iy = (nearest_pixels(v) for v in (sources.x, sources.y))
    g = np.arange(inner) - inner // 2
    disc = (np.hypot(g[:, None], g[None, :]) <= max(widths)).ravel()
    out = []
    for k, e in enumerate(images):
        side = inner + (size - 1 if k == sharp else 0)
        corner = ix - e.origin[0], iy - e.origin[1]
        image, variance = (np.nan_to_num(gather(plane, *corner, side, 0.0)) for plane in (e.image, e.variance))
        low = (side - inner) // 2
        middle = slice(low, low + inner)
        noise = variance[:, middle, middle].reshape(len(variance), -1)[:, disc].sum(1, dtype=np.float64)
        if k == sharp:
            light = convolve_each(image, kernels.at(sources.x, sources.y), inner)
        else:
            light = image.reshape(len(image), -1).astype(np.float64)
        out.append((light[:, disc].sum(1), np.sqrt(np.maximum(noise, 1e-30))))
    return out


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
    level = np.full(len(sources), _mode(ratio[rows], error[rows]))
    spread, likelihood = _spread(ratio[rows] - level[rows], error[rows])
    side = max(float(np.ptp(sources.x)), float(np.ptp(sources.y)), 1.0)
    for turn in range(ROUNDS):
        reach = MOST_SCATTER if turn == 1 else spread  # levels that vary are seen by stars that are off the one level
        kept = rows[np.abs(ratio[rows] - level[rows]) < OFF * np.hypot(reach, error[rows])]
        if kept.size < FEW:
            break
        positions, sigma = (sources.x[kept], sources.y[kept]), np.hypot(reach, error[kept])
        if turn:
            other = local_levels(sources.x, sources.y, positions, ratio[kept], sigma, side)
        else:
            other = np.full(len(sources), float(np.average(ratio[kept], weights=sigma**-2)))
        scatter = _spread(ratio[rows] - other[rows], error[rows])
        if turn and scatter[1] < likelihood + GAIN * rows.size:
            break
        level, (spread, likelihood) = other, scatter
    with np.errstate(invalid="ignore"):
        change = np.where(seen, np.abs(ratio - level), np.inf)
        return np.asarray(change < OFF * np.hypot(spread, error)), change


def _spread(own: F64, error: F64) -> tuple[float, float]:
    """Return by how much values (N,) of some errors (N,) scatter about 0 beyond those, and the ln likelihood of that.

    Others changed, most by a little: the likelihood of both says which it are, so that those do not widen what they are held
    against.
    """
    best, most = LEAST_SCATTER, -np.inf
    changed = 1 / (np.pi * CHANGE * (1 + (own / CHANGE) ** 2))
    for spread in np.geomspace(LEAST_SCATTER, MOST_SCATTER, STEPS):
        sigma, share = np.hypot(spread, error), 0.5
        density = np.exp(-0.5 * (own / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
        for _ in range(ROUNDS):
            share = float(np.mean(share * density / (share * density + (1 - share) * changed)))
            share = min(max(share, 0.05), 0.99)
        likelihood = float(np.log(share * density + (1 - share) * changed).sum())
        if likelihood > most:
            best, most = float(spread), likelihood
    return best, most


def _mode(ratio: F64, error: F64) -> float:
    """Return where the ratios (N,) are densest: where most stars vary, the constant ones are still alike."""
    sigma = np.hypot(error, FIRST_SCATTER)
    z = (ratio[:, None] - ratio[None, :]) / sigma
    return float(ratio[np.argmax((np.exp(-0.5 * z * z) / sigma).sum(1))])
