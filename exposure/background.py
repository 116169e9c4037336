"""A smooth background: a mesh of robust sky values, interpolated by bicubic splines (SEP)."""

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray

__all__ = ["Background", "estimate_background"]


@dataclass(frozen=True)
class Background:
    """Background of one image: full-size maps and the two global numbers."""

    level: NDArray[np.float32]
    rms: NDArray[np.float32]
    global_level: float
    global_rms: float


def estimate_background(
    image: NDArray[np.float32], bad: NDArray[np.bool_] | None = None, mesh: int = 64, filter_size: int = 3,
    stride: int = 1,
) -> Background:  # fmt: skip
    """Estimate sky level and rms per mesh cell with clipped statistics.

    Parameters
    ----------
    image
        Shape (height, width); NaN pixels count as bad.
    bad
        Pixels to leave out.
    mesh
        Cell side in px; reduced for small images.
    filter_size
        Median filter over the cells.
    stride
        Use every n-th pixel of every n-th row only: enough for large cells, and cheap.
    """
    if stride > 1:
        import cv2  # the API process, which has no images, does not load it

        part = None if bad is None else bad[::stride, ::stride]
        coarse = estimate_background(image[::stride, ::stride], part, max(mesh // stride, 8), filter_size)
        size = (image.shape[1], image.shape[0])
        level, rms = (cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in (coarse.level, coarse.rms))
        return Background(
            np.asarray(level, np.float32), np.asarray(rms, np.float32), coarse.global_level, coarse.global_rms
        )
    mask = ~np.isfinite(image)
    if bad is not None:
        mask |= bad
    side = int(max(8, min(mesh, min(image.shape) // 4)))
    data = np.ascontiguousarray(np.where(mask, 0, image), dtype=np.float32)
    found = sep.Background(data, mask=mask, bw=side, bh=side, fw=filter_size, fh=filter_size)
    return Background(
        found.back(dtype=np.float32), found.rms(dtype=np.float32), float(found.globalback), float(found.globalrms)
    )
