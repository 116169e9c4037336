"""Relative astrometry: a small correction of the header's WCS so that stars fall on the reference stars."""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from calibration.refcat import Matches, ReferenceStars, match_stars
from exposure import Exposure, SkyWcs
from tasks.arrays import F64, Flags

__all__ = ["refine_wcs"]


def refine_wcs(exposure: Exposure, sources: pd.DataFrame, reference: ReferenceStars) -> tuple[SkyWcs, dict[str, float]]:
    """Return a corrected WCS and what was done (numbers for the metadata).

    A shift is found first by the peak of all position differences within 12 px; with 15 or more matches an affine map
    follows. Fewer than 3 matches leave the WCS as it is.
    """
    wcs = exposure.require_wcs()
    bright = sources.head(400)
    shift = _peak_shift(exposure, bright, reference, wcs)
    wcs = wcs.shifted(*shift)
    report = {"astrometryShiftX": float(shift[0]), "astrometryShiftY": float(shift[1])}
    matches = match_stars(exposure, sources, reference, wcs, radius=1.5)
    residual = float("nan")
    for _ in range(3):
        if len(matches) < 3:
            break
        matrix, offset, keep = _affine(matches, wcs.reference_pixel)
        wcs = wcs.affine_corrected(matrix, offset)
        matches = match_stars(exposure, sources, reference, wcs, radius=1.0)
        residual = (
            float(np.median(np.hypot(matches.x - matches.x_ref, matches.y - matches.y_ref))) if len(matches) else 0
        )
        del keep
    report |= {"astrometryMatches": float(len(matches)), "astrometryResidualPixels": residual}
    return wcs, report


def _peak_shift(
    exposure: Exposure, sources: pd.DataFrame, reference: ReferenceStars, wcs: SkyWcs, reach: float = 12.0
) -> tuple[float, float]:
    x, y = wcs.sky_to_pixel(reference.table.ra.to_numpy(), reference.table.dec.to_numpy())
    inside = exposure.contains(x, y, margin=reach)
    order = np.argsort(-reference.table.flux.to_numpy()[inside], kind="stable")[:400]
    ref = np.stack([x[inside], y[inside]], axis=1)[order]
    detections = sources[["x", "y"]].to_numpy(np.float64)
    if len(ref) < 3 or len(detections) < 3:
        return (0.0, 0.0)
    pairs = cKDTree(detections).query_ball_point(ref, reach)
    delta = np.concatenate([detections[p] - r for p, r in zip(pairs, ref, strict=True) if p] or [np.zeros((0, 2))])
    if len(delta) < 3:
        return (0.0, 0.0)
    counts = np.array([len(p) for p in cKDTree(delta).query_ball_point(delta, 1.0)])
    best = delta[int(np.argmax(counts))]
    near = np.hypot(*(delta - best).T) < 1.0
    dx, dy = np.median(delta[near], axis=0)
    return float(dx), float(dy)


def _affine(m: Matches, centre: F64) -> tuple[F64, F64, Flags]:
    """Return (matrix, offset, used) of x_ref = matrix (x - c) + c + offset; a shift alone with few matches."""
    p = np.stack([m.x, m.y], axis=1) - centre
    q = np.stack([m.x_ref, m.y_ref], axis=1) - centre
    use = np.ones(len(m), dtype=bool)
    matrix, offset = np.eye(2), np.zeros(2)
    for _ in range(4):
        if use.sum() >= 15:
            design = np.column_stack([p[use], np.ones(use.sum())])
            solution, *_ = np.linalg.lstsq(design, q[use], rcond=None)
            matrix, offset = solution[:2].T, solution[2]
        else:
            matrix, offset = np.eye(2), np.median(q[use] - p[use], axis=0)
        miss = np.hypot(*(p @ matrix.T + offset - q).T)
        use = miss < max(3.0 * float(np.median(miss)), 0.02)
    return matrix, offset, use
