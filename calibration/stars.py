"""Detection of sources with SEP and the choice of stars among them."""

from typing import Any

import numba
import numpy as np
import pandas as pd
import sep
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from exposure import Exposure
from exposure.stamps import adaptive_moments, gather

__all__ = ["bright_stars", "detect_sources", "select_stars"]

_BLENDED = sep.OBJ_MERGED | sep.OBJ_TRUNC
COLUMNS = ("x", "y", "apFlux", "snr", "size", "elongation", "blended", "flagged", "isolated", "star")


def detect_sources(exposure: Exposure, threshold: float = 5.0) -> pd.DataFrame:
    """Detect sources on a background-subtracted image with variance.

    Returns
    -------
    table : `pandas.DataFrame`
        x, y (frame px, windowed centroids), apFlux and snr (isophotal), size (adaptive trace radius^2, px^2),
        flags. Sorted by flux, brightest first.
    """
    bad = ~exposure.good("BAD", "CR")
    data = np.where(bad, 0, exposure.image).astype(np.float32)
    error = np.sqrt(np.where(bad, 1, exposure.variance)).astype(np.float32)
    sep.set_extract_pixstack(max(1_000_000, 2 * data.size))
    sep.set_sub_object_limit(4096)
    found = sep.extract(data, 0.6 * threshold, err=error, mask=bad, minarea=4, deblend_cont=0.001)
    if len(found) == 0:
        return pd.DataFrame({c: np.zeros(0) for c in COLUMNS}).astype({"flagged": bool, "star": bool})
    sigma = np.clip(np.sqrt(np.maximum(found["a"] * found["b"], 0.5)), 1.0, 6.0)
    wx, wy, _ = sep.winpos(data, found["x"], found["y"], sigma)
    moved = np.hypot(wx - found["x"], wy - found["y"]) > 2
    x, y = np.where(moved, found["x"], wx), np.where(moved, found["y"], wy)
    noise = np.sqrt(np.maximum(found["npix"], 1)) * np.median(error)
    frame = pd.DataFrame({"x": x, "y": y, "apFlux": found["flux"], "snr": found["flux"] / noise})
    frame["peak"] = found["peak"]
    frame["elongation"] = found["a"] / np.maximum(found["b"], 1e-3)
    frame["blended"] = (found["flag"] & _BLENDED) != 0
    frame = frame.sort_values(["apFlux", "x"], ascending=[False, True]).reset_index(drop=True)
    _add_shapes(frame, data, exposure)
    frame["x"] += exposure.origin[0]
    frame["y"] += exposure.origin[1]
    return frame


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _peaks(image: Any, variance: Any, good: Any, threshold: float, out: Any) -> int:
    """Write (x, y) of pixels above the threshold that are the largest of their 5x5; returns how many there are."""
    n = 0
    height, width = image.shape
    high = np.zeros(width, np.bool_)
    least = np.float32(threshold * threshold)
    for y in range(2, height - 2):
        pixels, spread, able = image[y], variance[y], good[y]
        for x in range(width):  # without branches: this loop is vectorised
            high[x] = (pixels[x] > 0) & (pixels[x] * pixels[x] > least * spread[x]) & able[x]
        for x in range(2, width - 2):
            if not high[x]:
                continue
            p = pixels[x]
            largest = True
            for j in range(-2, 3):
                for i in range(-2, 3):
                    q = image[y + j, x + i]
                    if q > p or (q == p and (j < 0 or (j == 0 and i < 0))):
                        largest = False
            if largest and n < out.shape[0]:
                out[n, 0], out[n, 1] = x, y
                n += 1
    return n


