"""Resampling of an exposure to another WCS: sums that keep fluxes, propagated variance, masks OR-ed over the pixels that matter."""

from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from diffim.pixels.interpolation import LANES, TABLE, A, interpolate, weigh
from exposure import Exposure, SkyWcs
from exposure.interpolation import STEPS
from exposure.mask import plane_bits
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I32, U8, Box
from tasks.compiled import compiled

__all__ = ["nodes", "position_grid", "resample", "warp_exposure"]

GRID = 32  # px between the nodes at which the WCS is evaluated; between them positions are bilinear
BLOCK = 8  # cells of the grid side by side that are done together


def nodes(box: Box) -> tuple[F64, F64]:
    """Return the frame positions (x, y) of the nodes of a box, each of shape (rows, columns), `GRID` px apart.

    The first is at the first pixel of the box.
    """
    x0, y0, width, height = box
    mx, my = np.meshgrid(
        x0 + np.arange(0, width + GRID, GRID, dtype=np.float64),
        y0 + np.arange(0, height + GRID, GRID, dtype=np.float64),
    )
    return mx, my


def position_grid(target: SkyWcs, box: Box, source: SkyWcs) -> tuple[F64, F64]:
    """Return source frame positions at the nodes of a grid over the target box (spacing `GRID` px)."""
    mx, my = nodes(box)
    ra, dec = target.pixel_to_sky(mx.ravel(), my.ravel())
    sx, sy = source.sky_to_pixel(ra, dec)
    return sx.reshape(mx.shape), sy.reshape(mx.shape)


class _Source(NamedTuple):
    """The image that is resampled, all of shape (height, width), as compiled code takes it.

    `pairs` (height, width, 2) holds each pixel's value and variance; `marked` says whether any of the pixels that the kernel
    at a pixel reaches has a mask bit or no value; `no_data` is the bit of ``NO_DATA``.
    """

    image: F32
    variance: F32
    mask: I32
    pairs: F32
    marked: U8
    no_data: int


class _Positions(NamedTuple):
    """Array positions in the source of the nodes, and the table of the kernel's weights."""

    x: F64
    y: F64
    table: F32


class _Resampled(NamedTuple):
    """The images that are written, all of shape (height, width)."""

    image: F32
    variance: F32
    mask: I32


@compiled
def _masked(source: Any, iy: Any, ix: Any, wx: Any, wy: Any, first: int) -> tuple[np.float32, np.float32, int]:
    """Return image and variance from the pixels with data and the bits that matter; NaN without half of the weight.

    The weights, each followed by its square, begin at element `first` of `wx` and `wy`.
    """
    image, variance, mask, no_data = source.image, source.variance, source.mask, source.no_data
    height, width = image.shape
    total = weight = var = 0.0
    bits = 0
    for q in range(2 * A):
        yy = iy - A + 1 + q
        if yy < 0 or yy >= height:
            continue
        for p in range(2 * A):
            xx = ix - A + 1 + p
            if xx < 0 or xx >= width:
                continue
            w = wy[first + 2 * q] * wx[first + 2 * p]
            m = mask[yy, xx]
            if abs(w) > 0.02:
                bits |= m
            if m & no_data == 0:
                total += w * image[yy, xx]
                var += w * w * variance[yy, xx]
                weight += w
    if weight < 0.5:
        return np.float32(np.nan), np.float32(np.nan), no_data
    return np.float32(total / weight), np.float32(var / (weight * weight)), bits & ~no_data


@compiled
def _locate(x0: float, dx: float, size: int, pixel: Any, step: Any, fraction: Any) -> None:
    """Write the pixel below x0 + dx k, the step of the table (-1: that is off the image), the fraction to the next."""
    for k in range(pixel.shape[0]):
        x = x0 + dx * k
        inside = (x > -0.5) & (x < size - 0.5)
        below = np.floor(x) if inside else 0.0
        phase = (x - below) * STEPS if inside else 0.0
        pixel[k] = np.int32(below)
        step[k] = np.int32(phase) if inside else -1
        fraction[k] = np.float32(phase - np.floor(phase))


