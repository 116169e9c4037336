"""Bad pixels, learned from frames over which the sky drifted: hot, cold and unstable pixels, columns and rows.

Every frame is divided by its sky noise; the sky that the frames have in common is taken off; what is left on the same
pixel of the detector is judged by medians and scatters over the frames, against what noise alone would give.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter, uniform_filter1d
from scipy.stats import binom, chi2

from calibration.defects.drift import BAND, LEAST_FRAMES, Drift, find_drift, on_frame, sky_model, stacked_median
from calibration.errors import TooLittleDrift
from calibration.noise import subtract_background
from exposure import Exposure, SkyWcs, estimate_background
from exposure.flagging.bad_pixels import DEFECTS, BadPixelMap
from exposure.quantiles import scatter_about
from tasks.arrays import F32, I64, U8, Flags

__all__ = ["Defects", "SkyFrame", "learn_defects"]

SURE = 5.0  # sigma of a median over the frames
CHANCE = 1e-9  # that a pixel of noise alone is called unstable
MODEL_ERROR = 0.2  # of the light of a star, where it is resampled and the seeing changes
LINE = 41  # px of a column or row that are judged together
LINE_AMPLITUDE = 0.6  # sky sigma: such a line gives 1 sigma to a point source on it


@dataclass(frozen=True)
class Defects:
    """Bad pixels of one detector, and the numbers of how they were found."""

    map: BadPixelMap
    report: dict[str, float]


@dataclass(frozen=True)
class SkyFrame:
    """A frame less its sky, in units of the sky's noise; NaN where the file has no value or says BAD.

    ``noise`` (counts) is that of the whole frame, ``pattern`` by how much that of each pixel is more or less.
    """

    pixels: NDArray[np.float16]
    noise: float
    pattern: NDArray[np.float16]
    wcs: SkyWcs | None

    @classmethod
    def of(cls, exposure: Exposure, mesh: int) -> "SkyFrame":
        """Take the sky off, in place."""
        rms = np.maximum(subtract_background(exposure, mesh), 1e-20)
        pixels = np.clip(exposure.image / rms, -6e4, 6e4)
        pixels[exposure.flagged("NO_DATA", "BAD")] = np.nan
        noise = float(np.median(rms))
        return cls(pixels.astype(np.float16), noise, (rms / noise).astype(np.float16), exposure.wcs)


def learn_defects(frames: Sequence[SkyFrame], threshold: float = 2.5) -> Defects:
    """Find the bad pixels of a detector.

    Parameters
    ----------
    frames
        Of one shape, in order of time; the WCS are first guesses of how they lie.
    threshold
        Hot and cold pixels are those that are off by so many sigma of the sky on a single frame.

    Raises
    ------
    TooLittleDrift
        Stars stay on the same pixels: nothing tells them from hot ones. Or too few frames.
    """
    pixels = [f.pixels for f in frames]
    if len(pixels) < LEAST_FRAMES:
        raise TooLittleDrift(
            f"{len(pixels)} frames of this detector, need {LEAST_FRAMES}: give more frames of a night that drifts"
        )
    stack = np.stack(pixels)
    sharp = np.zeros(stack.shape[1:], np.float32)
    for k in range(len(stack)):
        image = np.nan_to_num(stack[k].astype(np.float32))
        stack[k] = np.clip(image - cv2.medianBlur(image, 5), -6e4, 6e4)
    sharp, _ = stacked_median(stack)
    candidates = np.abs(sharp) > threshold
    drift = find_drift(pixels, candidates, [f.wcs for f in frames])
    rest = _less_the_sky(pixels, drift, candidates)
    bits, report = _judged(rest, drift, threshold)
    counts = np.array([frames[k].noise for k in drift.frames], np.float32)
    offset, scatter = _offsets(rest, bits, counts, frames[drift.frames[len(drift.frames) // 2]].pattern)
    return Defects(BadPixelMap(bits, offset, scatter), {"nFrames": len(frames), **report})


def _offsets(rest: NDArray[np.float16], bits: U8, noise: F32, pattern: NDArray[np.float16]) -> tuple[F32, F32]:
    """Return how far bad pixels are off and the scatter of that (counts), both (height, width).

    NaN for good pixels and for unstable ones.
    """
    offset, scatter = (np.full(bits.shape, np.nan, np.float32) for _ in range(2))
    steady = (bits > 0) & ((bits & DEFECTS["unstable"]) == 0)
    values = rest[:, steady].astype(np.float32) * noise[:, None] * pattern[steady].astype(np.float32)
    middle, _ = stacked_median(values[:, None])
    offset[steady] = middle[0]
    scatter[steady] = 1.4826 * stacked_median(np.abs(values - middle[0])[:, None])[0][0]
    return offset, scatter


def _less_the_sky(pixels: Sequence[NDArray[np.float16]], drift: Drift, candidates: Flags) -> NDArray[np.float16]:
    """Return what the common sky leaves of each registered frame, in units of its noise; NaN beneath bright stars."""
    model, corner = sky_model(pixels, drift, candidates)
    out = np.empty((len(drift.frames), *candidates.shape), np.float16)
    for k, (frame, to_frame) in enumerate(zip(drift.frames, drift.maps, strict=True)):
        sky = on_frame(model, corner, to_frame, candidates.shape)
        stars = cv2.dilate(np.nan_to_num(np.abs(sky)), np.ones((3, 3), np.uint8))
        error = MODEL_ERROR * stars
        left = (pixels[frame].astype(np.float32) - sky) / np.hypot(1, error)
        out[k] = np.where(error < 1, np.clip(left, -6e4, 6e4), np.nan)
    return out


def _judged(rest: NDArray[np.float16], drift: Drift, threshold: float) -> tuple[U8, dict[str, float]]:
    """Return the bits of the bad pixels, and numbers."""
    middle, count = stacked_median(rest)
    judged = count >= max(5, len(rest) // 4)
    level = estimate_background(np.nan_to_num(middle), ~judged | (np.abs(np.nan_to_num(middle)) > threshold), 32).level
    middle = np.where(judged, middle - level, 0).astype(np.float32)
    error = 1.2533 / np.sqrt(np.maximum(count, 1))
    bits = np.zeros(middle.shape, np.uint8)
    least = np.maximum(threshold, SURE * error)
    bits[middle > least] |= DEFECTS["hot"]
    bits[middle < -least] |= DEFECTS["cold"]
    bits[judged & _unstable(rest, middle + level, count, bits > 0)] |= DEFECTS["unstable"]
    bits[judged & _lines(np.where(bits & (DEFECTS["hot"] | DEFECTS["cold"]) > 0, 0, middle))] |= DEFECTS["line"]
    extent = np.ptp(drift.track, axis=0)
    report = {
        "nFramesUsed": len(drift.frames),
        "driftX": float(extent[0]),
        "driftY": float(extent[1]),
        "nPlaces": drift.n_positions,
        "fwhm": drift.fwhm,
        "unjudgedFraction": float((~judged).mean()),
        "maskedFraction": float((bits > 0).mean()),
    }
    return bits, report | {f"n{name.capitalize()}": int((bits & bit > 0).sum()) for name, bit in DEFECTS.items()}


def _unstable(rest: NDArray[np.float16], middle: F32, count: I64, known_bad: Flags) -> Flags:
    """Return the pixels that scatter more than noise does, jump more often than cosmic rays hit, or never change."""
    scatter, jumps, variance = (np.empty(middle.shape, np.float32) for _ in range(3))
    for low in range(0, len(middle), BAND):
        rows = slice(low, low + BAND)
        off = np.abs(rest[:, rows].astype(np.float32) - middle[rows])
        scatter[rows] = 1.4826 * stacked_median(off.astype(np.float16))[0]
        jumps[rows] = (off > SURE).sum(axis=0)
        variance[rows] = np.nansum(np.minimum(off, SURE) ** 2, axis=0) / np.maximum(count[rows] - 1, 1)
    ordinary = ~known_bad & (count >= 5)
    if not ordinary.any():
        return np.zeros(middle.shape, np.bool_)
    usual = max(float(np.median(scatter[ordinary])), 0.5)
    # the median of absolute deviations has an error of 1.16 / sqrt(n)
    wide = scatter > usual * np.maximum(2.0, 1 + 7 * 1.16 / np.sqrt(np.maximum(count, 1)))
    share = max(float(jumps[ordinary].sum() / count[ordinary].sum()), 1e-4)
    often = jumps > np.maximum(binom.isf(CHANCE, np.maximum(count, 1), share), 2)
    typical = float(np.median(variance[ordinary]))
    still = variance * (count - 1) < typical * chi2.ppf(CHANCE, np.maximum(count - 1, 1))
    return np.asarray(wide | often | (still & (typical > 0.1)))


def _lines(middle: F32) -> Flags:
    """Return the parts of columns and rows that are off together, each pixel too little to be seen by itself."""
    out = np.zeros(middle.shape, np.bool_)
    clipped = np.clip(middle, -3, 3)
    for axis in (0, 1):
        across = (1, 11) if axis == 0 else (11, 1)
        mean = uniform_filter1d(clipped - median_filter(clipped, across, mode="nearest"), LINE, axis, mode="constant")
        noise = scatter_about(mean, float(np.median(mean)))
        out |= np.abs(mean) > max(LINE_AMPLITUDE, 7 * noise)
    return out
