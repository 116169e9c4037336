"""Reference stars of a joint fit, and the circle on the sky that they lie in."""

from dataclasses import dataclass

import numpy as np

from tasks.arrays import F64, I64, Flags

__all__ = ["Circle", "References"]


@dataclass(frozen=True)
class Circle:
    """A circle on the sky: unit vector of its centre and radius in degrees."""

    centre: F64
    radius: float

    def holds(self, vectors: F64) -> Flags:
        """Return which unit vectors (N, 3) lie inside."""
        return np.asarray(((vectors - self.centre) ** 2).sum(1) <= (2 * np.sin(np.radians(self.radius) / 2)) ** 2)

    def where(self) -> str:
        """Return the ICRS coordinates of its centre, for messages."""
        x, y, z = self.centre
        return f"RA {np.degrees(np.arctan2(y, x)) % 360:.4f}, Dec {np.degrees(np.arcsin(np.clip(z, -1, 1))):+.4f} deg"


@dataclass
class References:
    """Stars at the epoch of the fit.

    Parameters
    ----------
    vector
        (K, 3) unit vectors at the epoch.
    error
        (K, 2) arcsec east and north at the epoch; NaN where the catalogue has none.
    motion, motion_error
        (K, 2) arcsec per year, east and north.
    parallax
        (K,) arcsec.
    flux, flux_err
        (K,) nJy; NaN where unknown.
    colour
        (K,) mag; NaN where unknown.
    """

    vector: F64
    error: F64
    motion: F64
    motion_error: F64
    parallax: F64
    flux: F64
    flux_err: F64
    colour: F64

    def __len__(self) -> int:
        return len(self.vector)

    def take(self, index: I64 | Flags) -> "References":
        """Return some of the stars; `index` is (N,), numbers or flags."""
        return References(*(getattr(self, name)[index] for name in self.__dataclass_fields__))