@compiled
def _resample(source: Any, positions: Any, scale: float, out: Any, first: int, last: int) -> None:
    """Resample some rows, in blocks of some cells of the grid: a source that is turned is read from the cache."""
    gx, gy, table = positions
    image_out, variance_out, mask_out = out
    flat_pairs, flat_table = source.pairs.ravel(), table.ravel()  # no copies: both are contiguous
    marked, no_data = source.marked, source.no_data
    height, width = source.image.shape
    unit, square, nothing = np.float32(scale), np.float32(scale * scale), np.float32(np.nan)
    cells = (image_out.shape[1] + GRID - 1) // GRID
    xs, ys = np.empty(GRID, np.int32), np.empty(GRID, np.int32)
    kx, ky = np.empty(GRID, np.int32), np.empty(GRID, np.int32)
    fx, fy = np.empty(GRID, np.float32), np.empty(GRID, np.float32)
    wx, wy = np.empty(2 * GRID * LANES, np.float32), np.empty(2 * GRID * LANES, np.float32)
    blocks = (cells + BLOCK - 1) // BLOCK
    for block in range((last - first + GRID - 1) // GRID * blocks):
        top, left = first + block // blocks * GRID, block % blocks * BLOCK
        for j in range(top, min(top + GRID, last)):
            row, fj = j // GRID, (j % GRID) / GRID
            for cell in range(left, min(left + BLOCK, cells)):
                x0 = (1 - fj) * gx[row, cell] + fj * gx[row + 1, cell]
                y0 = (1 - fj) * gy[row, cell] + fj * gy[row + 1, cell]
                dx = ((1 - fj) * gx[row, cell + 1] + fj * gx[row + 1, cell + 1] - x0) / GRID
                dy = ((1 - fj) * gy[row, cell + 1] + fj * gy[row + 1, cell + 1] - y0) / GRID
                _locate(x0, dx, width, xs, kx, fx)
                _locate(y0, dy, height, ys, ky, fy)
                for k in range(GRID):
                    weigh(flat_table, np.int64(max(kx[k], 0)), fx[k], wx, k)
                    weigh(flat_table, np.int64(max(ky[k], 0)), fy[k], wy, k)
                for k in range(min(GRID, image_out.shape[1] - cell * GRID)):
                    i, ix, iy = cell * GRID + k, np.int64(xs[k]), np.int64(ys[k])
                    inside = A - 1 <= ix <= width - LANES + A - 1 and A - 1 <= iy < height - A
                    if kx[k] < 0 or ky[k] < 0:
                        value, noise, bits = nothing, nothing, no_data
                    elif inside and not marked[iy, ix]:  # the weights of all pixels sum to 1
                        start = (iy - A + 1) * width + ix - A + 1
                        value, noise = interpolate(flat_pairs, start, width, wx, wy, k)
                        bits = 0
                    else:
                        value, noise, bits = _masked(source, iy, ix, wx, wy, 2 * k * LANES)
                    image_out[j, i], variance_out[j, i] = unit * value, square * noise
                    if bits != 0:
                        mask_out[j, i] = bits


@compiled
def _mark(image: Any, variance: Any, mask: Any, no_data: int, marks: Any, first: int, last: int) -> bool:
    """Note which pixels of some rows have a mask bit or no value; returns whether some have no value and no ``NO_DATA``."""
    unflagged = False
    for y in range(first, last):
        for x in range(image.shape[1]):
            empty = not (np.isfinite(image[y, x]) & np.isfinite(variance[y, x]))
            marks[y, x] = empty | (mask[y, x] != 0)
            unflagged |= empty & (mask[y, x] & no_data == 0)
    return unflagged


def warp_exposure(source: Exposure, target: SkyWcs, box: Box, flux_scale: float = 1.0) -> Exposure:
    """Resample `source` to the pixels of `target` inside `box` (x0, y0, width, height).

    Fluxes of sources are kept (pixel values are multiplied with the ratio of pixel areas) and then multiplied with
    `flux_scale`. Pixels without half of their weight get NaN and ``NO_DATA``. PSF and calibration are not carried.
    """
    wcs = source.require_wcs()
    gx, gy = position_grid(target, box, wcs)
    x0, y0, width, height = box
    area = float(target.pixel_scale_arcsec(x0 + width / 2, y0 + height / 2) ** 2)
    cx, cy = source.origin[0] + source.width / 2, source.origin[1] + source.height / 2
    scale = flux_scale * area / float(wcs.pixel_scale_arcsec(cx, cy) ** 2)
    return replace(resample(source, gx, gy, box, scale), wcs=target)


def resample(source: Exposure, gx: F64, gy: F64, box: Box, scale: float = 1.0) -> Exposure:
    """Take the pixels of `box` from `source` at positions that are given on a grid of nodes.

    Parameters
    ----------
    gx, gy
        Frame positions in `source` of the nodes, shape (rows, columns), `GRID` px apart, the first at the first pixel of the
        box.
    box
        x0, y0, width, height in the frame of the result, px.
    scale
        Factor on pixel values.
    """
    x0, y0, width, height = box
    no_data = plane_bits(["NO_DATA"])
    (pixels, variances, flags), gx, gy = _along_rows(
        (source.image, source.variance, source.mask), gx - source.origin[0], gy - source.origin[1]
    )
    marks, unflagged, pairs = np.empty(pixels.shape, np.uint8), [], np.empty((*pixels.shape, 2), np.float32)

    def mark(first: int, last: int) -> None:
        cv2.merge((pixels[first:last], variances[first:last]), pairs[first:last])
        unflagged.append(_mark(pixels, variances, flags, no_data, marks, first, last))

    in_bands(mark, len(pixels))
    if any(unflagged):
        flags = np.where(np.isfinite(pixels) & np.isfinite(variances), flags, flags | np.int32(no_data))
    # pixel (y, x) of `marked`: whether any mask bit is set in the window that starts at (y - A + 1, x - A + 1)
    marked = np.asarray(cv2.dilate(marks, np.ones((2 * A, LANES), np.uint8), anchor=(A - 1, A - 1)), np.uint8)
    planes, positions = _Source(pixels, variances, flags, pairs, marked, no_data), _Positions(gx, gy, TABLE)
    image, variance = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    mask = np.zeros((height, width), np.int32)
    out = _Resampled(image, variance, mask)
    in_bands(lambda first, last: _resample(planes, positions, scale, out, first, last), height)
    return Exposure(
        image,
        variance,
        mask,
        origin=(x0, y0),
        visit_info=source.visit_info,
        band=source.band,
        physical_filter=source.physical_filter,
    )


def _along_rows(planes: tuple[NDArray[Any], ...], gx: F64, gy: F64) -> tuple[tuple[NDArray[Any], ...], F64, F64]:
    """Swap the axes of planes, and positions in them, where rows of the target run along columns: memory is read in order."""
    finite = np.isfinite(gx[:, :-1] + gx[:, 1:] + gy[:, :-1] + gy[:, 1:])
    if finite.any():
        along_x, along_y = (float(np.median(np.diff(g, axis=1)[finite])) for g in (gx, gy))
        if abs(along_y) > abs(along_x):
            planes, gx, gy = tuple(p.T for p in planes), gy, gx
    return tuple(np.ascontiguousarray(p) for p in planes), np.nan_to_num(gx, nan=-1e9), np.nan_to_num(gy, nan=-1e9)
