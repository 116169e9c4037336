"""Arrays, masked arrays and CCDData as exposures; WCS and PSF of whatever people have them in."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alertprod.errors import InputType
from tasks.arrays import Box
from tasks.errors import CallerError

if TYPE_CHECKING:
    from exposure import Exposure, Instrument, PhotoCalib, Psf, SkyWcs

__all__ = ["EXPECTED", "exposure_of", "psf_model", "sky_wcs"]

EXPECTED = "a path, a list of HDUs, a two-dimensional array, a CCDData or an Exposure"
LEAST_PSF_SUM, MOST_PSF_SUM = 0.8, 1.001  # of a stamp that is taken as it is: wings may be cut off


def exposure_of(
    image: Any, rules: "Instrument", variance: Any = None, mask: Any = None, wcs: Any = None, psf: Any = None,
    band: str = "",
) -> "Exposure":  # fmt: skip
    """Return the exposure of an array or a CCDData; parameters as for `alertprod.read`."""
    from exposure.io.from_arrays import exposure_of_arrays

    calib, cards, electrons = None, None, False
    if hasattr(image, "uncertainty") and hasattr(image, "meta"):  # NDData: more than a column of numbers
        if variance is not None or mask is not None:
            raise InputType("variance and mask go with an array; a CCDData brings its own")
        variance, mask = _variance(image), image.mask
        wcs, psf = image.wcs if wcs is None else wcs, getattr(image, "psf", None) if psf is None else psf
        calib, cards = _calibration(image.unit), _cards(image.meta)
        electrons = str(image.unit) in ("electron", "ph")
        image = image.data
    elif hasattr(image, "unit") and hasattr(image, "value"):  # a Quantity
        calib = _calibration(image.unit)
        electrons = str(image.unit) in ("electron", "ph")
        variance = variance.to_value(image.unit**2) if hasattr(variance, "to_value") else variance
        image = image.value
    elif isinstance(image, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(image) if mask is None else mask
        image = image.data
    pixels = _plane(image, "image")
    bad = None if mask is None else _plane(mask, "mask", pixels.shape) != 0
    spread = None if variance is None else _plane(variance, "variance", pixels.shape)
    made = exposure_of_arrays(pixels, rules, variance=spread, bad=bad, cards=cards)
    made.wcs = made.wcs if wcs is None else sky_wcs(wcs)
    made.psf = None if psf is None else psf_model(psf, made.bbox)
    made.band, made.photo_calib = band, calib
    if electrons:
        made.metadata["gain"] = 1.0
    return made


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
    total = float(stamp.sum())
    scaled = stamp if LEAST_PSF_SUM <= total <= MOST_PSF_SUM else stamp / total
    return GridPsf(np.ascontiguousarray(scaled[None], np.float32), 1, 1, box)
