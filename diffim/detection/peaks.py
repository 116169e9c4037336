"""Detection of both polarities on a significance image: peaks and footprints."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.spatial import cKDTree

from diffim.detection.rims import stand_out
from diffim.detection.significance import Significance
from tasks.arrays import F64, I32, I64, U8, Flags

__all__ = ["TRAIL_COLUMNS", "Detections", "detect", "footprint_edges"]

TRAIL_COLUMNS = (
    "x", "y", "xErr", "yErr", "x_y_Cov", "length", "angle", "flux", "fluxErr", "chi2", "nData", "lengthErr", "angleErr",
)  # fmt: skip
"""Of a line that was fitted to a footprint: frame px, rad from +x to +y, counts."""
FAINT_RIM = 0.15  # of a peak's height: what is fainter next to it is its rim, unless it stands out of it


@dataclass(frozen=True)
class Detections:
    """Peaks with their footprints, one row a source.

    Parameters
    ----------
    x, y
        Array pixels of the peaks, shape (N,).
    significance
        Signed significance of the peaks, shape (N,), sigma.
    label, boxes, area
        Of the footprints: number (N,), x, y, width and height (N, 4) and number of pixels (N,).
    labels
        The footprint that each pixel of the image belongs to, shape (height, width), 0 for none.
    n_positive_pixels, n_negative_pixels
        Pixels above the threshold.
    has_positive
        Whether a source has a positive part: its own peak, or one that was merged into it; shape (N,).
    sky
        Which rows are blank positions, shape (N,); None: no row is.
    n_unmerged
        Peaks of either sign before rims and lobes were merged into them.
    trail
        What the fit of a line says of those that are trails (`TRAIL_COLUMNS`), shape (N, 13), NaN for others; None: none is.
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
    n_unmerged: int = 0
    trail: F64 | None = None

    @property
    def is_sky(self) -> Flags:
        """Which rows are blank positions, shape (N,)."""
        return np.zeros(self.x.size, np.bool_) if self.sky is None else self.sky

    def take(self, rows: I64 | Flags) -> "Detections":
        """Return some rows, by indices (M,) or by a boolean each, shape (N,); ``labels`` stays."""
        names = ("x", "y", "significance", "label", "boxes", "area", "has_positive")
        trail = None if self.trail is None else self.trail[rows]
        return replace(self, sky=self.is_sky[rows], trail=trail, **{name: getattr(self, name)[rows] for name in names})

    def with_sky(self, x: I64, y: I64) -> "Detections":
        """Return the detections followed by blank positions (array px), which have no footprint and no significance."""
        n = x.size
        box = np.column_stack([x, y, np.ones(n, np.int64), np.ones(n, np.int64)])
        return replace(
            self,
            x=np.concatenate([self.x, x]),
            y=np.concatenate([self.y, y]),
            significance=np.concatenate([self.significance, np.zeros(n)]),
            label=np.concatenate([self.label, np.zeros(n, np.int64)]),
            boxes=np.concatenate([self.boxes, box]),
            area=np.concatenate([self.area, np.ones(n, np.int64)]),
            has_positive=np.concatenate([self.has_positive, np.ones(n, bool)]),
            sky=np.concatenate([self.is_sky, np.ones(n, bool)]),
            trail=None if self.trail is None else np.pad(self.trail, ((0, n), (0, 0)), constant_values=np.nan),
        )


def detect(s: Significance, threshold: float = 5.0) -> Detections:
    """Find peaks of |S| above the threshold.

    Footprints are 8-connected pixels above the threshold, grown by 1.2 PSF sigma; touching ones of either sign merge.
    A peak close to a much stronger one is the rim of that one's residual and is dropped, unless it stands out of what lies
    as far from that one on its other sides; of a close pair of opposite signs (a dipole) the stronger peak stays.
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
    n_unmerged = x.size
    keep, positive = _independent(x, y, value, s, reach)
    x, y, value, positive = x[keep], y[keep], value[keep], positive[keep]
    label = labels[y, x].astype(np.int64)
    footprints = stats[label].astype(np.int64) if len(label) else np.zeros((0, 5), np.int64)
    n_positive = int((s.image > threshold).sum())
    n_negative = int(above.sum()) - n_positive
    return Detections(
        x,
        y,
        value,
        label,
        footprints[:, :4],
        footprints[:, 4],
        np.asarray(labels, np.int32),
        n_positive,
        n_negative,
        positive,
        n_unmerged=n_unmerged,
    )


def _disc(radius: int) -> U8:
    g = np.arange(-radius, radius + 1)
    return ((g[:, None] ** 2 + g[None, :] ** 2) <= radius**2 + 0.5).astype(np.uint8)


def _independent(x: I64, y: I64, value: F64, s: Significance, reach: int) -> tuple[Flags, Flags]:
    """Return which peaks (strongest first) are not the rim of a stronger one, and which have a positive part.

    Peaks within `reach` px of each other are equal, and one source: a symmetric one between two pixels has two of them,
    or one by rounding. A positive rim of less than `FAINT_RIM` of a negative peak is its ringing, no part of its own.
    """
    keep, positive, fwhm = np.ones(x.size, dtype=bool), value > 0, s.fwhm
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
    rim = ((distance < 1.6 * fwhm) & opposite) | ((distance < 1.0 * fwhm) & (ratio < 0.5))
    rim |= distance**2 <= reach**2 + 0.5
    faint = np.flatnonzero((ratio < FAINT_RIM) & ~rim)
    rim[faint] = ~stand_out(s.image, positions[strong[faint]], positions[weak[faint]], fwhm)
    for k, w in sorted(zip(strong[rim].tolist(), weak[rim].tolist(), strict=True)):
        if keep[k]:  # a dropped peak drops nobody
            keep[w] = False
            positive[k] |= value[w] > 0 and abs(value[w]) >= FAINT_RIM * abs(value[k])
    return keep, positive


def footprint_edges(boxes: I64, x: F64, y: F64) -> I64:
    """Return the side (N,) px of the square around the centroid that holds the footprint, at most twice the longer side.

    `boxes` (N, 4) are x, y, width and height of the footprints, `x` and `y` (N,) the centroids, all in array pixels.
    """
    x0, y0, width, height = boxes.T
    reach = np.maximum.reduce([x - x0, x0 + width - 1 - x, y - y0, y0 + height - 1 - y])
    with np.errstate(invalid="ignore"):
        side = np.minimum(np.ceil(2 * np.nan_to_num(reach)), 2 * np.maximum(width, height))
    return np.asarray(np.maximum(side, 1), dtype=np.int64)
