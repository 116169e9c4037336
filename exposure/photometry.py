"""PSF flux at fixed positions (the compiled kernel that several rooms share): unweighted linear fit of the PSF image, errors from the variance plane.

With P the PSF image at the sub-pixel position (not renormalised after clipping), d the data and V the variance over the
pixels that remain: flux = sum(P d) / sum(P^2), error = sqrt(sum(P^2 V)) / sum(P^2), area = (sum P)^2 / sum(P^2),
chi2 = sum((d - flux P)^2 / V). Unit weights keep bright and faint sources on one scale (no magnitude-dependent bias).
"""

from typing import Any

import numba
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from exposure.errors import PsfUndefined
from exposure.psf import Psf

__all__ = ["forced_psf_photometry", "psf_images"]

CHUNK = 2000  # rows of stamps held at once: 2000 x 41 x 41 float32 = 13 MB


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _fit(image: Any, variance: Any, skip: Any, stamps: Any, cx: Any, cy: Any, out: Any) -> None:
    """out columns: flux, err, chi2, npixels, area, clipped."""
    height, width = image.shape
    size = stamps.shape[1]
    half = size // 2
    for m in range(cx.shape[0]):
        x0, y0 = cx[m] - half, cy[m] - half
        j0, j1, i0, i1 = max(0, -y0), min(size, height - y0), max(0, -x0), min(size, width - x0)
        spd = spp = sppv = sp = 0.0
        n = 0
        for j in range(j0, j1):
            for i in range(i0, i1):
                if skip[y0 + j, x0 + i]:
                    continue
                p, d, v = float(stamps[m, j, i]), float(image[y0 + j, x0 + i]), float(variance[y0 + j, x0 + i])
                spd += p * d
                spp += p * p
                sppv += p * p * v
                sp += p
                n += 1
        flux = spd / spp if spp > 0 else np.nan
        chi2 = 0.0
        for j in range(j0, j1):
            for i in range(i0, i1):
                if not skip[y0 + j, x0 + i]:
                    r = image[y0 + j, x0 + i] - flux * stamps[m, j, i]
                    v = float(variance[y0 + j, x0 + i])
                    chi2 += r * r / v if v != 0 else np.inf
        out[m, 0] = flux
        out[m, 1] = np.sqrt(sppv) / spp if spp > 0 else np.nan
        out[m, 2] = chi2 if n else np.nan
        out[m, 3] = n
        out[m, 4] = sp * sp / spp if spp > 0 else np.nan
        out[m, 5] = 1.0 if (j0 > 0 or i0 > 0 or j1 < size or i1 < size) else 0.0


def psf_images(psf: Psf, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return PSF images; positions where the model is undefined get NaN stamps (found by halving the batch)."""
    try:
        return psf.image_at(x, y)
    except PsfUndefined:
        if x.size == 1:
            return np.full((1, psf.size, psf.size), np.nan, dtype=np.float32)
        half = x.size // 2
        return np.concatenate([psf_images(psf, x[:half], y[:half]), psf_images(psf, x[half:], y[half:])])


def forced_psf_photometry(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    psf: Psf,
    x: ArrayLike,
    y: ArrayLike,
    *,
    origin: tuple[int, int] = (0, 0),
    bad: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    """Measure PSF fluxes at N positions.

    Parameters
    ----------
    image, variance
        Shape (height, width), instrument units and their square.
    psf
        Model in frame coordinates.
    x, y
        Frame positions in px.
    origin
        Frame coordinates of pixel [0, 0].
    bad
        Pixels to leave out (default none, as a pixel left out biases nothing only when it is really bad).

    Returns
    -------
    table : `pandas.DataFrame`
        One row per position, in order: ``instFlux``, ``instFluxErr``, ``chi2``, ``npixels``, ``area``, ``flag``,
        ``flag_edge``, ``flag_noGoodPixels``, ``flag_invalidPsf``. Values do not depend on the order or the chunking.
    """
    xs, ys = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
    out = np.full((xs.size, 6), np.nan)
    out[:, 3] = 0
    invalid_psf = np.zeros(xs.size, dtype=bool)
    skip = np.zeros(image.shape, dtype=np.bool_) if bad is None else np.ascontiguousarray(bad)
    ok = np.flatnonzero(np.isfinite(xs) & np.isfinite(ys) & (np.abs(xs) < 1e8) & (np.abs(ys) < 1e8))
    # strip by strip, so that neighbours find each other's pixels in the cache
    ok = ok[np.lexsort((xs[ok], ys[ok] // 16))]
    for start in range(0, ok.size, CHUNK):
        rows = ok[start : start + CHUNK]
        stamps = psf_images(psf, xs[rows], ys[rows])
        part = np.empty((rows.size, 6))
        cx = np.floor(xs[rows] + 0.5).astype(np.int64) - origin[0]
        cy = np.floor(ys[rows] + 0.5).astype(np.int64) - origin[1]
        _fit(image, variance, skip, stamps, cx, cy, part)
        out[rows] = part
        invalid_psf[rows] = ~np.isfinite(stamps[:, 0, 0])
    return _table(out, invalid_psf)


def _table(out: NDArray[np.float64], invalid_psf: NDArray[np.bool_]) -> pd.DataFrame:
    no_pixels = out[:, 3] == 0
    failed = ~(np.isfinite(out[:, 0]) & np.isfinite(out[:, 1]))
    out[failed, 0] = out[failed, 1] = np.nan
    edge = (out[:, 5] > 0) | no_pixels
    return pd.DataFrame(
        {
            "instFlux": out[:, 0],
            "instFluxErr": out[:, 1],
            "chi2": out[:, 2],
            "npixels": out[:, 3].astype(np.int32),
            "area": out[:, 4],
            "flag": failed | edge | invalid_psf,
            "flag_edge": edge,
            "flag_noGoodPixels": no_pixels,
            "flag_invalidPsf": invalid_psf,
        }
    )
