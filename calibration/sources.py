"""Detection of all sources of an image with SEP."""

import threading
from typing import Any

import numpy as np
import pandas as pd
import sep
from numpy.typing import NDArray

from calibration.errors import TooCrowded
from calibration.lonely import without_lonely
from calibration.source_columns import none_detected
from calibration.stars import find_stars, isolated, model_sizes, shapes
from exposure import Exposure
from exposure.stars import EVIDENCE
from tasks.arrays import F32, Flags

__all__ = ["detect_sources"]

_BLENDED = sep.OBJ_MERGED | sep.OBJ_TRUNC
_ROOM = threading.Lock()
OPEN_PIXELS = 1_000_000  # of open objects, enough for most fields: memory that SEP writes to at every call
SUB_OBJECTS = (4096, 65536)  # of one footprint: memory for the second number is taken only where the first is too small


def detect_sources(exposure: Exposure, threshold: float = 5.0) -> pd.DataFrame:
    """Detect sources on a background-subtracted image with variance.

    Returns
    -------
    table : `pandas.DataFrame`
        x, y (frame px, windowed centroids), apFlux and snr (isophotal), size (adaptive trace radius^2, px^2),
        flags, star. Sorted by flux, brightest first.

    Raises
    ------
    TooCrowded
        More sources touch each other than can be told apart.
    """
    exposure = without_lonely(exposure)
    bad = ~exposure.good("BAD", "CR")
    data = np.where(bad, 0, exposure.image).astype(np.float32)
    error = np.sqrt(np.where(bad, 1, exposure.variance)).astype(np.float32)
    objects = _extract(data, error, bad, 0.6 * threshold, exposure.where)
    if len(objects) == 0:
        return none_detected()
    sigma = np.clip(np.sqrt(np.maximum(objects["a"] * objects["b"], 0.5)), 1.0, 6.0)
    wx, wy, _ = sep.winpos(data, objects["x"], objects["y"], sigma)
    moved = np.hypot(wx - objects["x"], wy - objects["y"]) > 2
    x, y = np.where(moved, objects["x"], wx), np.where(moved, objects["y"], wy)
    noise = np.sqrt(np.maximum(objects["npix"], 1)) * np.median(error)
    frame = pd.DataFrame({"x": x, "y": y, "apFlux": objects["flux"], "snr": objects["flux"] / noise})
    frame["peak"] = objects["peak"]
    frame["elongation"] = objects["a"] / np.maximum(objects["b"], 1e-3)
    frame["blended"] = (objects["flag"] & _BLENDED) != 0
    frame = frame.sort_values(["apFlux", "x"], ascending=[False, True], ignore_index=True)
    x, y, flux = (frame[c].to_numpy(np.float64) for c in ("x", "y", "apFlux"))
    snr = frame.snr.to_numpy(np.float64)
    size, frame["flagged"] = shapes(exposure, data, x, y, snr)
    frame["size"] = size
    frame["isolated"] = isolated(x, y, flux)
    able, merged = (a.to_numpy(np.bool_) for a in (~frame.flagged & _round(frame), frame.blended))
    stars = find_stars(x, y, flux, snr, size, able, merged, model_sizes(exposure, x, y))
    frame["star"] = stars.star
    frame.attrs[EVIDENCE] = stars.evidence
    frame["x"] += exposure.origin[0]
    frame["y"] += exposure.origin[1]
    return frame


def _round(frame: pd.DataFrame) -> "pd.Series[bool]":
    """Return which sources are not much longer than most bright ones: those of an image that is trailed all are."""
    usual = frame.elongation[frame.snr > 20].quantile(0.25) if (frame.snr > 20).any() else 1.0
    return frame.elongation < 2.0 * usual


def _extract(data: F32, error: F32, bad: Flags, threshold: float, where: dict[str, int | None]) -> NDArray[Any]:
    """Return what SEP finds. Its buffers take memory for all that they may hold: they grow where a field needs it alone."""
    room, limits = min(OPEN_PIXELS, 2 * data.size), list(SUB_OBJECTS)
    while True:
        try:
            with _ROOM:  # they are the same for all threads
                sep.set_extract_pixstack(room)
                sep.set_sub_object_limit(limits[0])
                return np.asarray(sep.extract(data, threshold, err=error, mask=bad, minarea=4, deblend_cont=0.001))
        except Exception as failure:  # SEP has no class of its own for a buffer that is full
            reason = str(failure)
        if "pixel buffer" in reason and room <= 2 * data.size:
            room *= 4
        elif "pixel buffer" not in reason and len(limits) > 1:
            limits.pop(0)
        else:
            break
    raise TooCrowded(
        f"too many sources touch each other to be told apart ({reason}): give a smaller part of the image, or one whose "
        "sky and noise are right (a variance plane that is too small makes sources of noise)",
        **where,
    )
