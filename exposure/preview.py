"""How an exposure shows itself to people: a line of text, a small picture, a table of facts.

Pictures are PNG files of one byte per pixel, made here: no drawing library is loaded. Whatever text comes from a header
is escaped before it goes into HTML.
"""

import base64
import struct
import zlib
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exposure.errors import PsfUndefined, WcsMissing
from exposure.mask import plane_bits
from exposure.psf import Psf, fwhm_of
from exposure.quantiles import scatter_about
from tasks.arrays import F32, F64, U8, Flags

if TYPE_CHECKING:
    from exposure.exposure import Exposure
    from exposure.wcs.sky_wcs import SkyWcs

__all__ = [
    "BAD_PLANES",
    "describe",
    "exposure_html",
    "facts",
    "good_pixels",
    "grey_palette",
    "grey_png",
    "html_block",
    "indexed_png",
    "picture",
]

SHOWN = 256  # px of a picture's longer side: 64 kB before they are written as text, whatever they show
BAD_PLANES = ("NO_DATA", "BAD", "SAT", "CR")
MASKED = 255  # index of the colour of masked pixels; the indices below are greys
MASKED_COLOUR = (70, 110, 190)
SOFTENING = 3.0  # noise sigma at which the asinh turns from linear to logarithmic
Facts = list[tuple[str, str]]


def good_pixels(exposure: "Exposure") -> Flags:
    """Return the pixels that people would look at: finite, none of `BAD_PLANES`; a missing variance plane is no fault."""
    good = np.isfinite(exposure.image) & ((exposure.mask & plane_bits(BAD_PLANES)) == 0)
    if np.isfinite(exposure.variance).any():
        good &= exposure.variance > 0
    return np.asarray(good, np.bool_)


def facts(exposure: "Exposure") -> Facts:
    """Return what there is to say about an exposure, as (name, text)."""
    out = [("size", f"{exposure.width} x {exposure.height} px")]
    if exposure.origin != (0, 0):
        out.append(("origin", f"({exposure.origin[0]}, {exposure.origin[1]})"))
    if exposure.band:
        out.append(("band", exposure.band))
    if exposure.visit_info is not None:
        visit, detector = exposure.key
        out += [("visit", str(visit)), ("detector", str(detector))]
    if exposure.wcs is not None:
        out += _sky_facts(exposure, exposure.wcs)
    if exposure.psf is not None:
        out.append(("PSF", _psf_text(exposure.psf)))
    if exposure.photo_calib is not None:
        out.append(("calibration", f"{exposure.photo_calib.mean:.4g} nJy per unit"))
    out.append(("good pixels", f"{100 * float(good_pixels(exposure).mean() if exposure.image.size else 0):.1f} %"))
    return out


def _sky_facts(exposure: "Exposure", wcs: "SkyWcs") -> Facts:
    x0, y0, width, height = exposure.bbox
    ra, dec = wcs.pixel_to_sky(np.array([x0 + (width - 1) / 2]), np.array([y0 + (height - 1) / 2]))
    try:
        scale = f'{exposure.pixel_scale_arcsec():.3g}"/px'
    except WcsMissing:
        scale = "unknown"
    return [("centre", f"RA {ra[0]:.5f} Dec {dec[0]:+.5f}"), ("scale", scale)]


def _psf_text(psf: Psf) -> str:
    try:
        x, y = psf.average_position()
        return f"FWHM {float(fwhm_of(psf.moments_at(x, y))[0]):.2f} px"
    except PsfUndefined:
        return "undefined"


def describe(exposure: "Exposure", name: str = "Exposure") -> str:
    """Return the facts in one line, for ``repr``."""
    texts = dict(facts(exposure))
    parts = [texts.pop("size")]
    for key, text in texts.items():
        if key in ("calibration", "origin"):
            continue
        parts.append(text if key in ("scale",) else f"{text} good" if key == "good pixels" else f"{key} {text}"[:60])
    if exposure.photo_calib is None:
        parts.append("uncalibrated")
    return f"<{name} {', '.join(parts)}>"


def _reduced(values: F32, good: Flags) -> tuple[F64, Flags]:
    """Return means of good pixels so that no side is longer than `SHOWN`; masked where most pixels are."""
    scale = max(values.shape) / SHOWN
    weight, weighted = good.astype(np.float32), np.where(good, values, np.float32(0))
    if scale > 1:
        import cv2

        size = [max(1, round(side / scale)) for side in values.shape[::-1]]
        weight, weighted = (
            np.asarray(cv2.resize(p, size, interpolation=cv2.INTER_AREA), np.float32) for p in (weight, weighted)
        )
    return np.asarray(weighted / np.maximum(weight, 1e-9), np.float64), np.asarray(weight > 0.5)


def grey_png(image: NDArray[np.floating], good: Flags, signed: bool = False) -> bytes:
    """Return a PNG of an image, first row at the bottom, asinh stretch around the median, masked pixels in blue.

    Parameters
    ----------
    image, good
        Shape (height, width).
    signed
        Zero is the middle grey, and the scale is the same on both sides (differences).
    """
    if image.size == 0:
        image, good = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.bool_)
    mean, shown = _reduced(np.asarray(image, np.float32), good)
    values = mean[shown]
    middle = 0.0 if signed or not values.size else float(np.median(values))
    noise = scatter_about(values, middle) if values.size else 1.0
    stretched = np.arcsinh((mean - middle) / (SOFTENING * (noise or 1.0)))
    inner = stretched[shown]
    top = max(float(np.percentile(inner, 99.9)) if inner.size else 1.0, 1.0)
    low = -top if signed else -0.7
    index = np.clip(np.rint((stretched - low) / (top - low) * (MASKED - 1)), 0, MASKED - 1).astype(np.uint8)
    index[~shown] = MASKED
    return indexed_png(index[::-1], grey_palette())


def grey_palette() -> U8:
    """Return greys from black to white, and the colour of masked pixels as the last of 256, shape (256, 3)."""
    greys = np.repeat(np.round(np.linspace(0, 255, MASKED)).astype(np.uint8)[:, None], 3, axis=1)
    return np.concatenate([greys, np.array([MASKED_COLOUR], np.uint8)])


def indexed_png(index: U8, palette: U8, alpha: U8 | None = None) -> bytes:
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


def picture(image: NDArray[np.floating], good: Flags, label: str, signed: bool = False) -> str:
    """Return an ``img`` element that holds its picture itself."""
    data = base64.b64encode(grey_png(image, good, signed)).decode("ascii")
    style = "image-rendering:pixelated;min-width:128px"
    return f'<img src="data:image/png;base64,{data}" alt="{escape(label)}" title="{escape(label)}" style="{style}">'


def html_block(title: str, pictures: Iterable[str], table: Facts) -> str:
    """Return pictures beside a table of facts; title and facts are escaped here."""
    rows = "".join(f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in table)
    return (
        f"<div><b>{escape(title)}</b><div style='display:flex;gap:1em;align-items:flex-start'>"
        f"{''.join(pictures)}<table>{rows}</table></div></div>"
    )


def exposure_html(
    exposure: "Exposure", title: str = "Exposure", signed: bool = False, more: Iterable[tuple[str, str]] = ()
) -> str:
    """Return what a notebook shows of an exposure, with `more` facts in front."""
    image = picture(exposure.image, good_pixels(exposure), f"{title}; masked pixels are blue", signed)
    return html_block(
        title, [image], [(k, v if len(v) <= 80 else f"{v[:77]}...") for k, v in (*more, *facts(exposure))]
    )
