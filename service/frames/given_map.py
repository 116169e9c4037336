"""A map of bad pixels that a command is given: it takes the place of what the instrument file says, and is checked first."""

from collections.abc import Iterable
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from exposure import Instrument
from exposure.errors import InstrumentError
from exposure.flagging.bad_pixels import BadRegion, BadRegions, bad_pixels_on, is_image, map_files
from exposure.io.native import open_fits
from exposure.io.opening import split_choice
from exposure.io.plain import header_visit_info
from exposure.io.which_image import choose_image
from service.checksums import checksum
from tasks.arrays import Box
from tasks.errors import AlertProdError

__all__ = ["check_fits_some", "maps_of", "with_bad_pixels"]

LISTS = (".yaml", ".yml")
MAX_LIST = 1 << 24  # bytes of a list of regions


def with_bad_pixels(rules: Instrument, given: Path | None) -> Instrument:
    """Return an instrument whose bad pixels are those of a file, whatever its own file says of them.

    Parameters
    ----------
    given
        A FITS map, maybe with its extension (``map.fits[CCD3]``), or a list of regions as an instrument file has them
        (``.yaml``, ``.yml``). None leaves the instrument as it is.

    Raises
    ------
    InstrumentError
        It is not there, is no FITS, has no image, or is no list of regions.
    """
    if given is None:
        return rules
    file, choice = split_choice(given.absolute())
    if not file.is_file():
        raise InstrumentError(
            f"the bad-pixel map {file} cannot be read (no such file): give a FITS map, or a list of regions (.yaml)"
        )
    regions = _listed(file) if file.suffix.lower() in LISTS else (BadRegion(file=str(file), hdu=choice),)
    for region in regions:
        if region.file is not None:
            _check_image(Path(region.file), region.hdu)
    return rules.model_copy(update={"bad_pixels": regions, "bad_pixels_from": str(file)})


def _listed(file: Path) -> tuple[BadRegion, ...]:
    """Return the regions of a list: that of the file itself, or what stands in it under ``bad_pixels``."""
    try:
        with file.open(encoding="utf-8") as opened:
            value = yaml.safe_load(opened.read(MAX_LIST))
        value = value.get("bad_pixels") if isinstance(value, dict) else value
        if not isinstance(value, list):
            raise ValueError("expected a list of regions, such as '- {column: 1021}'")
        return TypeAdapter(BadRegions).validate_python(value, context={"folder": file.parent})
    except (ValidationError, ValueError, yaml.YAMLError, OSError, RecursionError) as error:
        raise InstrumentError(f"the list of bad pixels {file} cannot be used: {error}") from error


def _check_image(file: Path, choice: int | str | None) -> None:
    try:
        with open_fits(file) as hdus:
            images = [h for h in (hdus if choice is None else [hdus[choice]]) if is_image(h)]
    except (AlertProdError, KeyError, IndexError) as error:
        raise InstrumentError(
            f"the bad-pixel map {file} cannot be read: {error}; give a FITS image of the frame's size that is not zero "
            "where a pixel is bad, or a list of regions (.yaml)"
        ) from error
    if not images:
        raise InstrumentError(f"the bad-pixel map {file} holds no image: give one of the frame's size")


def check_fits_some(rules: Instrument, frames: Iterable[Path]) -> None:
    """Check, by their headers, that the bad pixels of an instrument fit one of the frames at least.

    Frames that cannot be read are passed over: what is wrong with them is said where they are processed.

    Raises
    ------
    InstrumentError
        They fit none of those that can be read; what is wrong with the first.
    """
    first: InstrumentError | None = None
    for path in frames:
        try:
            bbox, detector, name = _measures(path, rules)
        except (AlertProdError, OSError, ValueError, KeyError):
            continue
        try:
            bad_pixels_on(rules.bad_pixels, bbox, detector, name)
        except InstrumentError as error:
            first = first or error
            continue
        return
    if first is not None:
        raise first


def _measures(path: Path, rules: Instrument) -> tuple[Box, int, str]:
    """Return the box of a frame in its file, its detector and its name."""
    with open_fits(path) as hdus:
        file, choice = split_choice(path)
        hdu = "IMAGE" if "ALERTPRD" in hdus[0].header else choose_image(hdus, rules, file.name, choice)
        axes = [n for n in hdus[hdu].shape if n != 1]  # those of length 1 are left out
        height, width = axes if len(axes) == 2 else hdus[hdu].shape[-2:]
        return (0, 0, int(width), int(height)), header_visit_info(hdus, rules, name=path).detector, file.name


def maps_of(rules: Instrument) -> list[dict[str, str]]:
    """Return path and SHA-256 of each file that the bad pixels of an instrument come from."""
    return [{"file": file, "sha256": checksum(Path(file))} for file in map_files(rules)]
