"""Resampling of an exposure to another WCS: Lanczos-3, exact variance, masks OR-ed over the pixels that matter."""

from dataclasses import replace
from typing import Any

import cv2
import numba
import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from exposure import Exposure, SkyWcs
from exposure.mask import plane_bits
from exposure.threads import in_bands

__all__ = ["nodes", "position_grid", "resample", "warp_exposure"]

A = 3
DEGREE = 8  # of the polynomials that stand for the weights
OUTSIDE = -1_000_000_000
LANES = 8  # pixels that a vector register takes at once
GRID = 32  # px between the nodes at which the WCS is evaluated; between them positions are bilinear
Box = tuple[int, int, int, int]


def _lanczos_polynomials() -> NDArray[np.float32]:
    """Return coefficients (A, DEGREE + 1), highest first, of the weights of Lanczos-A as polynomials of 2 f - 1.

    f in [0, 1) is the sub-pixel offset; the weights are normalised to sum 1. The polynomials are off by 2e-6 at most, and
    they are evaluated for eight pixels at once where a table is read one by one. The other A weights are mirrored: those
    of 1 - f.
    """
    f = 0.5 - 0.5 * np.cos(np.pi * (np.arange(200) + 0.5) / 200)[:, None]
    t = np.arange(-A + 1, A + 1)[None, :] - f
    w = np.sinc(t) * np.sinc(t / A)
    fitted = chebyshev.chebfit(2 * f[:, 0] - 1, w / w.sum(1, keepdims=True), DEGREE)
    return np.array([chebyshev.cheb2poly(c)[::-1] for c in fitted.T[:A]], np.float32)


