"""The sky of a difference: what the fitted background left, from nearly all pixels, as most of them are sky.

A source of effective area A px measured on a sky that is known to s per pixel has an error of s A next to its own
sigma sqrt(A). With 70 px and cells of a few thousand sampled pixels that is a quarter of sigma; from all pixels of a
cell of 256 px it is a thirtieth.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from diffim.subtraction.sky_structure import node_levels, structure, subtract_offsets
from exposure import Exposure
from exposure.background import estimate_background, subtract_level
from exposure.mask import plane_bits, usable_pixels
from exposure.quantiles import SIGMA_PER_MAD, block_medians, median
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I32, I64, Flags
from tasks.compiled import compiled

__all__ = ["SkyStructure", "subtract_difference_sky"]

BLOCK = 8  # px, about a PSF: blocks that stand out are left out with those around them
SAMPLES = 32  # a side: pixels of a cell that its first level and its usual variance are known from
CLIP = 3.0  # sigma: what stands out more is no sky
BRIGHT, WIDE = 1.5, 5.0  # times the usual variance, and its scatter: pixels above both are on sources
LEAST = 0.1  # share of a cell's pixels that makes its level; fewer: that of the nearest cell
STEEP = 0.5  # of a pixel's noise from a cell to the next
STRONG = 0.3  # of a pixel's noise: rms of structure that is first taken off by small cells
FINE, FINE_BLOCKS = 6.0, 4  # their side: in FWHM, and in blocks at least
PASSES = 8  # where the sky has structure
WINGS = 1.5  # FWHM: the light of a source that is left
LEAST_PERIOD, WIDEST = 3.0, 5.0  # of a structure: blocks, and FWHM of the PSF
STRUCTURE_STEP = 4  # px: the map of a structure is bilinear between such
NODES = 16  # a side of a cell: the map that is taken off is bilinear between these


@dataclass(frozen=True)
class SkyStructure:
    """What was on the sky beside its smooth level: rms of offsets of columns and rows and of other structure, counts."""

    columns: float = 0.0
    rows: float = 0.0
    smooth: float = 0.0


def subtract_difference_sky(difference: Exposure, mesh: int, *excluded: str, fwhm: float = 3.0) -> SkyStructure:
    """Take the sky off in place: clipped means of cells, joined by natural cubic splines, and what structure there is.

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
    fwhm
        Of the PSF, px: structure is at least a few times as wide.
    """
    shape = difference.image.shape
    cells, fine = _Cells.of(shape, mesh, fwhm), False
    bits, sky = plane_bits(["NO_DATA", *excluded]), SkyStructure()
    for _ in range(PASSES):  # where there is structure the means of blocks are better known without it
        mapped = _subtract_cells(difference, bits, cells)
        if mapped is None:
            return sky
        if mapped.steep:  # over a cell pixels were clipped about one level
            continue
        if not (sky.columns or sky.rows):
            columns, rows = subtract_offsets(difference, bits, mapped.sky, BLOCK)
            sky = SkyStructure(columns, rows, sky.smooth)
            if columns or rows:
                continue
        found = structure(mapped.above, mapped.sky, max(LEAST_PERIOD, WIDEST * fwhm / BLOCK))
        if found is None:
            return sky
        y, x = (np.arange(0, n + STRUCTURE_STEP, STRUCTURE_STEP, dtype=np.float64) for n in shape)
        level = node_levels(found, BLOCK, y, x)
        sky = SkyStructure(sky.columns, sky.rows, float(np.hypot(sky.smooth, level.std())))
        if level.std() > STRONG * mapped.noise and not fine:  # pixels were clipped by it
            bad = ~usable_pixels(difference.image, difference.variance, difference.mask, bits)
            side = max(FINE_BLOCKS * BLOCK, round(FINE * fwhm))
            subtract_level(difference, estimate_background(difference.image, bad, side, 1).level, 1)
            fine = True
            continue
        subtract_level(difference, level, STRUCTURE_STEP)
    _subtract_cells(difference, bits, cells)
    return sky


class _Blocks(NamedTuple):
    """What the means of blocks have above the levels of the cells, which are of sky; whether those levels are steep.

    ``noise`` is that of a pixel.
    """

    above: F64
    sky: Flags
    steep: bool
    noise: float


def _subtract_cells(difference: Exposure, bits: int, cells: "_Cells") -> _Blocks | None:
    """Take the levels of the cells off; returns what the blocks have above them."""
    mapped = _cell_levels(difference, bits, cells)
    if mapped is None:
        return None
    levels, blocks, sky, noise = mapped
    steep = max(float(np.abs(np.diff(levels, axis=k)).max(initial=0.0)) for k in (0, 1)) > STEEP * noise
    height, width = difference.image.shape
    y, x = (np.arange(0, n + cells.step, cells.step, dtype=np.float64) for n in (height, width))
    subtract_level(difference, cells.spline(levels, y, x).astype(np.float32), cells.step)
    y, x = ((np.arange(n, dtype=np.float64) + 0.5) * BLOCK - 0.5 for n in blocks.shape)
    return _Blocks(np.asarray(blocks - cells.spline(levels, y, x)), sky, steep, noise)


class _Cells(NamedTuple):
    """The edges of the cells along both axes, the step between nodes of the map (px), and the reach of wings (blocks)."""

    rows: I64
    columns: I64
    step: int
    reach: int

    @classmethod
    def of(cls, shape: tuple[int, ...], mesh: int, fwhm: float) -> "_Cells":
        """Return the cells of about `mesh` px, at most a quarter of an image of a shape (height, width)."""
        side = int(max(BLOCK, min(mesh, min(shape) // 4)))
        wings = max(1, int(np.ceil(WINGS * fwhm / BLOCK)))
        return cls(_edges(shape[0], side), _edges(shape[1], side), max(1, side // NODES), wings)

    def spline(self, levels: F64, y: F64, x: F64) -> F64:
        """Return the levels (y.size, x.size) at positions (px) between the cells' centres."""
        return _spline(_spline(levels, self.rows, y).T, self.columns, x).T


