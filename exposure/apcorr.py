"""Aperture corrections: what a flux algorithm's flux must be multiplied with, as fields over the CCD."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from exposure.field import ChebyshevField
from tasks.arrays import F64
from tasks.reprs import short_repr

__all__ = ["PSF_FLUX", "ApCorrMap"]

PSF_FLUX = "base_PsfFlux_instFlux"


@dataclass(frozen=True)
class ApCorrMap:
    """Fields by flux name, for example ``base_PsfFlux_instFlux``."""

    fields: Mapping[str, ChebyshevField] = field(default_factory=dict)

    __repr__ = short_repr

    def at(self, name: str, x: ArrayLike, y: ArrayLike) -> F64 | None:
        """Return the factors at the positions (NaN where the field is not positive, which no factor is), or None when the map has no such entry."""
        entry = self.fields.get(name)
        if entry is None:
            return None
        factors = np.asarray(entry(x, y), np.float64)
        return np.where(factors > 0, factors, np.nan)
