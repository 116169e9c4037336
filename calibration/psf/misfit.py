"""Where a PSF model is not as large as the stars are: it may vary too slowly for a step between amplifiers or a steep rim."""

import logging
from dataclasses import dataclass

import numpy as np

from calibration.psf.stamps import Stamps
from exposure import Exposure, Psf
from exposure.quantiles import median, scatter
from exposure.stamps import adaptive_moments, sided
from exposure.star_locus import EVIDENT
from tasks.arrays import F64, Flags

__all__ = ["MOST_MISFIT", "MOST_NEGATIVE", "Misfit", "negative_light", "size_excess", "size_misfit", "warn_of"]

log = logging.getLogger("alertprod.calibration")

MOST_MISFIT = 0.02
"""Of the FWHM, by which a model may be off without a warning."""

MOST_NEGATIVE = 0.01
"""Of a model's light, in rings that are dark as a whole: the fluxes of a model that has 1 % of it are off by 8 %."""

A_CELL, MOST_CELLS = 6, 8  # stars; cells along a side
SURE = 3.0  # sigma
LEAST_STARS = 3  # of a cell that tells


@dataclass(frozen=True)
class Misfit:
    """The largest relative error of the FWHM over parts of the image, and where it is (frame px); 0 and NaN if none is
    sure.
    """

    error: float
    x: float
    y: float


def size_misfit(data: Stamps, model: Psf, fwhm: float) -> Misfit:
    """Compare the adaptive sizes of stars with those of a model at their places, in cells of some stars each."""
    excess, cells = size_excess(data, model, fwhm), max(int(np.sqrt(data.x.size / A_CELL)), 1)
    finite = np.isfinite(excess)
    n = min(cells, MOST_CELLS)
    cx, cy = (np.clip(((v - v.min()) * n / max(np.ptp(v), 1.0)).astype(np.int64), 0, n - 1) for v in (data.x, data.y))
    worst = Misfit(0.0, float("nan"), float("nan"))
    usual = scatter(excess[finite]) if finite.any() else 0.0
    for c in np.unique(cy * n + cx):
        here = finite & (cy * n + cx == c)
        if here.sum() < LEAST_STARS:
            continue
        middle, own = median(excess[here]), max(scatter(excess[here]), 0.3 * usual)
        if abs(middle) > SURE * 1.25 * own / np.sqrt(here.sum()) and abs(middle) > worst.error:
            worst = Misfit(abs(middle), float(data.x[here].mean()), float(data.y[here].mean()))
    return worst


def negative_light(model: Psf) -> float:
    """Return the light of a model that is missing in rings of 2 px around its middle, as a share of all its light.

    Optics make no ring darker than the sky; a sky that was taken too bright around stars does.
    """
    stamp = model.kernel_at(*model.average_position())[0].astype(np.float64)
    g = np.arange(stamp.shape[-1]) - stamp.shape[-1] // 2
    ring = (np.hypot(g[:, None], g[None, :]) / 2).astype(np.int64)
    light = np.bincount(ring.ravel(), stamp.ravel())
    return float(-np.minimum(light, 0).sum() / max(light.sum(), 1e-30))


def size_excess(data: Stamps, model: Psf, fwhm: float) -> F64:
    """Return by how much of its FWHM each star is wider than the model, (N,); NaN where it cannot be measured."""
    side = min(data.raw.shape[-1], 2 * int(1.9 * fwhm) + 1)
    image = sided(model.image_at(data.x, data.y), side)
    stars = sided(data.raw, side)
    seen: Flags = np.isfinite(stars)
    light = image * data.flux[:, None, None].astype(np.float32)
    offsets = data.x - data.cx, data.y - data.cy
    of_stars, of_model = (adaptive_moments(s, *offsets)[:, :2].sum(1) for s in (np.where(seen, stars, light), image))
    few = seen.mean(axis=(1, 2)) < 0.7
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(few | (data.flux <= 0), np.nan, 0.5 * np.log(of_stars / of_model)))


def warn_of(evidence: float, misfit: Misfit, exposure: Exposure) -> None:
    """Say aloud what may be wrong with a PSF."""
    of = "".join(f", {name} {number}" for name, number in exposure.where.items() if number is not None)
    if evidence < EVIDENT:
        log.warning(
            "nothing tells stars from galaxies by their sizes (gain of ln likelihood %.1f, need %.0f): the PSF may be that "
            "of galaxies%s; give a larger part of the image, or the PSF itself",
            evidence, EVIDENT, of,
        )  # fmt: skip
    if misfit.error > MOST_MISFIT:
        log.warning(
            "stars are up to %.1f %% wider or narrower than the PSF model, near x=%.0f, y=%.0f%s: it does not follow how "
            "they vary; PSF fluxes are off there by about twice that",
            100 * misfit.error, misfit.x, misfit.y, of,
        )  # fmt: skip
