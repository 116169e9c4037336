"""What a coarse mesh cannot follow on the sky of a difference: fringes, nebulae of which one image lost more, steps of columns.

Two kinds are looked for, and taken off only where the data show them beyond doubt, so that a clean sky stays as it is:

- columns and rows that are offset as a whole (amplifiers, a readout's pattern): their means in two interleaved halves of
  the pixels agree with each other;
- anything smooth: of the cosine transform of the means of blocks, the coefficients that stand out of the noise. A point source
  is spread over all of them and stands out in none; a fringe of a tenth of the noise of a pixel is in a few.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from exposure import Exposure
from exposure.quantiles import median
from tasks.arrays import F32, F64, I32, Flags
from tasks.compiled import compiled

__all__ = ["Structure", "node_levels", "structure", "subtract_offsets"]

SURE, LIKELY = 6.0, 2.5  # sigma of coefficients: those that found a structure, and their neighbours that belong to it
ROUNDS = 4  # in which blocks that are not known are filled with the structure of the others
LEAST_KNOWN = 0.5  # share of the blocks
EVIDENCE = 6.0  # sigma by which the means of columns agree with each other
SAMPLED, RUNS = 256, 256  # rows that tell whether columns are offset, and into how many runs the columns are cut
LEAST_PIXELS, LEAST_COLUMNS = 8, 64  # of a column in each half, and columns that have so many: fewer tell nothing
CLIP, BRIGHT = 3.0, 1.5  # sigma, and times the usual variance: what is more is no sky
SEGMENTS = 2  # parts of a column that have offsets of their own: detectors are read out from both ends


@dataclass(frozen=True)
class Structure:
    """Cosine coefficients of a map that is larger by `border` blocks on all sides than that of an image.

    A cosine transform takes the image to be mirrored at its rims, where waves would break; beyond a border they go on.
    """

    coefficients: F64
    border: int

    def blocks(self) -> F64:
        """Return the map of the image."""
        rows, columns = (slice(self.border, n - self.border) for n in self.coefficients.shape)
        return np.asarray(cv2.idct(self.coefficients, None)[rows, columns], np.float64)


def structure(blocks: F64, usable: Flags, shortest: float, border: int = 0, rounds: int = ROUNDS) -> Structure | None:
    """Return the structure of a map of block means, None where there is none.

    Parameters
    ----------
    blocks, usable
        Means, shape (rows, columns), and which of them are of sky.
    shortest
        Least period of a structure, blocks.
    border
        How many blocks of waves there are beyond the rims, which are not known.
    rounds
        In which blocks that are not known are filled with the structure of the others.
    """
    if min(blocks.shape) < 8 or usable.mean() < LEAST_KNOWN:
        return None
    rows, columns = (2 * (n // 2) for n in blocks.shape)
    where = np.pad(usable[:rows, :columns], border)
    values = np.pad(np.where(usable, blocks, 0)[:rows, :columns].astype(np.float32), border)
    rows, columns = values.shape
    frequency = np.hypot(np.arange(rows)[:, None] / (2 * rows), np.arange(columns)[None, :] / (2 * columns))
    smooth = frequency <= 1 / shortest
    filled, kept = values, None
    for _ in range(rounds):
        coefficients = cv2.dct(filled)
        noise = 1.4826 * float(np.median(np.abs(coefficients[~smooth])))
        sure = smooth & (np.abs(coefficients) > SURE * noise)
        if not sure.any():
            break
        near = cv2.dilate(sure.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        kept = np.where(sure | (near & smooth & (np.abs(coefficients) > LIKELY * noise)), coefficients, np.float32(0))
        filled = np.where(where, values, cv2.idct(kept))
    return None if kept is None else Structure(kept.astype(np.float64), border)


def node_levels(found: Structure, block: int, y: F64, x: F64) -> F32:
    """Return the structure at nodes (px), shape (y.size, x.size): what means of blocks of `block` px had of it, undone."""
    coefficients = found.coefficients
    y, x = (v + found.border * block for v in (y, x))

    def waves(n: int, pixels: F64) -> F64:
        k = np.arange(n)
        turn = np.pi * k / (2 * n)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(k > 0, np.sin(turn) / (block * np.sin(turn / block)), 1.0)
        scale = np.where(k > 0, np.sqrt(2 / n), np.sqrt(1 / n)) / mean
        inside = np.clip(pixels, 0, n * block - 1)
        return np.asarray(scale[:, None] * np.cos(np.pi * k[:, None] * (inside + 0.5) / (n * block)))

    used_y, used_x = (np.flatnonzero(coefficients.any(axis)) for axis in (1, 0))
    along_y, along_x = waves(coefficients.shape[0], y)[used_y], waves(coefficients.shape[1], x)[used_x]
    return np.asarray(along_y.T @ coefficients[np.ix_(used_y, used_x)] @ along_x, np.float32)


def subtract_offsets(difference: Exposure, bits: int, sky: Flags, block: int) -> tuple[float, float]:
    """Take the offsets of whole columns and of whole rows off in place; returns their rms (counts), 0 where there are none.

    Parameters
    ----------
    difference
        An image without sky.
    bits
        Of the mask: pixels that say nothing.
    sky, block
        Which blocks of so many px are of sky.
    """
    height, width = difference.image.shape
    usual = median(difference.variance[:: max(1, height // 256), :: max(1, width // 256)].ravel())
    limits = _Limits(np.int32(bits), np.float32(BRIGHT * usual), np.float32(CLIP**2), block)
    pixels, rms = _Pixels(difference.image, difference.variance, difference.mask, sky), []
    for axis in (0, 1):
        means = _Means(pixels, limits, axis)
        if not means.offset():
            rms.append(0.0)
            continue
        square, missing = 0.0, difference.flagged("NO_DATA")
        size = difference.image.shape[axis]
        for k in range(SEGMENTS):
            part = slice(k * size // SEGMENTS, (k + 1) * size // SEGMENTS)
            offsets = np.expand_dims(means.of(part), axis)
            rows = (part, slice(None)) if axis == 0 else (slice(None), part)
            difference.image[rows] -= np.where(missing[rows], np.float32(0), offsets)
            square += float(np.mean(offsets.astype(np.float64) ** 2)) / SEGMENTS
        rms.append(float(np.sqrt(square)))
    return rms[0], rms[1]


class _Pixels(NamedTuple):
    """An image, all of shape (height, width), and which of its blocks are of sky."""

    image: F32
    variance: F32
    mask: I32
    sky: Flags


class _Limits(NamedTuple):
    """Bits of pixels that do not count, largest variance, square of the largest value in sigma, side of the blocks."""

    bits: np.int32
    brightest: np.float32
    square: np.float32
    block: int


@dataclass(frozen=True)
class _Means:
    """Means of the sky along an axis of an image: 0 of columns, 1 of rows."""

    pixels: _Pixels
    limits: _Limits
    axis: int

    def over(self, parts: list[slice]) -> tuple[F64, F64]:
        """Return sums and numbers of pixels of all columns (or rows) over some parts of them."""
        height, width = self.pixels.image.shape
        sums, counts = np.zeros((2, (width, height)[self.axis]))
        for part in parts:
            ends = part.start, part.stop
            bounds = (*ends, 0, width) if self.axis == 0 else (0, height, *ends)
            _add_sky(self.pixels, self.limits, bounds, self.axis == 0, sums, counts)
        return sums, counts

    def offset(self) -> bool:
        """Whether the means of two interleaved halves of the pixels agree with each other beyond chance."""
        size = self.pixels.image.shape[self.axis]
        run = max(4, size // RUNS)  # runs of pixels, of which every few are looked at
        starts = range(0, size - run + 1, max(run, run * (size // SAMPLED)))
        parts = [slice(k, k + run) for k in starts]
        halves = [self.over(parts[k::2]) for k in range(2)]
        enough = (halves[0][1] > LEAST_PIXELS) & (halves[1][1] > LEAST_PIXELS)
        if enough.sum() < LEAST_COLUMNS:
            return False
        first, second = (s[enough] / n[enough] for s, n in halves)
        first, second = first - np.median(first), second - np.median(second)
        noise = float(np.mean((first - second) ** 2)) / 2
        return bool(np.mean(first * second) > EVIDENCE * noise / np.sqrt(enough.sum()))

    def of(self, part: slice) -> F32:
        """Return the offsets over a part of the columns; 0 where there is little sky."""
        sums, counts = self.over([part])
        return np.where(counts > 0.1 * (part.stop - part.start), sums / np.maximum(counts, 1), 0).astype(np.float32)


@compiled
def _add_sky(pixels: Any, limits: Any, bounds: Any, columns: bool, sums: Any, counts: Any) -> None:
    """Add the sky of a part of an image (from and to row and column), and its pixels, to those of its columns or rows."""
    image, variance, mask, sky = pixels
    bits, brightest, square, block = limits
    y0, y1, x0, x1 = bounds
    zero, one = np.float32(0), np.float32(1)
    for y in range(y0, y1):
        values, variances, flags, blocks = image[y], variance[y], mask[y], sky[y // block]
        total = number = np.float32(0)
        for x in range(x0, x1):
            v, n = values[x], variances[x]
            ok = ((flags[x] & bits) == 0) & (n > zero) & (n <= brightest) & (v * v <= square * n) & blocks[x // block]
            v, n = v if ok else zero, one if ok else zero
            if columns:
                sums[x] += v
                counts[x] += n
            else:
                total += v
                number += n
        if not columns:
            sums[y] += total
            counts[y] += number
