"""`Exposure`: one CCD's pixels with everything that is known about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from exposure.apcorr import ApCorrMap
from exposure.errors import ExposureError, WcsMissing
from exposure.mask import flagged_pixels, plane_bits, set_bits, usable_pixels
from exposure.photocalib import PhotoCalib
from exposure.psf import Psf
from exposure.visitinfo import VisitInfo
from exposure.wcs.sky_wcs import SkyWcs
from tasks.arrays import F32, F64, I32, Box, Flags

if TYPE_CHECKING:
    import pandas as pd

    from exposure.instrument import Instrument

__all__ = ["Exposure"]


@dataclass
class Exposure:
    """One calibrated CCD.

    Parameters
    ----------
    image, variance
        float32 arrays (height, width) in instrument units and their square.
    mask
        int32 array of the planes in `exposure.mask.PLANES`.
    origin
        Frame coordinates (x0, y0) of pixel [0, 0]; positions everywhere are in the frame.
    """

    image: F32
    variance: F32
    mask: I32
    origin: tuple[int, int] = (0, 0)
    wcs: SkyWcs | None = None
    psf: Psf | None = None
    photo_calib: PhotoCalib | None = None
    visit_info: VisitInfo | None = None
    band: str = ""
    physical_filter: str = ""
    ap_corr: ApCorrMap | None = None
    sources: "pd.DataFrame | None" = None
    metadata: dict[str, Any] = field(default_factory=dict)
    wcs_problem: WcsMissing | None = None

    def __repr__(self) -> str:
        from exposure.preview import describe

        return describe(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: a picture and the facts."""
        from exposure.preview import exposure_html

        return exposure_html(self)

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.image.shape[0])

    @property
    def bbox(self) -> Box:
        """(x0, y0, width, height) in the frame."""
        return (*self.origin, self.width, self.height)

    @property
    def photoCalib(self) -> PhotoCalib | None:
        """The photometric calibration under its published name."""
        return self.photo_calib

    def flagged(self, *planes: str) -> Flags:
        """Return where any of the planes is set."""
        return flagged_pixels(self.mask, plane_bits(planes))

    def set_plane(self, plane: str, where: Flags) -> None:
        """Set one plane where asked."""
        set_bits(self.mask, where, plane_bits([plane]))

    def clear_planes(self, *planes: str) -> None:
        """Clear planes everywhere."""
        self.mask &= np.int32(~plane_bits(planes))

    def good(self, *excluded: str) -> Flags:
        """Return the good pixels: finite, positive variance, none of `excluded` (``NO_DATA`` always) set."""
        return usable_pixels(self.image, self.variance, self.mask, plane_bits(["NO_DATA", *excluded]))

    def contains(self, x: ArrayLike, y: ArrayLike, margin: float = 0.0) -> Flags:
        """Return whether positions lie inside the box grown by `margin`; edges at pixel centres +-0.5, NaN outside."""
        x0, y0, width, height = self.bbox
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        with np.errstate(invalid="ignore"):
            inside = (x >= x0 - 0.5 - margin) & (x < x0 + width - 0.5 + margin)
            return np.asarray(inside & (y >= y0 - 0.5 - margin) & (y < y0 + height - 0.5 + margin))

    def require_wcs(self) -> SkyWcs:
        """Return the WCS.

        Raises
        ------
        WcsMissing
            There is none.
        """
        if self.wcs is None:
            visit, detector = self.key if self.visit_info else (None, None)
            kind = WcsMissing if self.wcs_problem is None else type(self.wcs_problem)
            message = "the exposure has no WCS" if self.wcs_problem is None else self.wcs_problem.message
            raise kind(message, visit=visit, detector=detector) from self.wcs_problem
        return self.wcs

    def require_psf(self) -> Psf:
        """Return the PSF model.

        Raises
        ------
        ExposureError
            There is none.
        """
        if self.psf is None:
            raise self._lacks("PSF")
        return self.psf

    def require_photo_calib(self) -> PhotoCalib:
        """Return the photometric calibration.

        Raises
        ------
        ExposureError
            There is none.
        """
        if self.photo_calib is None:
            raise self._lacks("photometric calibration")
        return self.photo_calib

    def require_visit_info(self) -> VisitInfo:
        """Return the facts of the visit.

        Raises
        ------
        ExposureError
            There are none.
        """
        if self.visit_info is None:
            raise self._lacks("visit info")
        return self.visit_info

    def _lacks(self, what: str) -> ExposureError:
        visit, detector = self.key if self.visit_info else (None, None)
        return ExposureError(f"the exposure has no {what}", visit=visit, detector=detector)

    @property
    def key(self) -> tuple[int, int]:
        """(visit, detector); (0, 0) without visit info."""
        return (self.visit_info.visit, self.visit_info.detector) if self.visit_info else (0, 0)

    def pixel_scale_arcsec(self) -> float:
        """Return the pixel scale in the middle of the image."""
        x, y = self.origin[0] + self.width / 2, self.origin[1] + self.height / 2
        return float(self.require_wcs().pixel_scale_arcsec(x, y))

    def sky_corners(self, margin: float = 0.0) -> tuple[F64, F64]:
        """Return (ra, dec) of the four corners of the box grown by `margin` px."""
        x0, y0, width, height = self.bbox
        lo_x, hi_x, lo_y, hi_y = x0 - 0.5 - margin, x0 + width - 0.5 + margin, y0 - 0.5 - margin, y0 + height - 0.5
        return self.require_wcs().pixel_to_sky(
            np.array([lo_x, hi_x, hi_x, lo_x]), np.array([lo_y, lo_y, hi_y + margin, hi_y + margin])
        )

    def cutout(self, x0: int, y0: int, width: int, height: int) -> "Exposure":
        """Return the part of the exposure inside a frame box (views on the pixels, the box must lie inside)."""
        sy = slice(y0 - self.origin[1], y0 - self.origin[1] + height)
        sx = slice(x0 - self.origin[0], x0 - self.origin[0] + width)
        return replace(
            self, image=self.image[sy, sx], variance=self.variance[sy, sx], mask=self.mask[sy, sx], origin=(x0, y0)
        )

    def copy(self) -> "Exposure":
        """Return a copy with its own pixels."""
        return replace(
            self,
            image=self.image.copy(),
            variance=self.variance.copy(),
            mask=self.mask.copy(),
            metadata=dict(self.metadata),
        )

    @classmethod
    def read_fits(
        cls, path: "str | PathLike[str]", instrument: "str | Instrument | None" = None,
        known: "Mapping[str, Any] | None" = None,
    ) -> "Exposure":  # fmt: skip
        """Read an exposure; see `exposure.io.native.read_exposure`."""
        from exposure.io.native import read_exposure

        return read_exposure(path, instrument, known)

    def write_fits(self, path: "str | PathLike[str]", compress: bool = False) -> None:
        """Write the exposure in the documented layout; see `exposure.io.native.write_exposure`."""
        from exposure.io.native import write_exposure

        write_exposure(self, path, compress=compress)
