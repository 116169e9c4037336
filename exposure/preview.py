"""How an exposure shows itself to people: a line of text, a small picture, a table of facts.

Pictures are PNG files of one byte per pixel (`alertprod_client.pictures`): no drawing library is loaded. Whatever text comes from a header
is escaped before it goes into HTML.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alertprod_client import pictures
from alertprod_client.pictures import Facts, html_block
from exposure.errors import PsfUndefined, WcsMissing
from exposure.mask import plane_bits
from exposure.psf import Psf, fwhm_of
from tasks.arrays import F32, F64, Flags

if TYPE_CHECKING:
    from exposure.exposure import Exposure
    from exposure.wcs.sky_wcs import SkyWcs

__all__ = ["BAD_PLANES", "blink_gif", "describe", "exposure_html", "facts", "good_pixels", "grey_png", "picture"]

SHOWN = 256  # px of a picture's longer side: 64 kB before they are written as text, whatever they show
BAD_PLANES = ("NO_DATA", "BAD", "SAT", "CR")


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
    return pictures.grey_png(mean, shown, signed)


def blink_gif(images: Sequence[tuple[NDArray[np.floating], bool]], side: int = 256, seconds: float = 0.7) -> bytes:
    """Return a GIF that shows images of one size by turns, as `grey_png` draws each; pixels that are not finite are blue.

    Parameters
    ----------
    images
        Pixels, shape (height, width), and whether zero is the middle grey.
    side
        Pixels become whole squares so that the picture is about as large, px.
    """
    frames = []
    for image, signed in images:
        mean, shown = _reduced(np.asarray(image, np.float32), np.isfinite(image))
        scale = max(1, round(side / max(mean.shape)))
        frames.append(pictures.grey_index(mean, shown, signed).repeat(scale, axis=0).repeat(scale, axis=1))
    return pictures.indexed_gif(frames, pictures.grey_palette(), seconds)


def picture(image: NDArray[np.floating], good: Flags, label: str, signed: bool = False) -> str:
    """Return an ``img`` element that holds its picture itself."""
    return pictures.img(grey_png(image, good, signed), label)


def exposure_html(
    exposure: "Exposure", title: str = "Exposure", signed: bool = False, more: Iterable[tuple[str, str]] = ()
) -> str:
    """Return what a notebook shows of an exposure, with `more` facts in front."""
    image = picture(exposure.image, good_pixels(exposure), f"{title}; masked pixels are blue", signed)
    return html_block(
        title, [image], [(k, v if len(v) <= 80 else f"{v[:77]}...") for k, v in (*more, *facts(exposure))]
    )
