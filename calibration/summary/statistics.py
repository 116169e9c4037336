"""The numbers of a visit summary, each from the components that it is about.

Columns are those of the Rubin summary; a number whose input is missing is NaN.
"""

import logging
from typing import Any

import cv2
import numpy as np
from astropy.table import Table

from calibration.summary.pixels import clipped, farthest_from_any
from exposure import ApCorrMap, GridPsf, PhotoCalib, Psf, SkyWcs, VisitInfo
from exposure.apcorr import PSF_FLUX
from exposure.mask import flagged_pixels, plane_bits
from exposure.photocalib import AB_ZEROPOINT
from tasks.arrays import F32, F64, I32, Box, Flags

__all__ = [
    "BAD_PLANES",
    "GROUPS",
    "MOMENTS",
    "NAN",
    "Values",
    "ap_corr_statistic",
    "background_statistics",
    "photometry_statistics",
    "psf_statistics",
    "reset_values",
    "star_statistics",
    "wcs_statistics",
]

log = logging.getLogger("alertprod.summary")
Values = dict[str, Any]
BAD_PLANES = ("BAD", "CR", "EDGE", "INTRP", "NO_DATA", "SAT", "SUSPECT")
NAN = float("nan")
MOMENTS = (
    "starComa1Median", "starComa2Median", "starTrefoil1Median", "starTrefoil2Median", "starKurtosisMedian",
    "starE41Median", "starE42Median",
)  # fmt: skip
_STAR = (
    "psfStarDeltaE1Median", "psfStarDeltaE2Median", "psfStarDeltaE1Scatter", "psfStarDeltaE2Scatter",
    "psfStarDeltaSizeMedian", "psfStarDeltaSizeScatter", "psfStarScaledDeltaSizeScatter",
)  # fmt: skip
GROUPS: dict[str, tuple[str, ...]] = {
    "wcs": ("raCorners", "decCorners", "ra", "dec", "pixelScale", "zenithDistance"),
    "psf": (
        "psfSigma", "psfIxx", "psfIyy", "psfIxy", "psfArea", "psfTraceRadiusDelta", "psfApFluxDelta",
        "psfApCorrSigmaScaledDelta",
    ),
    "stars": ("nPsfStar", *_STAR, "maxDistToNearestPsf", "starEMedian", "starUnNormalizedEMedian", *MOMENTS),
    "apCorr": ("psfApCorrSigmaScaledDelta",),
    "photoCalib": ("zeroPoint",),
    "background": ("skyBg", "skyNoise", "meanVar"),
    "always": (
        "magLim", "effTime", "effTimePsfSigmaScale", "effTimeSkyBgScale", "effTimeZeroPointScale",
    ),
}  # fmt: skip


def reset_values(group: str) -> Values:
    """Return the reset values of one group: NaN, four NaN for corners, 0 for counts."""
    return {
        name: 0 if name == "nPsfStar" else np.full(4, NAN) if name.endswith("Corners") else NAN
        for name in GROUPS[group]
    }


def wcs_statistics(wcs: SkyWcs | None, bbox: Box, info: VisitInfo | None, *, tai_as_utc: bool = False) -> Values:
    """Return corners, centre, pixel scale and zenith distance.

    Parameters
    ----------
    bbox
        x0, y0, width, height.
    tai_as_utc
        Take the TAI date for UTC, as the Rubin stack does (37 s: up to 0.08 deg of zenith distance).
    """
    if wcs is None:
        return reset_values("wcs")
    x0, y0, width, height = bbox
    x = np.array([x0, x0 + width - 1, x0 + width - 1, x0]) + np.array([-0.5, 0.5, 0.5, -0.5])
    y = np.array([y0, y0, y0 + height - 1, y0 + height - 1]) + np.array([-0.5, -0.5, 0.5, 0.5])
    ra, dec = wcs.pixel_to_sky(x, y)
    cx, cy = x0 + (width - 1) / 2, y0 + (height - 1) / 2
    (mid_ra,), (mid_dec,) = wcs.pixel_to_sky(np.array([cx]), np.array([cy]))
    return {
        "raCorners": ra,
        "decCorners": dec,
        "ra": float(mid_ra),
        "dec": float(mid_dec),
        "pixelScale": float(np.ravel(wcs.pixel_scale_arcsec(np.array([cx]), np.array([cy])))[0]),
        "zenithDistance": zenith_distance(float(mid_ra), float(mid_dec), info, tai_as_utc),
    }


