"""Resampling of an exposure to another WCS: Lanczos-3, exact variance, masks OR-ed over the pixels that matter."""

import math
from dataclasses import replace
from typing import Any

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from exposure import Exposure, SkyWcs
from exposure.mask import plane_bits
from exposure.threads import in_bands

__all__ = ["nodes", "position_grid", "resample", "warp_exposure"]

A = 3
_TABLE_STEP = 512
GRID = 32  # px between the nodes at which the WCS is evaluated; between them positions are bilinear
Box = tuple[int, int, int, int]


def _lanczos_table() -> NDArray[np.float32]:
    """Weights (step + 1, 2A) of Lanczos-A for sub-pixel offsets 0..1, each row summing to 1."""
    f = np.linspace(0, 1, _TABLE_STEP + 1)[:, None]
    t = np.arange(-A + 1, A + 1)[None, :] - f
    w = np.sinc(t) * np.sinc(t / A)
    w[np.abs(t) >= A] = 0
    return np.asarray(w / w.sum(1, keepdims=True), dtype=np.float32)


_TABLE = _lanczos_table()


def nodes(box: Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the frame positions of the nodes of a box, `GRID` px apart, the first at its first pixel."""
    x0, y0, width, height = box
    mx, my = np.meshgrid(
        x0 + np.arange(0, width + GRID, GRID, dtype=np.float64),
        y0 + np.arange(0, height + GRID, GRID, dtype=np.float64),
    )
    return mx, my


def position_grid(target: SkyWcs, box: Box, source: SkyWcs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return source frame positions at the nodes of a grid over the target box (spacing `GRID` px)."""
    mx, my = nodes(box)
    ra, dec = target.pixel_to_sky(mx.ravel(), my.ravel())
    sx, sy = source.sky_to_pixel(ra, dec)
    return sx.reshape(mx.shape), sy.reshape(mx.shape)


@numba.njit(cache=True, nogil=True, parallel=False, fastmath=False)  # type: ignore[untyped-decorator]
def _resample(
    image: Any, variance: Any, mask: Any, marked: Any, gx: Any, gy: Any, table: Any, scale: float, no_data: int,
    image_out: Any, variance_out: Any, mask_out: Any, first: int, last: int,
) -> None:  # fmt: skip
    height, width = image.shape
    out_w = image_out.shape[1]
    square = np.float32(scale * scale)
    taps = 2 * A
    for j in range(first, last):
        cell_j, fj = j // GRID, (j % GRID) / GRID
        for i in range(out_w):
            cell_i, fi = i // GRID, (i % GRID) / GRID
            w00, w01, w10, w11 = (1 - fj) * (1 - fi), (1 - fj) * fi, fj * (1 - fi), fj * fi
            x = w00 * gx[cell_j, cell_i] + w01 * gx[cell_j, cell_i + 1]
            x += w10 * gx[cell_j + 1, cell_i] + w11 * gx[cell_j + 1, cell_i + 1]
            y = w00 * gy[cell_j, cell_i] + w01 * gy[cell_j, cell_i + 1]
            y += w10 * gy[cell_j + 1, cell_i] + w11 * gy[cell_j + 1, cell_i + 1]
            if not (x > -0.5 and y > -0.5 and x < width - 0.5 and y < height - 0.5):
                mask_out[j, i] = no_data
                image_out[j, i] = np.nan
                variance_out[j, i] = np.nan
                continue
            ix, iy = int(math.floor(x)), int(math.floor(y))  # noqa: RUF046 (numba's floor gives a float)
            rx = int((x - ix) * (table.shape[0] - 1) + 0.5)
            ry = int((y - iy) * (table.shape[0] - 1) + 0.5)
            if A - 1 <= ix < width - A and A - 1 <= iy < height - A and not marked[iy, ix]:
                # nothing marked within reach: the weights sum to 1
                value = spread = np.float32(0)
                for q in range(taps):
                    row = row2 = np.float32(0)
                    wy = table[ry, q]
                    for p in range(taps):
                        wx = table[rx, p]
                        row += wx * image[iy - A + 1 + q, ix - A + 1 + p]
                        row2 += wx * wx * variance[iy - A + 1 + q, ix - A + 1 + p]
                    value += wy * row
                    spread += wy * wy * row2
                image_out[j, i] = np.float32(scale) * value
                variance_out[j, i] = square * spread
                continue
            total = weight = var = 0.0
            bits = 0
            for q in range(taps):
                yy = iy - A + 1 + q
                if yy < 0 or yy >= height:
                    continue
                wy = table[ry, q]
                for p in range(taps):
                    xx = ix - A + 1 + p
                    if xx < 0 or xx >= width:
                        continue
                    w = wy * table[rx, p]
                    m = mask[yy, xx]
                    if m & no_data:
                        if abs(w) > 0.02:
                            bits |= no_data
                        continue
                    total += w * image[yy, xx]
                    var += w * w * variance[yy, xx]
                    weight += w
                    if abs(w) > 0.02:
                        bits |= m
            if weight < 0.5:
                mask_out[j, i] = no_data
                image_out[j, i] = np.nan
                variance_out[j, i] = np.nan
            else:
                image_out[j, i] = scale * total / weight
                variance_out[j, i] = scale * scale * var / (weight * weight)
                mask_out[j, i] = bits & ~no_data


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


def resample(
    source: Exposure, gx: NDArray[np.float64], gy: NDArray[np.float64], box: Box, scale: float = 1.0
) -> Exposure:
    """Take the pixels of `box` from `source` at positions known on a grid of nodes.

    Parameters
    ----------
    gx, gy
        Frame positions in `source` of the nodes, `GRID` px apart, the first at the first pixel of the box.
    scale
        Factor on pixel values.
    """
    gx, gy = gx - source.origin[0], gy - source.origin[1]
    gx, gy = np.nan_to_num(gx, nan=-1e9), np.nan_to_num(gy, nan=-1e9)
    x0, y0, width, height = box
    image, variance = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    mask = np.zeros((height, width), np.int32)
    no_data = plane_bits(["NO_DATA"])
    empty = ~(np.isfinite(source.image) & np.isfinite(source.variance))
    in_mask = np.where(empty, source.mask | np.int32(no_data), source.mask)
    # pixel (y, x) of `marked`: whether any mask bit is set in the window of taps that starts at (y - A + 1, x - A + 1)
    window = np.ones((2 * A, 2 * A), np.uint8)
    marked = cv2.dilate((in_mask != 0).astype(np.uint8), window, anchor=(A - 1, A - 1)) > 0
    planes = (source.image, source.variance, in_mask, marked)

    def band(first: int, last: int) -> None:
        _resample(*planes, gx, gy, _TABLE, scale, no_data, image, variance, mask, first, last)

    in_bands(band, height)
    return Exposure(
        image, variance, mask, origin=(x0, y0), visit_info=source.visit_info, band=source.band,
        physical_filter=source.physical_filter,
    )  # fmt: skip
