"""Small pictures for notebooks, made here: PNG files of one byte per pixel, no drawing library is loaded."""

import base64
import struct
import zlib
from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MASKED", "MASKED_COLOUR", "Facts", "grey_palette", "grey_png", "html_block", "img", "indexed_png"]

MASKED = 255  # index of the colour of masked pixels; the indices below are greys
MASKED_COLOUR = (70, 110, 190)
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
    values = mean[shown]
    middle = 0.0 if signed or not values.size else float(np.median(values))
    noise = SIGMA_PER_MAD * float(np.median(np.abs(values - middle))) if values.size else 1.0
    stretched = np.arcsinh((mean - middle) / (SOFTENING * (noise or 1.0)))
    inner = stretched[shown]
    top = max(float(np.percentile(inner, 99.9)) if inner.size else 1.0, 1.0)
    low = -top if signed else -0.7
    index = np.clip(np.rint((stretched - low) / (top - low) * (MASKED - 1)), 0, MASKED - 1)
    return indexed_png(np.where(shown, np.nan_to_num(index), MASKED).astype(np.uint8)[::-1], grey_palette())


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