def zenith_distance(ra: float, dec: float, info: VisitInfo | None, tai_as_utc: bool = False) -> float:
    """Return 90 deg minus the altitude without refraction; NaN where time or place is unknown."""
    if info is None or not all(map(np.isfinite, (info.midpoint_mjd_tai, info.longitude, info.latitude, ra, dec))):
        return NAN
    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils.iers import conf

    site = EarthLocation(
        lon=info.longitude * u.deg, lat=info.latitude * u.deg, height=np.nan_to_num(info.elevation) * u.m
    )
    time = Time(info.midpoint_mjd_tai, format="mjd", scale="utc" if tai_as_utc else "tai")
    with conf.set_temp("auto_download", False), conf.set_temp("iers_degraded_accuracy", "ignore"):
        horizontal = SkyCoord(ra * u.deg, dec * u.deg).transform_to(AltAz(obstime=time.utc, location=site))
    return 90.0 - float(horizontal.alt.deg)


def _grid(mask: I32, bbox: Box, step: int) -> tuple[F64, F64]:
    """Positions of the good pixels on a grid of `step` px."""
    good = ~flagged_pixels(np.ascontiguousarray(mask[::step, ::step]), plane_bits(BAD_PLANES))
    y, x = np.nonzero(good)
    return bbox[0] + step * x.astype(np.float64), bbox[1] + step * y.astype(np.float64)


def psf_statistics(
    psf: Psf | None, bbox: Box, ap_corr: ApCorrMap | None, mask: I32 | None, *, step: int = 96
) -> Values:
    """Return size, shape, area of the PSF at the middle, and how it varies over the good pixels where it is defined.

    All are NaN where there is no PSF at the middle.
    """
    out = reset_values("psf")
    if psf is None:
        return out
    cx, cy = bbox[0] + (bbox[2] - 1) / 2, bbox[1] + (bbox[3] - 1) / 2
    ixx, iyy, ixy = (float(v) for v in psf.moments_at(np.array([cx]), np.array([cy]))[0])
    kernel = psf.kernel_at(np.array([cx]), np.array([cy]))[0].astype(np.float64)
    sigma = float(max(ixx * iyy - ixy**2, 0.0) ** 0.25)
    out |= {
        "psfSigma": sigma,
        "psfIxx": ixx,
        "psfIyy": iyy,
        "psfIxy": ixy,
        "psfArea": float(kernel.sum() ** 2 / (kernel**2).sum()),
    }
    if mask is None:
        return out
    x, y = _grid(mask, bbox, step)
    if isinstance(psf, GridPsf):
        defined = psf.defined_at(x, y)
        x, y = x[defined], y[defined]
    if not x.size:
        return out
    traces, fluxes = _psf_on_grid(psf, x, y, sigma)
    if np.isfinite(traces).any() and np.isfinite(fluxes).any():
        out["psfTraceRadiusDelta"] = float(np.nanmax(traces) - np.nanmin(traces))
        negative = bool((fluxes[np.isfinite(fluxes)] < 0).any())
        out["psfApFluxDelta"] = NAN if negative else float(np.nanmax(fluxes) - np.nanmin(fluxes))
    out["psfApCorrSigmaScaledDelta"] = ap_corr_delta(ap_corr, x, y, sigma)
    return out


