"""How planes of an exposure are shown to people: PNG files of one byte per pixel with a stretch of choice, masks in colours."""

import numpy as np
from numpy.typing import NDArray

from alertprod_client.pictures import MASKED, grey_palette, indexed_png
from exposure.mask import plane_bits
from exposure.quantiles import scatter_about
from tasks.arrays import F32, F64, I32, U8, Flags

__all__ = ["MASK_COLOURS", "STRETCHES", "grey_picture", "mask_picture"]

LARGEST = 1024  # px of a picture's longer side
STRETCHES = ("asinh", "linear", "log")
BELOW = 3.0  # sigma below the middle that is black
# what hides what, and its colour: the last that is set wins
MASK_COLOURS: dict[tuple[str, ...], tuple[int, int, int]] = {
    ("DETECTED",): (60, 200, 120),
    ("DETECTED_NEGATIVE",): (80, 160, 255),
    ("SUSPECT", "HIGH_VARIANCE", "SPIKE"): (160, 120, 60),
    ("EDGE",): (130, 130, 130),
    ("STREAK",): (255, 80, 220),
    ("CR",): (255, 170, 40),
    ("SAT", "SAT_TEMPLATE"): (255, 60, 50),
    ("BAD", "NO_DATA"): (60, 90, 255),
}
_OPACITY = 150


def grey_picture(
    image: NDArray[np.floating],
    good: Flags,
    stretch: str = "asinh",
    span: float = 100.0,
    signed: bool = False,
    noise: float | None = None,
) -> bytes:
    """Return a PNG of an image, the first row at the bottom; what is not good has a colour of its own.

    Parameters
    ----------
    image, good
        Shape (height, width).
    stretch
        One of `STRETCHES`.
    span
        Noise sigma above the middle that are white.
    signed
        Zero is the middle grey, and both sides have the same scale (differences).
    noise
        Sigma; that of the picture by default.
    """
    mean, shown = _reduced(np.asarray(image, np.float32), good)
    values = mean[shown]
    middle = 0.0 if signed or not values.size else float(np.median(values))
    if noise is None:
        noise = (scatter_about(values, middle) if values.size else 1.0) or 1.0
    sigmas = (mean - middle) / noise
    if signed:
        level = 0.5 + 0.5 * np.sign(sigmas) * _curve(np.abs(sigmas), stretch) / _curve(np.array(span), stretch)
    else:
        low, high = _curve(np.array(-BELOW), stretch), _curve(np.array(span), stretch)
        level = (_curve(sigmas, stretch) - low) / (high - low)
    index = np.clip(np.rint(np.nan_to_num(level) * (MASKED - 1)), 0, MASKED - 1).astype(np.uint8)
    index[~shown] = MASKED
    return indexed_png(index[::-1], grey_palette())


def _curve(sigmas: F64, stretch: str) -> F64:
    if stretch == "linear":
        return sigmas
    if stretch == "log":
        return np.sign(sigmas) * np.log1p(np.abs(sigmas))
    return np.arcsinh(sigmas)


def mask_picture(mask: I32) -> bytes:
    """Return a PNG that lies over a picture of the image: planes in their colours, the rest transparent."""
    index: U8 = np.zeros(mask.shape, np.uint8)
    for number, planes in enumerate(MASK_COLOURS, 1):
        index[(mask & plane_bits(planes)) != 0] = number
    factor = _factor(index.shape)
    if factor > 1:
        height, width = mask.shape[-2] // factor * factor, mask.shape[-1] // factor * factor
        index = index[:height, :width].reshape(height // factor, factor, width // factor, factor).max(axis=(1, 3))
    palette = np.array([(0, 0, 0), *MASK_COLOURS.values()], np.uint8)
    alpha = np.array([0, *[_OPACITY] * len(MASK_COLOURS)], np.uint8)
    return indexed_png(index[::-1], palette, alpha)


def _factor(shape: tuple[int, ...]) -> int:
    return -(-max(shape) // LARGEST)


def _reduced(values: F32, good: Flags) -> tuple[F64, Flags]:
    """Return means of good pixels over squares, so that no side is longer than `LARGEST`; masked where none is good."""
    factor = _factor(values.shape)
    good = good & np.isfinite(values)
    if factor == 1:
        return np.where(good, values, 0).astype(np.float64), good
    height, width = (side - side % factor for side in values.shape)
    shape = (height // factor, factor, width // factor, factor)
    weight = good[:height, :width].reshape(shape).sum(axis=(1, 3), dtype=np.float64)
    total = np.where(good, values, 0)[:height, :width].reshape(shape).sum(axis=(1, 3), dtype=np.float64)
    return total / np.maximum(weight, 1), weight > 0
