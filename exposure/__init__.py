"""One calibrated CCD in memory: pixels, PSF, WCS, calibration, background; FITS in and out.

Imports: ``tasks`` only. No science, no database. `exposure.io` is the only code that opens FITS; `exposure.header` reads
cards, `exposure.wcs` computes sky coordinates, `exposure.flagging` marks pixels without a value. Tables of exposures
(`ExposureCatalog`) are loaded when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

from exposure.apcorr import ApCorrMap
from exposure.background import Background, estimate_background, subtract_mesh
from exposure.errors import ExposureError, FitsUnreadable, PsfUndefined, WcsMissing
from exposure.exposure import Exposure
from exposure.field import ChebyshevField
from exposure.instrument import Instrument, load_instrument
from exposure.mask import PLANES, plane_bits
from exposure.photocalib import PhotoCalib
from exposure.psf import GaussianPsf, GridPsf, MoffatPsf, PolynomialPsf, Psf
from exposure.visitinfo import VisitInfo
from exposure.wcs.sky_wcs import SkyWcs

if TYPE_CHECKING:
    from exposure.io.exposure_catalog import ExposureCatalog

__all__ = [
    "PLANES",
    "ApCorrMap",
    "Background",
    "ChebyshevField",
    "Exposure",
    "ExposureCatalog",
    "ExposureError",
    "FitsUnreadable",
    "GaussianPsf",
    "GridPsf",
    "Instrument",
    "MoffatPsf",
    "PhotoCalib",
    "PolynomialPsf",
    "Psf",
    "PsfUndefined",
    "SkyWcs",
    "VisitInfo",
    "WcsMissing",
    "estimate_background",
    "load_instrument",
    "plane_bits",
    "subtract_mesh",
]


def __getattr__(name: str) -> Any:
    if name == "ExposureCatalog":
        from exposure.io.exposure_catalog import ExposureCatalog

        return ExposureCatalog
    raise AttributeError(f"module 'exposure' has no attribute {name!r}")
