"""FITS in and out: the only code of the project that opens FITS files.

Layout of an exposure (all extensions are images, so any FITS reader can show them):

======== ============================================================================================
PRIMARY  no data; ``ALERTPRD`` (layout version), visit, detector, times, band, calibration constants
IMAGE    float32 pixels, WCS, ``LTV1/2`` = minus the frame origin
MASK     int32 planes, ``MP_<NAME>`` = bit number
VARIANCE float32
PSF      cube of stamps; ``PSFTYPE`` polynomial, grid, gaussian or moffat
PHOTOCAL Chebyshev coefficients of the variation of the calibration (when it varies)
APCORR   one extension per flux name (``APNAME``), Chebyshev coefficients
======== ============================================================================================
"""

import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from mmap import MADV_DONTNEED, mmap
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError, VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from exposure import fits_parts as parts
from exposure.bad_pixels import mark_bad_pixels
from exposure.errors import ExposureError, FitsUnreadable, WcsMissing
from exposure.exposure import Exposure
from exposure.fits_write import LAYOUT, write_exposure
from exposure.header import Cards, numbered, unreadable_card
from exposure.instrument import Instrument, load_instrument
from exposure.mask import remap
from exposure.wcs import SkyWcs

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

MAX_PIXELS = 1 << 28  # 16k x 16k: a header that promises more is refused before any data are read


class _Reading:
    """How warnings are taken while any thread reads: filters are the process's, so the first sets and the last restores them."""

    def __init__(self) -> None:
        self._lock, self._readers, self._before = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._before.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", VerifyWarning)
                warnings.filterwarnings("ignore", message=".*non-ASCII characters are present.*")
                warnings.filterwarnings("error", message=".*may have been truncated.*", category=AstropyUserWarning)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._before.close()


_READING = _Reading()


@contextmanager
def open_fits(path: "str | PathLike[str] | IO[bytes]") -> Iterator[fits.HDUList]:
    """Open a FITS file for reading and check what its headers promise before any data are touched.

    Raises
    ------
    FitsUnreadable
        No file, no FITS, cut short, or larger than `MAX_PIXELS`.
    """
    name = Path(path).name if isinstance(path, str | os.PathLike) else "FITS bytes"
    try:
        with _READING:
            memmap = isinstance(path, str | os.PathLike) and not str(path).endswith(".gz")
            with ExitStack() as stack:
                source = path
                if isinstance(path, str | os.PathLike):  # opened here, so that it is closed whatever astropy raises
                    source = stack.enter_context(Path(path).open("rb"))
                with fits.open(source, memmap=memmap, lazy_load_hdus=False) as hdus:
                    _check_sizes(hdus, name)
                    yield hdus
    except ExposureError:
        raise
    except (OSError, EOFError, TypeError, ValueError, KeyError, IndexError, VerifyError, AstropyUserWarning) as error:
        card = unreadable_card(path) if isinstance(path, str | os.PathLike) and Path(path).is_file() else None
        raise FitsUnreadable(f"{name} cannot be read as FITS: {card or error or type(error).__name__}") from error


def _check_sizes(hdus: fits.HDUList, name: str) -> None:
    for hdu in hdus:
        axes = [int(hdu.header.get(f"NAXIS{k + 1}", 0)) for k in range(int(hdu.header.get("NAXIS", 0)))]
        if any(a < 0 for a in axes) or (axes and np.prod([float(a) for a in axes]) > MAX_PIXELS):
            raise FitsUnreadable(f"{name} promises an array of {axes} pixels, more than {MAX_PIXELS}: refused")


def read_header(path: "str | PathLike[str]", ext: int | str = 0) -> fits.Header:
    """Return one header without reading pixels."""
    with open_fits(path) as hdus:
        try:
            return hdus[ext].header.copy()
        except (KeyError, IndexError) as error:
            raise FitsUnreadable(f"{Path(path).name} has no extension {ext!r}") from error


