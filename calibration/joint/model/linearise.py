"""The compiled kernels of the astrometric problem: residuals, derivatives and weights of measurements.

The model of a pixel is outer(inner(scaled pixel)) in the tangent plane of its visit; that of a star is the gnomonic
projection of its direction at the time of the image (Calabretta & Greisen 2002, section 5.1.3).
"""

from typing import NamedTuple

import numpy as np

from calibration.joint.model.basis import terms_and_slopes
from calibration.joint.model.data import ARCSEC
from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = ["Derivatives", "Frames", "Maps", "MovingStars", "Pixels", "linearise", "weights_of"]


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


class Derivatives(NamedTuple):
    """What `linearise` writes for n measurements, arcsec in the tangent plane (east, north).

    Parameters
    ----------
    residual
        (n, 2) model of the pixel minus star.
    model
        (n, 2, K) by the parameters of the maps, run after run.
    star
        (n, 2, q) by the star's coordinates.
    pixel
        (n, 2, 2) by x and y, arcsec per px.
    """

    residual: F64
    model: F64
    star: F64
    pixel: F64


@compiled
def _map_slopes(first: int, parameters: F64, values: F64, du: F64, dv: F64) -> tuple[float, ...]:
    """Return both axes of a map whose parameters begin at `first`, then their derivatives by u and v, axis by axis."""
    n = values.size
    x = y = x_u = x_v = y_u = y_v = 0.0
    for t in range(n):
        cx, cy = parameters[first + t], parameters[first + n + t]
        x += cx * values[t]
        y += cy * values[t]
        x_u += cx * du[t]
        x_v += cx * dv[t]
        y_u += cy * du[t]
        y_v += cy * dv[t]
    return x, y, x_u, x_v, y_u, y_v


@compiled
def _linearise_star(
    m: int, pixels: Pixels, frames: Frames, stars: MovingStars, direction: F64, out: Derivatives
) -> None:
    """Subtract the star of measurement m from its residual and write the derivatives by the star."""
    i, s = pixels.image[m], pixels.star[m]
    years, moves = frames.years[i], stars.coordinates.shape[1] == 4
    a = stars.coordinates[s, 0] + stars.motion[s, 0] * years
    b = stars.coordinates[s, 1] + stars.motion[s, 1] * years
    if moves:
        a += stars.coordinates[s, 2] * years
        b += stars.coordinates[s, 3] * years
    cos = pe = pn = ce = cn = ee = en = ne = nn = 0.0
    for c in range(3):
        s_east, s_north = stars.east[s, c], stars.north[s, c]
        direction[c] = stars.vector[s, c] + ARCSEC * (a * s_east + b * s_north - stars.parallax[s] * frames.earth[i, c])
        cos += frames.tangent[i, c] * direction[c]
        pe += frames.east[i, c] * direction[c]
        pn += frames.north[i, c] * direction[c]
        ce += frames.tangent[i, c] * s_east
        cn += frames.tangent[i, c] * s_north
        ee += frames.east[i, c] * s_east
        en += frames.east[i, c] * s_north
        ne += frames.north[i, c] * s_east
        nn += frames.north[i, c] * s_north
    pe, pn = pe / cos, pn / cos
    out.residual[m, 0] -= pe / ARCSEC
    out.residual[m, 1] -= pn / ARCSEC
    out.star[m, 0, 0], out.star[m, 0, 1] = -(ee - pe * ce) / cos, -(en - pe * cn) / cos
    out.star[m, 1, 0], out.star[m, 1, 1] = -(ne - pn * ce) / cos, -(nn - pn * cn) / cos
    if moves:
        for r in range(2):
            out.star[m, r, 2] = out.star[m, r, 0] * years
            out.star[m, r, 3] = out.star[m, r, 1] * years


@compiled
def linearise(pixels: Pixels, maps: Maps, frames: Frames, stars: MovingStars, out: Derivatives) -> None:
    """Fill residuals and derivatives of all measurements of a block."""
    to = (maps.outer_order + 1) * (maps.outer_order + 2) // 2
    ti = (maps.inner_order + 1) * (maps.inner_order + 2) // 2
    work = np.empty((4, max(maps.outer_order, maps.inner_order) + 1))
    bo, bu, bv = np.empty(to), np.empty(to), np.empty(to)
    bi, iu, iv = np.empty(ti), np.empty(ti), np.empty(ti)
    direction = np.empty(3)
    model, residual = out.model, out.residual
    for m in range(pixels.x.size):
        i = pixels.image[m]
        hx, hy = maps.half[i, 0], maps.half[i, 1]
        u, v = (pixels.x[m] - maps.centre[i, 0]) / hx, (pixels.y[m] - maps.centre[i, 1]) / hy
        xx, xy, yx, yy = 1.0 / hx, 0.0, 0.0, 1.0 / hy
        if ti > 0:
            terms_and_slopes(maps.inner_order, u, v, bi, iu, iv, work)
            u, v, x_u, x_v, y_u, y_v = _map_slopes(pixels.starts[m, 1], maps.parameters, bi, iu, iv)
            xx, xy, yx, yy = x_u / hx, x_v / hy, y_u / hx, y_v / hy
        terms_and_slopes(maps.outer_order, u, v, bo, bu, bv, work)
        xi, eta, xi_u, xi_v, eta_u, eta_v = _map_slopes(pixels.starts[m, 0], maps.parameters, bo, bu, bv)
        for t in range(to):
            model[m, 0, t] = model[m, 1, to + t] = bo[t]
            model[m, 0, to + t] = model[m, 1, t] = 0.0
        k = 2 * to
        for t in range(ti):
            model[m, 0, k + t], model[m, 0, k + ti + t] = xi_u * bi[t], xi_v * bi[t]
            model[m, 1, k + t], model[m, 1, k + ti + t] = eta_u * bi[t], eta_v * bi[t]
        out.pixel[m, 0, 0], out.pixel[m, 0, 1] = xi_u * xx + xi_v * yx, xi_u * xy + xi_v * yy
        out.pixel[m, 1, 0], out.pixel[m, 1, 1] = eta_u * xx + eta_v * yx, eta_u * xy + eta_v * yy
        residual[m, 0], residual[m, 1] = xi, eta
        _linearise_star(m, pixels, frames, stars, direction, out)
        if maps.dcr:
            k += 2 * ti
            for r in range(2):
                model[m, r, k] = -frames.refraction[i, r] * stars.colour[pixels.star[m]]
                residual[m, r] += maps.parameters[pixels.starts[m, 2]] * model[m, r, k]


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
