"""The lowest layer of reading: a file opened and checked, and single extensions as float32 pixels or int32 mask bits.

Sizes that the headers promise are checked against the file before any data are read. Nothing here knows of exposures.
"""

import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError, VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from exposure.errors import ExposureError, FitsUnreadable
from exposure.header.cards import unreadable_card
from exposure.io.unpack import unpacked
from exposure.mask import plane_bits, remap
from exposure.threads import in_bands
from tasks.arrays import F32, I32

__all__ = ["MAX_PIXELS", "open_fits", "read_image", "read_mask", "split_choice"]

MAX_PIXELS = 1 << 28  # 16k x 16k: a header that promises more is refused before any data are read
BLOCK = 2880
ROWS = 64  # that are scaled at once: no second copy of a whole frame
_CHOICE = re.compile(r"(?P<file>.+)\[(?P<ext>[^\[\]]+)\]")


class _Reading:
    """How warnings are taken while any thread reads: filters are the process's, so the first sets and the last restores them."""

    def __init__(self) -> None:
        self._lock, self._readers, self._before = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._before.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", VerifyWarning)
                warnings.simplefilter("ignore", AstropyUserWarning)  # what matters of it is checked here
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._before.close()


_READING = _Reading()


def split_choice(path: "str | PathLike[str]") -> tuple[Path, int | str | None]:
    """Return the path of a file and the extension chosen with it: ``mosaic.fits[CCD3]``, ``[3]``, ``[SCI,2]``."""
    match = _CHOICE.fullmatch(os.fspath(path))
    if match is None or Path(path).exists():
        return Path(path), None
    ext = match["ext"].strip(" '\"")
    return Path(match["file"]), int(ext) if ext.isdigit() else ext


@contextmanager
def open_fits(path: "str | PathLike[str] | IO[bytes]") -> Iterator[fits.HDUList]:
    """Open a FITS file for reading, compressed or not, and check what its headers promise before any data are touched.

    Integer pixels come as they are stored: `read_image` and `read_mask` give their values.

    Raises
    ------
    FitsUnreadable
        No file, no FITS, cut short, larger than `MAX_PIXELS`, or written to while it was read.
    """
    named = isinstance(path, str | os.PathLike)
    name = split_choice(path)[0].name if isinstance(path, str | os.PathLike) else "FITS bytes"
    try:
        with _READING, ExitStack() as stack:
            handle: IO[bytes] = stack.enter_context(_regular(split_choice(path)[0])) if named else path  # type: ignore[arg-type, assignment]
            content = unpacked(handle, name, 8 * MAX_PIXELS)
            # read, never mapped: a file that is cut short while it is mapped ends the process
            with fits.open(content, memmap=False, lazy_load_hdus=False, do_not_scale_image_data=True) as hdus:
                with _unchanged(handle, name) if named else nullcontext():
                    _check_sizes(hdus, content, name)
                    yield hdus
    except ExposureError:
        raise
    except (OSError, EOFError, TypeError, ValueError, KeyError, IndexError, VerifyError, MemoryError) as error:
        card = unreadable_card(split_choice(path)[0]) if isinstance(path, str | os.PathLike) else None
        raise FitsUnreadable(f"{name} cannot be read as FITS: {card or str(error) or type(error).__name__}") from error


