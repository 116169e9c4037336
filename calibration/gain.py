"""The gain of an image, from itself: where stars are bright their photon noise is more than the sky's."""

import logging
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from calibration.errors import TooFewStars
from calibration.psf.model import fit_psf, star_residuals
from calibration.sources import detect_sources
from exposure import Exposure
from exposure.errors import GainUnknown
from exposure.quantiles import scatter
from tasks.arrays import F32, F64

__all__ = ["Gain", "estimate_gain", "gain_of_noise"]

SIDE = 1536  # px of the part of an image that is looked at
FAINTEST = 0.3  # of the sky's scatter: light of pixels that are looked at
ENOUGH = 12  # pixels of a class
ROUNDS = 8
USELESS = 1.0  # relative error above which stars tell nothing
SETTINGS = (0.01, 60.0)  # a GAIN card beyond holds the setting of an amplifier
AGREE = 0.4  # difference of logarithms within which the sky's level and the stars tell the same

log = logging.getLogger("alertprod.calibration")


@dataclass(frozen=True)
class Gain:
    """Electrons per count, and its relative error."""

    value: float
    error: float


def estimate_gain(exposure: Exposure, rms: F32, order: int = 2) -> float:
    """Return the gain (electrons per count) of an image without sky whose variance is not known yet.

    Parameters
    ----------
    rms
        (height, width) standard deviation of the sky, counts.
    order
        Spatial order of the PSF model.

    Raises
    ------
    GainUnknown
        The image has too few stars, its sky tells nothing, and neither does a GAIN or EGAIN card.
    """
    sky = _of_sky(exposure, rms)
    try:
        stars = _of_stars(exposure, rms, order)
    except TooFewStars:
        stars = None
    if stars is not None and stars.error < USELESS:
        near = sky is not None and abs(np.log(sky / stars.value)) < max(AGREE, 2 * stars.error)
        return sky if near and sky is not None else stars.value
    if sky is not None:
        return sky
    header = exposure.metadata.get("headerGain")
    if header is not None and SETTINGS[0] < header < SETTINGS[1] and (stars is None or _agree(header, stars)):
        log.warning(
            "the gain cannot be told from the image: the %.3g electrons per count of its header are taken", header
        )
        return float(header)
    raise GainUnknown(
        "the gain cannot be told from the image: give it (electrons per count) as gain in the instrument file",
        **exposure.where,
    )


def _agree(header: float, stars: Gain) -> bool:
    """Whether a header's gain lies within three errors of what stars tell, whose noise is its inverse."""
    return bool(abs(stars.value / header - 1) < 3 * stars.error)


def _of_sky(exposure: Exposure, rms: F32) -> float | None:
    """Return the gain if all of the sky's noise is that of its own light."""
    level = float(exposure.metadata.get("skyLevel", 0.0))
    noise = float(np.median(rms[::16, ::16])) ** 2
    return level / noise if level > 0 and noise > 0 else None


def _of_stars(exposure: Exposure, rms: F32, order: int) -> Gain:
    x0, y0, width, height = exposure.bbox
    left, low = max(width - SIDE, 0) // 2, max(height - SIDE, 0) // 2
    part = exposure.cutout(x0 + left, y0 + low, min(width, SIDE), min(height, SIDE))
    noise = rms[low : low + part.height, left : left + part.width]
    unit = np.float32(np.median(noise[::16, ::16]))
    if not unit > 0:
        raise TooFewStars("the sky of the image has no noise", **exposure.where)
    part = replace(part, image=part.image / unit, variance=(noise / unit) ** 2)
    sources = detect_sources(part)
    psf = part.psf if part.psf is not None else fit_psf(part, sources, order).psf
    gain = gain_of_noise(*star_residuals(part, sources, psf))
    return Gain(gain.value / float(unit), gain.error)


def gain_of_noise(model: F64, peak: F64, rest: F64, sky: F64) -> Gain:
    """Return the gain from residuals of a model of stars; all of shape (N,).

    Parameters
    ----------
    model, peak
        The model at pixels, and at the brightest pixel of the same star, counts.
    rest
        Data minus model, counts.
    sky
        Variance of the sky there, counts^2.

    Raises
    ------
    TooFewStars
        Too few pixels.

    Notes
    -----
    The variance is sky + model / gain + (e peak)^2 + (f model)^2, the last two from what the model misses. The three
    unknowns are fitted to the scatter in classes of model and of peak, a factor of 2 wide, weighted by its own error.
    """
    bright = (model > FAINTEST * np.sqrt(sky)) & (peak > 0)
    model, peak, rest, sky = (a[bright] for a in (model, peak, rest, sky))
    steps = (np.floor(np.log2(a)).astype(np.int64) for a in (model, peak))
    _, which = np.unique(np.stack(list(steps)), axis=1, return_inverse=True)
    order = np.argsort(which, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
    parts = [p for p in parts if p.size >= ENOUGH]
    if len(parts) < 3:
        raise TooFewStars(f"{model.size} pixels of stars are too few to tell the gain from")
    number = np.array([p.size for p in parts], np.float64)
    base = np.array([sky[p].mean() for p in parts])
    extra = np.array([scatter(rest[p]) ** 2 for p in parts]) - base
    terms = np.array([[model[p].mean(), (peak[p] ** 2).mean(), (model[p] ** 2).mean()] for p in parts])
    total = np.maximum(extra + base, base)
    for _ in range(ROUNDS):
        weight = np.sqrt(number / 5.4) / total  # of a variance from a median deviation, whose efficiency is 0.37
        unknowns = nnls(terms * weight[:, None], extra * weight)[0]
        total = base + terms @ unknowns
    weighted = terms * weight[:, None]
    error = float(np.sqrt(np.linalg.pinv(weighted.T @ weighted)[0, 0]))
    return Gain(1 / max(unknowns[0], 1e-30), error / max(unknowns[0], 1e-30))
