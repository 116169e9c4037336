"""Tangent planes: gnomonic projection both ways, the matrix of any WCS at one pixel, and its inverse by Newton's method."""

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from exposure.errors import WcsMissing
from exposure.wcs.sky_wcs import Pair, SkyWcs
from tasks.arrays import F64

__all__ = ["CROSS", "PixelToSky", "deproject", "invert", "local_linear", "local_matrix", "matrix_of", "project"]

CROSS = np.array([[0.0, 1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, -1.0]])
"""Steps (2, 5) in x and y from a pixel to itself and its four neighbours."""


class PixelToSky(Protocol):
    """Anything that tells where on the sky pixels lie."""

    def pixel_to_sky(self, x: F64, y: F64) -> Pair:
        """Return (ra, dec) in degrees of frame positions."""
        ...


def deproject(xi: F64, eta: F64, tangent: tuple[float, float]) -> Pair:
    """Return (ra, dec) in degrees of positions in a tangent plane.

    Parameters
    ----------
    xi, eta
        Arcsec east and north in the plane, any shape.
    tangent
        (ra, dec) of the tangent point, degrees.

    Notes
    -----
    The inverse of the gnomonic projection, TAN of Calabretta & Greisen (2002, A&A 395, 1077), section 5.1.3.
    """
    r0, d0 = np.radians(tangent)
    x, y = np.radians(np.asarray(xi) / 3600.0), np.radians(np.asarray(eta) / 3600.0)
    along = np.cos(d0) - y * np.sin(d0)
    ra = r0 + np.arctan2(x, along)
    dec = np.arctan2(np.sin(d0) + y * np.cos(d0), np.hypot(x, along))
    return np.degrees(ra) % 360.0, np.degrees(dec)


def project(ra: ArrayLike, dec: ArrayLike, tangent: tuple[float, float]) -> tuple[F64, F64]:
    """Return (xi, eta), arcsec east and north in a tangent plane, of (ra, dec) in degrees; the inverse of `deproject`.

    NaN where a position is more than about 84 degrees from the tangent point.
    """
    r, d = np.radians(np.asarray(ra, np.float64) - tangent[0]), np.radians(np.asarray(dec, np.float64))
    d0 = np.radians(tangent[1])
    cosine = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(r)
    cosine = np.where(cosine > 0.1, cosine, np.nan)
    xi = np.cos(d) * np.sin(r) / cosine
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(r)) / cosine
    return np.degrees(xi) * 3600.0, np.degrees(eta) * 3600.0


def local_matrix(wcs: PixelToSky, x: float, y: float) -> tuple[tuple[float, float], F64]:
    """Return (ra, dec) at a pixel and the matrix (2, 2) of a WCS there, arcsec per pixel.

    Raises
    ------
    WcsMissing
        The WCS is singular or not finite there.
    """
    return matrix_of(*wcs.pixel_to_sky(x + CROSS[0], y + CROSS[1]))


def matrix_of(ra: F64, dec: F64) -> tuple[tuple[float, float], F64]:
    """Return (ra, dec) of a pixel and the matrix (2, 2) there, arcsec per pixel.

    Parameters
    ----------
    ra, dec
        Degrees, shape (5,): of the pixel and of its four neighbours in the order of `CROSS`.

    Raises
    ------
    WcsMissing
        The matrix is singular or not finite.
    """
    sky = (float(ra[0]), float(dec[0]))
    xi, eta = project(ra, dec, sky)
    matrix = np.array([[xi[1] - xi[2], xi[3] - xi[4]], [eta[1] - eta[2], eta[3] - eta[4]]]) / 2.0
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) == 0:
        raise WcsMissing("the WCS is singular or not finite at the middle of its image")
    return sky, matrix


def local_linear(wcs: PixelToSky, x: float, y: float) -> SkyWcs:
    """Return the TAN WCS that touches any WCS at one pixel of the frame.

    Raises
    ------
    WcsMissing
        The WCS is singular or not finite there.
    """
    sky, matrix = local_matrix(wcs, x, y)
    return SkyWcs.tan((x, y), sky, matrix / 3600.0)


def invert(wcs: SkyWcs, linear: SkyWcs, ra: F64, dec: F64, rounds: int = 30) -> Pair:
    """Invert ``wcs.pixel_to_sky`` by steps of a linear WCS near it; NaN where it does not converge to 1e-6 px."""
    tangent = linear.terms.crval
    matrix = np.linalg.inv(linear.terms.cd * 3600.0)
    xi, eta = project(ra, dec, tangent)
    cx, cy = linear.reference_pixel
    x, y = cx + matrix[0, 0] * xi + matrix[0, 1] * eta, cy + matrix[1, 0] * xi + matrix[1, 1] * eta
    miss = np.full(np.shape(x), np.inf)
    for _ in range(rounds):
        projected = project(*wcs.pixel_to_sky(x, y), tangent)
        dxi, deta = xi - projected[0], eta - projected[1]
        dx, dy = matrix[0, 0] * dxi + matrix[0, 1] * deta, matrix[1, 0] * dxi + matrix[1, 1] * deta
        x, y = x + dx, y + dy
        miss = np.hypot(dx, dy)
        if not np.any(miss > 1e-8):
            break
    good = miss < 1e-6
    return np.where(good, x, np.nan), np.where(good, y, np.nan)
