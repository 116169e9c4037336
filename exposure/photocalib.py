"""Photometric calibration: nJy per instrument unit, constant or varying over the CCD."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from exposure.errors import ExposureError
from exposure.field import ChebyshevField
from tasks.arrays import F64

__all__ = ["AB_ZEROPOINT", "PhotoCalib", "njy_to_abmag"]

AB_ZEROPOINT = 31.4  # AB magnitude of 1 nJy


def njy_to_abmag(flux: ArrayLike) -> F64:
    """Return AB magnitudes of fluxes in nJy (NaN for flux <= 0)."""
    flux = np.asarray(flux, dtype=np.float64)
    return AB_ZEROPOINT - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))


@dataclass(frozen=True)
class PhotoCalib:
    """Calibration of one CCD.

    Parameters
    ----------
    mean
        nJy per instrument unit, averaged over the CCD.
    error
        Its standard error, nJy per unit, NaN where it is not known; never folded into flux errors.
    variation
        Field that multiplies `mean`, None for a constant calibration.
    source
        Where the number came from: ``plane``, ``header``, ``fixed``, ``refcat`` or ``relative``.
    """

    mean: float
    error: float = 0.0
    variation: ChebyshevField | None = None
    source: str = "plane"

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean) and self.mean > 0):
            raise ExposureError(f"photometric calibration must be finite and positive, got {self.mean}")

    @classmethod
    def from_zeropoint(cls, zeropoint: float, source: str = "header") -> "PhotoCalib":
        """Return the calibration for an AB zero point (magnitude of 1 instrument unit)."""
        return cls(10.0 ** ((AB_ZEROPOINT - zeropoint) / 2.5), source=source)

    def at(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return nJy per instrument unit at the positions."""
        if self.variation is None:
            return np.broadcast_to(np.float64(self.mean), np.shape(x)).copy()
        return self.mean * self.variation(x, y)
