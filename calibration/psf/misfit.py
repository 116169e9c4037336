"""Where a PSF model is not as large as the stars are: it may vary too slowly for a step between amplifiers or a steep rim."""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from exposure import Exposure, Psf
from exposure.psf_width import psf_sizes
from exposure.quantiles import median, scatter
from exposure.size_mixture import NOISE
from exposure.star_locus import EVIDENT
from tasks.arrays import F64, Box

__all__ = ["MOST_MISFIT", "Misfit", "size_excess", "size_misfit", "warn_of"]

log = logging.getLogger("alertprod.calibration")

MOST_MISFIT = 0.02
"""Of the FWHM, by which a model may be off without a warning."""

A_CELL, MOST_CELLS = 6, 8  # stars; cells along a side
SURE = 3.0  # sigma
LEAST_STARS = 3  # of a cell that tells
LEAST_ERROR = 0.003  # of the FWHM of a star


@dataclass(frozen=True)
class Misfit:
    """The largest relative error of the FWHM over parts of the image, and where it is (frame px); 0 and NaN if none is
    sure.
    """

    error: float
    x: float
    y: float


def size_misfit(stars: pd.DataFrame, model: Psf, bbox: Box) -> Misfit:
    """Compare the adaptive sizes of stars (x, y, size, snr) with those of a model at their places, in cells of some each."""
    excess, error = size_excess(stars, model, bbox)
    x, y = (stars[c].to_numpy(np.float64) for c in "xy")
    n = min(max(int(np.sqrt(x.size / A_CELL)), 1), MOST_CELLS)
    cx, cy = (np.clip(((v - v.min()) * n / max(np.ptp(v), 1.0)).astype(np.int64), 0, n - 1) for v in (x, y))
    worst = Misfit(0.0, float("nan"), float("nan"))
    for c in np.unique(cy * n + cx):
        here = np.isfinite(excess) & (cy * n + cx == c)
        if here.sum() < LEAST_STARS:
            continue
        middle = median(excess[here])
        own = max(scatter(excess[here]), median(error[here]))
        if abs(middle) > SURE * 1.25 * own / np.sqrt(here.sum()) and abs(middle) > worst.error:
            worst = Misfit(abs(middle), float(x[here].mean()), float(y[here].mean()))
    return worst


def size_excess(stars: pd.DataFrame, model: Psf, bbox: Box) -> tuple[F64, F64]:
    """Return by how much of its FWHM each star is wider than the model, less what most are, and its error, (N,) each."""
    x, y, size, snr = (stars[c].to_numpy(np.float64) for c in ("x", "y", "size", "snr"))
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = 0.5 * np.log(size / psf_sizes(model, bbox, x, y))
        error = np.hypot(0.5 * NOISE / snr, LEAST_ERROR)
    known = np.isfinite(excess)
    return excess - (median(excess[known]) if known.any() else 0.0), error


def warn_of(evidence: float, misfit: Misfit, exposure: Exposure) -> None:
    """Say aloud what may be wrong with a PSF."""
    if evidence < EVIDENT:
        log.warning(
            "nothing tells stars from galaxies by their sizes (gain of ln likelihood %.1f, need %.0f): the PSF may be that "
            "of galaxies (%s); give a larger part of the image, or the PSF itself",
            evidence, EVIDENT, exposure.where,
        )  # fmt: skip
    if misfit.error > MOST_MISFIT:
        log.warning(
            "stars are up to %.1f %% wider or narrower than the PSF model, near x=%.0f, y=%.0f (%s): it does not follow how "
            "they vary; PSF fluxes are off there by about twice that",
            100 * misfit.error, misfit.x, misfit.y, exposure.where,
        )  # fmt: skip
