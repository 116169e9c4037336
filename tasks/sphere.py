"""Positions on the sphere: unit vectors, and angles from the lengths of chords."""

import numpy as np
from numpy.typing import ArrayLike

from tasks.arrays import F64

__all__ = ["chord_arcsec", "positions_around", "separation_arcsec", "sky_positions", "unit_vectors", "within_turn"]

_AROUND = 24


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> F64:
    """Return unit vectors (..., 3) of right ascensions and declinations (...) in degrees."""
    r, d = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    return np.stack([np.cos(d) * np.cos(r), np.cos(d) * np.sin(r), np.sin(d)], axis=-1)


def sky_positions(vectors: F64) -> tuple[F64, F64]:
    """Return right ascensions (0 to below 360) and declinations (...) in degrees of vectors (..., 3) of any length."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return within_turn(np.degrees(np.arctan2(y, x))), np.degrees(np.arctan2(z, np.hypot(x, y)))


def within_turn(degrees: F64) -> F64:
    """Return angles (...) brought to 0 to below 360: the remainder of a tiny negative angle is rounded to 360 itself."""
    return np.asarray(degrees % 360.0 % 360.0)


def chord_arcsec(chord: F64) -> F64:
    """Return the angles, of the shape of `chord`, in arcsec between unit vectors with differences of that length; exact for small ones."""
    return np.asarray(np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1))) * 3600)


def separation_arcsec(ra: ArrayLike, dec: ArrayLike, ra0: float, dec0: float) -> F64:
    """Return the angles (...) in arcsec between positions (..., degrees) and one position, at the poles and at 0 h as anywhere."""
    chord = np.linalg.norm(unit_vectors(ra, dec) - unit_vectors(ra0, dec0), axis=-1)
    return chord_arcsec(np.asarray(chord))


def positions_around(ra: F64, dec: F64, radius_deg: float) -> tuple[F64, F64]:
    """Return each position and `_AROUND` on a circle of one and a half radii around it, at the poles as anywhere.

    So many that each pixel of a triangular mesh that reaches within the radius holds one of them, be the radius small against the
    pixels: as seen from a corner of pixels within the radius they are at most 44 degrees apart, and a pixel's angle is 45 or more.

    Parameters
    ----------
    ra, dec
        Shape (N,), deg.
    radius_deg
        Radius, deg.

    Returns
    -------
    ra, dec
        Shape ((1 + `_AROUND`) N,), deg.
    """
    a, d = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    east = np.stack([-np.sin(a), np.cos(a), np.zeros_like(a)], axis=-1)
    north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)], axis=-1)
    angle = np.arange(_AROUND)[:, None, None] * (2 * np.pi / _AROUND)
    step = np.tan(np.radians(1.5 * radius_deg)) * (np.sin(angle) * east + np.cos(angle) * north)
    centre = unit_vectors(ra, dec)
    around_ra, around_dec = sky_positions((centre + step).reshape(-1, 3))
    return np.concatenate([np.asarray(ra, np.float64), around_ra]), np.concatenate(
        [np.asarray(dec, np.float64), around_dec]
    )
