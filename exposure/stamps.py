"""Compiled kernels on stamps: sub-pixel shifts, gathering from images, adaptive moments, centroids."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure.interpolation import STEPS, weight_table
from exposure.threads import in_bands
from tasks.arrays import F32, F64
from tasks.compiled import compiled

__all__ = [
    "adaptive_moments",
    "add_stamps",
    "blend",
    "extendedness",
    "gather",
    "shift_stamps",
    "sided",
    "windowed_centroids",
]

_CENTROID_STEPS = 30
_A = 5  # px that the sums of sub-pixel shifts reach
_TABLE = weight_table(_A, (3.0, 4.33, 6.66))  # of stars from 3 px on the flux is kept to 1e-4, of 2.5 px to 2e-4


@compiled(inline=True)
def _weights(shift: float, table: Any, out: Any) -> None:
    """Write the weights of the pixels around a point that is `shift`, 0 to 1 px, beyond one of them; NaN where it is no number."""
    if not 0.0 <= shift <= 1.0:
        out[:] = np.nan
        return
    step = min(int(shift * STEPS), STEPS - 1)
    part = shift * STEPS - step
    for k in range(2 * _A):
        out[k] = (1.0 - part) * table[step, k] + part * table[step + 1, k]


@compiled
def _along(a: Any, w: Any, out: Any) -> None:
    """Filter a line with ten taps."""
    w0, w1, w2, w3, w4, w5, w6, w7, w8, w9 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9]
    for i in range(out.shape[0]):  # written out: so it is vectorised
        left = w0 * a[i] + w1 * a[i + 1] + w2 * a[i + 2] + w3 * a[i + 3] + w4 * a[i + 4]
        out[i] = left + (w5 * a[i + 5] + w6 * a[i + 6] + w7 * a[i + 7] + w8 * a[i + 8] + w9 * a[i + 9])


@compiled
def _across(a: Any, w: Any, out: Any) -> None:
    """Sum ten neighbouring lines with those taps."""
    w0, w1, w2, w3, w4, w5, w6, w7, w8, w9 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9]
    for i in range(out.shape[0]):
        left = w0 * a[0, i] + w1 * a[1, i] + w2 * a[2, i] + w3 * a[3, i] + w4 * a[4, i]
        out[i] = left + (w5 * a[5, i] + w6 * a[6, i] + w7 * a[7, i] + w8 * a[8, i] + w9 * a[9, i])


@compiled
def shift_stamps(stamps: Any, dx: Any, dy: Any, out: Any) -> None:
    """Move the content of each stamp (N, S, S) by (dx, dy) in (-1, 1) px into `out`; outside counts as zero."""
    n, s = stamps.shape[0], stamps.shape[1]
    w = np.empty(2 * _A, np.float32)
    wide = np.zeros(s + 4 * _A, np.float32)
    tall = np.zeros((s + 4 * _A, s), np.float32)
    for m in range(n):
        # value at pixel i of the moved stamp is the old one at i - dx
        fx, fy = math.floor(-dx[m]), math.floor(-dy[m])
        _weights(-dx[m] - fx, _TABLE, w)
        first = int(fx) + _A + 1  # in the padded row
        for j in range(s):
            wide[2 * _A : 2 * _A + s] = stamps[m, j]
            _along(wide[first:], w, tall[2 * _A + j])
        _weights(-dy[m] - fy, _TABLE, w)
        first = int(fy) + _A + 1
        for j in range(s):
            _across(tall[first + j :], w, out[m, j])


@compiled
def blend(cube: Any, index: Any, weight: Any) -> Any:
    """Return the sums (N, S, S) of the stamps cube[index[n, k]] times weight[n, k], k = 0..3."""
    n, pixels = index.shape[0], cube.shape[1] * cube.shape[2]
    flat = cube.reshape(cube.shape[0], pixels)
    out = np.empty((n, pixels), np.float32)
    for m in range(n):
        a, b, c, d = flat[index[m, 0]], flat[index[m, 1]], flat[index[m, 2]], flat[index[m, 3]]
        p, q, r, s = weight[m, 0], weight[m, 1], weight[m, 2], weight[m, 3]
        row = out[m]
        for i in range(pixels):
            row[i] = p * a[i] + q * b[i] + r * c[i] + s * d[i]
    return out.reshape(n, cube.shape[1], cube.shape[2])


@compiled
def gather(image: Any, cx: Any, cy: Any, size: int, fill: float) -> Any:
    """Return stamps (N, size, size) of `image` centred on integer pixels (cx, cy); `fill` outside."""
    n, half = cx.shape[0], size // 2
    height, width = image.shape
    out = np.empty((n, size, size), dtype=image.dtype)
    for m in range(n):
        x0, y0 = cx[m] - half, cy[m] - half
        first, last = min(max(0, -x0), size), max(min(size, width - x0), 0)
        for j in range(size):
            if not (0 <= y0 + j < height and first < last):
                out[m, j] = fill
                continue
            out[m, j, :first] = fill
            out[m, j, first:last] = image[y0 + j, x0 + first : x0 + last]
            out[m, j, last:] = fill
    return out


@compiled
def add_stamps(image: Any, stamps: Any, cx: Any, cy: Any, factor: Any) -> None:
    """Add stamps centred on pixels (cx, cy), times a factor each."""
    height, width = image.shape
    half = stamps.shape[1] // 2
    for n in range(stamps.shape[0]):
        for j in range(stamps.shape[1]):
            y = cy[n] - half + j
            if 0 <= y < height:
                for i in range(stamps.shape[2]):
                    x = cx[n] - half + i
                    if 0 <= x < width:
                        image[y, x] += factor[n] * stamps[n, j, i]


@compiled
def _moments(stamps: Any, x0: Any, y0: Any, out: Any) -> None:
    n, s = stamps.shape[0], stamps.shape[1]
    c = s // 2
    for m in range(n):
        wxx, wyy, wxy, ok = 4.0, 4.0, 0.0, False
        for step in range(100):
            det = wxx * wyy - wxy * wxy
            if not det > 1e-6:
                break
            a, b, d = wyy / det, -wxy / det, wxx / det
            s0 = sxx = syy = sxy = 0.0
            middle, ratio = c + x0[m], math.exp(-a)
            for j in range(s):
                v = j - c - y0[m]
                inside = b * b * v * v - a * (d * v * v - 20.0)
                if inside <= 0:
                    continue
                # the row's part of the ellipse r2 = 20; the weight goes from pixel to pixel by products, not by exp
                root = math.sqrt(inside)
                first = max(0, math.ceil(middle + (-b * v - root) / a))
                last = min(s - 1, math.floor(middle + (-b * v + root) / a))
                u = first - middle
                weight = math.exp(-0.5 * (a * u * u + 2 * b * u * v + d * v * v))
                step_up = math.exp(-0.5 * (a * (2 * u + 1) + 2 * b * v))
                t0 = t1 = t2 = 0.0
                for i in range(first, last + 1):
                    w = weight * stamps[m, j, i]
                    u = i - middle
                    t0 += w
                    t1 += w * u
                    t2 += w * u * u
                    weight *= step_up
                    step_up *= ratio
                s0 += t0
                sxx += t2
                syy += t0 * v * v
                sxy += t1 * v
            if not s0 > 0:
                break
            # the product of object and weight of equal shape has half the covariance of either
            nxx, nyy, nxy = 2 * sxx / s0, 2 * syy / s0, 2 * sxy / s0
            if nxx <= 0 or nyy <= 0 or nxx > s * s or nyy > s * s:
                break
            change = abs(nxx - wxx) + abs(nyy - wyy) + abs(nxy - wxy)
            damp = 1.0 if step < 10 else 0.5  # undersampled stamps may oscillate
            wxx, wyy, wxy = wxx + damp * (nxx - wxx), wyy + damp * (nyy - wyy), wxy + damp * (nxy - wxy)
            if change < 1e-5 * (wxx + wyy):
                ok = True
                break
        if ok:
            out[m, 0], out[m, 1], out[m, 2] = wxx, wyy, wxy
        else:
            out[m, 0] = out[m, 1] = out[m, 2] = np.nan


def adaptive_moments(stamps: NDArray[Any], x0: F64 | None = None, y0: F64 | None = None) -> F64:
    """Return (N, 3) adaptive Gaussian-weighted moments Ixx, Iyy, Ixy in px^2 (NaN where they do not converge).

    The centre of stamp m is its middle pixel plus (x0, y0). For a Gaussian they are its covariance (Bernstein &
    Jarvis 2002; Hirata & Seljak 2003, fixed centre).
    """
    n = stamps.shape[0]
    pixels, out = np.ascontiguousarray(stamps, dtype=np.float64), np.empty((n, 3))
    x, y = (np.zeros(n) if a is None else a for a in (x0, y0))
    in_bands(lambda a, b: _moments(pixels[a:b], x[a:b], y[a:b], out[a:b]), n)
    return out


@compiled
def _centroids(stamps: Any, x: Any, y: Any, sigma: float, out: Any) -> None:
    n, side = stamps.shape[0], stamps.shape[1]
    middle = side // 2
    wx, wxu = np.empty(side, np.float32), np.empty(side, np.float32)
    for m in range(n):
        u0, v0 = x[m] + middle, y[m] + middle
        out[m, 0] = out[m, 1] = np.nan
        for _ in range(_CENTROID_STEPS):
            for i in range(side):
                u = i - u0
                wx[i] = math.exp(-0.5 * (u / sigma) ** 2)
                wxu[i] = wx[i] * u
            s0 = su = sv = 0.0
            for j in range(side):
                t0 = t1 = 0.0
                row = stamps[m, j]
                for i in range(side):
                    t0 += wx[i] * row[i]
                    t1 += wxu[i] * row[i]
                v = j - v0
                w = math.exp(-0.5 * (v / sigma) ** 2)
                s0 += w * t0
                su += w * t1
                sv += w * v * t0
            if not s0 > 0:
                break
            du, dv = 2 * su / s0, 2 * sv / s0
            u0, v0 = u0 + du, v0 + dv
            if not (abs(u0 - middle) < middle - sigma and abs(v0 - middle) < middle - sigma):
                break
            if du * du + dv * dv < 1e-8:
                out[m, 0], out[m, 1] = u0 - middle, v0 - middle
                break


def windowed_centroids(stamps: F32, x: F64, y: F64, sigma: float) -> F64:
    """Return the centroids (N, 2) of stamps (N, S, S) under a Gaussian of `sigma` px that follows them.

    The windowed positions of SExtractor (Bertin & Arnouts 1996; manual, "XWIN_IMAGE"). Positions are relative to the
    middle pixel, as are the starting points (x, y); NaN where they do not converge or
    come nearer to the stamp's edge than `sigma`.
    """
    pixels, out = np.ascontiguousarray(stamps, dtype=np.float32), np.empty((stamps.shape[0], 2))
    in_bands(lambda a, b: _centroids(pixels[a:b], x[a:b], y[a:b], sigma, out[a:b]), len(out))
    return out


def sided(stamps: NDArray[Any], side: int) -> NDArray[Any]:
    """Return stamps (N, S, S) cut or padded with zeros to an odd `side` about their middle."""
    have = stamps.shape[-1]
    if have >= side:
        low = (have - side) // 2
        return stamps[:, low : low + side, low : low + side]
    ways = (side - have) // 2
    return np.pad(stamps, ((0, 0), (ways, ways), (ways, ways)))


def extendedness(own: F64, model: F64) -> F64:
    """Return 1 - exp(-chi^2 / 2), chi = (T - T_psf) / sqrt(T_psf), shape (N,): 0 for a star; NaN where there are no moments.

    Moments (N, 3) of the source and of the PSF model are Ixx, Iyy, Ixy in px^2, and T = Ixx + Iyy.
    """
    size, size_psf = own[:, 0] + own[:, 1], model[:, 0] + model[:, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        chi = np.maximum(size - size_psf, 0) / np.sqrt(size_psf)
    return np.asarray(1 - np.exp(-0.5 * chi**2))
