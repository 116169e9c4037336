"""Arrays, masked arrays and CCDData as exposures; WCS and PSF of whatever people have them in."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alertprod.errors import InputType
from tasks.arrays import Box
from tasks.errors import CallerError

if TYPE_CHECKING:
    from exposure import Exposure, Instrument, PhotoCalib, Psf, SkyWcs

__all__ = ["EXPECTED", "Given", "exposure_of", "psf_model", "sky_wcs"]

EXPECTED = "a path, a list of HDUs, a two-dimensional array, a CCDData or an Exposure"
_ELECTRONS = ("electron", "ph")  # units of pixels whose gain is 1
LEAST_PSF_SUM, MOST_PSF_SUM = 0.8, 1.001  # of a stamp that is taken as it is: wings may be cut off


@dataclass(frozen=True)
class Given:
    """What people say of an image besides its pixels; fields as the parameters of `alertprod.read`, empty by default."""

    variance: Any = None
    mask: Any = None
    wcs: Any = None
    psf: Any = None
    band: str = ""
    gain: float | None = None

    def refuse_planes(self, image: Any) -> None:
        """Raise `InputType` where planes come with an image that brings its own."""
        if self.variance is not None or self.mask is not None:
            raise InputType(f"variance and mask go with an array; {type(image).__name__} brings its own")

    def put_on(self, exposure: "Exposure") -> "Exposure":
        """Return the exposure with WCS, PSF, gain as given; the band where it has none."""
        exposure.wcs = exposure.wcs if self.wcs is None else sky_wcs(self.wcs)
        exposure.psf = exposure.psf if self.psf is None else psf_model(self.psf, exposure.bbox)
        exposure.band = exposure.band or self.band
        return self.put_gain(exposure)

    def put_gain(self, exposure: "Exposure") -> "Exposure":
        """Return the exposure with the gain (electrons per count) where it is given.

        Raises
        ------
        InputType
            It is no positive number.
        """
        if self.gain is not None:
            if not (isinstance(self.gain, int | float) and 0 < self.gain < float("inf")):
                raise InputType(f"gain must be a positive number of electrons per count; got {self.gain!r}")
            exposure.metadata["gain"] = float(self.gain)
        return exposure


@dataclass(frozen=True)
class _Parts:
    """Pixels and what came with them in one object: an array, a Quantity, a masked array or an NDData."""

    pixels: Any
    variance: Any = None
    mask: Any = None
    wcs: Any = None
    psf: Any = None
    calib: "PhotoCalib | None" = None
    cards: Any = None
    electrons: bool = False


def _parts_of(image: Any, given: Given) -> _Parts:
    """Take apart what holds the pixels; what is given besides goes first."""
    variance, mask = given.variance, given.mask
    if hasattr(image, "uncertainty") and hasattr(image, "meta"):  # NDData: more than a column of numbers
        if variance is not None or mask is not None:
            raise InputType("variance and mask go with an array; a CCDData brings its own")
        return _Parts(
            image.data,
            _variance(image),
            image.mask,
            wcs=image.wcs if given.wcs is None else given.wcs,
            psf=getattr(image, "psf", None) if given.psf is None else given.psf,
            calib=_calibration(image.unit),
            cards=_cards(image.meta),
            electrons=str(image.unit) in _ELECTRONS,
        )
    if hasattr(image, "unit") and hasattr(image, "value"):  # a Quantity
        return _Parts(
            image.value,
            variance.to_value(image.unit**2) if hasattr(variance, "to_value") else variance,
            mask,
            given.wcs,
            given.psf,
            _calibration(image.unit),
            electrons=str(image.unit) in _ELECTRONS,
        )
    if isinstance(image, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(image) if mask is None else mask
        image = image.data
    return _Parts(image, variance, mask, given.wcs, given.psf)


def exposure_of(image: Any, rules: "Instrument", given: Given) -> "Exposure":
    """Return the exposure of an array (height, width), a Quantity, a masked array or a CCDData.

    The gain that is given is not looked at: `Given.put_gain`.

    Raises
    ------
    InputType, CallerError
        A plane that is no array of real numbers, or of another shape; the message says which.
    """
    from exposure.io.from_arrays import exposure_of_arrays

    parts = _parts_of(image, given)
    pixels = _plane(parts.pixels, "image")
    bad = None if parts.mask is None else _plane(parts.mask, "mask", pixels.shape) != 0
    variance = None if parts.variance is None else _plane(parts.variance, "variance", pixels.shape)
    exposure = exposure_of_arrays(pixels, rules, variance=variance, bad=bad, cards=parts.cards)
    exposure.wcs = exposure.wcs if parts.wcs is None else sky_wcs(parts.wcs)
    exposure.psf = None if parts.psf is None else psf_model(parts.psf, exposure.bbox)
    exposure.band, exposure.photo_calib = given.band, parts.calib
    if parts.electrons:
        exposure.metadata["gain"] = 1.0
    return exposure


def _plane(given: Any, name: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Return a plane as an array of real numbers with two axes."""
    array = given if isinstance(given, np.ndarray) else getattr(given, "value", given)
    if not hasattr(array, "__array__") and not hasattr(array, "__array_interface__"):
        raise InputType(f"the {name} must be {EXPECTED if name == 'image' else 'an array'}; got {type(given).__name__}")
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise InputType(f"the {name} must hold real numbers; got an array of {array.dtype}")
    if array.ndim != 2 or 0 in array.shape:
        raise InputType(f"the {name} must have two axes (height, width) and pixels; got shape {array.shape}")
    if shape is not None and array.shape != shape:
        raise CallerError(f"the {name} has shape {array.shape}, the image {shape}: they must be equal")
    return array.astype(np.uint8) if array.dtype.kind == "b" else array


