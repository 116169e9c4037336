"""Detection of both polarities on a difference image: matched filter with the local PSF, peaks, footprints."""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from diffim.pixels.fft_tiles import TileGrid
from exposure import Psf
from exposure.psf import fwhm_of
from exposure.quantiles import scatter
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I32, I64, U8, Flags
from tasks.compiled import compiled

__all__ = ["Detections", "Significance", "detect", "footprint_edges", "significance"]

MIN_WEIGHT = 0.3  # of the PSF's weight that must fall on good pixels
FAINT_RIM = 0.15  # of a peak's height: what is fainter next to it is its rim
TILE = 216  # with the PSF, transforms of 256


@dataclass(frozen=True)
class Significance:
    """The matched-filter image S = (D * P) / sqrt(V * P^2), and the scale that it was divided by."""

    image: F32
    scale: float
    fwhm: float


@dataclass(frozen=True)
class Detections:
    """Peaks (array px), signed significance, and the footprint of each: label, bounding box, area.

    ``has_positive`` says whether a source has a positive part: its own peak, or one that was merged into it.
    """

    x: I64
    y: I64
    significance: F64
    label: I64
    boxes: I64
    area: I64
    labels: I32
    n_positive_pixels: int
    n_negative_pixels: int
    has_positive: Flags
    sky: Flags | None = None

    @property
    def is_sky(self) -> Flags:
        """Which of them are empty places."""
        return np.zeros(self.x.size, np.bool_) if self.sky is None else self.sky

    def take(self, rows: NDArray[Any]) -> "Detections":
        """Return some of them, by index or by a boolean each; footprints stay."""
        names = ("x", "y", "significance", "label", "boxes", "area", "has_positive")
        return replace(self, sky=self.is_sky[rows], **{name: getattr(self, name)[rows] for name in names})

    def with_places(self, x: I64, y: I64) -> "Detections":
        """Return the detections followed by empty places (array px), which have no footprint and no significance."""
        n = x.size
        box = np.column_stack([x, y, np.ones(n, np.int64), np.ones(n, np.int64)])
        return replace(
            self, x=np.concatenate([self.x, x]), y=np.concatenate([self.y, y]),
            significance=np.concatenate([self.significance, np.zeros(n)]),
            label=np.concatenate([self.label, np.zeros(n, np.int64)]), boxes=np.concatenate([self.boxes, box]),
            area=np.concatenate([self.area, np.ones(n, np.int64)]),
            has_positive=np.concatenate([self.has_positive, np.ones(n, bool)]),
            sky=np.concatenate([self.is_sky, np.ones(n, bool)]),
        )  # fmt: skip


