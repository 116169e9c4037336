"""The sky of a difference: what the fitted background left, from nearly all pixels, as most of them are sky.

A source of effective area A px measured on a sky that is known to s per pixel has an error of s A next to its own
sigma sqrt(A). With 70 px and cells of a few thousand sampled pixels that is a quarter of sigma; from all pixels of a
cell of 256 px it is a thirtieth.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np

from exposure import Exposure
from exposure.background import subtract_level
from exposure.mask import plane_bits, usable_pixels
from exposure.quantiles import block_medians
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I32, I64
from tasks.compiled import compiled

__all__ = ["subtract_difference_sky"]

BLOCK = 8  # px, about a PSF: blocks that stand out are left out with those around them
SAMPLES = 32  # a side: pixels of a cell that its first level and its usual variance are known from
CLIP = 3.0  # sigma: what stands out more is no sky
BRIGHT, WIDE = 1.5, 5.0  # times the usual variance, and its scatter: pixels above both are on sources
LEAST = 0.1  # share of a cell's pixels that makes its level; fewer: that of the nearest cell
NODES = 16  # a side of a cell: the map that is taken off is bilinear between these


def subtract_difference_sky(difference: Exposure, mesh: int, *excluded: str) -> None:
    """Take the sky off in place: clipped means of cells, joined by natural cubic splines.

    Every pixel of a cell has one weight and one clip: variances of pixels that were made of their own counts are low
    where the noise is, and would draw a weighted mean down by a count.

    Parameters
    ----------
    difference
        Exposure whose static sky is gone already.
    mesh
        Cell side in px; reduced for small images.
    excluded
        Mask planes (besides ``NO_DATA``) whose pixels are left out of the estimate.
    """
    height, width = difference.image.shape
    side = int(max(BLOCK, min(mesh, min(height, width) // 4)))
    rows, columns = (_edges(n, side) for n in (height, width))
    levels = _cell_levels(difference, plane_bits(["NO_DATA", *excluded]), rows, columns)
    if levels is None:
        return
    step = max(1, side // NODES)
    y, x = (np.arange(0, n + step, step, dtype=np.float64) for n in (height, width))
    subtract_level(difference, _spline(_spline(levels, rows, y).T, columns, x).T.astype(np.float32), step)


def _edges(size: int, side: int) -> I64:
    """Return the edges of cells of about one side, whole blocks each (the last block may be cut)."""
    blocks = -(-size // BLOCK)
    return np.minimum(np.linspace(0, blocks, max(size // side, 1) + 1).astype(np.int64) * BLOCK, size)


def _cell_levels(difference: Exposure, bits: int, rows: I64, columns: I64) -> F64 | None:
    """Return the levels (rows - 1, columns - 1) of the cells, None where there is no sky at all."""
    start, usual, scatter = _typical(difference, bits, rows, columns)
    brightest = np.maximum(BRIGHT * usual, usual + WIDE * scatter)
    blocks = [-(-np.diff(e) // BLOCK) for e in (rows, columns)]
    first, clip, limit = (_per_block(a, blocks) for a in (start, CLIP * np.sqrt(usual), brightest))
    total, count = np.zeros(first.shape, np.float32), np.zeros(first.shape, np.float32)
    plane = _Pixels(difference.image, difference.variance, difference.mask, np.int32(bits))
    limits = _Limits(first, clip, limit)
    in_bands(lambda low, high: _block_sums(plane, limits, low, high, total, count), first.shape[0], least=1)
    above, pixels = _clipped_means(total, count, clip, blocks)
    enough = pixels >= LEAST * np.outer(np.diff(rows), np.diff(columns))
    if not enough.any():
        return None
    levels = start.astype(np.float32) + above
    if not enough.all():
        from scipy.spatial import cKDTree  # which few images need, and takes a tenth of a second to load

        near = cKDTree(np.argwhere(enough)).query(np.argwhere(~enough))[1]
        levels[~enough] = levels[enough][near]
    return levels


def _clipped_means(total: F32, count: F32, clip: F32, blocks: list[I64]) -> tuple[F64, F64]:
    """Return the mean and the number of the pixels of each cell without blocks that stand out, and those around them.

    A block is judged by the median of the 5 x 5 around it: a steep sky is no source.
    """
    mean = total / np.maximum(count, 1)
    rest = np.abs(mean - cv2.medianBlur(mean, 5))
    source = cv2.dilate((rest * np.sqrt(count) > clip).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    pixels = _summed(np.where(source, 0, count), blocks)
    return _summed(np.where(source, 0, total), blocks) / np.maximum(pixels, 1), pixels


def _per_block(cells: F64, blocks: list[I64]) -> F32:
    """Return the value of its cell for each block; `blocks` are the numbers of blocks along the cells' sides."""
    return np.repeat(np.repeat(cells.astype(np.float32), blocks[0], 0), blocks[1], 1)


