"""Files out: an exposure in the layout that `exposure.io.native` describes, and binary tables with units.

A file is written beside its place and moved there when it is complete.
"""

import bz2
import gzip
import lzma
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from numpy.typing import NDArray

from exposure.exposure import Exposure
from exposure.io import parts
from exposure.mask import PLANES

__all__ = ["LAYOUT", "PACKED", "replaced", "write_exposure", "write_table"]

LAYOUT = 1
PACKED = (".gz", ".bz2", ".xz")  # endings of files that are packed as a whole
TILES = ".fz"  # ending of files whose images are compressed in tiles


class Described(Protocol):
    """A column's unit and meaning."""

    @property
    def unit(self) -> str:
        """As FITS writes it, empty for none."""

    @property
    def meaning(self) -> str:
        """In words."""


@contextmanager
def replaced(path: "str | PathLike[str]") -> Iterator[Path]:
    """Yield the name of a file to be written; it takes the place of `path` when it is whole, and is gone when it fails."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_exposure(
    exposure: Exposure,
    path: "str | PathLike[str]",
    compress: bool = False,
    *,
    cards: fits.Header | None = None,
    unit: str = "",
) -> None:
    """Write an exposure in the layout of this module; what `read_exposure` gives back is equal to the last bit.

    A name that ends in ``.gz``, ``.bz2`` or ``.xz`` is packed, one in ``.fz`` compressed in tiles; equal exposures give
    equal bytes.

    Parameters
    ----------
    compress
        Tile compression without loss (GZIP_2; floats are not quantised).
    cards
        More cards of the primary header.
    unit
        BUNIT of the image; none where it is empty.
    """
    compress = compress or Path(path).suffix.lower() == TILES
    primary = fits.PrimaryHDU()
    primary.header["ALERTPRD"] = (LAYOUT, "layout version of alertprod exposures")
    parts.write_visit_info(primary.header, exposure)
    image_header = exposure.wcs.to_header(exposure.origin) if exposure.wcs is not None else fits.Header()
    image_header["ALERTPRD"] = LAYOUT
    image_header["LTV1"], image_header["LTV2"] = -exposure.origin[0], -exposure.origin[1]
    variance_header = fits.Header()
    if unit:
        image_header["BUNIT"], variance_header["BUNIT"] = unit, f"({unit})**2"
    mask_header = fits.Header()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)  # names longer than 8 characters become HIERARCH cards
        for name, bit in PLANES.items():
            mask_header[f"MP_{name}"] = bit
    hdus: list[Any] = [primary]
    for name, data, header in (
        ("IMAGE", exposure.image, image_header),
        ("MASK", exposure.mask, mask_header),
        ("VARIANCE", exposure.variance, variance_header),
    ):
        hdus.append(_pixels_hdu(name, data, header, compress))
    if exposure.psf is not None:
        hdus += [parts.psf_hdu(exposure.psf), *parts.photon_noise_hdus(exposure.psf)]
    hdus += parts.photo_calib_hdus(primary.header, exposure.photo_calib) + parts.ap_corr_hdus(exposure.ap_corr)
    if cards is not None:
        primary.header.extend(cards, end=True)
    with replaced(path) as partial:
        with partial.open("wb") as file:
            fits.HDUList(hdus).writeto(file, output_verify="silentfix")
        if compress:
            _clear_gzip_times(partial)
        _pack(partial, Path(path).suffix.lower())


def _pack(path: Path, ending: str) -> None:
    """Pack a file as its name's ending says; without the time and the name that gzip would note."""
    if ending not in PACKED:
        return
    plain = path.with_name(path.name + ".plain")
    try:
        os.replace(path, plain)
        with plain.open("rb") as source, path.open("wb") as sink, _packer(sink, ending) as packed:
            shutil.copyfileobj(source, packed, 1 << 20)
    finally:
        plain.unlink(missing_ok=True)


def _packer(sink: IO[bytes], ending: str) -> Any:
    if ending == ".gz":
        return gzip.GzipFile("", "wb", compresslevel=4, fileobj=sink, mtime=0)
    return bz2.BZ2File(sink, "wb") if ending == ".bz2" else lzma.LZMAFile(sink, "wb", preset=1)


def write_table(
    path: "str | PathLike[str]",
    name: str,
    rows: Mapping[str, NDArray[Any]],
    columns: Mapping[str, Described],
    cards: Mapping[str, Any],
) -> None:
    """Write a binary table with units (TUNIT), meanings (TCOMM) and further cards.

    Parameters
    ----------
    rows
        Columns of shape (N,): numbers, booleans, texts of one length.
    columns
        What they are.
    """
    table = fits.BinTableHDU.from_columns(
        [fits.Column(c, _form(values), unit=columns[c].unit or None, array=values) for c, values in rows.items()],
        name=name,
    )
    for number, c in enumerate(rows, start=1):
        table.header.set(f"TCOMM{number}", columns[c].meaning, after=f"TFORM{number}")
    table.header.extend(fits.Header(cards), end=True)
    with Path(path).open("wb") as file:
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(file, output_verify="exception")


def _form(values: NDArray[Any]) -> str:
    if values.dtype.kind == "U":
        return f"{max(values.dtype.itemsize // 4, 1)}A"
    return {"b1": "L", "i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D"}[values.dtype.str[1:]]


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
