"""PSF flux at fixed positions (the compiled kernel that several rooms share): unweighted linear fit of the PSF image, errors from the variance plane.

With P the PSF image at the sub-pixel position (not renormalised after clipping), d the data and V the variance over the
pixels that remain: flux = sum(P d) / sum(P^2), error = sqrt(sum(P^2 V)) / sum(P^2), area = (sum P)^2 / sum(P^2),
chi2 = sum((d - flux P)^2 / V). Unit weights keep bright and faint sources on one scale (no magnitude-dependent bias).
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from exposure.errors import PsfUndefined
from exposure.photon_noise import MODEL, PSF_FLUX, corrected
from exposure.psf import GridPsf, PolynomialPsf, Psf
from tasks.arrays import F32, F64, I64, Flags, nearest_pixels
from tasks.compiled import compiled

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CENTROID_SIDE",
    "LACKING",
    "LEAST_COVERAGE",
    "SPOILT",
    "forced_psf_photometry",
    "position_basis",
    "psf_at_fixed_pixel",
    "psf_images",
]

LEAST_COVERAGE = 0.7
"""Of the PSF's light on the image that must fall on pixels with data; with less there is no flux."""
LACKING = 0.999
"""A fit that has less of the PSF's light than this is marked as one that lacks data."""
SPOILT = ("BAD", "CR")
"""Planes of pixels that hold something else than the sky, or what stands in for it: no flux is measured on them."""
CENTROID_SIDE = 15
"""Side of the stamps that flux and position are fitted on, px."""
CHUNK = 2000  # rows of stamps held at once: 2000 x 41 x 41 float32 = 13 MB
# sums may be taken in any order (the same one at every call), NaN and infinity keep their meaning
_FAST = frozenset(("reassoc", "contract", "nsz", "arcp"))


@compiled(fastmath=set(_FAST))
def _fit(
    image: Any, variance: Any, skip: Any, stamps: Any, centres: Any, weighted: bool, correlation: Any, out: Any
) -> None:
    """Fit stamps (N, S, S) around pixels `centres` (N, 2) in one pass.

    `out` (N, 9) gets flux, error, chi2, number of pixels, area, whether the stamp was clipped, the share of the
    light on the image that falls on pixels that were used, the slope of their variance over the PSF, and the share of the light
    that is on the image. `skip` is None or a plane of pixels to leave out; `correlation` None or the noise's autocorrelation.
    """
    height, width = image.shape
    size = stamps.shape[1]
    half = size // 2
    zero, one = np.float64(0), np.float64(1)
    for m in range(centres.shape[0]):
        x0, y0 = centres[m, 0] - half, centres[m, 1] - half
        j0, j1, i0, i1 = max(0, -y0), min(size, height - y0), max(0, -x0), min(size, width - x0)
        spd: Any = 0.0
        spp = sppv = sp = light = sddw = spdw = sppw = sum_v = sum_pv = spd
        n = zeros = 0
        if j1 > j0 and i1 > i0:
            # unsigned places need no look at negative ones, which would keep the loop from being vectorised
            first, begin, count = np.uint64(x0 + i0), np.uint64(i0), np.uint64(i1 - i0)
            for j in range(j0, j1):
                row, line = np.uint64(y0 + j), np.uint64(j)
                for k in range(count):
                    x = first + k
                    # float() would keep single precision here
                    d, v = np.float64(image[row, x]), np.float64(variance[row, x])
                    p = np.float64(stamps[np.uint64(m), line, begin + k])
                    light += p
                    if skip is not None:
                        use = not skip[row, x]
                        d, v, p = (d, v, p) if use else (zero, one, zero)
                        n += use
                        sum_v -= not use  # what stands in for its variance
                    w = 1.0 / v if v != 0.0 else 0.0
                    zeros += v == 0.0
                    spd += p * d
                    spp += p * p
                    sppv += p * p * v
                    sum_v += v
                    sum_pv += p * v
                    sp += p
                    sddw += d * d * w
                    spdw += p * d * w
                    sppw += p * p * w
            if skip is None:
                n = (j1 - j0) * (i1 - i0)
        if weighted:
            flux = spdw / sppw if sppw > 0 else np.nan
            err = 1.0 / np.sqrt(sppw) if sppw > 0 else np.nan
        else:
            flux = spd / spp if spp > 0 else np.nan
            err = np.sqrt(sppv) / spp if spp > 0 else np.nan
        if correlation is not None:
            err *= np.sqrt(_correlated(stamps[m], j0, j1, i0, i1, correlation))
        out[m, 0] = flux
        out[m, 1] = err
        out[m, 2] = (np.inf if zeros else max(sddw - 2 * flux * spdw + flux * flux * sppw, 0.0)) if n else np.nan
        out[m, 3] = n
        out[m, 4] = sp * sp / spp if spp > 0 else np.nan
        out[m, 5] = 1.0 if (j0 > 0 or i0 > 0 or j1 < size or i1 < size) else 0.0
        out[m, 6] = sp / light if light > 0 else 0.0
        out[m, 8] = light / np.float64(stamps[m].sum()) if out[m, 5] > 0 else 1.0
        spread = spp - sp * sp / n if n else 0.0
        out[m, 7] = (sum_pv - sp * sum_v / n) / spread if spread > 0 else 0.0