def significance(
    difference: F32, variance: F32, good: Flags, psf: Psf,
    origin: tuple[int, int], model: F32 | None = None, flux_error: float = 0.0,
    position_error: float = 0.0, gaussian: bool = False,
) -> Significance:  # fmt: skip
    """Return the significance image.

    Parameters
    ----------
    model, flux_error, position_error
        The matched template and how well it is known: relative flux error and registration error (px), as measured on
        the stars of this image. Residuals of that size are not counted as significant.
    gaussian
        Smooth with round Gaussians of the PSF's size in place of the PSF.
    """
    height, width = difference.shape
    grid = TileGrid.fitting(height, width, int(np.clip(min(height, width) // 4, 64, TILE)), psf.size // 2)
    x, y = (a + o for a, o in zip(grid.centres(), origin, strict=True))
    stamps = np.ascontiguousarray(psf.kernel_at(x, y)[:, ::-1, ::-1])
    if gaussian:
        stamps = _gaussians(psf.moments_at(x, y), stamps.shape[-1])
    with_model = model is not None and (flux_error > 0 or position_error > 0)
    s = np.empty((height, width), np.float32)
    planes = (difference, variance, good, model if with_model else None)

    def band(first: int, last: int) -> None:
        _filter_tiles(planes, stamps, grid, range(first, last), flux_error, position_error, s)

    in_bands(band, grid.count, least=1)
    step = max(1, int(np.sqrt(s.size / 400_000)))
    sample = s[::step, ::step]
    sample = sample[(sample != 0) & good[::step, ::step]]
    scale = scatter(sample) if sample.size > 100 else 1.0
    scale = max(scale, 1.0)
    s /= np.float32(scale)
    return Significance(s, scale, float(np.median(fwhm_of(psf.moments_at(x, y)))))


def _gaussians(moments: F64, side: int) -> F32:
    """Round Gaussians of the determinant radius of the PSF."""
    radius = np.sqrt(np.maximum(moments[:, 0] * moments[:, 1] - moments[:, 2] ** 2, 1e-6)) ** 0.5
    g = np.arange(side) - side // 2
    square = (g[:, None] ** 2 + g[None, :] ** 2)[None] / radius[:, None, None] ** 2
    stamps = np.exp(-0.5 * square)
    return np.asarray(stamps / stamps.sum(axis=(1, 2), keepdims=True), np.float32)


def _filter_tiles(
    planes: tuple[F32, F32, Flags, F32 | None], stamps: F32, grid: TileGrid, numbers: range,
    flux_error: float, position_error: float, out: F32,
) -> None:  # fmt: skip
    """Matched filter of some tiles."""
    difference, variance, good, model = planes
    half = stamps.shape[-1] // 2
    for ft, tile in grid.tiles(numbers):
        stamp = stamps[tile.number]
        value, spread, light, whole, spectrum = ft.windows(5)
        _load(difference, variance, good, model, tile.y - half, tile.x - half, value, spread, light, whole)
        noise = ft.convolve(spread, ft.kernel(stamp**2, spectrum))
        top = ft.convolve(value, ft.kernel(stamp, spectrum))
        if model is not None:
            ft.convolve(light, spectrum)
        _score(
            top, noise, light, cv2.blur(whole, (5, 5)), half, np.float32(flux_error**2),
            np.float32(position_error**2 / 4), out, *tile.pixels,
        )  # fmt: skip


@compiled
def _score(
    top: Any, noise: Any, light: Any, share: Any, half: int, flux: Any, slope: Any, out: Any, y0: int, x0: int,
    height: int, width: int,
) -> None:  # fmt: skip
    """Write top / sqrt(noise + residuals of known light); the window of the share of good pixels is not moved."""
    least, low = np.float32(MIN_WEIGHT), 2 * half
    last = light.shape[1] - 1
    for j in range(height):
        y = low + j
        value, spread, good = top[y, low:], noise[y, low:], share[y - half, half:]
        seen, left, below = light[y, low:], light[y, low - 1 :], light[y - 1, low:]
        above, right = light[min(y + 1, light.shape[0] - 1), low:], light[y, min(low + 1, last) :]
        row = out[y0 + j, x0 : x0 + width]
        for i in range(width):
            gx, gy = right[min(i, right.shape[0] - 1)] - left[i], above[i] - below[i]
            total = max(spread[i], np.float32(0)) + flux * seen[i] * seen[i] + slope * (gx * gx + gy * gy)
            row[i] = value[i] / np.sqrt(total) if (total > 0) & (good[i] > least) else np.float32(0)


@compiled
def _load(
    difference: Any, variance: Any, good: Any, model: Any, y0: int, x0: int, value: Any, spread: Any, light: Any,
    whole: Any,
) -> None:  # fmt: skip
    """Copy the window from (y0, x0) on; what is no good or outside counts as zero."""
    height, width = difference.shape
    for j in range(value.shape[0]):
        for i in range(value.shape[1]):
            y, x = y0 + j, x0 + i
            inside = 0 <= y < height and 0 <= x < width
            ok = inside and good[y, x]
            value[j, i] = difference[y, x] if ok else 0
            spread[j, i] = variance[y, x] if ok else 0
            whole[j, i] = 1 if ok else 0
            light[j, i] = 0
            if model is not None:
                if inside and np.isfinite(model[y, x]):
                    light[j, i] = model[y, x]


def detect(s: Significance, threshold: float = 5.0) -> Detections:
    """Find peaks of |S| above the threshold.

    Footprints are 8-connected pixels above the threshold, grown by 1.2 PSF sigma; touching ones of either sign merge.
    A peak close to a much stronger one is the rim of that one's residual and is dropped; of a close pair of opposite
    signs (a dipole) the stronger peak stays.
    """
    size = np.abs(s.image)
    above = size > threshold
    sigma = s.fwhm / 2.3548
    radius = max(1, int(1.2 * sigma + 0.5))
    grown = cv2.dilate(above.astype(np.uint8), _disc(radius))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(grown, connectivity=8)
    reach = max(1, int(0.5 * s.fwhm))
    peak = above & (size >= cv2.dilate(size, _disc(reach)))
    y, x = (a.astype(np.int64) for a in np.nonzero(peak))
    value = s.image[y, x].astype(np.float64)
    order = np.lexsort((x, y, -np.abs(value)))
    x, y, value = x[order], y[order], value[order]
    keep, positive = _independent(x, y, value, s.fwhm, reach)
    x, y, value, positive = x[keep], y[keep], value[keep], positive[keep]
    label = labels[y, x].astype(np.int64)
    footprints = stats[label].astype(np.int64) if len(label) else np.zeros((0, 5), np.int64)
    n_positive = int((s.image > threshold).sum())
    n_negative = int(above.sum()) - n_positive
    return Detections(
        x, y, value, label, footprints[:, :4], footprints[:, 4], np.asarray(labels, np.int32), n_positive, n_negative,
        positive,
    )  # fmt: skip


def _disc(radius: int) -> U8:
    g = np.arange(-radius, radius + 1)
    return ((g[:, None] ** 2 + g[None, :] ** 2) <= radius**2 + 0.5).astype(np.uint8)


def _independent(x: I64, y: I64, value: F64, fwhm: float, reach: int) -> tuple[Flags, Flags]:
    """Return which peaks (strongest first) are not the rim of a stronger one, and which have a positive part.

    Peaks within `reach` px of each other are equal, and one source: a symmetric one between two pixels has two of them,
    or one by rounding. A positive rim of less than `FAINT_RIM` of a negative peak is its ringing, no part of its own.
    """
    keep, positive = np.ones(x.size, dtype=bool), value > 0
    if x.size < 2:
        return keep, positive
    positions = np.stack([x, y], axis=1).astype(np.float64)
    pairs = cKDTree(positions).query_pairs(3.0 * fwhm, output_type="ndarray")
    if len(pairs) == 0:
        return keep, positive
    strong, weak = pairs.min(axis=1), pairs.max(axis=1)  # strongest first: the smaller index is the stronger peak
    distance = np.hypot(*(positions[strong] - positions[weak]).T)
    ratio = np.abs(value[weak]) / np.abs(value[strong])
    opposite = np.sign(value[weak]) != np.sign(value[strong])
    rim = (ratio < FAINT_RIM) | ((distance < 1.6 * fwhm) & opposite) | ((distance < 1.0 * fwhm) & (ratio < 0.5))
    rim |= distance**2 <= reach**2 + 0.5
    for s, w in sorted(zip(strong[rim].tolist(), weak[rim].tolist(), strict=True)):
        if keep[s]:  # a dropped peak drops nobody
            keep[w] = False
            positive[s] |= value[w] > 0 and abs(value[w]) >= FAINT_RIM * abs(value[s])
    return keep, positive


def footprint_edges(boxes: I64, x: F64, y: F64) -> I64:
    """Return the side of the square around the centroid that holds the footprint, at most twice the longer side."""
    x0, y0, width, height = boxes.T
    reach = np.maximum.reduce([x - x0, x0 + width - 1 - x, y - y0, y0 + height - 1 - y])
    with np.errstate(invalid="ignore"):
        side = np.minimum(np.ceil(2 * np.nan_to_num(reach)), 2 * np.maximum(width, height))
    return np.asarray(np.maximum(side, 1), dtype=np.int64)
