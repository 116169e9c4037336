"""Image, variance and mask of a plain file as arrays: read, checked for equal shape, what is missing or saturated marked.

`exposure.io.plain` adds what the header says; planes may also come from files of their own.
"""

import logging
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from exposure.errors import BadPixels, FitsUnreadable
from exposure.exposure import Exposure
from exposure.flagging.missing import note_missing, refuse_missing
from exposure.flagging.odd_lines import odd_lines
from exposure.header.cards import numbered
from exposure.instrument import Instrument
from exposure.io.opening import open_fits, read_image, read_mask, split_choice
from exposure.io.which_image import choose_plane, plane_beside
from tasks.arrays import F32, I32

__all__ = ["admit", "planes_of", "read_mask_file", "read_variance", "variance_from"]


log = logging.getLogger("alertprod.exposure")


def planes_of(hdus: fits.HDUList, image_number: int, rules: Instrument, name: str, *, all_there: bool) -> Exposure:
    """Return image, variance and mask of a file; NaN stands for variances and 0 for masks that it does not have.

    Parameters
    ----------
    all_there
        The planes that the instrument file names must be in the file.

    Raises
    ------
    BadPixels
        Planes of different shapes.
    FitsUnreadable
        A plane is no image, or not there.
    ImageAmbiguous
        Several planes of one name, and nothing says which of them belongs to the image.
    """
    image = read_image(hdus, image_number)
    planes = rules.planes
    there = {
        k: plane_beside(hdus, image_number, getattr(planes, k), name) for k in ("variance", "weight", "sigma", "mask")
    }
    if all_there:
        _require(there, rules, name)
    variance = np.full_like(image, np.nan)
    for kind in ("variance", "weight", "sigma"):
        if (number := there[kind]) is not None:
            variance = variance_from(read_image(hdus, number), kind)
    mask = np.zeros(image.shape, dtype=np.int32)
    if (number := there["mask"]) is not None:
        mask = _mask(hdus[number], rules)
    for plane, data in (("variance", variance), ("mask", mask)):
        _same_shape(image, data, f"the {plane} of {name}")
    return Exposure(image, variance, mask)


def read_variance(path: "str | PathLike[str]", exposure: Exposure, rules: Instrument) -> F32:
    """Read the variances of an exposure from a file of their own; what it holds is said by the instrument's ``variance_file``.

    Raises
    ------
    FitsUnreadable, ImageAmbiguous, BadPixels
        No such image in the file, several, or one of another shape.
    """
    with open_fits(path) as hdus:
        plane = variance_from(
            read_image(hdus, choose_plane(hdus, path, "VARIANCE", "WEIGHT", "SIGMA")), rules.variance_file
        )
    _same_shape(exposure.image, plane, f"the variance in {split_choice(path)[0].name}")
    return plane


def read_mask_file(path: "str | PathLike[str]", exposure: Exposure, rules: Instrument) -> I32:
    """Read the mask of an exposure from a file of its own; errors as for `read_variance`."""
    with open_fits(path) as hdus:
        mask = _mask(hdus[choose_plane(hdus, path, "MASK", "DQ", "BPM")], rules)
    _same_shape(exposure.image, mask, f"the mask in {split_choice(path)[0].name}")
    return mask


def _mask(hdu: Any, rules: Instrument) -> I32:
    named = numbered(hdu.header, "MP_")
    wrong = next((key for key, bit in named.items() if not 0 <= bit < 64), None)
    if wrong is not None:
        raise FitsUnreadable(f"MP_{wrong}={named[wrong]} is no bit number")
    if not (named or rules.mask_bits):
        log.warning("the mask %r names no bits (MP_ cards, or mask_bits): where it is not 0, pixels are bad", hdu.name)
    return read_mask(hdu, rules.mask_bits | named)


def _same_shape(image: F32, plane: NDArray[Any], what: str) -> None:
    if plane.shape != image.shape:
        raise BadPixels(f"{what} has shape {plane.shape}, the image {image.shape}")


def _require(there: Mapping[str, int | None], rules: Instrument, name: str) -> None:
    for kind, number in there.items():
        extension = getattr(rules.planes, kind)
        if extension is not None and number is None:
            raise FitsUnreadable(f"{name} has no extension {extension!r}, the {kind} by instrument {rules.name}")


def variance_from(plane: F32, kind: str) -> F32:
    """Return variances of a plane of variances, weights (their inverse) or standard deviations; NaN where it has none."""
    if kind == "variance":
        return plane
    with np.errstate(all="ignore"):
        variance = 1 / plane if kind == "weight" else plane * plane
    return np.where((plane > 0) & np.isfinite(variance), variance, np.float32(np.nan)).astype(np.float32)


def admit(exposure: Exposure, name: str, *, bad_edge: int = 0, saturation: float | None = None) -> None:
    """Mark, in place, what of a plain image has no data (``NO_DATA``) and what is saturated (``SAT``).

    Parameters
    ----------
    name
        Of the file, for messages.
    bad_edge
        Rows and columns at each edge that are no good.
    saturation
        Level of saturated pixels; None: where the largest value stands in patches it is taken for that level.

    Raises
    ------
    BadPixels
        No pixel with data is left.
    """
    from exposure.flagging.fill import (  # OpenCV, which who reads headers alone does not load
        fill_pixels,
        saturation_level,
    )

    if saturation is None:
        saturation = saturation_level(exposure.image) if np.isfinite(exposure.image).any() else None
    if saturation is not None:
        exposure.metadata["saturation"] = saturation
        exposure.set_plane("SAT", exposure.image >= np.float32(saturation))
    for none in (fill_pixels, odd_lines):
        where = none(exposure.image)
        if where is not None:
            exposure.image[where] = np.nan
    if bad_edge:
        outer = np.ones(exposure.image.shape, np.bool_)
        outer[bad_edge:-bad_edge, bad_edge:-bad_edge] = False
        exposure.set_plane("EDGE", outer)
        exposure.set_plane("NO_DATA", outer)
    refuse_missing(exposure, name)
    note_missing(exposure, clear=True)
