"""Measurement of detected sources: centroids, fluxes, shapes, trails, dipoles, flags. One row per source."""

from typing import Any

import numpy as np
import pandas as pd
import sep
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from diffim.detection.peaks import TRAIL_COLUMNS, Detections, footprint_edges
from diffim.measurement.centroids import fit_centroids
from diffim.measurement.dipoles import measure_dipoles
from diffim.measurement.flags import pixel_flags
from diffim.measurement.trails import measure_trails
from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.mask import plane_bits
from exposure.photometry import LACKING, LEAST_COVERAGE, SPOILT, forced_psf_photometry, psf_images
from exposure.photon_noise import AP_FLUX, AP_RADIUS, corrected
from exposure.psf import Psf, fwhm_of
from exposure.stamps import adaptive_moments, extendedness, gather
from tasks.arrays import F32, F64, I64, Flags, nearest_pixels

__all__ = ["AP_RADIUS", "collapsed", "measure"]

Columns = dict[str, NDArray[Any]]
STAMP, LARGE_STAMP = 25, 81  # px: for moments of sources, and of those with a large footprint (trails)
MAX_DIPOLE_AREA = 1200  # px
LEAST_INSIDE = 0.2  # of a source's light in the aperture: what is wider is no point source there
BATCH_SOURCES = 4096  # sources whose smoothed stamps are held


def measure(
    difference: Exposure,
    science: Exposure,
    template: Exposure,
    detections: Detections,
    footprints: bool = True,
    template_unit: float = 1.0,
) -> pd.DataFrame:
    """Measure every detection.

    Parameters
    ----------
    difference, science, template
        The three images; `template_unit` times the template is in the units of the other two.
    detections
        The detections.
    footprints
        Whether to set the flags ``pixelFlags_*``.

    Returns
    -------
    table : `pandas.DataFrame`
        Raw measurements in pixels and instrument units: x, y and errors, instrumental fluxes, moments, trail, dipole,
        science and template fluxes, flags, ``significance``, ``bboxSize``.
    """
    psf = difference.require_psf()
    frame = _centred(difference, psf, detections)
    frame = pd.concat([frame, _dipoles(frame, difference, science, template, template_unit)], axis=1)
    _move_dipoles(frame)
    fwhm = fwhm_of(psf.moments_at(frame.x, frame.y)) if len(frame) else np.zeros(0)
    frame = frame[~collapsed(frame, fwhm)].reset_index(drop=True)
    edges = frame[["bboxX", "bboxY", "bboxWidth", "bboxHeight"]].to_numpy(np.int64)
    x, y = (frame[c].to_numpy(np.float64) - o for c, o in zip("xy", difference.origin, strict=True))
    frame["bboxSize"] = footprint_edges(edges, x, y) if len(frame) else np.zeros(0, np.int64)
    # columns are joined by the dozen: to insert one takes as long as to measure it
    frame = _with(frame, _fluxes(frame, difference, science, template))
    _shapes(frame, difference, psf)
    if footprints:
        frame = _with(frame, pixel_flags(frame, difference, detections.labels))
        _flag_missing(frame, difference, psf.size)
    gone = ["label", "bboxX", "bboxY", "psfCoverage", "psfOnImage", *(f"fitted_{n}" for n in TRAIL_COLUMNS)]
    return frame.drop(columns=gone)


def _flag_missing(frame: pd.DataFrame, difference: Exposure, side: int) -> None:
    """Set the flags of missing data and of the edge where the fit of the flux, on `side` px, lacks light for it.

    Such a flux has no part in a mean (`tasks.lacking`).
    """
    lacks = np.flatnonzero(frame.psfCoverage < LACKING)
    ix, iy = (nearest_pixels(frame[c].to_numpy()[lacks]) - o for c, o in zip("xy", difference.origin, strict=True))
    planes = gather(difference.mask, ix, iy, side, 0)
    for name, plane in (("nodata", "NO_DATA"), ("edge", "EDGE")):
        flag = frame[f"pixelFlags_{name}"].to_numpy(bool, copy=True)
        flag[lacks] |= ((planes & plane_bits([plane])) != 0).any(axis=(1, 2))
        frame[f"pixelFlags_{name}"] = flag
    frame["pixelFlags_edge"] |= frame.psfOnImage < LACKING
    frame["pixelFlags_nodata"] |= (frame.psfCoverage < LACKING) & ~frame.pixelFlags_edge  # bad pixels, cosmic rays


def _with(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)


