"""Sources that share a footprint, measured apart: each with the light of the others taken off.

The light of all sources of a footprint is fitted jointly (a PSF each); centroids and light are found in turn. Then each is
measured where the others are gone, as if it were alone. A change is light of the image where it is positive and of the
template where it is negative: it is taken off there too, so that dipoles and forced fluxes see one source.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from diffim.detection.peaks import Detections
from diffim.measurement.centroids import fit_centroids
from diffim.measurement.measure import collapsed, measure
from exposure import Exposure
from exposure.mask import plane_bits
from exposure.photometry import psf_images
from exposure.psf import fwhm_of
from exposure.stamps import add_stamps
from tasks.arrays import F64, I64, nearest_pixels

__all__ = ["measure_apart"]

MOST = 20  # sources of one footprint; where there are more they are left as they are, NOT_DEBLENDED
ROUNDS = 3


def measure_apart(
    difference: Exposure, science: Exposure, template: Exposure, detections: Detections, template_unit: float = 1.0
) -> pd.DataFrame:
    """Measure every detection, those that share a footprint without the light of the others.

    Parameters
    ----------
    difference, science, template
        The three images; `template_unit` times the template is in the units of the other two.
    detections
        The detections.

    Returns
    -------
    table : `pandas.DataFrame`
        One row a source, as of `diffim.measurement.measure.measure`.

    Notes
    -----
    Footprints of more than `MOST` peaks are not taken apart: their pixels get ``NOT_DEBLENDED``.
    """
    rank = _rank(detections)
    crowded = np.unique(detections.label[rank >= MOST])
    if crowded.size:
        difference.set_plane("NOT_DEBLENDED", np.isin(detections.labels, crowded))
        rank[np.isin(detections.label, crowded)] = -1
    parts = [measure(difference, science, template, detections.take(rank < 0), template_unit=template_unit)]
    blended = np.flatnonzero(rank >= 0)
    if blended.size == 0:
        return parts[0]
    x, y, flux = _fitted(
        difference, detections.label[blended], detections.x[blended], detections.y[blended], rank[blended]
    )
    for k in range(int(rank.max()) + 1):
        own = rank[blended] == k
        images = _without(difference, science, template, x[~own], y[~own], flux[~own], template_unit)
        parts.append(measure(*images, detections.take(blended[own]), template_unit=template_unit))
    table = pd.concat(parts, ignore_index=True)
    table = table.sort_values(
        ["sky_source", "significance", "y", "x"], ascending=[True, False, True, True], kind="stable"
    )
    table = table.reset_index(drop=True)
    fwhm = fwhm_of(difference.require_psf().moments_at(table.x, table.y))
    return table[~collapsed(table, fwhm)].reset_index(drop=True)


def _rank(detections: Detections) -> I64:
    """Return the number (N,) of each detection among those of its footprint, -1 where it is alone."""
    order = np.argsort(detections.label, kind="stable")
    label = detections.label[order]
    first = np.concatenate([[True], label[1:] != label[:-1]]) if label.size else np.zeros(0, bool)
    start = np.maximum.accumulate(np.where(first, np.arange(label.size), 0))
    rank = np.empty(label.size, np.int64)
    rank[order] = np.arange(label.size) - start
    shared = np.bincount(detections.label, minlength=1)[detections.label] > 1
    rank[~shared | detections.is_sky | (detections.label == 0)] = -1
    return rank


def _fitted(
    difference: Exposure,
    label: I64,
    px: I64,
    py: I64,
    rank: I64,
) -> tuple[F64, F64, F64]:
    """Return frame positions x, y (px) and fluxes (counts) of blended sources, each of shape (N,), fitted in turn."""
    psf = difference.require_psf()
    x0, y0 = difference.origin
    peak_x, peak_y = (px + x0).astype(np.float64), (py + y0).astype(np.float64)
    x, y = peak_x.copy(), peak_y.copy()
    flux = _joint_fluxes(difference, label, x, y)
    for _ in range(ROUNDS):
        for k in range(int(rank.max()) + 1):
            own = rank == k
            alone = _changed(difference, x[~own], y[~own], -flux[~own])
            x[own], y[own], _ = fit_centroids(alone, psf, peak_x[own], peak_y[own])
        flux = _joint_fluxes(difference, label, x, y)
    return x, y, flux


def _joint_fluxes(difference: Exposure, label: I64, x: F64, y: F64) -> F64:
    """Return the PSF fluxes (N,) of the sources of each footprint, fitted together with inverse-variance weights."""
    stamps = psf_images(difference.require_psf(), x, y)
    half = stamps.shape[-1] // 2
    cx, cy = (nearest_pixels(v) - o for v, o in zip((x, y), difference.origin, strict=True))
    bits = plane_bits(["NO_DATA", "BAD", "SAT", "CR"])
    out = np.zeros(x.size)
    for footprint in np.unique(label):  # a handful of footprints, each a small linear system
        rows = np.flatnonzero(label == footprint)
        low_x, high_x = max(cx[rows].min() - half, 0), min(cx[rows].max() + half + 1, difference.width)
        low_y, high_y = max(cy[rows].min() - half, 0), min(cy[rows].max() + half + 1, difference.height)
        part = (slice(low_y, high_y), slice(low_x, high_x))
        image, variance = difference.image[part], difference.variance[part]
        good = np.isfinite(image) & (variance > 0) & ((difference.mask[part] & np.int32(bits)) == 0)
        design = np.zeros((rows.size, *image.shape))
        for model, row in zip(design, rows, strict=True):
            add_stamps(model, stamps[row : row + 1], cx[row : row + 1] - low_x, cy[row : row + 1] - low_y, np.ones(1))
        weight = 1 / np.sqrt(np.where(good, variance, np.inf)).ravel()
        a = np.nan_to_num(design.reshape(rows.size, -1)) * weight
        out[rows] = np.linalg.lstsq(a.T, np.where(good, image, 0).ravel() * weight, rcond=1e-6)[0]
    return out


def _without(
    difference: Exposure, science: Exposure, template: Exposure, x: F64, y: F64, flux: F64, template_unit: float
) -> tuple[Exposure, Exposure, Exposure]:
    """Return the three images without the light of some sources of the difference."""
    up = flux > 0
    return (
        _changed(difference, x, y, -flux),
        _changed(science, x[up], y[up], -flux[up]),
        _changed(template, x[~up], y[~up], flux[~up] / template_unit),
    )


def _changed(exposure: Exposure, x: F64, y: F64, flux: F64) -> Exposure:
    """Return an exposure with point sources added to its image."""
    if x.size == 0:
        return exposure
    image = exposure.image.copy()
    stamps = np.nan_to_num(psf_images(exposure.require_psf(), x, y))
    cx, cy = (nearest_pixels(v) - o for v, o in zip((x, y), exposure.origin, strict=True))
    add_stamps(image, stamps, cx, cy, flux)
    return replace(exposure, image=image)
