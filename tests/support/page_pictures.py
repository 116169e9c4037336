"""Pictures of pages that are kept, and what counts as another one: not the smoothing of letters, but a block that moved."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

__all__ = ["SCALE", "different", "picture_of", "read_picture", "write_picture"]

SCALE = 2  # px of the window that become one of the picture that is kept
NEAR = 3  # px, odd: within half of it letters may lie elsewhere, and their edges be smoothed otherwise
TOLERANCE = 32  # levels of 255


def picture_of(png: bytes) -> np.ndarray:
    """Return means over squares of `SCALE` px of a PNG, shape (height, width, 3)."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB").reduce(SCALE))


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Keep a picture as it is (lossless WebP)."""
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture).save(path, lossless=True, method=4)


def read_picture(path: Path) -> np.ndarray:
    """Return a kept picture, shape (height, width, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def different(seen: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return which pixels differ, shape (height, width) of what both have; what one alone has differs.

    A pixel is the same when its levels lie among those that the other picture has around it, and the other way round.
    """
    height, width = (max(a, b) for a, b in zip(seen.shape[:2], kept.shape[:2], strict=True))
    out = np.ones((height, width), np.bool_)
    h, w = (min(a, b) for a, b in zip(seen.shape[:2], kept.shape[:2], strict=True))
    a, b = seen[:h, :w].astype(np.int16), kept[:h, :w].astype(np.int16)
    out[:h, :w] = _beyond(a, b) | _beyond(b, a)
    return out


def _beyond(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    size = (NEAR, NEAR, 1)
    low, high = minimum_filter(other, size) - TOLERANCE, maximum_filter(other, size) + TOLERANCE
    return np.asarray(((one < low) | (one > high)).any(axis=2))
