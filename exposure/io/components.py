"""Parts of an exposure in a file, read without its pixels."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from astropy.io import fits

from exposure.errors import FitsUnreadable
from exposure.header.cards import Cards
from exposure.instrument import Instrument
from exposure.io import parts
from exposure.io.opening import open_fits, split_choice
from exposure.io.plain import header_visit_info
from exposure.io.which_image import choose_image, plane_beside
from exposure.wcs.sky_wcs import SkyWcs
from tasks.arrays import Box

__all__ = ["PARTS", "part_of", "read_part"]

# as a Butler names them, and the attributes of `Exposure`
PARTS = {
    "wcs": "wcs",
    "bbox": "bbox",
    "psf": "psf",
    "visitInfo": "visit_info",
    "photoCalib": "photo_calib",
    "apCorrMap": "ap_corr",
    "band": "band",
    "physicalFilter": "physical_filter",
}


def part_of(exposure: Any, name: str) -> Any:
    """Return a part of an exposure in memory.

    Raises
    ------
    KeyError
        There is no such part.
    """
    return getattr(exposure, PARTS[name])


def read_part(
    path: "str | PathLike[str]",
    name: str,
    rules: Instrument | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """Return a part of the exposure in a file; no pixel is read.

    Parameters
    ----------
    path
        FITS file, maybe with the chosen extension behind it.
    name
        One of `PARTS`.
    rules
        Its instrument, for files that are not in our layout.
    overrides
        What is said of the image elsewhere, as in `exposure.io.plain.read_plain`.

    Raises
    ------
    FitsUnreadable, CardInvalid, BandUnknown, WcsUnsupported
        As the reading of the whole file.
    """
    if name not in PARTS:
        raise FitsUnreadable(f"an exposure has no part {name!r}: expected one of {', '.join(PARTS)}")
    with open_fits(path) as hdus:
        if "ALERTPRD" in hdus[0].header:
            return _native(hdus, name, split_choice(path)[0].name, overrides)
        if rules is None:
            raise FitsUnreadable(f"{split_choice(path)[0].name} is a plain image: name its instrument")
        return _plain(hdus, name, path, rules, overrides or {})


def _native(hdus: fits.HDUList, name: str, file: str, overrides: Mapping[str, Any] | None) -> Any:
    head, image = hdus[0].header, hdus["IMAGE"]
    cards = Cards.of(image.header)
    origin = (-cards.integer("LTV1"), -cards.integer("LTV2")) if "LTV1" in cards and "LTV2" in cards else (0, 0)
    bbox = _box(image, origin)
    if name == "bbox":
        return bbox
    if name == "wcs":
        return SkyWcs.from_cards(Cards([image.header], file), origin)
    if name == "psf":
        return parts.read_psf(hdus["PSF"]) if "PSF" in hdus else None
    if name == "visitInfo":
        return parts.image_visit_info(head, file, overrides)
    if name == "photoCalib":
        return parts.read_photo_calib(hdus, bbox)
    if name == "apCorrMap":
        return parts.read_ap_corr(hdus, bbox)
    return str(head.get("BAND" if name == "band" else "FILTER", ""))


def _plain(
    hdus: fits.HDUList, name: str, path: "str | PathLike[str]", rules: Instrument, overrides: Mapping[str, Any]
) -> Any:
    file, choice = split_choice(path)
    if name == "visitInfo":
        return header_visit_info(hdus, rules, overrides, path)
    number = choose_image(hdus, rules, file.name, choice)
    header = Cards.of_hdus(hdus, number, file.name)
    if name == "wcs":
        return overrides["wcs"] if "wcs" in overrides else SkyWcs.from_header(header)
    if name == "bbox":
        return _box(hdus[number], (0, 0))
    if name in ("band", "physicalFilter"):
        return rules.band_of(header)[name == "physicalFilter"]
    psf = plane_beside(hdus, number, rules.planes.psf, file.name) if name == "psf" else None
    return None if psf is None else parts.read_psf(hdus[psf], _box(hdus[number], (0, 0)))


def _box(hdu: Any, origin: tuple[int, int]) -> Box:
    height, width = hdu.shape[-2:]
    return (*origin, int(width), int(height))
