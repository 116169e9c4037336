"""Frames of one detector over a drifting sky: where each lies against the others, and the sky that they have in common.

What moves with the stars is sky. A pixel that stands out on every frame while the sky passes over it is the detector's.
Maps are affine: (x, y) of the middle frame to (x, y) of another, matrices (2, 3) as OpenCV takes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.errors import TooLittleDrift
from calibration.stars import bright_stars
from diffim.errors import DifferencingError
from diffim.matching.registration import match_lists
from exposure import Exposure, SkyWcs
from tasks.arrays import F32, F64, I64, Flags

__all__ = ["Drift", "find_drift", "sky_model", "stacked_median"]

LEAST_FRAMES = 8
LEAST_POSITIONS = 5  # of a star on the detector, far enough from each other: the median of fewer is no sky
BAND = 64  # rows that are sorted at once


@dataclass(frozen=True)
class Drift:
    """How the sky moved over the frames.

    Parameters
    ----------
    frames, maps
        Frames that have a map, and these: (2, 3) from the middle frame to each.
    fwhm
        Of stars, px.
    track
        (N, 2) where the middle of the field went, px.
    n_positions
        How many positions of the track are far enough from each other.
    """

    frames: list[int]
    maps: list[F64]
    fwhm: float
    track: F64
    n_positions: int


def find_drift(pixels: Sequence[NDArray[np.float16]], candidates: Flags, wcs: Sequence[SkyWcs | None]) -> Drift:
    """Register frames by their stars.

    Parameters
    ----------
    pixels
        Frames (height, width) in units of their sky noise, sky 0, in order of time; NaN where nothing is known.
    candidates
        (height, width) pixels that may be defects: a hot pixel looks like a star that does not move.
    wcs
        That of each frame, as a first guess; None has the frame before it for one.

    Raises
    ------
    TooLittleDrift
        The frames cannot be registered, or their stars stay where they are.
    """
    lists, sizes = zip(*(_stars(p, candidates) for p in pixels), strict=True)
    middle = len(pixels) // 2
    maps: dict[int, F64] = {middle: np.eye(2, 3)}
    for order in (range(middle + 1, len(pixels)), range(middle - 1, -1, -1)):
        last = maps[middle]
        for k in order:
            first, second = wcs[middle], wcs[k]
            by_wcs = [] if first is None or second is None else [_by_wcs(first, second, pixels[k].shape)]
            guesses = [*by_wcs, last]
            affine = next((m for g in guesses if (m := _affine(lists[middle], lists[k], g)) is not None), None)
            if affine is not None:
                maps[k] = last = affine
    frames = sorted(maps)
    measured = np.asarray(sizes)[np.isfinite(sizes)]
    fwhm = float(np.median(measured)) if measured.size else 0.0
    centre = np.array([pixels[0].shape[1] / 2, pixels[0].shape[0] / 2, 1.0])
    track = np.array([maps[k] @ centre for k in frames])
    n_positions = _distinct(track, max(3.0, 1.5 * fwhm))
    if len(frames) < LEAST_FRAMES or n_positions < LEAST_POSITIONS:
        extent = np.ptp(track, axis=0)
        raise TooLittleDrift(
            f"{len(frames)} of {len(pixels)} frames have common stars, which move by {extent[0]:.0f} x {extent[1]:.0f} px "
            f"over {n_positions} places that are {max(3.0, 1.5 * fwhm):.0f} px apart; bad pixels are told from stars by "
            f"{LEAST_FRAMES} frames at {LEAST_POSITIONS} places or more: give frames of a night that drifts, or dithered ones"
        )
    return Drift(frames, [maps[k] for k in frames], fwhm, track, n_positions)


def _stars(pixels: NDArray[np.float16], candidates: Flags) -> tuple[F64, float]:
    """Return positions (N, 2) of bright stars, brightest first, and their FWHM (px)."""
    image = pixels.astype(np.float32)
    exposure = Exposure(image, np.ones_like(image), np.zeros(image.shape, np.int32))
    exposure.set_plane("BAD", candidates | ~np.isfinite(image))
    stars = bright_stars(exposure, 30.0)
    if len(stars) < 30:
        stars = bright_stars(exposure, 8.0)
    sizes = np.zeros(0) if stars.size is None else stars.size
    size = sizes[np.isfinite(sizes)]  # those near a candidate too: there is one near most stars
    fwhm = 2.3548 * float(np.sqrt(np.median(size))) if size.size else np.nan
    return np.column_stack([stars.x, stars.y])[:400], fwhm


def _by_wcs(first: SkyWcs, second: SkyWcs, shape: tuple[int, ...]) -> F64:
    """Return the affine map (2, 3) from pixels of one frame to those of another of a (height, width)."""
    height, width = shape
    gx, gy = (a.ravel() for a in np.meshgrid(np.linspace(0, width, 5), np.linspace(0, height, 5)))
    u, v = second.sky_to_pixel(*first.pixel_to_sky(gx, gy))
    return np.asarray(np.linalg.lstsq(np.column_stack([gx, gy, np.ones(25)]), np.column_stack([u, v]))[0].T)


def _affine(reference: F64, other: F64, guess: F64) -> F64 | None:
    """Return the map that brings the stars together, starting from a guess; None where they do not match."""
    if len(reference) < 3 or len(other) < 3:
        return None
    moved = np.column_stack([reference, np.ones(len(reference))]) @ guess.T
    try:
        first, second = match_lists(moved[:, 0], moved[:, 1], other[:, 0], other[:, 1])
    except DifferencingError:
        return None
    p, q = moved[first], other[second]
    shift = np.median(q - p, axis=0)
    best = np.column_stack([np.eye(2), shift])
    use = np.ones(len(p), bool)
    design = np.column_stack([p, np.ones(len(p))])
    for _ in range(4):
        if use.sum() >= 8:
            best = np.linalg.lstsq(design[use], q[use])[0].T
        miss = np.hypot(*(q - design @ best.T).T)
        use = miss < max(3 * float(np.median(miss)), 0.3)
    if not np.linalg.det(best[:, :2]) > 0.5:  # stars on a line leave the map open: it could not be turned round
        return None
    return np.asarray(best @ np.vstack([guess, [0, 0, 1]]))


def _distinct(track: F64, apart: float) -> int:
    """Return how many positions of a track (N, 2) there are, none nearer than `apart` px to another (greedy, in order)."""
    chosen: list[F64] = []
    for position in track:
        if all(np.hypot(*(position - other)) >= apart for other in chosen):
            chosen.append(position)
    return len(chosen)


def sky_model(pixels: Sequence[NDArray[np.float16]], drift: Drift, candidates: Flags) -> tuple[F32, tuple[int, int]]:
    """Return the median of the registered frames on the union of their fields, and the (x, y) of its first pixel.

    NaN where fewer than three frames saw the sky. Candidates take no part.
    """
    height, width = candidates.shape
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1.0]]).T
    mapped = np.concatenate([(_inverse(m) @ corners).T for m in drift.maps])
    x0, y0 = (int(v) for v in np.floor(mapped.min(0)))
    x1, y1 = (int(v) for v in np.ceil(mapped.max(0)))
    stack = np.empty((len(drift.maps), y1 - y0 + 1, x1 - x0 + 1), np.float16)
    for k, (frame, to_frame) in enumerate(zip(drift.frames, drift.maps, strict=True)):
        image = pixels[frame].astype(np.float32)
        image[candidates] = np.nan
        moved = to_frame @ np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]])
        stack[k] = _resampled(image, moved, (stack.shape[2], stack.shape[1]))
    model, count = stacked_median(stack)
    model[count < 3] = np.nan
    return model, (x0, y0)


def on_frame(model: F32, corner: tuple[int, int], to_frame: F64, shape: tuple[int, int]) -> F32:
    """Return the sky model, whose first pixel is at `corner`, on the (height, width) of one frame.

    `to_frame` is its map.
    """
    back = _inverse(to_frame)
    back[:, 2] -= corner
    return _resampled(model, back, (shape[1], shape[0]))


def _inverse(affine: F64) -> F64:
    """Return the inverse of an affine map (2, 3)."""
    return np.asarray(np.linalg.inv(np.vstack([affine, [0, 0, 1]]))[:2])


def _resampled(image: F32, affine: F64, size: tuple[int, int]) -> F32:
    """Return the image at the mapped positions, bilinear; NaN outside and next to NaN."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(image, affine, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan")),
        np.float32,
    )


def stacked_median(stack: NDArray[np.floating]) -> tuple[F32, I64]:
    """Return the median of a stack (N, height, width) over its first axis and how many values are not NaN, both
    (height, width).

    NaN where none is.
    """
    out = np.empty(stack.shape[1:], np.float32)
    count = np.isfinite(stack).sum(axis=0)
    for low in range(0, stack.shape[1], BAND):
        rows = slice(low, low + BAND)
        ordered = np.sort(stack[:, rows].astype(np.float32), axis=0)  # NaN last
        n = count[rows]
        first, second = np.maximum((n - 1) // 2, 0)[None], np.minimum(n // 2, len(stack) - 1)[None]
        middle = np.take_along_axis(ordered, first, 0)[0] + np.take_along_axis(ordered, second, 0)[0]
        out[rows] = np.where(n > 0, 0.5 * middle, np.nan)
    return out, count
