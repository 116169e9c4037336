"""The compiled kernels of the astrometric problem: residuals, derivatives and weights of measurements.

The model of a pixel is outer(inner(scaled pixel)) in the tangent plane of its visit; that of a star is the gnomonic
projection of its direction at the time of the image (Calabretta & Greisen 2002, section 5.1.3).
"""

from typing import NamedTuple

import numpy as np

from calibration.joint.data import ARCSEC
from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = [
    "Basis",
    "Derivatives",
    "Frames",
    "Maps",
    "MovingStars",
    "Pixels",
    "add_chroma",
    "add_map_gradient",
    "expand",
    "map_pixels",
    "subtract_stars",
    "weights_of",
]


class Pixels(NamedTuple):
    """Measured positions of a block of n measurements.

    Parameters
    ----------
    x, y
        (n,) frame pixels.
    image, star
        (n,) index of the image and of the star.
    starts
        (n, R) first columns of the outer map, of the inner map and of the chromatic term.
    """

    x: F64
    y: F64
    image: I64
    star: I64
    starts: I64


class Maps(NamedTuple):
    """The maps of all I images at the present parameters.

    Parameters
    ----------
    parameters
        (P,) coefficients: of each map those of its first axis, then those of its second.
    outer_order, inner_order
        Total degrees; ``inner_order`` -1: the inner maps are the scaled pixels themselves.
    centre, half
        (I, 2) px; scaled pixels are (p - centre) / half.
    dcr
        Whether a chromatic column exists.
    """

    parameters: F64
    outer_order: int
    inner_order: int
    centre: F64
    half: F64
    dcr: bool


class Frames(NamedTuple):
    """Per image: the tangent frame of its visit, years from the fit's epoch, position of the Earth, refraction.

    Parameters
    ----------
    tangent, east, north
        (I, 3) unit vectors.
    years
        (I,) Julian years of the image after the epoch of the fit.
    earth
        (I, 3) barycentric position of the Earth, au.
    refraction
        (I, 2) tan z times the unit vector to the zenith in the tangent frame.
    """

    tangent: F64
    east: F64
    north: F64
    years: F64
    earth: F64
    refraction: F64


class MovingStars(NamedTuple):
    """What the kernels need of M stars; see `calibration.joint.model.astrometry.StarAstrometry`.

    Parameters
    ----------
    vector, east, north
        (M, 3) direction where ``coordinates`` are zero, and its tangent frame.
    coordinates
        (M, q) arcsec east and north of it at the epoch; for q = 4 the proper motion, arcsec per year, too.
    motion
        (M, 2) known proper motion, arcsec per year.
    parallax, colour
        (M,) arcsec; mag from the reference colour.
    """

    vector: F64
    east: F64
    north: F64
    coordinates: F64
    motion: F64
    parallax: F64
    colour: F64


class Basis(NamedTuple):
    """What the derivatives of n measurements by the maps are made of: far fewer numbers than these.

    Parameters
    ----------
    outer
        (n, 2, outer_order + 1) polynomials of u and of v; a term is the product of one of each.
    inner
        (n, 2, inner_order + 1) those of the inner maps.
    slope
        (n, 2, 2) derivatives of xi and eta by u and v, arcsec.
    chroma
        (n, 2) derivative by the chromatic term.
    """

    outer: F64
    inner: F64
    slope: F64
    chroma: F64


class Derivatives(NamedTuple):
    """What the kernels write for n measurements, arcsec in the tangent plane (east, north).

    Parameters
    ----------
    residual
        (n, 2) model of the pixel minus star.
    star
        (n, 2, q) by the star's coordinates.
    pixel
        (n, 2, 2) by x and y, arcsec per px.
    """

    residual: F64
    star: F64
    pixel: F64


@compiled
def _series(count: int, t: float, values: F64, m: int, axis: int, slopes: F64) -> None:
    """Write `count` Chebyshev polynomials of one variable into values[m, axis], and their derivatives into slopes[axis]."""
    values[m, axis, 0], slopes[axis, 0] = 1.0, 0.0
    if count > 1:
        values[m, axis, 1], slopes[axis, 1] = t, 1.0
    for i in range(2, count):
        values[m, axis, i] = 2.0 * t * values[m, axis, i - 1] - values[m, axis, i - 2]
        slopes[axis, i] = 2.0 * values[m, axis, i - 1] + 2.0 * t * slopes[axis, i - 1] - slopes[axis, i - 2]


