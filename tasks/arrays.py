"""The types of arrays and boxes that all rooms share."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["F32", "F64", "I32", "I64", "U8", "Box", "Flags", "nearest_pixels"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Box = tuple[int, int, int, int]
"""x0, y0, width, height in pixels of the frame."""


def nearest_pixels(positions: ArrayLike) -> I64:
    """Return the pixels that positions (N,) lie in: pixel k reaches from k - 0.5 to k + 0.5, its lower edge is its own."""
    return np.floor(np.asarray(positions) + 0.5).astype(np.int64)