def read_wcs(path: "str | PathLike[str]") -> SkyWcs:
    """Return the WCS of an exposure or of a plain image without reading pixels."""
    with open_fits(path) as hdus:
        for hdu in hdus:
            wcs = SkyWcs.from_cards(Cards([hdu.header], Path(path).name), _origin(hdu.header))
            if wcs is not None:
                return wcs
    raise WcsMissing(f"{Path(path).name} has no celestial WCS")


def read_image(hdus: fits.HDUList, ext: int | str) -> NDArray[np.float32]:
    """Return the pixels of one extension as native float32 (integers with BLANK become NaN).

    Raises
    ------
    FitsUnreadable
        No such extension, or no two-dimensional image in it.
    """
    try:
        data = hdus[ext].data
    except (KeyError, IndexError) as error:
        raise FitsUnreadable(f"no extension {ext!r} in the file") from error
    if data is None or data.ndim != 2:
        raise FitsUnreadable(f"extension {ext!r} holds no two-dimensional image")
    pixels = np.ascontiguousarray(data, dtype=np.float32)
    _let_go(data)
    return pixels


def read_mask(hdu: Any, names: dict[str, int]) -> NDArray[np.int32]:
    """Return a mask with our bits, of an extension whose planes have bits of its own (name -> bit)."""
    mask = remap(np.asarray(hdu.data), names)
    _let_go(hdu.data)
    return mask


def _let_go(data: NDArray[Any]) -> None:
    """Give the memory of a mapped file back: pixels that were copied need not be there twice."""
    base: Any = data
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap):
        base.madvise(MADV_DONTNEED)


def _origin(header: fits.Header) -> tuple[int, int]:
    """Frame origin of an array written by this module (plain images start at 0)."""
    if "ALERTPRD" not in header:
        return (0, 0)
    cards = Cards.of(header)
    return (-cards.integer("LTV1"), -cards.integer("LTV2")) if "LTV1" in cards and "LTV2" in cards else (0, 0)


def read_exposure(
    path: "str | PathLike[str]", instrument: str | Instrument | None = None, known: Mapping[str, Any] | None = None
) -> Exposure:
    """Read an exposure in our layout, or a plain image by the rules of an instrument file.

    Parameters
    ----------
    path
        FITS file (``.gz`` too).
    instrument
        Name or object; needed for images that are not in our layout.
    known
        What is said of the image elsewhere, so that no card is needed for it; see `exposure.plain.read_plain`.

    Raises
    ------
    FitsUnreadable, WcsMissing, BadPixels, BandUnknown, InstrumentError
        The message says which card or extension is wrong.
    """
    with open_fits(path) as hdus:
        rules = load_instrument(instrument) if isinstance(instrument, str) else instrument
        if "ALERTPRD" in hdus[0].header:
            return _read_native(hdus, rules, Path(path).name, known)
        if rules is None:
            raise FitsUnreadable(
                f"{Path(path).name} is a plain image: name the instrument whose file says how to read it"
            )
        from exposure.plain import read_plain

        return read_plain(hdus, rules, Path(path).name, known)


def read_planes(path: "str | PathLike[str]", rules: Instrument) -> Exposure:
    """Read the pixel planes of any file; see `exposure.plain.read_planes` (our own layout is read whole)."""
    from exposure import plain

    with open_fits(path) as hdus:
        if "ALERTPRD" in hdus[0].header:
            return _read_native(hdus, rules, Path(path).name)
        return plain.read_planes(hdus, rules, Path(path).name)


def _read_native(
    hdus: fits.HDUList, rules: Instrument | None, name: str, known: Mapping[str, Any] | None = None
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
        psf=parts.read_psf(hdus["PSF"]) if "PSF" in hdus else None,
        photo_calib=parts.read_photo_calib(hdus, bbox),
        visit_info=parts.image_visit_info(head, name, known),
        band=str(head.get("BAND", "")),
        physical_filter=str(head.get("FILTER", "")),
        ap_corr=parts.read_ap_corr(hdus, bbox),
    )
    if rules is not None:
        mark_bad_pixels(exposure, rules, head, name)
    return exposure
