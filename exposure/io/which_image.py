"""Which extension of one open file holds the image, and which its variance or mask: by name, or the only one.

The first of several is never taken silently. `exposure.io.several` speaks of all images of a file.
"""

from collections.abc import Iterable
from os import PathLike

from astropy.io import fits
from astropy.io.fits.verify import VerifyError

from exposure.errors import FitsUnreadable, ImageAmbiguous
from exposure.instrument import Instrument
from exposure.io.opening import split_choice

__all__ = ["choose_image", "choose_plane", "extensions_called", "image_numbers", "plane_beside", "version_of"]

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
        What the caller named: a number, ``NAME`` or ``NAME,VERSION``. It goes before the instrument file.

    Raises
    ------
    FitsUnreadable
        No image, or none where one was named.
    ImageAmbiguous
        Several, and none of them was named.
    """
    if choice is not None:
        return _named(hdus, _images(hdus), choice, name)
    candidates = image_numbers(hdus, rules, name)
    if len(candidates) == 1:
        return candidates[0]
    planes = rules.planes
    if "image" in planes.model_fields_set and extensions_called(hdus, planes.image, candidates):
        return _named(hdus, candidates, planes.image, name)
    raise ImageAmbiguous(
        f"{name} holds {len(candidates)} images ({_list(hdus, candidates)}): name one, as {name}[{candidates[-1]}] or {name}[NAME], or "
        f"under planes.image of the instrument file; alertprod diff --all-images subtracts each of them"
    )


def image_numbers(hdus: fits.HDUList, rules: Instrument, name: str) -> list[int]:
    """Return the numbers of all extensions that hold an image: those that ``planes.image`` names, where it was set and there
    are such, else all that are no companions of an image.

    Raises
    ------
    FitsUnreadable
        None.
    """
    images, planes = _images(hdus), rules.planes
    if "image" in planes.model_fields_set and (numbers := extensions_called(hdus, planes.image, images)):
        return numbers
    beside = (planes.variance, planes.mask, planes.psf, planes.weight, planes.sigma)
    taken = {k for plane in beside if plane is not None for k in extensions_called(hdus, plane, images)}
    numbers = [k for k in images if k not in taken and hdus[k].name.upper() not in _COMPANIONS]
    if not numbers:
        raise FitsUnreadable(f"{name} holds no two-dimensional image{_contents(hdus)}")
    return numbers


def plane_beside(hdus: fits.HDUList, image: int, plane: int | str | None, name: str) -> int | None:
    """Return the number of the extension that holds a plane of an image; None where the file has no such plane.

    Of planes of one name each belongs to the image of its version (EXTVER).

    Raises
    ------
    ImageAmbiguous
        Several, and none of them, or more than one, has the version of the image.
    """
    candidates = [] if plane is None else extensions_called(hdus, plane)
    if not candidates or isinstance(plane, int) or "," in str(plane):
        return candidates[0] if candidates else None
    twins = [k for k in _images(hdus) if hdus[k].name.upper() == hdus[image].name.upper()]
    if len(candidates) == 1 and len(twins) <= 1:
        return candidates[0]
    # of several images of one name the one without a version is the first; the name of another says nothing of versions
    numbered = len(twins) > 1 or "EXTVER" in hdus[image].header
    own = [k for k in candidates if numbered and version_of(hdus[k]) == version_of(hdus[image])]
    if len(own) == 1:
        return own[0]
    raise ImageAmbiguous(
        f"{name}: which of {_list(hdus, candidates)} belongs to the image {_list(hdus, [image])} is not said: give each the EXTVER of "
        "its image, or name one by number in the instrument file"
    )


def choose_plane(hdus: fits.HDUList, path: "str | PathLike[str]", *names: str) -> int:
    """Return the number of the extension of a file that holds one plane: the one named with the path, the only one, or one
    that has one of the `names`; errors as for `choose_image`.
    """
    file, choice = split_choice(path)
    images = _images(hdus)
    if choice is not None:
        return _named(hdus, images, choice, file.name)
    called = [k for k in images if hdus[k].name.upper() in names]
    for numbers in (images, called):
        if len(numbers) == 1:
            return numbers[0]
    if images:
        raise ImageAmbiguous(
            f"{file.name} holds {len(images)} images ({_list(hdus, images)}): name one, as {file.name}[{images[-1]}]"
        )
    raise FitsUnreadable(f"{file.name} holds no two-dimensional image{_contents(hdus)}")


def extensions_called(hdus: fits.HDUList, choice: int | str, among: Iterable[int] | None = None) -> list[int]:
    """Return the numbers of the extensions that a choice names: its number, ``NAME`` or ``NAME,VERSION`` (EXTNAME, EXTVER).

    Parameters
    ----------
    among
        Only these are looked at.
    """
    numbers = range(len(hdus)) if among is None else list(among)
    if isinstance(choice, int):
        return [k for k in numbers if k == choice]
    called = [k for k in numbers if hdus[k].name.upper() == choice.upper()]
    name, comma, version = choice.rpartition(",")
    if called or not comma:
        return called
    named = [k for k in numbers if hdus[k].name.upper() == name.strip(" '\"").upper()]
    return [k for k in named if str(version_of(hdus[k])) == version.strip()]


def version_of(hdu: "fits.hdu.base._BaseHDU") -> int:
    """Return EXTVER; 1 where there is none that can be read, as the standard has it."""
    try:
        return int(hdu.header.get("EXTVER", 1))
    except (ValueError, TypeError, VerifyError):
        return 1


def _images(hdus: fits.HDUList) -> list[int]:
    return [k for k, hdu in enumerate(hdus) if _is_image(hdu)]


def _is_image(hdu: "fits.hdu.base._BaseHDU") -> bool:
    header = hdu.header
    if not isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
        return False
    axes = [int(header.get(f"NAXIS{k + 1}", 0)) for k in range(int(header.get("NAXIS", 0)))]
    return len(axes) >= 2 and min(axes[:2]) > 1 and all(a == 1 for a in axes[2:])


def _named(hdus: fits.HDUList, images: list[int], plane: int | str, name: str) -> int:
    numbers = extensions_called(hdus, plane, images)
    if not numbers:
        raise FitsUnreadable(f"{name} holds no image in extension {plane!r}{_contents(hdus)}")
    if len(numbers) > 1:
        raise ImageAmbiguous(
            f"{name} holds {len(numbers)} images called {plane!r} ({_list(hdus, numbers)}): name one by number, as {name}[{numbers[-1]}], "
            f"or by EXTVER, as {name}[{plane},{version_of(hdus[numbers[-1]])}]"
        )
    return numbers[0]


def _list(hdus: fits.HDUList, numbers: Iterable[int]) -> str:
    listed = list(numbers)
    names = [hdus[k].name for k in listed]
    every = [hdu.name for hdu in hdus]
    called = [
        n if every.count(n) <= 1 or not n else f"{n},{version_of(hdus[k])}" for k, n in zip(listed, names, strict=True)
    ]
    parts = [f"{k} {n}".strip() + f" {_size(hdus[k].header)}" for k, n in zip(listed[:12], called, strict=False)]
    return ", ".join(parts) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")


def _contents(hdus: fits.HDUList) -> str:
    return f"; its extensions: {_list(hdus, range(len(hdus)))}"


def _size(header: fits.Header) -> str:
    axes = [str(header.get(f"NAXIS{k + 1}", 0)) for k in range(int(header.get("NAXIS", 0)))]
    return "x".join(axes) if axes else "empty"
