"""Positions on the sphere: unit vectors, and angles from the lengths of chords."""

import numpy as np
from numpy.typing import ArrayLike

from tasks.arrays import F64

__all__ = ["chord_arcsec", "positions_around", "sky_positions", "unit_vectors", "within_turn"]


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


def positions_around(ra: F64, dec: F64, radius_deg: float) -> tuple[F64, F64]:
    """Return each position and eight around it, one and a half radii away along RA, dec or both.

    Parameters
    ----------
    ra, dec
        Shape (N,), deg.
    radius_deg
        Radius, deg.

    Returns
    -------
    ra, dec
        Shape (9 N,), deg.
    """
    step = np.array([-1.5, 0.0, 1.5]) * radius_deg
    d = np.clip(np.asarray(dec)[:, None, None] + step[:, None], -90, 90)
    a = (np.asarray(ra)[:, None, None] + step / np.maximum(np.cos(np.radians(d)), 1e-6)) % 360
    d, a = np.broadcast_arrays(d, a)
    return a.ravel(), d.ravel()