def bright_stars(exposure: Exposure, threshold: float = 30.0) -> pd.DataFrame:
    """Return the bright stars of a background-subtracted image: a fast search for peaks, enough for a matching kernel.

    The columns are those of `detect_sources`; positions are those of the peak pixel, fluxes sums within 5 px.
    """
    good = exposure.good("BAD", "CR", "SAT")
    found = np.empty((100_000, 2), np.int64)
    found = found[: _peaks(exposure.image, exposure.variance, good, threshold, found)]
    x, y = found[:, 0], found[:, 1]
    g = np.arange(-5, 6)
    disc = np.hypot(g[:, None], g[None, :]) <= 5
    flux = np.nan_to_num(gather(exposure.image, x, y, 11, 0.0)[:, disc]).sum(1, dtype=np.float64)
    noise = np.nan_to_num(gather(exposure.variance, x, y, 11, 0.0)[:, disc]).sum(1, dtype=np.float64)
    frame = pd.DataFrame({"x": x.astype(float), "y": y.astype(float), "apFlux": flux})
    frame["snr"] = flux / np.sqrt(np.maximum(noise, 1e-30))
    frame["elongation"], frame["blended"] = 1.0, False
    frame = frame.sort_values(["apFlux", "x"], ascending=[False, True]).reset_index(drop=True)
    _add_shapes(frame, exposure.image, exposure)
    frame["x"] += exposure.origin[0]
    frame["y"] += exposure.origin[1]
    return frame


def _add_shapes(frame: pd.DataFrame, data: NDArray[np.float32], exposure: Exposure, side: int = 25) -> None:
    """Add adaptive sizes, isolation, and whether any bad or saturated pixel lies near."""
    ix = np.floor(frame.x.to_numpy() + 0.5).astype(np.int64)
    iy = np.floor(frame.y.to_numpy() + 0.5).astype(np.int64)
    top = min(len(frame), 4000)
    size = np.full(len(frame), np.nan)
    moments = adaptive_moments(
        gather(data, ix[:top], iy[:top], side, 0.0),
        frame.x.to_numpy()[:top] - ix[:top],
        frame.y.to_numpy()[:top] - iy[:top],
    )
    size[:top] = 0.5 * (moments[:, 0] + moments[:, 1])
    frame["size"] = size
    near = gather(exposure.mask, ix, iy, 11, -1)
    off = (near == -1).any(axis=(1, 2))
    from exposure.mask import plane_bits

    bits = plane_bits(["BAD", "SAT", "NO_DATA", "CR", "EDGE"])
    frame["flagged"] = off | ((near & bits) != 0).any(axis=(1, 2))
    frame["isolated"] = _isolated(frame, 10.0)
    frame["star"] = False


def _isolated(frame: pd.DataFrame, radius: float) -> NDArray[np.bool_]:
    """No neighbour within `radius` px that has more than 3 % of the flux."""
    positions = frame[["x", "y"]].to_numpy()
    pairs = cKDTree(positions).query_pairs(radius, output_type="ndarray")
    out = np.ones(len(frame), dtype=bool)
    flux = frame.apFlux.to_numpy()
    if len(pairs):
        a, b = pairs[:, 0], pairs[:, 1]
        out[a[flux[b] > 0.03 * flux[a]]] = False
        out[b[flux[a] > 0.03 * flux[b]]] = False
    return out


def select_stars(frame: pd.DataFrame, min_snr: float = 20.0, max_stars: int = 600) -> NDArray[np.bool_]:
    """Return which sources are unresolved, isolated, unflagged: the densest range of sizes among the bright ones."""
    able = (
        (frame.snr >= min_snr) & ~frame.flagged & frame.isolated & ~frame.blended & np.isfinite(frame["size"])
        & (frame.elongation < 2.0)
    ).to_numpy(dtype=bool)  # fmt: skip
    chosen = np.zeros(len(frame), dtype=bool)
    index = np.flatnonzero(able)[: 3 * max_stars]
    if index.size < 8 and min_snr > 10:
        return select_stars(frame, 10.0, max_stars)  # a sparse field
    if index.size < 3:
        return chosen
    logs = np.log(frame["size"].to_numpy()[index])
    mode = _half_sample_mode(np.sort(logs))
    near = np.abs(logs - mode) < 0.35
    scatter = 1.4826 * np.median(np.abs(logs[near] - mode)) if near.any() else 0.1
    keep = np.abs(logs - mode) < np.clip(3.0 * scatter, 0.08, 0.35)
    chosen[index[keep][:max_stars]] = True
    return chosen


def _half_sample_mode(values: NDArray[np.float64]) -> float:
    """Return the mode of sorted values: the shortest half, again and again (Robertson & Cryer 1974)."""
    while values.size > 3:
        half = (values.size + 1) // 2
        widths = values[half - 1 :] - values[: values.size - half + 1]
        start = int(np.argmin(widths))
        values = values[start : start + half]
    return float(np.mean(values))