@compiled
def _correlated(stamp: Any, j0: int, j1: int, i0: int, i1: int, correlation: Any) -> float:
    """Return sum_ij P_i P_j C_ij / sum P^2, by how much correlation raises the variance of the flux."""
    reach = correlation.shape[0] // 2
    total = squares = 0.0
    for j in range(j0, j1):
        for i in range(i0, i1):
            p = stamp[j, i]
            squares += p * p
            near = 0.0
            for b in range(max(j0, j - reach), min(j1, j + reach + 1)):
                for a in range(max(i0, i - reach), min(i1, i + reach + 1)):
                    near += stamp[b, a] * correlation[b - j + reach, a - i + reach]
            total += p * near
    return max(total / squares, 0.0) if squares > 0 else np.nan


def psf_images(psf: Psf, x: F64, y: F64) -> F32:
    """Return PSF images (N, S, S); positions where the model is undefined get NaN stamps (found by halving the batch)."""
    try:
        return psf.image_at(x, y)
    except PsfUndefined:
        if x.size == 1:
            return np.full((1, psf.size, psf.size), np.nan, dtype=np.float32)
        half = x.size // 2
        return np.concatenate([psf_images(psf, x[:half], y[:half]), psf_images(psf, x[half:], y[half:])])


def forced_psf_photometry(
    image: F32,
    variance: F32,
    psf: Psf | F32,
    x: ArrayLike,
    y: ArrayLike,
    *,
    origin: tuple[int, int] = (0, 0),
    bad: Flags | None = None,
    weighting: Literal["uniform", "inverse_variance"] = "uniform",
    correlation: F64 | None = None,
) -> "pd.DataFrame":
    """Measure PSF fluxes at N positions.

    Parameters
    ----------
    image, variance
        Shape (height, width), instrument units and their square.
    psf
        Model in frame coordinates, or one stamp (S, S), S odd, centred on its middle pixel, for all positions; its sum
        becomes 1.
    x, y
        Frame positions in px.
    origin
        Frame coordinates of pixel [0, 0].
    bad
        Pixels to leave out (default none, as a pixel left out biases nothing only when it is really bad). The flux is that
        of the whole PSF still.
    weighting
        ``uniform``: as above. ``inverse_variance``: flux = sum(P d / V) / sum(P^2 / V), error = 1 / sqrt(sum(P^2 / V));
        more precise where the noise varies, but biased when V holds the noise of the source itself.
    correlation
        Autocorrelation of the noise at lags -L..L, shape (2L + 1, 2L + 1), 1 in the middle: errors then are those of
        noise so correlated (`exposure.noise.sky_autocorrelation` measures it). By default pixels are independent.

    Returns
    -------
    table : `pandas.DataFrame`
        One row per position, in order: ``instFlux``, ``instFluxErr``, ``chi2``, ``npixels``, ``area``, ``flag``,
        ``flag_edge``, ``flag_noGoodPixels``, ``flag_invalidPsf``, ``coverage`` (the share of the light on the image that
        falls on pixels that were used), ``varianceSlope`` (of the variance over the PSF, unit^2), ``onImage`` (the share of
        the light that is on the image). Values do not depend on the order or the chunking.

    Raises
    ------
    PsfUndefined
        A stamp that is no PSF: not square, of an even side, or without a positive sum.
    """
    model = _constant_psf(psf) if isinstance(psf, np.ndarray) else psf
    xs, ys = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
    out = np.full((xs.size, 9), np.nan)
    out[:, 3] = out[:, 6] = out[:, 8] = 0
    invalid_psf = np.zeros(xs.size, dtype=bool)
    skip = None if bad is None else np.ascontiguousarray(bad)
    ok = np.flatnonzero(np.isfinite(xs) & np.isfinite(ys) & (np.abs(xs) < 1e8) & (np.abs(ys) < 1e8))
    # strip by strip, so that neighbours find each other's pixels in the cache
    ok = ok[np.lexsort((xs[ok], ys[ok] // 16))]
    for start in range(0, ok.size, CHUNK):
        rows = ok[start : start + CHUNK]
        stamps = psf_images(model, xs[rows], ys[rows])
        part = np.empty((rows.size, 9))
        centres = nearest_pixels(np.stack([xs[rows], ys[rows]], axis=1)) - np.asarray(origin)
        _fit(image, variance, skip, stamps, centres, weighting == "inverse_variance", correlation, part)
        out[rows] = part
        invalid_psf[rows] = ~np.isfinite(stamps[:, 0, 0])
    if isinstance(model, GridPsf) and model.photon_noise is not None and weighting == "uniform" and correlation is None:
        more = model.photon_noise.variance(xs, ys, out[:, 0], out[:, 7])
        out[:, 1] = corrected(out[:, 1], more[:, PSF_FLUX] + more[:, MODEL] * out[:, 0] ** 2)
    return _table(out, invalid_psf)


def _constant_psf(stamp: F32) -> Psf:
    """Return the model that has one stamp everywhere."""
    if stamp.ndim != 2 or stamp.shape[0] != stamp.shape[1] or stamp.shape[0] % 2 == 0:
        raise PsfUndefined(f"a PSF stamp must be square with an odd side, got one of shape {stamp.shape}")
    total = float(stamp.sum(dtype=np.float64))
    if not (np.isfinite(total) and total > 0):
        raise PsfUndefined(f"a PSF stamp must have a positive sum, got {total}")
    basis = np.asarray(stamp / total, np.float32)[None]
    return PolynomialPsf(basis, np.zeros((1, 2), np.int64), (0, 0, 1, 1), (0.0, 0.0))


def _table(out: F64, invalid_psf: Flags) -> "pd.DataFrame":
    no_pixels = out[:, 3] == 0
    failed = ~(np.isfinite(out[:, 0]) & np.isfinite(out[:, 1]))
    out[failed, 0] = out[failed, 1] = np.nan
    edge = (out[:, 5] > 0) | no_pixels
    import pandas as pd  # half a second to load

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
            "coverage": out[:, 6],
            "varianceSlope": out[:, 7],
            "onImage": out[:, 8],
        }
    )


def psf_at_fixed_pixel(psf: Psf, x: F64, y: F64, cx: I64, cy: I64) -> F32:
    """Return PSF images (N, S, S) at positions (x, y) on stamps that stay centred on pixels (cx, cy), all (N,)."""
    stamps = psf_images(psf, x, y)
    dx = (np.floor(x + 0.5) - cx).astype(np.int64)
    dy = (np.floor(y + 0.5) - cy).astype(np.int64)
    for k in np.flatnonzero((dx != 0) | (dy != 0)):  # the few that left their pixel
        stamps[k] = np.roll(stamps[k], (dy[k], dx[k]), axis=(0, 1))
    return stamps


def _crop(stamps: F32 | F64, side: int) -> F32 | F64:
    """Return the middle (N, side, side) of stamps."""
    low = (stamps.shape[-1] - side) // 2
    return stamps[:, low : low + side, low : low + side] if low > 0 else stamps


def position_basis(stamps: F32 | F64, side: int = CENTROID_SIDE) -> F64:
    """Return what a fit of flux and position is made of, shape (3, N, side, side): PSFs, and minus their derivatives in x and y.

    `stamps` (N, S, S) of PSFs are cut to `side` px.
    """
    wide = np.pad(stamps.astype(np.float64), ((0, 0), (2, 2), (2, 2)))
    # of third order: those of second order are a twentieth too small for a narrow PSF, and errors as much too large
    gx = (8 * (wide[:, 2:-2, 3:-1] - wide[:, 2:-2, 1:-3]) - (wide[:, 2:-2, 4:] - wide[:, 2:-2, :-4])) / 12
    gy = (8 * (wide[:, 3:-1, 2:-2] - wide[:, 1:-3, 2:-2]) - (wide[:, 4:, 2:-2] - wide[:, :-4, 2:-2])) / 12
    return np.stack([_crop(p, side) for p in (wide[:, 2:-2, 2:-2], -gx, -gy)])