def _centred(difference: Exposure, psf: Psf, detections: Detections) -> pd.DataFrame:
    """Return the table with the centroids and what the detection says."""
    x0, y0 = difference.origin
    px, py = (detections.x + x0).astype(np.float64), (detections.y + y0).astype(np.float64)
    x, y, centroid = fit_centroids(difference, psf, px, py)
    line = np.full((len(px), len(TRAIL_COLUMNS)), np.nan) if detections.trail is None else detections.trail
    is_line = np.isfinite(line[:, 0])
    x, y = np.where(is_line, line[:, 0], x), np.where(is_line, line[:, 1], y)
    centroid = np.where(is_line[:, None], np.column_stack([line[:, 2:5], np.zeros(len(px))]), centroid)
    return pd.DataFrame(
        {
            "x": np.where(detections.is_sky, px, x),
            "y": np.where(detections.is_sky, py, y),
            "xErr": centroid[:, 0],
            "yErr": centroid[:, 1],
            "x_y_Cov": centroid[:, 2],
            "centroid_flag": centroid[:, 3] > 0,
            **{f"fitted_{name}": line[:, k] for k, name in enumerate(TRAIL_COLUMNS)},
            "significance": np.abs(detections.significance),
            "peakSign": np.where(detections.significance < 0, -1.0, 1.0),
            "isNegative": ~detections.has_positive,
            "sky_source": detections.is_sky,
            "label": detections.label,
            "bboxX": detections.boxes[:, 0],
            "bboxY": detections.boxes[:, 1],
            "bboxWidth": detections.boxes[:, 2],
            "bboxHeight": detections.boxes[:, 3],
            "footprintArea": detections.area,
        }
    )


def _move_dipoles(frame: pd.DataFrame) -> None:
    """Move dipoles to the middle of their lobes: that is where the source is. They have a positive part."""
    is_dipole = frame.isDipole.to_numpy(bool)
    for name in ("x", "y", "xErr", "yErr"):
        frame[name] = np.where(is_dipole, frame[f"dipole_{name}"], frame[name])
    frame["x_y_Cov"] = np.where(is_dipole, 0.0, frame.x_y_Cov)
    frame["centroid_flag"] &= ~is_dipole
    frame["isNegative"] &= ~is_dipole


def collapsed(frame: pd.DataFrame, fwhm: F64) -> Flags:
    """Return which rows (N,) have a centroid within half a FWHM of that of a more significant one: one source, two peaks.

    `fwhm` (N,) is that of the PSF at the sources, px; its median counts.
    """
    drop = np.zeros(len(frame), np.bool_)
    if len(frame) < 2:
        return drop
    pairs = cKDTree(frame[["x", "y"]].to_numpy(np.float64)).query_pairs(
        0.5 * float(np.nanmedian(fwhm)), output_type="ndarray"
    )
    rank = np.lexsort((frame.x, frame.y, -frame.significance.to_numpy()))
    order_of = np.empty(len(frame), np.int64)
    order_of[rank] = np.arange(len(frame))
    drop[np.where(order_of[pairs[:, 0]] > order_of[pairs[:, 1]], pairs[:, 0], pairs[:, 1])] = True
    return drop


def _fluxes(frame: pd.DataFrame, difference: Exposure, science: Exposure, template: Exposure) -> Columns:
    """PSF and aperture fluxes on the difference; forced PSF fluxes on science and template.

    Pixels without data, bad ones and cosmic rays are left out; where they hold too much of the PSF's light there is no flux.
    """
    columns: Columns = {}
    for exposure, name, flags in (
        (difference, "psf", "psfFlux"),
        (science, "science", "forced_PsfFlux"),
        (template, "template", None),
    ):
        bad = ~exposure.good(*SPOILT, *(["EDGE"] if exposure is difference else []))
        table = forced_psf_photometry(
            exposure.image, exposure.variance, exposure.require_psf(), frame.x, frame.y, origin=exposure.origin, bad=bad
        )
        values = {c: table[c].to_numpy() for c in table}
        lost = values["coverage"] < LEAST_COVERAGE
        values["flag_noGoodPixels"] = values["flag_noGoodPixels"] | lost
        values["flag"] = values["flag"] | lost
        if exposure is science:  # those of the difference have flags of their own (`_flag_missing`)
            values["flag"] = values["flag"] | (values["coverage"] < LACKING)
        columns[f"{name}InstFlux"] = np.where(lost, np.nan, values["instFlux"])
        columns[f"{name}InstFluxErr"] = np.where(lost, np.nan, values["instFluxErr"])
        if exposure is difference:
            columns["psfChi2"], columns["psfNdata"] = values["chi2"], values["npixels"]
            columns["psfCoverage"], columns["psfOnImage"] = values["coverage"], values["onImage"]
            columns["psfLnL"] = -0.5 * values["chi2"]
            columns |= _apertures(frame, difference, columns["psfInstFlux"], values["varianceSlope"])
        if flags is not None:
            columns |= {f"{flags}_{flag}": values[flag] for flag in ("flag", "flag_edge", "flag_noGoodPixels")}
    return columns


