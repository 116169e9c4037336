"""Small pictures for notebooks, made here: PNG files of one byte per pixel, no drawing library is loaded."""

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MASKED", "MASKED_COLOUR", "Facts", "grey_index", "grey_palette", "grey_png", "html_block", "img", "indexed_gif", "indexed_png",
]  # fmt: skip

MASKED = 255  # index of the colour of masked pixels; the indices below are greys
MASKED_COLOUR = (70, 110, 190)
CODES_KEPT = 250  # pixels of a GIF between two clearings of its table: 254 more codes would be longer
SOFTENING = 3.0  # noise sigma at which the asinh turns from linear to logarithmic
SIGMA_PER_MAD = 1.4826  # standard deviation of a Gaussian in units of its median absolute deviation
Facts = list[tuple[str, str]]


def grey_png(mean: NDArray[np.floating[Any]], shown: NDArray[np.bool_], signed: bool = False) -> bytes:
    """Return a PNG of an image, first row at the bottom, asinh stretch around the median, masked pixels in blue.

    Parameters
    ----------
    mean, shown
        Pixels and whether each is shown, shape (height, width).
    signed
        Zero is the middle grey, and the scale is the same on both sides (differences).
    """
    return indexed_png(grey_index(mean, shown, signed), grey_palette())


def grey_index(mean: NDArray[np.floating[Any]], shown: NDArray[np.bool_], signed: bool = False) -> NDArray[np.uint8]:
    """Return what `grey_png` draws as indices into `grey_palette`, shape (height, width), the first row on top."""
    values = mean[shown]
    middle = 0.0 if signed or not values.size else float(np.median(values))
    noise = SIGMA_PER_MAD * float(np.median(np.abs(values - middle))) if values.size else 1.0
    stretched = np.arcsinh((mean - middle) / (SOFTENING * (noise or 1.0)))
    inner = stretched[shown]
    top = max(float(np.percentile(inner, 99.9)) if inner.size else 1.0, 1.0)
    low = -top if signed else -0.7
    index = np.clip(np.rint((stretched - low) / (top - low) * (MASKED - 1)), 0, MASKED - 1)
    return np.where(shown, np.nan_to_num(index), MASKED).astype(np.uint8)[::-1]


def grey_palette() -> NDArray[np.uint8]:
    """Return greys from black to white, and the colour of masked pixels as the last of 256, shape (256, 3)."""
    greys = np.repeat(np.round(np.linspace(0, 255, MASKED)).astype(np.uint8)[:, None], 3, axis=1)
    return np.concatenate([greys, np.array([MASKED_COLOUR], np.uint8)])


def indexed_png(index: NDArray[np.uint8], palette: NDArray[np.uint8], alpha: NDArray[np.uint8] | None = None) -> bytes:
    """Return a PNG of one byte per pixel, an index into colours.

    Parameters
    ----------
    index
        Shape (height, width), the first row on top.
    palette
        Red, green, blue, shape (n, 3).
    alpha
        Opacity of each colour, shape (n,); all are opaque without it.
    """
    height, width = index.shape
    rows = np.zeros((height, width + 1), np.uint8)  # every row begins with the number of its filter, 0
    rows[:, 1:] = index
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", palette.tobytes()),
            *(() if alpha is None else ((b"tRNS", alpha.tobytes()),)),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def indexed_gif(frames: Sequence[NDArray[np.uint8]], palette: NDArray[np.uint8], seconds: float) -> bytes:
    """Return a GIF that shows pictures of one size by turns, for ever; nothing is packed.

    The table of codes begins anew before it would need longer ones (GIF89a, appendix F), so that each pixel is its index in 9 bits.

    Parameters
    ----------
    frames
        Indices into 256 colours, shape (height, width), the first row on top.
    palette
        Red, green, blue, shape (256, 3).
    seconds
        How long each is shown.
    """
    height, width = frames[0].shape
    out = [b"GIF89a", struct.pack("<HHBBB", width, height, 0xF7, 0, 0), palette.astype(np.uint8).tobytes()]
    out.append(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
    for frame in frames:
        out.append(struct.pack("<BBBBHBB", 0x21, 0xF9, 4, 4, round(100 * seconds), 0, 0))
        out.append(struct.pack("<BHHHHBB", 0x2C, 0, 0, width, height, 0, 8))
        data = _unpacked_codes(frame)
        out += [bytes([len(data[k : k + 255])]) + data[k : k + 255] for k in range(0, len(data), 255)]
        out.append(b"\x00")
    return b"".join([*out, b"\x3b"])


def _unpacked_codes(frame: NDArray[np.uint8]) -> bytes:
    """Return the codes of a picture: a clearing one (256) before every `CODES_KEPT` pixels, and the end (257)."""
    pixels = frame.astype(np.uint16).ravel()
    codes = np.insert(pixels, np.arange(0, pixels.size, CODES_KEPT), 256)
    codes = np.append(codes, np.uint16(257))
    bits = (codes[:, None] >> np.arange(9)) & 1  # the lowest comes first
    return np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()


def img(png: bytes, label: str) -> str:
    """Return an ``img`` element that holds its picture itself."""
    data = base64.b64encode(png).decode("ascii")
    style = "image-rendering:pixelated;min-width:128px"
    return f'<img src="data:image/png;base64,{data}" alt="{escape(label)}" title="{escape(label)}" style="{style}">'


def html_block(title: str, pictures: Iterable[str], table: Facts) -> str:
    """Return pictures beside a table of facts; title and facts are escaped here."""
    rows = "".join(f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in table)
    return (
        f"<div><b>{escape(title)}</b><div style='display:flex;gap:1em;align-items:flex-start'>"
        f"{''.join(pictures)}<table>{rows}</table></div></div>"
    )
