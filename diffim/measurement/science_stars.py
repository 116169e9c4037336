"""Sources of an image that may be kernel stars, where none (or too few) were given with it."""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from diffim.detection.peaks import detect
from diffim.detection.significance import significance
from diffim.measurement.centroids import fit_centroids
from exposure import Exposure
from exposure.mask import plane_bits
from exposure.photometry import forced_psf_photometry
from exposure.psf import fwhm_of
from exposure.stamps import adaptive_moments, extendedness, gather
from tasks.arrays import nearest_pixels

__all__ = ["detect_kernel_sources"]

THRESHOLD = 10.0  # sigma
STAMP = 25
POINT = 0.5  # extendedness of a star is less
SPOILING = ("BAD", "SAT", "NO_DATA", "CR", "EDGE")


def detect_kernel_sources(science: Exposure, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Detect point sources with the PSF of an image.

    Returns
    -------
    sources : `pandas.DataFrame`
        x, y (frame px), snr, psfFlux, star, isolated, flagged; brightest first.
    """
    psf = science.require_psf()
    good = science.good("BAD", "SAT", "CR")
    detections = detect(significance(science, good), threshold)
    up = detections.significance > 0
    px, py = (a[up].astype(np.float64) + o for a, o in zip((detections.x, detections.y), science.origin, strict=True))
    x, y, info = fit_centroids(science, psf, px, py)
    flux = forced_psf_photometry(
        science.image, science.variance, psf, x, y, origin=science.origin, bad=~science.good("CR")
    )
    frame = pd.DataFrame({"x": x, "y": y, "psfFlux": flux.instFlux.to_numpy(np.float64)})
    frame["snr"] = frame.psfFlux / flux.instFluxErr.to_numpy(np.float64)
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    column, row = ix - science.origin[0], iy - science.origin[1]
    model = psf.moments_at(x, y) if len(x) else np.zeros((0, 3))
    own = adaptive_moments(np.nan_to_num(gather(science.image, column, row, STAMP, 0.0)), x - ix, y - iy)
    frame["star"] = extendedness(own, model) < POINT  # NaN is no star
    near = gather(science.mask, column, row, 2 * STAMP // 5 + 1, plane_bits(SPOILING))
    frame["flagged"] = ((near & plane_bits(SPOILING)) != 0).any(axis=(1, 2)) | (info[:, 3] > 0)
    frame["isolated"] = True
    if len(x) > 1:
        reach = 3 * float(np.median(fwhm_of(model)))
        points = np.column_stack([x, y])
        frame["isolated"] = np.asarray(cKDTree(points).query(points, k=2)[0])[:, 1] > reach
    able = np.isfinite(frame.snr.to_numpy()) & (frame.snr.to_numpy() > 0)
    chosen: pd.DataFrame = frame[able].sort_values(["psfFlux", "x"], ascending=[False, True], ignore_index=True)
    return chosen