def _apertures(frame: pd.DataFrame, difference: Exposure, psf_flux: F64, slope: F64) -> Columns:
    """Fluxes within `AP_RADIUS` px on the difference, brought to all the light of point sources by the PSF, and their flags.

    Parameters
    ----------
    psf_flux
        Shape (N,), counts: what a source has on pixels that are left out (as of `_fluxes`) is what its PSF puts there; where that is more than
        1 - `LEAST_COVERAGE` of its light in the circle there is no flux.
    slope
        Shape (N,), counts^2: of the variance plane over the PSF.
    """
    bad = ~difference.good("EDGE", *SPOILT)
    planes = [np.where(bad, 0, p).astype(np.float32) for p in (difference.image, difference.variance)]
    x = frame.x.to_numpy(np.float64) - difference.origin[0]
    y = frame.y.to_numpy(np.float64) - difference.origin[1]
    flux, error = np.zeros((2, len(frame)))
    if len(frame):
        flux, error, _ = sep.sum_circle(planes[0], x, y, AP_RADIUS, var=planes[1], subpix=5)
        photons = getattr(difference.psf, "photon_noise", None)
        if photons is not None:
            error = corrected(error, photons.variance(frame.x, frame.y, psf_flux, slope)[:, AP_FLUX])
        inside, lost = _light_inside(difference, bad, x, y)
        lacking = lost > (1 - LEAST_COVERAGE) * inside
        flux = np.where(lacking, np.nan, (flux + lost * np.where(lost > 0, psf_flux, 0.0)) / inside)
        error = np.where(lacking, np.nan, error / inside)
    whole = (x > AP_RADIUS) & (y > AP_RADIUS)
    whole &= (x < difference.width - 1 - AP_RADIUS) & (y < difference.height - 1 - AP_RADIUS)
    return {
        "apInstFlux": flux,
        "apInstFluxErr": error,
        "apFlux_flag_apertureTruncated": ~whole,
        "apFlux_flag": ~whole | ~np.isfinite(flux),
    }


def _light_inside(difference: Exposure, bad: Flags, x: F64, y: F64) -> tuple[F64, F64]:
    """Return the share (N,) of the light of point sources that lies within `AP_RADIUS` of array positions, and of it that on bad pixels.

    Where the PSF is not defined all of it does, none on bad pixels.
    """
    x0, y0 = difference.origin
    inside, lost = np.ones((2, x.size))
    for first in range(0, x.size, BATCH_SOURCES):
        part = slice(first, first + BATCH_SOURCES)
        stamps = psf_images(difference.require_psf(), x[part] + x0, y[part] + y0)
        side = stamps.shape[-1]
        ix, iy, g = nearest_pixels(x[part]), nearest_pixels(y[part]), np.arange(side) - side // 2
        across, up = ((i - p)[:, None] + g for i, p in ((ix, x[part]), (iy, y[part])))
        light = np.where(across[:, None, :] ** 2 + up[:, :, None] ** 2 <= AP_RADIUS**2, stamps, np.float32(0))
        known = np.isfinite(light).all((1, 2))
        inside[part] = np.where(known, light.sum((1, 2), dtype=np.float64), 1.0)
        gone = np.where(gather(bad.astype(np.uint8), ix, iy, side, 0) > 0, light, np.float32(0))
        lost[part] = np.where(known, gone.sum((1, 2), dtype=np.float64), 0.0)
    return np.maximum(inside, LEAST_INSIDE), lost