def _psf_on_grid(psf: Psf, x: F64, y: F64, sigma: float) -> tuple[F64, F64]:
    """Trace radii and aperture fluxes at positions; both NaN where either is not finite."""
    moments = psf.moments_at(x, y)
    traces = np.sqrt(0.5 * (moments[:, 0] + moments[:, 1]))
    stamps = psf.kernel_at(x, y)
    half = stamps.shape[-1] // 2
    g = np.arange(stamps.shape[-1]) - half
    inside = (g[:, None] ** 2 + g[None, :] ** 2) <= max(2.0, 3.0 * sigma) ** 2
    fluxes = stamps[:, inside].sum(1, dtype=np.float64)
    lost = ~(np.isfinite(traces) & np.isfinite(fluxes))
    return np.where(lost, NAN, traces), np.where(lost, NAN, fluxes)


def ap_corr_delta(ap_corr: ApCorrMap | None, x: F64, y: F64, sigma: float) -> float:
    """Return (max - min) of the PSF flux's aperture correction over positions (N,), over psfSigma (px)."""
    if ap_corr is None or not x.size or not sigma > 0:
        return NAN
    values = ap_corr.at(PSF_FLUX, x, y)
    if values is None:
        log.warning("the aperture corrections have no %s: psfApCorrSigmaScaledDelta is NaN", PSF_FLUX)
        return NAN
    return float((values.max() - values.min()) / sigma) if np.isfinite(values).all() else NAN


def ap_corr_statistic(ap_corr: ApCorrMap | None, bbox: Box, mask: I32, sigma: float) -> float:
    """Return psfApCorrSigmaScaledDelta of new aperture corrections with the PSF, of `sigma` px, kept."""
    x, y = _grid(mask, bbox, 96)
    return ap_corr_delta(ap_corr, x, y, sigma)


def _column(stars: Table, *names: str) -> F64 | None:
    for name in names:
        if name in stars.colnames:
            return np.asarray(stars[name], np.float64)
    return None


def star_statistics(stars: Table | None, mask: I32 | None, bbox: Box) -> Values:
    """Return residuals of the PSF model at its stars, shapes of these, and how far a pixel is from the next one.

    Parameters
    ----------
    stars
        Stars of one detector, positions in px and shapes in px^2: ``calib_psf_used``, ``slot_Centroid_x/y``,
        ``slot_Shape_xx/yy/xy``, ``slot_PsfShape_xx/yy/xy``, ``slot_PsfFlux_instFlux[Err]``, flags.
    """
    out = reset_values("stars")
    if stars is None or not len(stars) or "calib_psf_used" not in stars.colnames:
        return out
    used = np.asarray(stars["calib_psf_used"], bool)
    out["nPsfStar"] = int(used.sum())
    chosen = stars[used & _selected(stars)]
    if not len(chosen):
        return out
    shape = [_column(chosen, f"slot_Shape_{k}", f"i{k}") for k in ("xx", "yy", "xy")]
    model = [_column(chosen, f"slot_PsfShape_{k}", f"i{k}PSF") for k in ("xx", "yy", "xy")]
    if any(c is None for c in (*shape, *model)):
        log.warning("the PSF stars have no shapes (slot_Shape_*, slot_PsfShape_*): their statistics are NaN")
        return out
    out |= _shape_residuals(*(np.asarray(c, np.float64) for c in (*shape, *model)))
    out |= _higher_moments(chosen)
    x, y = (_column(chosen, f"slot_Centroid_{k}", k) for k in ("x", "y"))
    if mask is not None and x is not None and y is not None:
        gx, gy = _grid(mask, bbox, 8)
        if gx.size:
            out["maxDistToNearestPsf"] = farthest_from_any(gx, gy, x, y)
    return out


