"""Pixels of a detector that are no good on any frame: maps and lists of regions of an instrument file, and their FITS maps.

Positions are array pixels of the frame as it lies in its file, counted from 0, x along a row; ends are included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from astropy.io import fits
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from exposure.errors import FitsUnreadable, InstrumentError
from tasks.arrays import F32, U8, Box, Flags

if TYPE_CHECKING:
    from exposure.exposure import Exposure
    from exposure.header.cards import Source
    from exposure.instrument import Instrument

__all__ = [
    "DEFECTS", "BadPixelMap", "BadRegion", "BadRegions", "bad_pixels_on", "is_image", "known_offsets", "map_files", "mark_bad_pixels",
    "write_bad_pixel_map",
]  # fmt: skip

DEFECTS = {"hot": 1, "cold": 2, "unstable": 4, "line": 8}  # bits of the maps that are learned: why a pixel is bad
OFFSET, SPREAD = "OFFSET", "SPREAD"  # names of the images beside a map, with the number of the detector
SAME_EXPOSURE = 1.25  # ratio of exposure times that an offset holds for
PixelIndex = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class BadPixelMap:
    """What was learned of one detector.

    Parameters
    ----------
    bits
        Bits of `DEFECTS`, uint8, 0 where good.
    offset, spread
        How far a bad pixel is off, and the scatter of that from frame to frame, in counts; NaN where it jumps.
    """

    bits: U8
    offset: F32
    spread: F32


class BadRegion(BaseModel):
    """One entry of ``bad_pixels``: one of a map, points, columns, rows or a box; of one detector or of all."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    detector: int | None = Field(None, description="the only detector that it holds for; none: all")
    file: str | None = Field(None, description="FITS map, not zero where bad; relative to the instrument file")
    hdu: int | str | None = Field(None, description="the image of the map; none: the one whose DETECTOR card fits")
    point: tuple[PixelIndex, PixelIndex] | None = Field(None, description="x, y")
    points: tuple[tuple[PixelIndex, PixelIndex], ...] | None = Field(None, description="several x, y")
    column: PixelIndex | None = Field(None, description="x of a whole column")
    columns: tuple[PixelIndex, PixelIndex] | None = Field(None, description="first and last x")
    row: PixelIndex | None = Field(None, description="y of a whole row")
    rows: tuple[PixelIndex, PixelIndex] | None = Field(None, description="first and last y")
    box: tuple[PixelIndex, PixelIndex, PixelIndex, PixelIndex] | None = Field(
        None, description="first x, first y, last x, last y"
    )

    @field_validator("file")
    @classmethod
    def _beside_the_instrument_file(cls, value: str | None, info: ValidationInfo) -> str | None:
        folder = (info.context or {}).get("folder")
        return value if value is None or folder is None else str(Path(folder) / value)

    @model_validator(mode="after")
    def _one_shape(self) -> "BadRegion":
        given = [name for name in ("file", *_SHAPES) if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"an entry needs exactly one of file, {', '.join(_SHAPES)}; it has {given or 'none'}")
        if self.hdu is not None and self.file is None:
            raise ValueError("hdu goes with file")
        for name in ("columns", "rows", "box"):
            ends = getattr(self, name)
            if ends is not None and any(
                a > b for a, b in zip(ends[: len(ends) // 2], ends[len(ends) // 2 :], strict=True)
            ):
                raise ValueError(f"{name} {list(ends)} ends before it begins")
        return self

    def boxes(self, width: int, height: int) -> list[Box]:
        """Return what is drawn, as boxes (first x, first y, last x, last y); empty for a map."""
        x, y = width - 1, height - 1
        if self.box is not None:
            return [self.box]
        if self.columns is not None or self.column is not None:
            first, last = self.columns or (self.column or 0, self.column or 0)
            return [(first, 0, last, y)]
        if self.rows is not None or self.row is not None:
            first, last = self.rows or (self.row or 0, self.row or 0)
            return [(0, first, x, last)]
        points = self.points if self.points is not None else () if self.point is None else (self.point,)
        return [(px, py, px, py) for px, py in points]


_SHAPES = ("point", "points", "column", "columns", "row", "rows", "box")


def _entries(value: Any) -> Any:
    """One map may stand without a list, as its path."""
    return ({"file": value},) if isinstance(value, str) else () if value is None else value


BadRegions = Annotated[tuple[BadRegion, ...], BeforeValidator(_entries)]


def mark_bad_pixels(exposure: "Exposure", rules: "Instrument", header: "Source", name: str) -> None:
    """Set BAD on the pixels that the instrument file says are bad.

    A native exposure of another instrument, or of none, lies on other pixels and is left as it is, unless the map was
    given for it.

    Raises
    ------
    InstrumentError
        See `bad_pixels_on`; or the header does not say which detector this is, and an entry asks for it.
    """
    if not rules.bad_pixels:
        return
    info = exposure.visit_info
    if "ALERTPRD" in header and rules.bad_pixels_from is None and (info is None or info.instrument != rules.name):
        return
    detector = info.detector if info is not None else _detector(rules, header)
    exposure.set_plane("BAD", bad_pixels_on(rules.bad_pixels, exposure.bbox, detector, name))
    exposure.metadata["badPixelMaps"] = map_files(rules)
    if detector is not None:
        exposure.metadata["detector"] = detector


def map_files(rules: "Instrument") -> tuple[str, ...]:
    """Return the paths that the bad pixels of an instrument come from: what was given instead of its file's, its maps."""
    every = (rules.bad_pixels_from, *(r.file for r in rules.bad_pixels))
    return tuple(dict.fromkeys(path for path in every if path is not None))


def _detector(rules: "Instrument", header: "Source") -> int | None:
    """Return which detector a header names; None where it does not say and nothing asks."""
    try:
        return int(rules.detector.number(header))
    except InstrumentError as error:
        if any(r.detector is not None for r in rules.bad_pixels):
            raise InstrumentError(f"bad_pixels of instrument {rules.name} go by detector, and {error}") from error
        return None


def bad_pixels_on(regions: Sequence[BadRegion], bbox: Box, detector: int | None, name: str) -> Flags:
    """Return the bad pixels of a frame.

    Parameters
    ----------
    bbox
        First x, first y, width, height (px): a part of a frame has an origin of its own.
    detector
        Its detector; None where no entry asks for it.
    name
        What the frame is called in messages.

    Raises
    ------
    InstrumentError
        A map is missing, is no image, or does not fit the frame; a region lies outside of it.
    """
    x0, y0, width, height = bbox
    out = np.zeros((height, width), np.bool_)
    for region in regions:
        if region.detector is not None and region.detector != detector:
            continue
        if region.file is not None:
            bad_map = _map(region.file, region.hdu, detector).bad
            if (x0, y0) == (0, 0) and bad_map.shape != out.shape:
                raise InstrumentError(
                    f"the bad-pixel map {region.file} is of {bad_map.shape[1]} x {bad_map.shape[0]} px, {name} of "
                    f"{width} x {height}: give bad_pixels a map of the frame's size"
                )
            part = bad_map[max(y0, 0) : max(y0 + height, 0), max(x0, 0) : max(x0 + width, 0)]
            out[max(-y0, 0) :, max(-x0, 0) :][: part.shape[0], : part.shape[1]] |= part
        for left, low, right, high in region.boxes(x0 + width, y0 + height):
            if (x0, y0) == (0, 0) and (left >= width or low >= height):
                raise InstrumentError(
                    f"bad_pixels has a region at x={left}, y={low}, outside of {name} of {width} x {height} px: "
                    "positions are counted from 0"
                )
            out[max(low - y0, 0) : max(high + 1 - y0, 0), max(left - x0, 0) : max(right + 1 - x0, 0)] = True
    return out


def known_offsets(regions: Sequence[BadRegion], exposure: "Exposure") -> tuple[F32, F32]:
    """Return offset and scatter (counts), each (height, width), of pixels whose map tells them, NaN elsewhere.

    They hold for exposures about as long as those that they were learned on.
    """
    offset, scatter = (np.full(exposure.image.shape, np.nan, np.float32) for _ in range(2))
    detector = exposure.metadata.get("detector")
    seconds = None if exposure.visit_info is None else exposure.visit_info.exposure_time
    for region in regions:
        if region.file is None or exposure.origin != (0, 0) or region.detector not in (None, detector):
            continue
        bad_map = _map(region.file, region.hdu, detector)
        learned = bad_map.seconds
        fits_time = seconds is None or learned is None or 1 / SAME_EXPOSURE < seconds / learned < SAME_EXPOSURE
        if bad_map.offset is not None and bad_map.scatter is not None and fits_time:
            np.copyto(offset, bad_map.offset, where=bad_map.bad)
            np.copyto(scatter, bad_map.scatter, where=bad_map.bad)
    return offset, scatter


@dataclass(frozen=True)
class _Map:
    """What a FITS file says of one detector: planes (height, width) and the exposure time they were learned at, s."""

    bad: Flags
    offset: F32 | None
    scatter: F32 | None
    seconds: float | None


def _map(path: str, hdu: int | str | None, detector: int | None) -> _Map:
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError as error:
        raise InstrumentError(
            f"the bad-pixel map {path} cannot be read ({error.strerror}): bad_pixels is a path relative to the "
            "instrument file"
        ) from error
    return _read_map(path, hdu, detector, changed)


@lru_cache(maxsize=64)
def _read_map(path: str, hdu: int | str | None, detector: int | None, changed: int) -> _Map:
    """Return a map and what lies beside it; `changed` makes a map that was written again another one."""
    from exposure.io.native import open_fits, read_image

    try:
        with open_fits(path) as hdus:
            where = _image_of(hdus, detector, path) if hdu is None else hdu
            bad = read_image(hdus, where) != 0
            number, beside = hdus[where].header.get("DETECTOR"), {h.name for h in hdus}
            offset, scatter = (
                read_image(hdus, f"{name}{number}") if f"{name}{number}" in beside else None
                for name in (OFFSET, SPREAD)
            )
            seconds = hdus[0].header.get("EXPTIME")
    except FitsUnreadable as error:
        raise InstrumentError(f"the bad-pixel map {path} cannot be read: {error}") from error
    return _Map(bad, offset, scatter, None if seconds is None else float(seconds))


def is_image(hdu: Any) -> bool:
    """Return whether an HDU has an image of two axes, compressed or not."""
    return isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU) and len(hdu.shape) == 2


def _image_of(hdus: fits.HDUList, detector: int | None, path: str) -> int:
    """Return which HDU is the map of a detector: the one whose DETECTOR card says so, else the only image."""
    images = [k for k, h in enumerate(hdus) if is_image(h) and not h.name.startswith((OFFSET, SPREAD))]
    named = {int(hdus[k].header["DETECTOR"]): k for k in images if "DETECTOR" in hdus[k].header}
    if detector is not None and detector in named:
        return named[detector]
    if len(images) == 1 and not (named and detector is not None):
        return images[0]
    raise InstrumentError(
        f"the bad-pixel map {path} has {len(images)} images, of the detectors {sorted(named) or 'that none names'}; none "
        f"is that of detector {detector}: set hdu, or the DETECTOR card"
    )


def write_bad_pixel_map(
    path: "str | PathLike[str]", maps: Mapping[int, BadPixelMap], cards: Mapping[str, Any] | None = None
) -> None:
    """Write maps by detector as one FITS file: three images each, the first with the bits and a DETECTOR card.

    A card EXPTIME says for which exposure time the offsets hold.
    """
    primary = fits.PrimaryHDU()
    primary.header.update(dict(cards or {}))
    hdus: list[Any] = [primary]
    for detector, data in sorted(maps.items()):
        hdu = fits.ImageHDU(data.bits, name=f"BADPIX{detector}")
        hdu.header["DETECTOR"] = detector
        for name, bit in DEFECTS.items():
            hdu.header[f"BIT_{name[:4]}".upper()] = (bit, f"{name} pixels")
        hdus += [hdu, fits.ImageHDU(data.offset, name=f"{OFFSET}{detector}")]
        hdus.append(fits.ImageHDU(data.spread, name=f"{SPREAD}{detector}"))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path, overwrite=True)
