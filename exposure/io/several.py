"""Files with several images (mosaics): the list of them, and which image of another file is the partner of each.

Which extension is the one image of a file is found by `exposure.io.which_image`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from astropy.io import fits

from exposure.errors import FitsUnreadable
from exposure.instrument import Instrument
from exposure.io.opening import open_fits, split_choice
from exposure.io.which_image import extensions_called, image_numbers, version_of

__all__ = ["ImageName", "images_in", "partner_of"]

_NO_NAMES = ("", "PRIMARY", "COMPRESSED_IMAGE")  # what extensions are called that nobody has named


@dataclass(frozen=True)
class ImageName:
    """One of the images of a file.

    Parameters
    ----------
    label
        What names it behind the path: EXTNAME where that is the only such, else ``EXTNAME,EXTVER``, else its number.
    number
        Of its extension; the primary one is 0.
    name, version
        EXTNAME in capitals, empty without one; EXTVER, None without one.
    """

    label: str
    number: int
    name: str
    version: int | None

    def of(self, path: "str | PathLike[str]") -> Path:
        """Return the path of the file with this image chosen."""
        return Path(f"{fspath(path)}[{self.label}]")


def images_in(path: "str | PathLike[str]", rules: Instrument) -> list[ImageName]:
    """Return the images of a file in their order; no pixel is read.

    Parameters
    ----------
    rules
        Where ``planes.image`` of the instrument file is set, the images are those that it names.

    Raises
    ------
    FitsUnreadable
        The file has no image, cannot be read, or the path names one of its images already.
    """
    file, choice = split_choice(path)
    if choice is not None:
        raise FitsUnreadable(f"{file.name}[{choice}] names one image: give {file.name} alone for all of them")
    with open_fits(file) as hdus:
        native = "ALERTPRD" in hdus[0].header
        numbers = extensions_called(hdus, "IMAGE") if native else image_numbers(hdus, rules, file.name)
        return [_named(hdus, k) for k in numbers]


def _named(hdus: fits.HDUList, number: int) -> ImageName:
    hdu = hdus[number]
    name = "" if hdu.name.upper() in _NO_NAMES else hdu.name.upper()
    version = version_of(hdu) if "EXTVER" in hdu.header else None
    offered = (hdu.name, f"{hdu.name},{version_of(hdu)}")
    label = next((o for o in offered if name and _leads_to(hdus, o, number)), str(number))
    return ImageName(label, number, name, version)


def _leads_to(hdus: fits.HDUList, label: str, number: int) -> bool:
    """Whether a name behind the path means this extension and no other: digits, for example, would be a number."""
    file, choice = split_choice(f"file.fits[{label}]")
    return (
        str(file) == "file.fits" and "/" not in label and choice == label and extensions_called(hdus, label) == [number]
    )


def partner_of(image: ImageName, own: Sequence[ImageName], others: Sequence[ImageName]) -> ImageName | None:
    """Return the image of another file that is the same part of the mosaic; None where there is none, or more than one.

    Parameters
    ----------
    own, others
        All images of the two files. A single image is the partner of a single one, whatever they are called. Else
        the same EXTNAME (and EXTVER, where more than one has that name) is, and without names the same EXTVER or, without
        that, the same number.
    """
    if len(own) == len(others) == 1:
        return others[0]
    called = [o for o in others if o.name == image.name]
    if image.name and len(called) == 1 and sum(o.name == image.name for o in own) == 1:
        return called[0]
    partners = [o for o in others if _part(o) == _part(image)]
    return partners[0] if len(partners) == 1 and sum(_part(o) == _part(image) for o in own) == 1 else None


def _part(image: ImageName) -> tuple[str, str, int]:
    """Return what tells the parts of a mosaic apart."""
    if image.name or image.version is not None:
        return image.name, "version", image.version or 1
    return "", "number", image.number