def _shape_residuals(xx: F64, yy: F64, xy: F64, mxx: F64, myy: F64, mxy: F64) -> Values:
    """Return medians and scatters of what stars differ from the model: second moments (N,) of both, px^2."""
    with np.errstate(invalid="ignore", divide="ignore"):
        e1, e2, size = (xx - yy) / (xx + yy), 2 * xy / (xx + yy), np.sqrt(0.5 * (xx + yy))
        d1, d2 = e1 - (mxx - myy) / (mxx + myy), e2 - 2 * mxy / (mxx + myy)
        ds = size - np.sqrt(0.5 * (mxx + myy))
    return {
        "psfStarDeltaE1Median": _median(d1),
        "psfStarDeltaE2Median": _median(d2),
        "psfStarDeltaE1Scatter": _mad(d1),
        "psfStarDeltaE2Scatter": _mad(d2),
        "psfStarDeltaSizeMedian": _median(ds),
        "psfStarDeltaSizeScatter": _mad(ds),
        "psfStarScaledDeltaSizeScatter": _mad(ds) / _median(size),
        "starEMedian": _median(np.hypot(e1, e2)),
        "starUnNormalizedEMedian": _median(np.hypot(xx - yy, 2 * xy)),
    }


def _selected(stars: Table) -> Flags:
    good = np.ones(len(stars), bool)
    for name in ("slot_Shape_flag", "slot_PsfFlux_flag"):
        if name in stars.colnames:
            good &= ~np.asarray(stars[name], bool)
    flux, error = _column(stars, "slot_PsfFlux_instFlux"), _column(stars, "slot_PsfFlux_instFluxErr")
    if flux is not None and error is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = flux / error
        good &= (ratio > 50.0) & (ratio < 1000.0)
    return good


def _higher_moments(stars: Table) -> Values:
    prefix = "ext_shapeHSM_HigherOrderMomentsSource_"
    names = ("30", "12", "21", "03", "40", "22", "04", "31", "13")
    if any(f"{prefix}{n}" not in stars.colnames for n in names):
        log.debug("the PSF stars have no higher moments (%s*): their medians are NaN", prefix)
        return dict.fromkeys(MOMENTS, NAN)
    m = {n: np.asarray(stars[f"{prefix}{n}"], np.float64) for n in names}
    values = (
        m["30"] + m["12"],
        m["21"] + m["03"],
        m["30"] - 3 * m["12"],
        3 * m["21"] - m["03"],
        m["40"] + 2 * m["22"] + m["04"],
        m["40"] - m["04"],
        2 * (m["31"] + m["13"]),
    )
    return {name: _median(v) for name, v in zip(MOMENTS, values, strict=True)}


def _median(values: F64) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else NAN


def _mad(values: F64) -> float:
    finite = values[np.isfinite(values)]
    return float(1.4826022185056018 * np.median(np.abs(finite - np.median(finite)))) if finite.size else NAN


def photometry_statistics(calib: PhotoCalib | None) -> Values:
    """Return the zero point: AB magnitude of one count per exposure."""
    return {"zeroPoint": NAN if calib is None else float(AB_ZEROPOINT - 2.5 * np.log10(calib.mean))}


def background_statistics(
    image: F32,
    variance: F32,
    mask: I32,
    levels: list[F32],
    remaining: list[F32],
) -> Values:
    """Return sky level, sky noise (counts) and mean variance (counts^2) of planes (height, width).

    Parameters
    ----------
    levels
        Statistics images (ny, nx) of all layers, those already subtracted and those to come.
    remaining
        Full images of the layers still to be subtracted; the inputs are not changed.
    """
    bits = plane_bits(["NO_DATA", "SUSPECT"])
    pixels = image
    for layer in remaining:
        pixels = np.asarray(cv2.subtract(pixels, layer), np.float32)
    sky = sum(_median(np.asarray(level, np.float64).ravel()) for level in levels) if levels else NAN
    noise, mean_variance = clipped(pixels, mask, bits)[1], clipped(variance, mask, bits)[0]
    return {"skyBg": float(sky), "skyNoise": noise, "meanVar": mean_variance}
