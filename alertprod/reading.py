"""Exposures of whatever images come in: files, lists of HDUs, arrays, CCDData, exposures."""

import warnings
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from alertprod.arrays import EXPECTED, Given, exposure_of
from alertprod.errors import InputType, WcsUnusable

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

    from exposure import Exposure, Instrument

__all__ = ["images", "read", "read_quietly", "rules_of"]

NO_INSTRUMENT = "generic"

Hdu = int | str | tuple[str, int] | None


def read(
    image: Any,
    instrument: "str | Instrument | None" = None,
    *,
    variance: Any = None,
    mask: Any = None,
    wcs: Any = None,
    psf: Any = None,
    band: str = "",
    gain: float | None = None,
    hdu: "int | str | tuple[str, int] | None" = None,
) -> "Exposure":
    """Return an exposure with pixels of its own; what was given is not changed.

    Parameters
    ----------
    image
        Path of a FITS file; open `astropy.io.fits.HDUList`, or one HDU; array (height, width) of any real type, masked
        arrays with their mask; `astropy.nddata.CCDData` (or NDData) with its uncertainty, mask, WCS, PSF and unit;
        `Exposure`; `Difference`.
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
    gain
        Electrons per count, where the image does not say it and has no variance: photon noise of sources needs it. Without
        it the gain is estimated from the image.
    hdu
        Number, name or (name, version) of the image, where a file or list holds several; `images` lists them.

    Raises
    ------
    InputType
        The image or one of the others is of no kind that can be used.
    FitsUnreadable, WcsMissing, BadPixels, BandUnknown, InstrumentError
        The message names file and card.

    Warns
    -----
    WcsUnusable
        The header has a WCS that cannot be used, and `wcs` gives no other: the image has none. The message names file
        and card.

    Examples
    --------
    >>> import numpy as np
    >>> image = read(np.arange(2000, dtype=np.uint16).reshape(40, 50), gain=1.5)
    >>> image.width, image.height, float(image.image[0, 7])
    (50, 40, 7.0)
    """
    given = Given(variance=variance, mask=mask, wcs=wcs, psf=psf, band=band, gain=gain)
    exposure = read_quietly(image, instrument, given, hdu)
    _warn_of_wcs(exposure, image)
    return exposure


def _warn_of_wcs(exposure: "Exposure", image: Any) -> None:
    """Warn where a header has a WCS that cannot be used; of an exposure it was said when that was read."""
    from exposure import Exposure
    from exposure.errors import WcsUnsupported

    problem = exposure.wcs_problem
    if exposure.wcs is None and isinstance(problem, WcsUnsupported) and not isinstance(image, Exposure):
        text = f"{problem.message}; the image is read without a WCS: mend the card, or give one (wcs=)"
        warnings.warn(WcsUnusable(text), stacklevel=3)


def read_quietly(
    image: Any, instrument: "str | Instrument | None" = None, given: Given | None = None, hdu: Hdu = None
) -> "Exposure":
    """Return an exposure as `read` does, without a warning: ``wcs_problem`` says what is wrong with its WCS."""
    from alertprod.difference import Difference
    from exposure import Exposure

    given = given or Given()
    image = image.exposure if isinstance(image, Difference) else image
    if isinstance(image, Exposure):
        given.refuse_planes(image)
        return given.put_on(image.copy())
    if isinstance(image, str | PathLike):
        given.refuse_planes(image)
        return given.put_on(_of_file(image, instrument, hdu))
    hdus = _hdus_of(image)
    if hdus is not None:
        from exposure.io.from_arrays import as_file

        given.refuse_planes(image)
        with as_file(hdus) as path:
            return given.put_on(_of_file(path, instrument, hdu))
    if hdu is not None:
        raise InputType(f"hdu goes with a file or a list of HDUs; got {type(image).__name__}")
    return given.put_gain(exposure_of(image, rules_of(instrument), given))


def images(image: Any, instrument: "str | Instrument | None" = None) -> list[str]:
    """Return the names of the images in a file, in its order, as `read` takes them for `hdu`; no pixel is read.

    Parameters
    ----------
    image
        Path of a FITS file, or open `astropy.io.fits.HDUList`.
    instrument
        Name or file of a camera, or an `Instrument`: where its file names the image, only that counts.

    Raises
    ------
    InputType
        Neither a path nor a list of HDUs.
    FitsUnreadable
        The file cannot be read, has no image, or the path names one already.

    Examples
    --------
    >>> [read("new.fits", hdu=name).height for name in images("new.fits")]
    [256]
    """
    from exposure.io.from_arrays import as_file
    from exposure.io.several import images_in

    rules = rules_of(instrument)
    if isinstance(image, str | PathLike):
        return [name.label for name in images_in(image, rules)]
    hdus = _hdus_of(image)
    if hdus is None:
        raise InputType(f"a file with images is a path or a list of HDUs; got {type(image).__name__}")
    with as_file(hdus) as path:
        return [name.label for name in images_in(path, rules)]


def rules_of(instrument: "str | Instrument | None") -> "Instrument":
    """Return the rules of a camera, by default those that need no card."""
    from exposure import Instrument, load_instrument

    if isinstance(instrument, Instrument):
        return instrument
    if instrument is None or isinstance(instrument, str | PathLike):
        return load_instrument(str(instrument or NO_INSTRUMENT))
    raise InputType(f"an instrument is a name, the path of its file or an Instrument; got {type(instrument).__name__}")


def _hdus_of(image: Any) -> "HDUList | None":
    """Return a list of HDUs, or one HDU as a list; None for anything else."""
    if not isinstance(image, list) and not (hasattr(image, "header") and hasattr(image, "data")):
        return None
    from astropy.io.fits import HDUList, ImageHDU, PrimaryHDU
    from astropy.nddata import NDData

    if isinstance(image, HDUList):
        return image
    if isinstance(image, list):
        raise InputType(f"an image must be {EXPECTED}; got a plain list: make an array of it")
    if isinstance(image, NDData):  # which may have a header
        return None
    if isinstance(image, PrimaryHDU):
        return HDUList([image])
    return HDUList([PrimaryHDU(), image if isinstance(image, ImageHDU) else ImageHDU(image.data, image.header)])


def _of_file(path: "str | PathLike[str]", instrument: "str | Instrument | None", hdu: Hdu) -> "Exposure":
    """Return the exposure of a file: with all that the camera's rules name, or without them what needs no card."""
    from exposure.io.native import read_exposure, read_planes

    rules = rules_of(instrument)
    name = ",".join(map(str, hdu)) if isinstance(hdu, tuple) else hdu
    chosen = path if name is None else f"{fspath(path)}[{name}]"
    planes = read_planes(chosen, rules)
    if instrument is None or planes.visit_info is not None:
        return planes
    exposure = read_exposure(chosen, rules)
    exposure.psf = exposure.psf or planes.psf
    return exposure
