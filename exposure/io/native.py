"""Any file to an exposure: files in the layout of this package are read here, others are handed to `exposure.io.plain`.

The layout (all extensions are images, so any FITS reader can show them); `exposure.io.writing` writes it:

======== ============================================================================================
PRIMARY  no data; ``ALERTPRD`` (layout version), visit, detector, times, band, calibration constants
IMAGE    float32 pixels, WCS, ``LTV1/2`` = minus the frame origin
MASK     int32 planes, ``MP_<NAME>`` = bit number
VARIANCE float32
PSF      cube of stamps; ``PSFTYPE`` polynomial, grid, gaussian or moffat
PHOTNOIS noise of photons that filters correlate, on a grid (of a difference; `exposure.photon_noise`)
FILTERS  what image and template were convolved with, on the same grid
PHOTOCAL Chebyshev coefficients of the variation of the calibration (when it varies)
APCORR   one extension per flux name (``APNAME``), Chebyshev coefficients
======== ============================================================================================
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from astropy.io import fits

from exposure.errors import FitsUnreadable, ImageAmbiguous, WcsMissing
from exposure.exposure import Exposure
from exposure.flagging.bad_pixels import mark_bad_pixels
from exposure.flagging.missing import note_missing, refuse_missing
from exposure.header.cards import Cards, numbered
from exposure.instrument import Instrument, load_instrument
from exposure.io import parts
from exposure.io.opening import MAX_PIXELS, open_fits, read_image, read_mask, split_choice
from exposure.io.which_image import extensions_called
from exposure.io.writing import LAYOUT, write_exposure
from exposure.wcs.sky_wcs import SkyWcs

__all__ = [
    "MAX_PIXELS",
    "open_fits",
    "read_exposure",
    "read_header",
    "read_image",
    "read_mask",
    "read_planes",
    "read_wcs",
    "write_exposure",
]


def read_header(path: "str | PathLike[str]", ext: int | str | None = None) -> fits.Header:
    """Return one header without reading pixels: the first, where neither `ext` nor the path names another."""
    file, choice = split_choice(path)
    with open_fits(file) as hdus:
        return _chosen(hdus, ext if ext is not None else choice if choice is not None else 0, file.name).header.copy()


def _chosen(hdus: fits.HDUList, choice: int | str, name: str) -> Any:
    """Return the extension that a choice names, image or not."""
    numbers = extensions_called(hdus, choice)
    if not numbers:
        raise FitsUnreadable(f"{name} has no extension {choice!r}")
    if len(numbers) > 1:
        raise ImageAmbiguous(
            f"{name} has {len(numbers)} extensions called {choice!r}: name one by number, as {name}[{numbers[-1]}]"
        )
    return hdus[numbers[0]]


def read_wcs(path: "str | PathLike[str]") -> SkyWcs:
    """Return the WCS of an exposure or of a plain image without reading pixels: that named with the path, or the first."""
    file, choice = split_choice(path)
    with open_fits(path) as hdus:
        for hdu in hdus if choice is None else [_chosen(hdus, choice, file.name)]:
            wcs = SkyWcs.from_cards(Cards([hdu.header], file.name), _origin(hdu.header))
            if wcs is not None:
                return wcs
    raise WcsMissing(f"{file.name} has no celestial WCS")


def _origin(header: fits.Header) -> tuple[int, int]:
    """Frame origin of an array written by this module (plain images start at 0)."""
    if "ALERTPRD" not in header:
        return (0, 0)
    cards = Cards.of(header)
    return (-cards.integer("LTV1"), -cards.integer("LTV2")) if "LTV1" in cards and "LTV2" in cards else (0, 0)


def read_exposure(
    path: "str | PathLike[str]", instrument: str | Instrument | None = None, overrides: Mapping[str, Any] | None = None
) -> Exposure:
    """Read an exposure in our layout, or a plain image by the rules of an instrument file.

    Parameters
    ----------
    path
        FITS file, compressed or not; ``file.fits[EXT]`` names one of several images in it (number, NAME or NAME,VERSION).
    instrument
        Name or object; needed for images that are not in our layout.
    overrides
        What is said of the image elsewhere, so that no card is needed for it; see `exposure.io.plain.read_plain`.

    Raises
    ------
    FitsUnreadable, WcsMissing, BadPixels, BandUnknown, InstrumentError
        The message says which card or extension is wrong.
    """
    name, choice = _named(path)
    with open_fits(path) as hdus:
        rules = load_instrument(instrument) if isinstance(instrument, str) else instrument
        if "ALERTPRD" in hdus[0].header:
            return _read_native(hdus, rules, name, overrides)
        if rules is None:
            raise FitsUnreadable(f"{name} is a plain image: name the instrument whose file says how to read it")
        from exposure.io.plain import read_plain

        return read_plain(hdus, rules, name, choice, overrides)


def read_planes(path: "str | PathLike[str]", rules: Instrument) -> Exposure:
    """Read the pixel planes of any file; see `exposure.io.plain.read_planes` (our own layout is read whole)."""
    from exposure.io import plain

    name, choice = _named(path)
    with open_fits(path) as hdus:
        if "ALERTPRD" not in hdus[0].header:
            return plain.read_planes(hdus, rules, name, choice)
        exposure = _read_native(hdus, rules, name)
    refuse_missing(exposure, name)
    return exposure


def _named(path: "str | PathLike[str]") -> tuple[str, int | str | None]:
    """Return the name of a file and the extension that was chosen with it."""
    file, choice = split_choice(path)
    return file.name, choice


def _read_native(
    hdus: fits.HDUList, rules: Instrument | None, name: str, overrides: Mapping[str, Any] | None = None
) -> Exposure:
    head = hdus[0].header
    if int(head["ALERTPRD"]) > LAYOUT:
        raise FitsUnreadable(f"layout version {head['ALERTPRD']} is newer than {LAYOUT}: update alertprod")
    image_header = hdus["IMAGE"].header
    origin = _origin(image_header)
    image = read_image(hdus, "IMAGE")
    mask_hdu = hdus["MASK"]
    mask = read_mask(mask_hdu, numbered(mask_hdu.header, "MP_"))
    bbox = (*origin, image.shape[1], image.shape[0])
    exposure = Exposure(
        image=image,
        variance=read_image(hdus, "VARIANCE"),
        mask=mask,
        origin=origin,
        wcs=SkyWcs.from_cards(Cards([image_header], name), origin),
        psf=parts.read_psf(hdus["PSF"], noise=parts.read_photon_noise(hdus)) if "PSF" in hdus else None,
        photo_calib=parts.read_photo_calib(hdus, bbox),
        visit_info=parts.image_visit_info(head, name, overrides),
        band=str(head.get("BAND", "")),
        physical_filter=str(head.get("FILTER", "")),
        ap_corr=parts.read_ap_corr(hdus, bbox),
    )
    note_missing(exposure)
    if rules is not None:
        mark_bad_pixels(exposure, rules, head, name)
    return exposure