def _variance(image: Any) -> NDArray[Any] | None:
    """Return the variance of an NDData in the square of its unit, of any uncertainty that is one."""
    from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
    from astropy.units import UnitConversionError, dimensionless_unscaled

    given = image.uncertainty
    if given is None:
        return None
    if not isinstance(given, StdDevUncertainty | VarianceUncertainty | InverseVariance):
        raise InputType(
            f"the uncertainty must be StdDevUncertainty, VarianceUncertainty or InverseVariance; got {type(given).__name__}"
        )
    unit = image.unit or dimensionless_unscaled
    with np.errstate(divide="ignore"):  # a weight of 0 becomes an infinite variance: no data
        variance = given.represent_as(VarianceUncertainty)
    try:
        scale = 1.0 if variance.unit is None else (1.0 * variance.unit).to_value(unit**2)
    except UnitConversionError as error:
        raise CallerError(f"the uncertainty is in {given.unit}, which does not go with pixels in {unit}") from error
    return np.asarray(variance.array, np.float64) * scale


def _calibration(unit: Any) -> "PhotoCalib | None":
    """Return the calibration of pixels in a unit of flux density; None for counts and electrons."""
    from astropy.units import UnitConversionError

    from exposure import PhotoCalib

    try:
        return None if unit is None else PhotoCalib(float(unit.to("nJy")), source="plane")
    except UnitConversionError:
        return None


def _cards(meta: Any) -> Any:
    """Return the header of an NDData where it has one; metadata of other kinds are no cards."""
    from astropy.io.fits import Header

    return meta.copy() if isinstance(meta, Header) else None


def sky_wcs(given: Any) -> "SkyWcs":
    """Return the WCS of an astropy WCS, a header or a `SkyWcs`.

    Raises
    ------
    InputType
        It is none of these.
    WcsMissing
        It is not celestial.
    """
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    from exposure import SkyWcs

    if isinstance(given, SkyWcs):
        return given
    if isinstance(given, Header):
        return SkyWcs.from_header(given)
    if isinstance(given, WCS):
        return SkyWcs(given.deepcopy())
    raise InputType(f"a WCS must be an astropy WCS, a header or a SkyWcs; got {type(given).__name__}")


def psf_model(given: Any, box: Box) -> "Psf":
    """Return a PSF model, of a stamp one that is the same all over the box.

    A stamp whose sum is not near 1 is divided by it.

    Raises
    ------
    InputType
        Neither a model nor a stamp of odd side with a positive sum.
    """
    from exposure import GridPsf, Psf

    if isinstance(given, Psf):
        return given
    stamp = np.asarray(given, np.float64) if hasattr(given, "__array__") else np.zeros(0)
    if stamp.ndim != 2 or stamp.shape[0] != stamp.shape[1] or stamp.shape[0] % 2 == 0 or not stamp.sum() > 0:
        raise InputType(
            f"a PSF must be a model of exposure or a finite stamp of odd side with a positive sum; got {type(given).__name__}"
            + (f" of shape {stamp.shape}" if stamp.size else "")
        )
    stamp_sum = float(stamp.sum())
    scaled = stamp if LEAST_PSF_SUM <= stamp_sum <= MOST_PSF_SUM else stamp / stamp_sum
    return GridPsf(np.ascontiguousarray(scaled[None], np.float32), 1, 1, box)