def _edges(size: int, side: int) -> I64:
    """Return the edges of cells of about one side, whole blocks each (the last block may be cut)."""
    blocks = -(-size // BLOCK)
    return np.minimum(np.linspace(0, blocks, max(size // side, 1) + 1).astype(np.int64) * BLOCK, size)


def _cell_levels(difference: Exposure, bits: int, cells: "_Cells") -> tuple[F64, F64, Flags, float] | None:
    """Return the levels (rows - 1, columns - 1) of the cells, None where there is no sky at all.

    Beside them the means of the blocks, shape (R, C), which of those are of sky, and the noise of a pixel.
    """
    rows, columns = cells.rows, cells.columns
    start, usual, scatter = _typical(difference, bits, rows, columns)
    brightest = np.maximum(BRIGHT * usual, usual + WIDE * scatter)
    blocks = [-(-np.diff(e) // BLOCK) for e in (rows, columns)]
    first, clip, limit = (_per_block(a, blocks) for a in (start, CLIP * np.sqrt(usual), brightest))
    total, count = np.zeros(first.shape, np.float32), np.zeros(first.shape, np.float32)
    plane = _Pixels(difference.image, difference.variance, difference.mask, np.int32(bits))
    limits = _Limits(first, clip, limit)
    in_bands(lambda low, high: _block_sums(plane, limits, low, high, total, count), first.shape[0], least=1)
    mean, source = _block_means(total, count, clip)
    pixels = _summed(np.where(source, 0, count), blocks)
    above = _summed(np.where(source, 0, total), blocks) / np.maximum(pixels, 1)
    enough = pixels >= LEAST * np.outer(np.diff(rows), np.diff(columns))
    if not enough.any():
        return None
    levels = start.astype(np.float32) + above
    if not enough.all():
        from scipy.spatial import cKDTree  # which few images need, and takes a tenth of a second to load

        near = cKDTree(np.argwhere(enough)).query(np.argwhere(~enough))[1]
        levels[~enough] = levels[enough][near]
    noise = float(np.sqrt(np.nanmedian(usual)))
    return levels, (first + mean).astype(np.float64), _sky_blocks(mean, count, clip, cells.reach), noise


def _block_means(total: F32, count: F32, clip: F32) -> tuple[F32, Flags]:
    """Return the means of the blocks, and which of them stand out or are next to one that does.

    A block is judged by the median of the 5 x 5 around it: a steep sky is no source.
    """
    mean = np.asarray(total / np.maximum(count, 1), np.float32)
    return mean, _around(_standing_out(mean, count) > clip)


def _sky_blocks(mean: F32, count: F32, clip: F32, reach: int) -> Flags:
    """Return which blocks are of sky, be there structure on it: those stand out that do so more than most.

    Blocks within `reach` of one that stands out hold the wings of a source.
    """
    rest, usable = _standing_out(mean, count), (count > 0.5 * BLOCK**2) & (clip > 0)
    if not usable.any():
        return usable
    usual = median(rest[usable] / clip[usable]) * SIGMA_PER_MAD * CLIP
    return usable & ~_around(rest > clip * max(usual, 1.0), reach)


def _standing_out(mean: F32, count: F32) -> F32:
    """Return by how much each block is off the median of the 5 x 5 around it, in units of the noise of a pixel."""
    return np.asarray(np.abs(mean - cv2.medianBlur(mean, 5)) * np.sqrt(count), np.float32)


def _around(blocks: Flags, reach: int = 1) -> Flags:
    """Return some blocks and those within `reach` of them."""
    side = 2 * reach + 1
    return np.asarray(cv2.dilate(blocks.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)


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