@compiled
def _map(count: int, first: int, parameters: F64, values: F64, m: int, slopes: F64) -> tuple[float, ...]:
    """Return both axes of a map whose parameters begin at `first`, then their derivatives by u and v, axis by axis."""
    n = count * (count + 1) // 2
    x = y = x_u = x_v = y_u = y_v = 0.0
    t = first
    for j in range(count):
        ax = ay = bx = by = 0.0
        for i in range(count - j):
            cx, cy = parameters[t], parameters[t + n]
            a, b = values[m, 0, i], slopes[0, i]
            ax += cx * a
            ay += cy * a
            bx += cx * b
            by += cy * b
            t += 1
        c, e = values[m, 1, j], slopes[1, j]
        x += ax * c
        y += ay * c
        x_u += bx * c
        x_v += ax * e
        y_u += by * c
        y_v += ay * e
    return x, y, x_u, x_v, y_u, y_v


@compiled
def map_pixels(pixels: Pixels, maps: Maps, basis: Basis, out: Derivatives) -> None:
    """Write where the maps put the pixels of a block into the residuals, and what the derivatives are made of."""
    x, y, image, starts = pixels.x, pixels.y, pixels.image, pixels.starts
    parameters, centre, half = maps.parameters, maps.centre, maps.half
    outer, inner, slope, residual, pixel = basis.outer, basis.inner, basis.slope, out.residual, out.pixel
    no, ni = maps.outer_order + 1, maps.inner_order + 1
    slopes = np.empty((2, max(no, ni)))
    for m in range(x.size):
        i = image[m]
        hx, hy = half[i, 0], half[i, 1]
        u, v = (x[m] - centre[i, 0]) / hx, (y[m] - centre[i, 1]) / hy
        xx, xy, yx, yy = 1.0 / hx, 0.0, 0.0, 1.0 / hy
        if ni > 0:
            _series(ni, u, inner, m, 0, slopes)
            _series(ni, v, inner, m, 1, slopes)
            u, v, x_u, x_v, y_u, y_v = _map(ni, starts[m, 1], parameters, inner, m, slopes)
            xx, xy, yx, yy = x_u / hx, x_v / hy, y_u / hx, y_v / hy
        _series(no, u, outer, m, 0, slopes)
        _series(no, v, outer, m, 1, slopes)
        xi, eta, xi_u, xi_v, eta_u, eta_v = _map(no, starts[m, 0], parameters, outer, m, slopes)
        residual[m, 0], residual[m, 1] = xi, eta
        slope[m, 0, 0], slope[m, 0, 1], slope[m, 1, 0], slope[m, 1, 1] = xi_u, xi_v, eta_u, eta_v
        pixel[m, 0, 0], pixel[m, 0, 1] = xi_u * xx + xi_v * yx, xi_u * xy + xi_v * yy
        pixel[m, 1, 0], pixel[m, 1, 1] = eta_u * xx + eta_v * yx, eta_u * xy + eta_v * yy


@compiled
def subtract_stars(pixels: Pixels, maps: Maps, frames: Frames, stars: MovingStars, out: Derivatives) -> None:
    """Subtract the stars from the residuals of a block and write the derivatives by the stars."""
    image, star, residual, by_star = pixels.image, pixels.star, out.residual, out.star
    vector, s_east, s_north, coordinates = stars.vector, stars.east, stars.north, stars.coordinates
    tangent, east, north, earth = frames.tangent, frames.east, frames.north, frames.earth
    motion, parallax, all_years = stars.motion, stars.parallax, frames.years
    moves = coordinates.shape[1] == 4
    for m in range(image.size):
        i, s = image[m], star[m]
        years = all_years[i]
        a = coordinates[s, 0] + motion[s, 0] * years
        b = coordinates[s, 1] + motion[s, 1] * years
        if moves:
            a += coordinates[s, 2] * years
            b += coordinates[s, 3] * years
        cos = pe = pn = ce = cn = ee = en = ne = nn = 0.0
        for c in range(3):
            e, n = s_east[s, c], s_north[s, c]
            direction = vector[s, c] + ARCSEC * (a * e + b * n - parallax[s] * earth[i, c])
            cos += tangent[i, c] * direction
            pe += east[i, c] * direction
            pn += north[i, c] * direction
            ce += tangent[i, c] * e
            cn += tangent[i, c] * n
            ee += east[i, c] * e
            en += east[i, c] * n
            ne += north[i, c] * e
            nn += north[i, c] * n
        pe, pn = pe / cos, pn / cos
        residual[m, 0] -= pe / ARCSEC
        residual[m, 1] -= pn / ARCSEC
        by_star[m, 0, 0], by_star[m, 0, 1] = -(ee - pe * ce) / cos, -(en - pe * cn) / cos
        by_star[m, 1, 0], by_star[m, 1, 1] = -(ne - pn * ce) / cos, -(nn - pn * cn) / cos
        if moves:
            for r in range(2):
                by_star[m, r, 2] = by_star[m, r, 0] * years
                by_star[m, r, 3] = by_star[m, r, 1] * years


