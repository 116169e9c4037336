"""Trails: a straight line convolved with the PSF, its length and angle from the moments, its flux by a linear fit.

Noise makes everything a little longer in some direction: what a line does not explain better than a point has no length, and its
flux is that of the point. Those of long footprints have a fit of their own (`diffim.measurement.trail_fits`).
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import erf

from exposure import Exposure
from exposure.mask import plane_bits
from exposure.photometry import SPOILT, psf_images
from exposure.photon_noise import MODEL, PSF_FLUX, SKY, corrected
from exposure.stamps import gather
from tasks.arrays import F64, Flags, nearest_pixels
from tasks.compiled import compiled

__all__ = ["LONGEST", "STEP", "measure_trails"]

SUSPECT = 3  # PSF radii: a longer trail should not end at the edge
STEP = 0.5  # px between the points that stand for a line
STAMPS = 4000  # PSF images held at once
LONGEST = 150.0  # px: no line is fitted to anything longer


def measure_trails(
    frame: pd.DataFrame, difference: Exposure, shape: F64, failed: Flags, lines: F64 | None = None
) -> None:
    """Add the columns of trails: length and angle in pixels, flux with chi2 and number of pixels, flags.

    Parameters
    ----------
    frame
        Table with x, y, ixxPSF, iyyPSF, ixyPSF, psfInstFlux, psfInstFluxErr; columns are added.
    shape
        Shape (N, 3), adaptive moments Ixx, Iyy, Ixy in px^2.
    failed
        Sources whose moments did not converge: they have no length and ``trail_flag``.
    lines
        Shape (N, 8), of lines that were fitted already: length (px), angle (rad), flux, its error, chi2, pixels, errors of length
        and angle; NaN for others. The errors of length and angle of those that only moments tell of are not known.

    Notes
    -----
    Length and angle: Veres et al. 2012, PASP 124, 1197 (the line that has these second moments), for a round PSF: what the PSF is
    longer in some direction is taken off. Line and point are compared by Schwarz's criterion, with two parameters more.
    """
    xx, yy, xy = (frame[f"i{c}PSF"].to_numpy(np.float64) for c in ("xx", "yy", "xy"))
    length, angle = _length_and_angle(shape - np.column_stack([0.5 * (xx - yy), 0.5 * (yy - xx), xy]))
    lines = np.full((len(frame), 8), np.nan) if lines is None else lines
    has_line = np.isfinite(lines[:, 0])
    failed = failed & ~has_line
    x, y = frame.x.to_numpy(np.float64), frame.y.to_numpy(np.float64)
    length = np.where(failed, 0.0, length)
    fitted, point = (_line_fluxes(difference, x, y, a, angle) for a in (length, np.zeros_like(length)))
    with np.errstate(invalid="ignore"):
        # of what is too long for a fit nobody knows: it keeps its length, and has no flux
        is_line = (fitted[:, 4] - point[:, 4] > 2 * np.log(np.maximum(fitted[:, 3], 2))) | (length > LONGEST)
    flux, error = (frame[f"psfInstFlux{e}"].to_numpy(np.float64) for e in ("", "Err"))
    fitted = np.where(is_line[:, None], fitted, np.column_stack([flux, error, point[:, 2:]]))
    _add_photon_noise(fitted, difference, x, y, is_line)
    fitted[has_line, :4] = lines[has_line, 2:6]
    frame["trailLengthPixels"] = length = np.where(has_line, lines[:, 0], np.where(is_line, length, 0.0))
    frame["trailAnglePixels"] = angle = np.where(has_line, lines[:, 1], angle)
    frame["trailLengthErrPixels"], frame["trailAngleErrPixels"] = lines[:, 6], lines[:, 7]
    frame["trail_flag"] = failed
    dx, dy = 0.5 * length * np.cos(angle), 0.5 * length * np.sin(angle)
    ends = [(x - dx, y - dy), (x + dx, y + dy)]
    off = ~np.all([difference.contains(*end) for end in ends], axis=0)
    frame["trail_flag_off_image"] = off
    frame["trail_flag_edge"] = np.any([_on_plane(difference, *end, "EDGE") for end in ends], axis=0) | off
    radius = np.sqrt(0.5 * (frame.ixxPSF + frame.iyyPSF))
    frame["trail_flag_suspect_long_trail"] = length > SUSPECT * radius
    for k, name in enumerate(("trailInstFlux", "trailInstFluxErr", "trailChi2")):
        frame[name] = fitted[:, k]
    frame["trailNdata"] = fitted[:, 3].astype(np.int32)


def _add_photon_noise(fitted: F64, difference: Exposure, x: F64, y: F64, rows: Flags) -> None:
    """Bring the errors of lines (N, 2...) to what the noise of photons adds to those of points; it is about the same."""
    noise = getattr(difference.psf, "photon_noise", None)
    if noise is None or not rows.any():
        return
    flux, error = fitted[rows, 0], fitted[rows, 1]
    more = noise.at(x[rows], y[rows])
    own = np.where((flux > 0)[:, None], more[:, 0], more[:, 1])
    fitted[rows, 1] = corrected(
        error, own[:, PSF_FLUX] * np.abs(flux) + more[:, SKY, PSF_FLUX] + own[:, MODEL] * flux**2
    )


def _length_and_angle(shape: F64) -> tuple[F64, F64]:
    """Return length (px) and angle (rad, from +x to +y) of the lines that have moments (N, 3), px^2."""
    ixx, iyy, ixy = shape.T
    root = np.sqrt(0.25 * (ixx - iyy) ** 2 + ixy**2)
    a2, b2 = 0.5 * (ixx + iyy) + root, np.maximum(0.5 * (ixx + iyy) - root, 1e-6)
    z_grid = np.linspace(0.001, 1.0, 2000)
    c_grid = erf(z_grid) / (z_grid * np.exp(-(z_grid**2)))
    z = np.interp(4 * a2 / ((a2 + b2) * np.sqrt(np.pi)), c_grid, z_grid)
    length = np.where(z <= 0.0011, 0.0, 2 * z * np.sqrt(2 * (a2 + b2)))
    return length, 0.5 * np.arctan2(2 * ixy, ixx - iyy)


def _on_plane(image: Exposure, x: F64, y: F64, plane: str) -> Flags:
    """Return which positions are on a pixel with a mask plane (none off the image)."""
    good = np.isfinite(x) & np.isfinite(y)
    ix, iy = (nearest_pixels(np.where(good, v, -1)) for v in (x - image.origin[0], y - image.origin[1]))
    return np.asarray((gather(image.mask, ix, iy, 1, 0)[:, 0, 0] & plane_bits([plane])) != 0)


def _line_fluxes(difference: Exposure, x: F64, y: F64, length: F64, angle: F64) -> F64:
    """Return (N, 5): flux, error, chi2, pixels of the unweighted linear fit of each line (NaN where there is none), and by how
    much it lowers chi2.
    """
    out = np.full((x.size, 5), np.nan)
    out[:, 3] = 0
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(length) & np.isfinite(angle) & (length <= LONGEST)
    rows = np.flatnonzero(good)
    points = np.maximum(np.ceil(length[rows] / STEP), 1).astype(np.int64)
    skip = ~difference.good("EDGE", *SPOILT)
    chunk = np.cumsum(points) // STAMPS
    psf = difference.require_psf()
    for number in np.unique(chunk):
        part = rows[chunk == number]
        n = points[chunk == number]
        first = np.concatenate([[0], np.cumsum(n)])
        owner = np.repeat(np.arange(part.size), n)
        along = ((np.arange(owner.size) - first[owner] + 0.5) / n[owner] - 0.5) * length[part][owner]
        px, py = (
            x[part][owner] + along * np.cos(angle[part][owner]),
            y[part][owner] + along * np.sin(angle[part][owner]),
        )
        stamps = psf_images(psf, px, py)
        corner = [nearest_pixels(p) - o for p, o in zip((px, py), difference.origin, strict=True)]
        fits = np.empty((part.size, 5))
        _fit_lines(difference.image, difference.variance, skip, stamps, corner[0], corner[1], first, fits)
        out[part] = fits
    return out


@compiled
def _fit_lines(image: Any, variance: Any, skip: Any, stamps: Any, cx: Any, cy: Any, first: Any, out: Any) -> None:
    """Stamps first[n]..first[n + 1] - 1, centred on pixels (cx, cy), are the line of source n."""
    height, width = image.shape
    half = stamps.shape[1] // 2
    for n in range(out.shape[0]):
        a, b = first[n], first[n + 1]
        x0, x1, y0, y1 = cx[a:b].min() - half, cx[a:b].max() + half, cy[a:b].min() - half, cy[a:b].max() + half
        model = np.zeros((y1 - y0 + 1, x1 - x0 + 1))
        for k in range(a, b):
            for j in range(stamps.shape[1]):
                for i in range(stamps.shape[2]):
                    model[cy[k] - half - y0 + j, cx[k] - half - x0 + i] += stamps[k, j, i] / (b - a)
        smd = smm = smmv = 0.0
        count = 0
        for j in range(max(0, -y0), min(model.shape[0], height - y0)):
            for i in range(max(0, -x0), min(model.shape[1], width - x0)):
                if not skip[y0 + j, x0 + i]:
                    m = model[j, i]
                    smd += m * image[y0 + j, x0 + i]
                    smm += m * m
                    smmv += m * m * variance[y0 + j, x0 + i]
                    count += 1
        out[n], out[n, 3] = np.nan, count
        if smm > 0:
            flux, chi2, without = smd / smm, 0.0, 0.0
            for j in range(max(0, -y0), min(model.shape[0], height - y0)):
                for i in range(max(0, -x0), min(model.shape[1], width - x0)):
                    v = variance[y0 + j, x0 + i]
                    if not skip[y0 + j, x0 + i] and v > 0:
                        chi2 += (image[y0 + j, x0 + i] - flux * model[j, i]) ** 2 / v
                        without += image[y0 + j, x0 + i] ** 2 / v
            out[n, 0], out[n, 1], out[n, 2], out[n, 4] = flux, np.sqrt(smmv) / smm, chi2, without - chi2