def _shapes(frame: pd.DataFrame, difference: Exposure, psf: Psf) -> None:
    """Adaptive moments of source and PSF, extendedness, and the trail that the moments tell (Veres et al. 2012)."""
    x, y = frame.x.to_numpy(np.float64), frame.y.to_numpy(np.float64)
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    model = psf.moments_at(x, y) if len(x) else np.zeros((0, 3))
    image, sign = np.nan_to_num(difference.image), frame.peakSign.to_numpy(np.float64)
    own = np.full((len(x), 3), np.nan)
    large = frame.bboxSize.to_numpy() > STAMP - 4
    for which, side in ((~large, STAMP), (large, LARGE_STAMP)):
        rows = np.flatnonzero(which)
        stamps = gather(image, ix[rows] - difference.origin[0], iy[rows] - difference.origin[1], side, 0.0)
        own[rows] = adaptive_moments(stamps * sign[rows, None, None], x[rows] - ix[rows], y[rows] - iy[rows])
    failed = ~np.isfinite(own[:, 0])
    shape = np.where(failed[:, None], model, own)
    for k, name in enumerate(("xx", "yy", "xy")):
        frame[f"i{name}"], frame[f"i{name}PSF"] = np.where(failed, np.nan, own[:, k]), model[:, k]
    frame["shape_flag"] = failed
    frame["shape_flag_no_pixels"] = frame["shape_flag_not_contained"] = frame["shape_flag_parent_source"] = False
    frame["extendedness"] = extendedness(own, model)
    lines = frame[[f"fitted_{name}" for name in TRAIL_COLUMNS[5:]]].to_numpy(np.float64)
    measure_trails(frame, difference, shape, failed, lines)


def _dipoles(
    frame: pd.DataFrame, difference: Exposure, science: Exposure, template: Exposure, unit: float
) -> pd.DataFrame:
    """Fit two lobes where a peak of the other sign lies within 2 FWHM; large footprints are no dipoles."""
    x, y, sign = (frame[c].to_numpy(np.float64) for c in ("x", "y", "peakSign"))
    other = np.zeros((0, 2))
    if len(frame):
        fwhm = float(np.median(fwhm_of(difference.require_psf().moments_at(x, y))))
        other = _opposite_peak(difference, x, y, sign, fwhm)
    able = (frame.footprintArea.to_numpy() <= MAX_DIPOLE_AREA) & frame.fitted_x.isna().to_numpy()
    rows = np.flatnonzero(np.isfinite(other[:, 0]) & able)
    own, far, up = np.column_stack([x, y])[rows], other[rows], sign[rows, None] > 0
    plus, minus = np.where(up, own, far), np.where(up, far, own)
    return measure_dipoles(
        len(frame), difference, science, template, unit, (plus[:, 0], plus[:, 1]), (minus[:, 0], minus[:, 1]), rows
    )


def _opposite_peak(difference: Exposure, x: F64, y: F64, sign: F64, fwhm: float) -> F64:
    """Return frame positions of the strongest smoothed pixel of opposite sign within 2 FWHM, NaN if below 3 sigma."""
    side = int(4 * fwhm) | 1
    g = np.arange(side) - side // 2
    far = np.hypot(g[:, None], g[None, :]) > 2 * fwhm
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    out = np.empty((len(x), 2))
    for first in range(0, len(x), BATCH_SOURCES):
        part = slice(first, first + BATCH_SOURCES)
        stamps = -sign[part, None, None] * _smoothed_stamps(difference, ix[part], iy[part], side, fwhm / 2.3548)
        stamps[:, far] = 0
        flat = stamps.reshape(len(stamps), -1)
        best = flat.argmax(1)
        out[part] = np.stack([ix[part] + best % side - side // 2, iy[part] + best // side - side // 2], axis=1)
        out[part][flat[np.arange(len(flat)), best] < 3.0] = np.nan
    return out


def _smoothed_stamps(difference: Exposure, ix: I64, iy: I64, side: int, sigma: float) -> F32:
    """Return stamps (N, side, side) of the difference smoothed by a Gaussian, over its noise."""
    import cv2

    sigma = max(sigma, 0.8)
    margin = int(4 * sigma) + 2  # the stamps lie below each other in one image: so far the Gaussian reaches
    wide = side + 2 * margin
    image = MaskedImage.of(difference, "CR", "BAD").stamps(ix, iy, wide)[0]
    smooth = cv2.GaussianBlur(image.reshape(-1, wide), (0, 0), sigma).reshape(image.shape)
    variance = gather(difference.variance, ix - difference.origin[0], iy - difference.origin[1], side, 1.0)
    noise = np.sqrt(np.nan_to_num(variance, nan=1.0) / (4 * np.pi * sigma**2))
    return np.asarray(smooth[:, margin : margin + side, margin : margin + side] / noise, np.float32)