@compiled
def add_chroma(pixels: Pixels, maps: Maps, frames: Frames, colour: F64, basis: Basis, residual: F64) -> None:
    """Add the chromatic refraction of stars of a colour (M,) to the residuals, and write its derivative."""
    for m in range(pixels.image.size):
        for r in range(2):
            basis.chroma[m, r] = -frames.refraction[pixels.image[m], r] * colour[pixels.star[m]]
            residual[m, r] += maps.parameters[pixels.starts[m, 2]] * basis.chroma[m, r]


@compiled
def weights_of(vx: F64, vy: F64, vxy: F64, pedestal: F64, pixel: F64, out: F64) -> None:
    """Write the inverse covariances J C J^T (n, 2, 2), arcsec^-2; zero where one is not positive definite.

    Parameters
    ----------
    vx, vy, vxy, pedestal
        (n,) covariance of the measured pixel and what is added to both variances, px^2.
    pixel
        (n, 2, 2) derivatives J of the tangent-plane position by the pixel, arcsec per px.
    """
    for m in range(vx.size):
        a, b, c = vx[m] + pedestal[m], vy[m] + pedestal[m], vxy[m]
        j00, j01, j10, j11 = pixel[m, 0, 0], pixel[m, 0, 1], pixel[m, 1, 0], pixel[m, 1, 1]
        xx = j00 * (j00 * a + j01 * c) + j01 * (j00 * c + j01 * b)
        xy = j10 * (j00 * a + j01 * c) + j11 * (j00 * c + j01 * b)
        yy = j10 * (j10 * a + j11 * c) + j11 * (j10 * c + j11 * b)
        det = xx * yy - xy * xy
        if det > 0.0 and xx > 0.0:
            out[m, 0, 0], out[m, 1, 1] = yy / det, xx / det
            out[m, 0, 1] = out[m, 1, 0] = -xy / det
        else:
            out[m, :, :] = 0.0


@compiled
def expand(basis: Basis, dcr: bool, model: F64) -> None:
    """Write the derivatives (n, 2, K) by the parameters of the maps, run after run."""
    outer, inner, slope, chroma = basis.outer, basis.inner, basis.slope, basis.chroma
    no, ni = outer.shape[2], inner.shape[2]
    to, ti = no * (no + 1) // 2, ni * (ni + 1) // 2
    for m in range(outer.shape[0]):
        t = 0
        for j in range(no):
            for i in range(no - j):
                value = outer[m, 0, i] * outer[m, 1, j]
                model[m, 0, t], model[m, 1, to + t] = value, value
                model[m, 0, to + t], model[m, 1, t] = 0.0, 0.0
                t += 1
        t = 2 * to
        for j in range(ni):
            for i in range(ni - j):
                value = inner[m, 0, i] * inner[m, 1, j]
                for r in range(2):
                    model[m, r, t], model[m, r, ti + t] = slope[m, r, 0] * value, slope[m, r, 1] * value
                t += 1
        if dcr:
            t += ti
            model[m, 0, t], model[m, 1, t] = chroma[m, 0], chroma[m, 1]


@compiled
def add_map_gradient(basis: Basis, starts: I64, dcr: bool, pull: F64, out: F64) -> None:
    """Add J^T `pull` (n, 2) of a block to the gradient (P,) of the maps' parameters."""
    outer, inner, slope, chroma = basis.outer, basis.inner, basis.slope, basis.chroma
    no, ni = outer.shape[2], inner.shape[2]
    to, ti = no * (no + 1) // 2, ni * (ni + 1) // 2
    for m in range(outer.shape[0]):
        p, q = pull[m, 0], pull[m, 1]
        if p == 0.0 and q == 0.0:
            continue
        t = starts[m, 0]
        for j in range(no):
            a, b = outer[m, 1, j] * p, outer[m, 1, j] * q
            for i in range(no - j):
                out[t] += outer[m, 0, i] * a
                out[t + to] += outer[m, 0, i] * b
                t += 1
        p_u, p_v = slope[m, 0, 0] * p + slope[m, 1, 0] * q, slope[m, 0, 1] * p + slope[m, 1, 1] * q
        t = starts[m, 1]
        for j in range(ni):
            for i in range(ni - j):
                value = inner[m, 0, i] * inner[m, 1, j]
                out[t] += value * p_u
                out[t + ti] += value * p_v
                t += 1
        if dcr:
            out[starts[m, 2]] += chroma[m, 0] * p + chroma[m, 1] * q
