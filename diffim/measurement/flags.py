"""Flags of sources: mask planes of their pixels, and the names of all flag columns."""

import numpy as np
import pandas as pd

from exposure import Exposure
from exposure.mask import PIXEL_FLAGS, plane_bits
from exposure.stamps import gather
from tasks.arrays import I32, Flags, nearest_pixels

__all__ = ["known_flags", "pixel_flags"]


def pixel_flags(frame: pd.DataFrame, difference: Exposure, labels: I32) -> dict[str, Flags]:
    """Return the columns ``pixelFlags_*``: of each mask plane, any pixel of the footprint, any and all of the central 3x3.

    Parameters
    ----------
    frame
        Table with x, y (frame px) and label (the number of the footprint).
    difference
        The image whose mask is looked at.
    labels
        Footprint that each pixel of the difference belongs to, shape (height, width), 0 for none.
    """
    x, y = frame.x.to_numpy(np.float64), frame.y.to_numpy(np.float64)
    ix = nearest_pixels(x) - difference.origin[0]
    iy = nearest_pixels(y) - difference.origin[1]
    centre = gather(difference.mask, ix, iy, 3, 0)
    off = ~difference.contains(x, y)
    per_label = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int64)
    inside = labels > 0
    np.bitwise_or.at(per_label, labels[inside], difference.mask[inside].astype(np.int64))
    union = per_label[frame.label.to_numpy()] if len(frame) else np.zeros(0, np.int64)
    columns = {"pixelFlags": ~np.isfinite(x), "pixelFlags_offimage": off}
    for name, plane in PIXEL_FLAGS.items():
        bit = plane_bits([plane])
        set_here = (centre & bit) != 0
        columns[f"pixelFlags_{name}"] = (union & bit) != 0
        columns[f"pixelFlags_{name}Center"] = set_here.any(axis=(1, 2))
        columns[f"pixelFlags_{name}CenterAll"] = set_here.all(axis=(1, 2))
    for name in ("edge", "edgeCenter", "edgeCenterAll"):
        columns[f"pixelFlags_{name}"] |= off
    return columns


def known_flags() -> set[str]:
    """Return the names of all flag columns that `diffim.measurement.measure.measure` makes."""
    planes = {f"pixelFlags_{name}{where}" for name in PIXEL_FLAGS for where in ("", "Center", "CenterAll")}
    others = {
        "pixelFlags",
        "pixelFlags_offimage",
        "centroid_flag",
        "apFlux_flag",
        "apFlux_flag_apertureTruncated",
        "psfFlux_flag",
        "psfFlux_flag_edge",
        "psfFlux_flag_noGoodPixels",
        "forced_PsfFlux_flag",
        "forced_PsfFlux_flag_edge",
        "forced_PsfFlux_flag_noGoodPixels",
        "shape_flag",
        "trail_flag",
        "trail_flag_off_image",
        "trail_flag_edge",
        "trail_flag_suspect_long_trail",
        "isDipole",
        "isNegative",
        "sky_source",
    }
    return planes | others
