"""Exposures of whatever images come in: files, lists of HDUs, arrays, CCDData, exposures."""

from os import PathLike
from typing import TYPE_CHECKING, Any

from alertprod.arrays import EXPECTED, exposure_of, psf_model, sky_wcs
from alertprod.errors import InputType

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

    from exposure import Exposure, Instrument

__all__ = ["read", "rules_of"]

NO_INSTRUMENT = "generic"


def read(
    image: Any, instrument: "str | Instrument | None" = None, *, variance: Any = None, mask: Any = None, wcs: Any = None,
    psf: Any = None, band: str = "",
) -> "Exposure":  # fmt: skip
    """Return an exposure with pixels of its own; what was given is not changed.

    Parameters
    ----------
    image
        Path of a FITS file; open `astropy.io.fits.HDUList`; array (height, width) of any real type, masked arrays with
        their mask; `astropy.nddata.CCDData` (or NDData) with its uncertainty, mask, WCS, PSF and unit; `Exposure`.
    instrument
        Name or file of a camera, or an `Instrument`: how to read the file's planes and cards. Without it pixels, WCS and
        PSF are read and no other card is needed.
    variance, mask
        Planes of an array: variances in the square of its unit; mask True or not 0 where a pixel must not be used (it
        becomes ``NO_DATA``).
    wcs
        astropy WCS, `SkyWcs` or a header with one.
    psf
        A PSF model of `exposure`, or a stamp of odd side.
    band
        Name of the filter's band (one of ugrizy), where the image does not say it.

    Raises
    ------
    InputType
        The image or one of the others is of no kind that can be used.
    FitsUnreadable, WcsMissing, BadPixels, BandUnknown, InstrumentError
        The message names file and card.
    """
    from exposure import Exposure

    if not isinstance(image, Exposure | str | PathLike) and not _is_hdus(image):
        return exposure_of(image, rules_of(instrument), variance, mask, wcs, psf, band)
    if variance is not None or mask is not None:
        raise InputType(f"variance and mask go with an array; {type(image).__name__} brings its own")
    if isinstance(image, Exposure):
        made = image.copy()
    elif isinstance(image, str | PathLike):
        made = _of_file(image, instrument)
    else:
        made = _of_list(image, instrument)
    made.wcs = made.wcs if wcs is None else sky_wcs(wcs)
    made.psf = made.psf if psf is None else psf_model(psf, made.bbox)
    made.band = made.band or band
    return made


def rules_of(instrument: "str | Instrument | None") -> "Instrument":
    """Return the rules of a camera, by default those that need no card."""
    from exposure import Instrument, load_instrument

    if isinstance(instrument, Instrument):
        return instrument
    if instrument is None or isinstance(instrument, str | PathLike):
        return load_instrument(str(instrument or NO_INSTRUMENT))
    raise InputType(f"an instrument is a name, the path of its file or an Instrument; got {type(instrument).__name__}")


def _is_hdus(image: Any) -> bool:
    if not isinstance(image, list):
        return False
    from astropy.io.fits import HDUList

    if isinstance(image, HDUList):
        return True
    raise InputType(f"an image must be {EXPECTED}; got a plain list: make an array of it")


def _of_list(hdus: "HDUList", instrument: "str | Instrument | None") -> "Exposure":
    from exposure.arrays import as_file

    with as_file(hdus) as path:
        return _of_file(path, instrument)


def _of_file(path: "str | PathLike[str]", instrument: "str | Instrument | None") -> "Exposure":
    from exposure.fits import read_exposure, read_planes

    rules = rules_of(instrument)
    planes = read_planes(path, rules)
    if instrument is None or planes.visit_info is not None:
        return planes
    whole = read_exposure(path, rules)
    whole.psf = whole.psf or planes.psf
    return whole