def _regular(path: Path) -> IO[bytes]:
    """Open a regular file: a pipe would be waited for, a device has no end.

    Raises
    ------
    FitsUnreadable
        It is something else.
    OSError
        It cannot be opened.
    """
    handle = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 (the caller's)
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise FitsUnreadable(f"{path.name} cannot be read as FITS: it is no regular file")
    return handle


@contextmanager
def _unchanged(handle: IO[bytes], name: str) -> Iterator[None]:
    """Refuse a file that is written to in the body (`FitsUnreadable`), whatever error that led to."""
    before, failed = _state_of(handle), None
    try:
        yield
    except Exception as error:
        if _state_of(handle) == before:
            raise
        failed = error
    if _state_of(handle) != before:
        text = f"{name} was changed while it was read: write it under another name, and rename it when it is whole"
        raise FitsUnreadable(text) from failed


def _state_of(handle: IO[bytes]) -> tuple[int, int]:
    """Return what tells that an open file was written to: its size and the time of its last change (ns)."""
    found = os.fstat(handle.fileno())
    return found.st_size, found.st_mtime_ns


def _check_sizes(hdus: fits.HDUList, content: IO[bytes], name: str) -> None:
    """Refuse arrays that are too large, and a file that ends before its data do or within a header."""
    position = content.tell()
    length = content.seek(0, os.SEEK_END)
    end = 0
    for k, hdu in enumerate(hdus):
        if not hasattr(hdu, "fileinfo"):  # what astropy makes of a header that it cannot use
            raise FitsUnreadable(f"{name} cannot be read as FITS: the header of extension {k} is broken")
        axes = _axes(hdu.header)
        if any(a < 0 for a in axes) or (axes and np.prod([float(a) for a in axes]) > MAX_PIXELS):
            raise FitsUnreadable(f"{name} promises an array of {axes} pixels, more than {MAX_PIXELS}: refused")
        layout = hdu.fileinfo()
        end = int(layout["datLoc"]) + int(layout["datSpan"])
        plain = "ZIMAGE" not in hdu.header and not isinstance(hdu, fits.CompImageHDU)
        if length < end - (BLOCK - 1 if plain else 0) or (plain and length < int(layout["datLoc"]) + hdu.size):
            raise FitsUnreadable(
                f"{name} is truncated: {length} bytes where its headers promise {end}; fetch or write it again"
            )
    content.seek(min(end, length))
    if content.read(8) == b"XTENSION":
        raise FitsUnreadable(
            f"{name} is truncated or broken within the header of extension {len(hdus)}: write it again"
        )
    content.seek(position)


def _axes(header: fits.Header) -> list[int]:
    return [int(header.get(f"NAXIS{k + 1}", 0)) for k in range(int(header.get("NAXIS", 0)))]


def read_image(hdus: fits.HDUList, ext: int | str) -> F32:
    """Return the pixels of one extension as native float32: scaled by BSCALE and BZERO, NaN where BLANK stands.

    Leading axes of length 1 are left out.

    Raises
    ------
    FitsUnreadable
        No such extension, or no two-dimensional image in it.
    """
    hdu = _extension(hdus, ext)
    data = _stored(hdu, ext)
    scale, zero, blank = _scaling(hdu.header, data.dtype)
    if data.dtype.kind != "f" and (scale, zero, blank) != (1.0, 0.0, None):
        pixels = np.empty(data.shape, np.float32)
        in_bands(lambda first, last: _scale(data, scale, zero, blank, pixels, first, last), data.shape[0])
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # what is beyond single precision has no value: infinity
            pixels = np.ascontiguousarray(data, dtype=np.float32)
            if (scale, zero) != (1.0, 0.0):
                pixels = (pixels * np.float32(scale) + np.float32(zero)).astype(np.float32)
    _let_go(hdu)
    return pixels


def read_mask(hdu: Any, names: dict[str, int]) -> I32:
    """Return a mask with our bits, of an extension whose planes have bits of its own (name -> bit).

    Where nobody names a bit, pixels that are not 0 are ``BAD``.

    Raises
    ------
    FitsUnreadable
        It holds no two-dimensional image of integers (or, where no bit is named, of floats).
    """
    data = _stored(hdu, hdu.name)
    scale, zero, _ = _scaling(hdu.header, data.dtype)
    flags = data.dtype.kind == "f" and not names  # programs that know only floats write flags as such
    if data.dtype.kind not in "iu" and not flags:
        raise FitsUnreadable(
            f"the mask in extension {hdu.name!r} holds no integers but {data.dtype.name}, which have no bits to name: write "
            "it as integers"
        )
    if scale != 1 or zero != int(zero) or (flags and zero):
        raise FitsUnreadable(
            f"the mask in extension {hdu.name!r} is scaled by BSCALE={scale}, BZERO={zero}: bits are not"
        )
    values = data if zero == 0 else _unsigned(data, int(zero))
    own = remap(values, names) if names else np.where(values != 0, np.int32(plane_bits(["BAD"])), np.int32(0))
    _let_go(hdu)
    return own


def _extension(hdus: fits.HDUList, ext: int | str) -> Any:
    try:
        return hdus[ext]
    except (KeyError, IndexError) as error:
        raise FitsUnreadable(f"no extension {ext!r} in the file") from error


def _stored(hdu: Any, ext: int | str) -> NDArray[Any]:
    """Return the two axes of an image as they are stored.

    Raises
    ------
    FitsUnreadable
        There is no such image, or its content is broken.
    """
    try:
        data = hdu.data
    except ExposureError:
        raise
    except Exception as error:  # what decoders raise on broken tiles is their own affair
        raise FitsUnreadable(
            f"the pixels of extension {ext!r} cannot be read: {error or type(error).__name__}"
        ) from error
    if not isinstance(data, np.ndarray) or data.dtype.names is not None or data.ndim < 2:
        raise FitsUnreadable(f"extension {ext!r} holds no two-dimensional image")
    if any(n != 1 for n in data.shape[:-2]):
        raise FitsUnreadable(
            f"extension {ext!r} holds a cube of shape {data.shape}, not one image: write the plane that is meant to a file"
        )
    return data.reshape(data.shape[-2:])


def _scaling(header: fits.Header, dtype: np.dtype[Any]) -> tuple[float, float, int | None]:
    """Return BSCALE, BZERO and (of integers) BLANK.

    Raises
    ------
    FitsUnreadable
        A card is no finite number.
    """
    values = {"BSCALE": 1.0, "BZERO": 0.0, "BLANK": float("nan")}
    for key in values:
        value = header.get(key)
        if value is not None and (not isinstance(value, int | float) or not np.isfinite(value)):
            raise FitsUnreadable(f"{key}={value!r} is no finite number")
        values[key] = values[key] if value is None else value
    if values["BSCALE"] == 0:
        raise FitsUnreadable("BSCALE=0 leaves nothing of the pixels")
    blank = None if dtype.kind == "f" or "BLANK" not in header else int(values["BLANK"])
    return float(values["BSCALE"]), float(values["BZERO"]), blank


def _unsigned(data: NDArray[Any], zero: int) -> NDArray[Any]:
    """Return integers plus an integer, exactly: half of the range makes signed numbers unsigned, and the reverse."""
    bits = 8 * data.dtype.itemsize
    if data.dtype.kind == "i" and zero == 1 << (bits - 1):
        native = data.astype(data.dtype.newbyteorder("="))
        return np.asarray(native.view(f"u{data.dtype.itemsize}") ^ np.array(zero, f"u{data.dtype.itemsize}"))
    return data.astype(np.int64) + zero


def _scale(data: NDArray[Any], scale: float, zero: float, blank: int | None, out: F32, first: int, last: int) -> None:
    """Write the values of some rows; 64-bit steps between, as integers of 32 bits and more need them."""
    for top in range(first, last, ROWS):
        part = data[top : min(top + ROWS, last)]
        if scale == 1 and zero == int(zero) and (abs(zero) < 1 << 62 or zero == 1 << (8 * part.itemsize - 1)):
            values = _unsigned(part, int(zero)).astype(np.float32)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                values = (part.astype(np.float64) * scale + zero).astype(np.float32)
        if blank is not None:
            values[part == blank] = np.nan
        out[top : top + len(part)] = values


def _let_go(hdu: Any) -> None:
    """Let an extension forget what it read: pixels that were copied need not be there twice."""
    vars(hdu).pop("data", None)
