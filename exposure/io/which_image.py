"""Which extension of a file holds the image: the one that is named, or the only one; never silently the first of several."""

from collections.abc import Iterable
from os import PathLike

from astropy.io import fits

from exposure.errors import FitsUnreadable, ImageAmbiguous
from exposure.instrument import Instrument
from exposure.io.opening import split_choice

__all__ = ["choose_image", "choose_plane"]

# names of extensions that stand beside an image and are none
_COMPANIONS = frozenset(
    {
        "VARIANCE", "VAR", "IVAR", "INVVAR", "MASK", "MSK", "DQ", "BPM", "FLAG", "FLAGS", "QUALITY", "ERR", "ERROR",
        "ERRORS", "SIGMA", "RMS", "STD", "UNCERT", "UNCERTAINTY", "NOISE", "WEIGHT", "WEIGHTS", "WHT", "WGT", "WT", "CON",
        "CTX", "CONTEXT", "SAMP", "TIME", "EXPMAP", "COVERAGE", "PSF", "BACKGROUND", "BACK", "BKG", "SKY", "CATALOG",
    }
)  # fmt: skip


def choose_image(hdus: fits.HDUList, rules: Instrument, name: str, choice: int | str | None = None) -> int:
    """Return the number of the extension that holds the image.

    Parameters
    ----------
    rules
        ``planes.image`` of the instrument file, where it was set, decides.
    name
        Of the file, for messages.
    choice
        What the caller named; it goes before the instrument file.

    Raises
    ------
    FitsUnreadable
        No image, or none where one was named.
    ImageAmbiguous
        Several, and none of them was named.
    """
    images = [k for k, hdu in enumerate(hdus) if _is_image(hdu)]
    if choice is not None:
        return _named(hdus, images, choice, name)
    planes = rules.planes
    if "image" in planes.model_fields_set and (found := _matching(hdus, images, planes.image)):
        return _named(hdus, found, planes.image, name)
    beside = (planes.variance, planes.mask, planes.psf, planes.weight)
    taken = {k for plane in beside if plane is not None for k in _matching(hdus, images, plane)}
    candidates = [k for k in images if k not in taken and hdus[k].name.upper() not in _COMPANIONS]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ImageAmbiguous(
            f"{name} holds {len(candidates)} images ({_list(hdus, candidates)}): name one, as {name}[{candidates[-1]}] or "
            f"{name}[NAME], or under planes.image of the instrument file"
        )
    raise FitsUnreadable(f"{name} holds no two-dimensional image{_told(hdus)}")


def choose_plane(hdus: fits.HDUList, path: "str | PathLike[str]", *names: str) -> int:
    """Return the number of the extension of a file that holds one plane: the one named with the path, the only one, or one
    that has one of the `names`; errors as for `choose_image`.
    """
    file, choice = split_choice(path)
    images = [k for k, hdu in enumerate(hdus) if _is_image(hdu)]
    if choice is not None:
        return _named(hdus, images, choice, file.name)
    called = [k for k in images if hdus[k].name.upper() in names]
    for found in (images, called):
        if len(found) == 1:
            return found[0]
    if images:
        raise ImageAmbiguous(
            f"{file.name} holds {len(images)} images ({_list(hdus, images)}): name one, as {file.name}[{images[-1]}]"
        )
    raise FitsUnreadable(f"{file.name} holds no two-dimensional image{_told(hdus)}")


def _is_image(hdu: "fits.hdu.base._BaseHDU") -> bool:
    header = hdu.header
    if not isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
        return False
    axes = [int(header.get(f"NAXIS{k + 1}", 0)) for k in range(int(header.get("NAXIS", 0)))]
    return len(axes) >= 2 and min(axes[:2]) > 1 and all(a == 1 for a in axes[2:])


def _matching(hdus: fits.HDUList, images: list[int], plane: int | str) -> list[int]:
    if isinstance(plane, int):
        return [k for k in images if k == plane]
    return [k for k in images if hdus[k].name.upper() == plane.upper()]


def _named(hdus: fits.HDUList, images: list[int], plane: int | str, name: str) -> int:
    found = _matching(hdus, images, plane)
    if not found:
        raise FitsUnreadable(f"{name} holds no image in extension {plane!r}{_told(hdus)}")
    if len(found) > 1:
        raise ImageAmbiguous(
            f"{name} holds {len(found)} images called {plane!r} ({_list(hdus, found)}): name one by number, as {name}[{found[-1]}]"
        )
    return found[0]


def _list(hdus: fits.HDUList, numbers: Iterable[int]) -> str:
    found = list(numbers)
    parts = [f"{k} {hdus[k].name}".strip() + " " + _size(hdus[k].header) for k in found[:12]]
    return ", ".join(parts) + (f" and {len(found) - 12} more" if len(found) > 12 else "")


def _told(hdus: fits.HDUList) -> str:
    return f"; its extensions: {_list(hdus, range(len(hdus)))}"


def _size(header: fits.Header) -> str:
    axes = [str(header.get(f"NAXIS{k + 1}", 0)) for k in range(int(header.get("NAXIS", 0)))]
    return "x".join(axes) if axes else "empty"