def _summed(values: F32, blocks: list[I64]) -> F64:
    """Return the sums over the blocks of each cell."""
    corners = [np.concatenate([[0], np.cumsum(n)[:-1]]) for n in blocks]
    return np.asarray(np.add.reduceat(np.add.reduceat(values, corners[0], 0, np.float64), corners[1], 1))


def _typical(difference: Exposure, bits: int, rows: I64, columns: I64) -> list[F64]:
    """Return medians of some pixels of each cell: the level, the variance and its scatter (robust sigma); NaN: none."""
    shape = (rows.size - 1, columns.size - 1)
    step = max(1, int(min(np.diff(rows).min(), np.diff(columns).min())) // SAMPLES)
    part = (slice(None, None, step), slice(None, None, step))
    image, variance = difference.image[part], difference.variance[part]
    usable = usable_pixels(image, variance, difference.mask[part], bits)
    edges = [(e + step - 1) // step for e in (rows, columns)]

    def medians(plane: F32) -> F64:
        out = np.full(shape, np.nan)
        block_medians(plane, usable, edges[0], edges[1], 1, out)
        return out

    usual = medians(variance)
    per_pixel = np.repeat(np.repeat(usual.astype(np.float32), np.diff(edges[0]), 0), np.diff(edges[1]), 1)
    return [medians(image), usual, 1.4826 * medians(np.abs(variance - per_pixel))]


def _spline(levels: F64, edges: I64, positions: F64) -> F64:
    """Return the natural cubic spline through cell levels (along the first axis), straight beyond the outer centres."""
    centres = (edges[1:] + edges[:-1] - 1) / 2
    n = centres.size
    if n == 1:
        return np.repeat(levels, positions.size, axis=0)
    step, slope = np.diff(centres), np.diff(levels, axis=0) / np.diff(centres)[:, None]
    matrix, right = np.eye(n), np.zeros_like(levels)  # of the second derivatives, zero at both ends
    for k in range(1, n - 1):
        matrix[k, k - 1 : k + 2] = step[k - 1], 2 * (step[k - 1] + step[k]), step[k]
    right[1:-1] = 6 * np.diff(slope, axis=0)
    bend = np.linalg.solve(matrix, right)
    cell = np.clip(np.searchsorted(centres, positions) - 1, 0, n - 2)
    clipped = np.clip(positions, centres[0], centres[-1])
    h, t = step[cell, None], clipped[:, None] - centres[cell, None]
    rise = slope[cell] - h * (2 * bend[cell] + bend[cell + 1]) / 6
    curve = (bend[cell + 1] - bend[cell]) / h
    inside = levels[cell] + t * (rise + t * (bend[cell] / 2 + t * curve / 6))
    beyond = (positions - clipped)[:, None]
    return np.asarray(inside + beyond * (rise + t * (bend[cell] + t * curve / 2)))


class _Pixels(NamedTuple):
    """An image, all of shape (height, width), and the mask bits of pixels that are left out, as compiled code takes it."""

    image: F32
    variance: F32
    mask: I32
    bits: np.int32


class _Limits(NamedTuple):
    """Of each block: its cell's level, how far a pixel may be from it, and the largest variance of sky."""

    level: F32
    clip: F32
    variance: F32


@compiled
def _block_sums(pixels: Any, limits: Any, first: int, last: int, total: Any, count: Any) -> None:
    """Sum pixel - level, and 1, over what neither stands out nor is bright, for some rows of blocks."""
    image, variance, mask, bits = pixels
    start, clip, limit = limits
    height, width = image.shape
    zero, one = np.float32(0), np.float32(1)
    per_pixel = np.zeros((5, width), np.float32)
    sums, numbers, level, most, brightest = per_pixel[0], per_pixel[1], per_pixel[2], per_pixel[3], per_pixel[4]
    for r in range(first, last):
        sums[:] = 0
        numbers[:] = 0
        for x in range(width):
            level[x], most[x], brightest[x] = start[r, x // BLOCK], clip[r, x // BLOCK], limit[r, x // BLOCK]
        for y in range(r * BLOCK, min((r + 1) * BLOCK, height)):
            values, variances, flags = image[y], variance[y], mask[y]
            for x in range(width):  # without branches: this loop is vectorised
                above, v = values[x] - level[x], variances[x]
                ok = ((flags[x] & bits) == 0) & (v > zero) & (v <= brightest[x]) & (abs(above) <= most[x])
                sums[x] += above if ok else zero
                numbers[x] += one if ok else zero
        for x in range(width):
            total[r, x // BLOCK] += sums[x]
            count[r, x // BLOCK] += numbers[x]
