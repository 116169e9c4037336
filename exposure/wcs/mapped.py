"""WCS as a chain of polynomial maps from pixels to a tangent plane: more than a FITS header can say, made by joint fits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from astropy.io.fits import Header
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from exposure.wcs.displacement import DisplacementGrid
from exposure.wcs.sip import sip_approximation
from exposure.wcs.sky_wcs import Pair, SkyWcs
from exposure.wcs.tangent import deproject, invert, local_linear
from exposure.wcs.terms import WcsTerms
from tasks.arrays import F64, Box

__all__ = ["ComposedWcs", "PolynomialMap"]


@dataclass(frozen=True)
class PolynomialMap:
    """Two Chebyshev series on scaled input: out_k = sum_ij c[k, j, i] T_i(u) T_j(v), u = (x - centre) / half."""

    coefficients: F64  # (2, ny, nx)
    centre: tuple[float, float] = (0.0, 0.0)
    half: tuple[float, float] = (1.0, 1.0)

    def __call__(self, x: F64, y: F64) -> tuple[F64, F64]:
        """Map points."""
        u, v = (x - self.centre[0]) / self.half[0], (y - self.centre[1]) / self.half[1]
        along_x = chebyshev.chebval(u, self.coefficients.transpose(2, 1, 0))  # (ny, 2, ...)
        out = chebyshev.chebval(v, along_x, tensor=False)
        return np.asarray(out[0], np.float64), np.asarray(out[1], np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return the map as plain lists and numbers."""
        return {"centre": self.centre, "half": self.half, "coefficients": self.coefficients.tolist()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "PolynomialMap":
        """Read what `to_dict` made."""
        return cls(np.array(raw["coefficients"], np.float64), tuple(raw["centre"]), tuple(raw["half"]))


class ComposedWcs(SkyWcs):
    """Pixels through polynomial maps to a tangent plane (arcsec) to the sky.

    Parameters
    ----------
    maps
        Applied in this order: at least one polynomial, the last of which gives arcsec east and north in the tangent plane;
        a displacement of that plane may follow.
    tangent
        (ra, dec) degrees of the tangent point.
    bbox
        x0, y0, width, height of the image: where the inverse starts from.
    """

    def __init__(
        self, maps: "Sequence[PolynomialMap | DisplacementGrid]", tangent: tuple[float, float], bbox: Box
    ) -> None:
        self.maps, self.tangent, self.bbox = list(maps), (float(tangent[0]), float(tangent[1])), bbox
        self.origin = (0, 0)

    @cached_property
    def _linear(self) -> SkyWcs:
        """The TAN WCS that touches this one at the middle of the image; made when it is first needed."""
        x0, y0, width, height = self.bbox
        return local_linear(self, x0 + (width - 1) / 2, y0 + (height - 1) / 2)

    @property
    def terms(self) -> WcsTerms:  # type: ignore[override]
        """Those of the TAN WCS that touches this one at the middle of the image."""
        return self._linear.terms

    def _forward(self, x: F64, y: F64) -> tuple[F64, F64]:
        for step in self.maps:
            x, y = step(x, y)
        return x, y

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> Pair:
        """Return (ra, dec) in degrees of frame pixel positions."""
        return deproject(*self._forward(np.asarray(x, np.float64), np.asarray(y, np.float64)), self.tangent)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> Pair:
        """Return frame pixel positions by Newton's method; NaN where the sky position has none."""
        return invert(self, self._linear, np.asarray(ra, np.float64), np.asarray(dec, np.float64))

    def to_header(self, origin: tuple[int, int] = (0, 0)) -> Header:
        """Return the cards of the TAN-SIP approximation."""
        return sip_approximation(self, self.bbox).wcs.to_header(origin)

    def shifted(self, dx: float, dy: float) -> "ComposedWcs":
        """Return the WCS for pixels that lie (dx, dy) further than this one says."""
        first = self.maps[0]
        if not isinstance(first, PolynomialMap):
            raise TypeError("the first map of a WCS must be a polynomial of its pixels")
        moved = PolynomialMap(first.coefficients, (first.centre[0] + dx, first.centre[1] + dy), first.half)
        x0, y0, width, height = self.bbox
        return ComposedWcs([moved, *self.maps[1:]], self.tangent, (round(x0 + dx), round(y0 + dy), width, height))

    def to_json(self) -> str:
        """Return the whole map as JSON."""
        return json.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the whole map as plain lists and numbers."""
        return {
            "tangent_deg": self.tangent,
            "bbox": self.bbox,
            "unit": "arcsec in the tangent plane",
            "basis": "sum_ij c[k][j][i] T_i(u) T_j(v), u = (x - centre) / half",
            "maps": [m.to_dict() for m in self.maps],
        }

    @classmethod
    def from_json(cls, text: str) -> "ComposedWcs":
        """Read what `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ComposedWcs":
        """Read what `to_dict` made."""
        maps = [
            DisplacementGrid.from_dict(m) if "displacement" in m else PolynomialMap.from_dict(m) for m in raw["maps"]
        ]
        return cls(maps, tuple(raw["tangent_deg"]), tuple(raw["bbox"]))
