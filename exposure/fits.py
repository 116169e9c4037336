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
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from numpy.typing import NDArray

from exposure import fits_parts as parts
from exposure.errors import FitsUnreadable, WcsMissing
from exposure.exposure import Exposure
from exposure.fits_file import MAX_PIXELS, open_fits, read_image, read_mask, split_choice
from exposure.instrument import Instrument, load_instrument
from exposure.mask import PLANES
from exposure.missing import note_missing, refuse_missing
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

LAYOUT = 1


def read_header(path: "str | PathLike[str]", ext: int | str | None = None) -> fits.Header:
    """Return one header without reading pixels: the first, where neither `ext` nor the path names another."""
    file, choice = split_choice(path)
    at = ext if ext is not None else choice if choice is not None else 0
    with open_fits(file) as hdus:
        try:
            return hdus[at].header.copy()
        except (KeyError, IndexError) as error:
            raise FitsUnreadable(f"{file.name} has no extension {at!r}") from error


def read_wcs(path: "str | PathLike[str]") -> SkyWcs:
    """Return the WCS of an exposure or of a plain image without reading pixels."""
    with open_fits(path) as hdus:
        for hdu in hdus:
            if "CTYPE1" in hdu.header:
                return SkyWcs.from_header(hdu.header, _origin(hdu.header))
    raise WcsMissing(f"{Path(path).name} has no celestial WCS")


def _origin(header: fits.Header) -> tuple[int, int]:
    """Frame origin of an array written by this module (plain images start at 0)."""
    if "ALERTPRD" not in header:
        return (0, 0)
    return (-int(header.get("LTV1", 0)), -int(header.get("LTV2", 0)))


def read_exposure(path: "str | PathLike[str]", instrument: str | Instrument | None = None) -> Exposure:
    """Read an exposure in our layout, or a plain image by the rules of an instrument file.

    Parameters
    ----------
    path
        FITS file, compressed or not; ``file.fits[EXT]`` names one of several images in it.
    instrument
        Name or object; needed for images that are not in our layout.

    Raises
    ------
    FitsUnreadable, WcsMissing, BadPixels, BandUnknown, InstrumentError
        The message says which card or extension is wrong.
    """
    with open_fits(path) as hdus:
        if "ALERTPRD" in hdus[0].header:
            return _read_native(hdus)
        if instrument is None:
            raise FitsUnreadable(
                f"{_named(path)[0]} is a plain image: name the instrument whose file says how to read it"
            )
        rules = instrument if isinstance(instrument, Instrument) else load_instrument(instrument)
        from exposure.plain import read_plain

        return read_plain(hdus, rules, *_named(path))


def read_planes(path: "str | PathLike[str]", rules: Instrument) -> Exposure:
    """Read the pixel planes of any file; see `exposure.plain.read_planes` (our own layout is read whole)."""
    from exposure import plain

    with open_fits(path) as hdus:
        if "ALERTPRD" not in hdus[0].header:
            return plain.read_planes(hdus, rules, *_named(path))
        exposure = _read_native(hdus)
    refuse_missing(exposure, _named(path)[0])
    return exposure


def _named(path: "str | PathLike[str]") -> tuple[str, int | str | None]:
    """Return the name of a file and the extension that was chosen with it."""
    file, choice = split_choice(path)
    return file.name, choice


def _read_native(hdus: fits.HDUList) -> Exposure:
    head = hdus[0].header
    if int(head["ALERTPRD"]) > LAYOUT:
        raise FitsUnreadable(f"layout version {head['ALERTPRD']} is newer than {LAYOUT}: update alertprod")
    image_header = hdus["IMAGE"].header
    origin = _origin(image_header)
    image = read_image(hdus, "IMAGE")
    mask_hdu = hdus["MASK"]
    planes = {k[3:]: int(v) for k, v in mask_hdu.header.items() if k.startswith("MP_")}
    long_names = {k[8:]: int(v) for k, v in mask_hdu.header.items() if k.startswith("HIERARCH")}
    mask = read_mask(mask_hdu, planes | long_names)
    bbox = (*origin, image.shape[1], image.shape[0])
    exposure = Exposure(
        image=image,
        variance=read_image(hdus, "VARIANCE"),
        mask=mask,
        origin=origin,
        wcs=SkyWcs.from_header(image_header, origin) if "CTYPE1" in image_header else None,
        psf=parts.read_psf(hdus["PSF"]) if "PSF" in hdus else None,
        photo_calib=parts.read_photo_calib(hdus, bbox),
        visit_info=parts.read_visit_info(head),
        band=str(head.get("BAND", "")),
        physical_filter=str(head.get("FILTER", "")),
        ap_corr=parts.read_ap_corr(hdus, bbox),
    )
    note_missing(exposure)
    return exposure


def write_exposure(exposure: Exposure, path: "str | PathLike[str]", compress: bool = False) -> None:
    """Write an exposure in the layout of this module; what `read_exposure` gives back is equal to the last bit.

    Parameters
    ----------
    compress
        Tile compression without loss (GZIP_2; floats are not quantised).
    """
    primary = fits.PrimaryHDU()
    primary.header["ALERTPRD"] = (LAYOUT, "layout version of alertprod exposures")
    parts.write_visit_info(primary.header, exposure)
    image_header = exposure.wcs.to_header(exposure.origin) if exposure.wcs is not None else fits.Header()
    image_header["ALERTPRD"] = LAYOUT
    image_header["LTV1"], image_header["LTV2"] = -exposure.origin[0], -exposure.origin[1]
    mask_header = fits.Header()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)  # names longer than 8 characters become HIERARCH cards
        for name, bit in PLANES.items():
            mask_header[f"MP_{name}"] = bit
    hdus: list[Any] = [primary]
    for name, data, header in (
        ("IMAGE", exposure.image, image_header),
        ("MASK", exposure.mask, mask_header),
        ("VARIANCE", exposure.variance, None),
    ):
        hdus.append(_pixels_hdu(name, data, header, compress))
    if exposure.psf is not None:
        hdus.append(parts.psf_hdu(exposure.psf))
    hdus += parts.photo_calib_hdus(primary.header, exposure.photo_calib) + parts.ap_corr_hdus(exposure.ap_corr)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    fits.HDUList(hdus).writeto(partial, overwrite=True, output_verify="silentfix")
    if compress:
        _clear_gzip_times(partial)
    os.replace(partial, target)


def _pixels_hdu(name: str, data: NDArray[Any], header: fits.Header | None, compress: bool) -> Any:
    if not compress:
        return fits.ImageHDU(data, header, name=name)
    return fits.CompImageHDU(data, header, name=name, compression_type="GZIP_2", quantize_level=0.0)


def _clear_gzip_times(path: Path) -> None:
    """Zero the time stamps in the gzip header of every tile: same input, same bytes."""
    starts = []
    with fits.open(path, disable_image_compression=True, memmap=False) as hdus:
        for hdu in hdus:
            if "ZIMAGE" in hdu.header:
                rows = hdu.data.view(np.ndarray)["COMPRESSED_DATA"].reshape(-1, 2).astype(np.int64)
                heap = hdu.fileinfo()["datLoc"] + hdu.header.get("THEAP", hdu.header["NAXIS1"] * hdu.header["NAXIS2"])
                starts.append(heap + rows[rows[:, 0] > 0, 1])
    content = np.memmap(path, dtype=np.uint8, mode="r+")
    tiles = np.concatenate(starts) if starts else np.empty(0, np.int64)
    content[tiles[:, None] + np.arange(4, 8)] = 0  # RFC 1952: MTIME
    content.flush()