_WEIGHTS = _lanczos_polynomials()


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


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})  # type: ignore[untyped-decorator]
def _weighted_run(plane: Any, at: int, width: int, n: int, weights: Any, out: Any) -> None:
    """Sum 6 x 6 pixels of a flat plane from ``at + k`` on for k < n; weights of x at ``p GRID + k``, of y ``6 GRID`` further.

    One expression over slices of few arrays: so the compiler sees that nothing overlaps and takes eight pixels at once.
    """
    m = n + 2 * A - 1
    two, four = at + 2 * width, at + 4 * width
    r0, r1, r2 = plane[at : at + m], plane[at + width : at + width + m], plane[two : two + m]
    r3, r4, r5 = plane[two + width : two + width + m], plane[four : four + m], plane[four + width : four + width + m]
    w, g = weights, GRID
    for k in range(n):
        a, b, c, d, e, f = w[k], w[g + k], w[2 * g + k], w[3 * g + k], w[4 * g + k], w[5 * g + k]
        t = w[6 * g + k] * (a * r0[k] + b * r0[k + 1] + c * r0[k + 2] + d * r0[k + 3] + e * r0[k + 4] + f * r0[k + 5])
        t += w[7 * g + k] * (a * r1[k] + b * r1[k + 1] + c * r1[k + 2] + d * r1[k + 3] + e * r1[k + 4] + f * r1[k + 5])
        t += w[8 * g + k] * (a * r2[k] + b * r2[k + 1] + c * r2[k + 2] + d * r2[k + 3] + e * r2[k + 4] + f * r2[k + 5])
        t += w[9 * g + k] * (a * r3[k] + b * r3[k + 1] + c * r3[k + 2] + d * r3[k + 3] + e * r3[k + 4] + f * r3[k + 5])
        t += w[10 * g + k] * (a * r4[k] + b * r4[k + 1] + c * r4[k + 2] + d * r4[k + 3] + e * r4[k + 4] + f * r4[k + 5])
        t += w[11 * g + k] * (a * r5[k] + b * r5[k + 1] + c * r5[k + 2] + d * r5[k + 3] + e * r5[k + 4] + f * r5[k + 5])
        out[k] = t


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _weighted_masked(
    image: Any,
    variance: Any,
    mask: Any,
    no_data: int,
    iy: int,
    ix: int,
    weights: Any,
    k: int,
) -> tuple[float, float, float, int]:
    """Return sums of image and variance over pixels with data, the sum of their weights, the bits that matter."""
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
            w = weights[(2 * A + q) * GRID + k] * weights[p * GRID + k]
            m = mask[yy, xx]
            if abs(w) > 0.02:
                bits |= m
            if m & no_data == 0:
                total += w * image[yy, xx]
                var += w * w * variance[yy, xx]
                weight += w
    return total, var, weight, bits


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _places(x0: float, dx: float, size: int, first: Any, phase: Any) -> None:
    """Write the pixel below and the phase (-1..1) of x0 + dx k; where that is off the plane, `OUTSIDE`."""
    for k in range(first.shape[0]):
        x = x0 + dx * k
        inside = (x > -0.5) & (x < size - 0.5)
        whole = np.floor(x) if inside else 0.0
        first[k] = np.int32(whole) if inside else OUTSIDE
        phase[k] = np.float32(2 * (x - whole) - 1) if inside else np.float32(0)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def _fill_weights(polynomials: Any, fx: Any, fy: Any, weights: Any, squares: Any) -> None:
    """Evaluate even and odd powers by themselves: their sum is one weight, their difference its mirror image."""
    for half in range(2):
        phase = fx if half == 0 else fy
        for p in range(A):
            low, high = (half * 2 * A + p) * GRID, (half * 2 * A + 2 * A - 1 - p) * GRID
            near, far = weights[low : low + GRID], weights[high : high + GRID]
            c = polynomials[p]
            c0, c1, c2, c3, c4, c5, c6, c7, c8 = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
            for k in range(phase.shape[0]):
                f = phase[k]
                g = f * f
                even = (((c0 * g + c2) * g + c4) * g + c6) * g + c8
                odd = (((c1 * g + c3) * g + c5) * g + c7) * f
                near[k], far[k] = even + odd, even - odd
    for k in range(4 * A * GRID):
        squares[k] = weights[k] * weights[k]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _run_length(k: int, n: int, xs: Any, ys: Any, marked: Any) -> int:
    """Return how many pixels from k on have their sources side by side, inside, and unmarked."""
    height, width = marked.shape
    ix, iy = xs[k], ys[k]
    if iy < A - 1 or iy >= height - A or ix < A - 1:
        return 0
    end = k
    while end < n and xs[end] == ix + end - k and ys[end] == iy and xs[end] < width - A and not marked[iy, xs[end]]:
        end += 1
    return end - k


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _resample(
    image: Any, variance: Any, mask: Any, marked: Any, gx: Any, gy: Any, polynomials: Any, scale: float,
    no_data: int, image_out: Any, variance_out: Any, mask_out: Any, first: int, last: int,
) -> None:  # fmt: skip
    """Resample some rows: runs of pixels whose sources lie side by side are summed at once, the others one by one."""
    height, width = image.shape
    flat_image, flat_variance = image.ravel(), variance.ravel()  # no copies: the planes are contiguous
    out_w = image_out.shape[1]
    unit, square = np.float32(scale), np.float32(scale * scale)
    weights, squares = np.zeros(4 * A * GRID + GRID, np.float32), np.zeros(4 * A * GRID + GRID, np.float32)
    sums, spreads = np.empty(GRID + LANES, np.float32), np.empty(GRID + LANES, np.float32)
    xs, ys = np.empty(GRID, np.int32), np.empty(GRID, np.int32)
    fx, fy = np.empty(GRID, np.float32), np.empty(GRID, np.float32)
    for j in range(first, last):
        row, fj = j // GRID, (j % GRID) / GRID
        for cell in range((out_w + GRID - 1) // GRID):
            x0 = (1 - fj) * gx[row, cell] + fj * gx[row + 1, cell]
            y0 = (1 - fj) * gy[row, cell] + fj * gy[row + 1, cell]
            dx = ((1 - fj) * gx[row, cell + 1] + fj * gx[row + 1, cell + 1] - x0) / GRID
            dy = ((1 - fj) * gy[row, cell + 1] + fj * gy[row + 1, cell + 1] - y0) / GRID
            _places(x0, dx, width, xs, fx)
            _places(y0, dy, height, ys, fy)
            _fill_weights(polynomials, fx, fy, weights, squares)
            start = cell * GRID
            n = min(GRID, out_w - start)
            k = 0
            while k < n:
                ix, iy = xs[k], ys[k]
                if ix == OUTSIDE or iy == OUTSIDE:
                    mask_out[j, start + k] = no_data
                    image_out[j, start + k] = variance_out[j, start + k] = np.nan
                    k += 1
                    continue
                m = _run_length(k, n, xs, ys, marked)
                if m > 0:  # nothing marked within reach: the weights sum to 1
                    lanes = (m + LANES - 1) // LANES * LANES  # whole registers where there is room
                    if ix + lanes + A > width:
                        lanes = m
                    at = (iy - A + 1) * width + ix - A + 1
                    _weighted_run(flat_image, at, width, lanes, weights[k:], sums)
                    _weighted_run(flat_variance, at, width, lanes, squares[k:], spreads)
                    for i in range(m):
                        image_out[j, start + k + i] = unit * sums[i]
                        variance_out[j, start + k + i] = square * spreads[i]
                    k += m
                    continue
                total, var, weight, bits = _weighted_masked(image, variance, mask, no_data, iy, ix, weights, k)
                if weight < 0.5:
                    mask_out[j, start + k] = no_data
                    image_out[j, start + k] = variance_out[j, start + k] = np.nan
                else:
                    image_out[j, start + k] = scale * total / weight
                    variance_out[j, start + k] = scale * scale * var / (weight * weight)
                    mask_out[j, start + k] = bits & ~no_data
                k += 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _mark(image: Any, variance: Any, mask: Any, no_data: int, marks: Any, first: int, last: int) -> bool:
    """Note which pixels of some rows have a mask bit or no value; returns whether some have no value and no ``NO_DATA``."""
    unsaid = False
    for y in range(first, last):
        for x in range(image.shape[1]):
            empty = not (np.isfinite(image[y, x]) & np.isfinite(variance[y, x]))
            marks[y, x] = empty | (mask[y, x] != 0)
            unsaid |= empty & (mask[y, x] & no_data == 0)
    return unsaid


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
    x0, y0, width, height = box
    no_data = plane_bits(["NO_DATA"])
    (pixels, spread, flags), gx, gy = _along_rows(
        (source.image, source.variance, source.mask), gx - source.origin[0], gy - source.origin[1]
    )
    marks, unsaid = np.empty(pixels.shape, np.uint8), []
    in_bands(lambda a, b: unsaid.append(_mark(pixels, spread, flags, no_data, marks, a, b)), len(pixels))
    if any(unsaid):
        flags = np.where(np.isfinite(pixels) & np.isfinite(spread), flags, flags | np.int32(no_data))
    # pixel (y, x) of `marked`: whether any mask bit is set in the window that starts at (y - A + 1, x - A + 1)
    marked = cv2.dilate(marks, np.ones((2 * A, 2 * A), np.uint8), anchor=(A - 1, A - 1))
    planes = (pixels, spread, flags, marked, gx, gy)
    image, variance = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    mask = np.zeros((height, width), np.int32)

    def band(first: int, last: int) -> None:
        _resample(*planes, _WEIGHTS, scale, no_data, image, variance, mask, first, last)

    in_bands(band, height)
    return Exposure(
        image, variance, mask, origin=(x0, y0), visit_info=source.visit_info, band=source.band,
        physical_filter=source.physical_filter,
    )  # fmt: skip


def _along_rows(
    planes: tuple[NDArray[Any], ...], gx: NDArray[np.float64], gy: NDArray[np.float64]
) -> tuple[tuple[NDArray[Any], ...], NDArray[np.float64], NDArray[np.float64]]:
    """Turn and flip planes, and positions in them, so that rows of the target run along their rows: memory is read in order."""
    known = np.isfinite(gx[:, :-1] + gx[:, 1:] + gy[:, :-1] + gy[:, 1:])
    if known.any():
        along_x, along_y = (float(np.median(np.diff(g, axis=1)[known])) for g in (gx, gy))
        if abs(along_y) > abs(along_x):
            planes, gx, gy, along_x = tuple(p.T for p in planes), gy, gx, along_y
        if along_x < 0:
            gx = planes[0].shape[1] - 1 - gx
            planes = tuple(p[:, ::-1] for p in planes)
    return tuple(np.ascontiguousarray(p) for p in planes), np.nan_to_num(gx, nan=-1e9), np.nan_to_num(gy, nan=-1e9)
