"""Numbers that tell how good a difference is: depth, noise, masks, residuals of stars, and samples over the image."""

from typing import Any

import numpy as np
import pandas as pd

from diffim.matching.spatial_kernel import SpatialKernel
from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure, Psf
from exposure.errors import PsfUndefined
from exposure.mask import PLANES, count_flagged, plane_bits
from exposure.photocalib import PhotoCalib
from exposure.psf import fwhm_of
from tasks.arrays import F64

__all__ = [
    "combined_limit",
    "limiting_magnitude",
    "mask_fractions",
    "masked_shares",
    "noise_correlation",
    "noise_m5",
    "plain_noise_correlation",
    "quality",
    "sample_metrics",
]

SAMPLES, HALF_BOX = 100, 100
AB_ZERO_NJY = 31.4


def quality(
    difference: Exposure,
    science: Exposure,
    template: Exposure,
    science_fwhm: float,
    template_fwhm: float,
) -> dict[str, float]:
    """Return the numbers of one subtraction: depths, noise, masks."""
    x0, y0, width, height = science.bbox
    middle = (x0 + width / 2, y0 + height / 2)
    depth = limiting_magnitude(science.require_psf(), middle, science.photo_calib, science_fwhm)
    template_depth = limiting_magnitude(template.require_psf(), middle, template.photo_calib, template_fwhm)
    out = {
        "scienceLimitingMagnitude": depth,
        "templateLimitingMagnitude": template_depth,
        "diffimLimitingMagnitude": combined_limit(depth, template_depth),
        "diffimM5": noise_m5(difference),
    }
    out |= noise_correlation(difference)
    return out | {f"maskFraction_{name}": value for name, value in mask_fractions(difference).items()}


def limiting_magnitude(
    psf: Psf, position: tuple[float, float], calib: PhotoCalib | None, fallback_fwhm: float | None = None
) -> float:
    """Return the published proxy of depth: zp - 2.5 log10(5 sqrt(A)), A = pi sqrt(Ixx Iyy); no noise level enters.

    Where the PSF is not defined at the position, A = pi (FWHM / 2)^2 of `fallback_fwhm` (px), NaN without one.
    """
    try:
        moments = psf.moments_at(np.array([position[0]]), np.array([position[1]]))[0]
        area = np.pi * float(np.sqrt(moments[0] * moments[1]))
    except PsfUndefined:
        area = float("nan")
    if not np.isfinite(area):
        area = float("nan") if fallback_fwhm is None else np.pi * (fallback_fwhm / 2) ** 2
    nanojansky = 1.0 if calib is None else calib.mean
    return float(AB_ZERO_NJY - 2.5 * np.log10(nanojansky) - 2.5 * np.log10(5 * np.sqrt(area)))


def combined_limit(science: float, template: float) -> float:
    """Return the limiting magnitude (AB) of the difference of two images with these limits.

    The flux limits add in quadrature; without a limit of the template (NaN) it is the image's own.
    """
    if not np.isfinite(template):
        return science
    return float(-2.5 * np.log10(np.hypot(10 ** (-0.4 * science), 10 ** (-0.4 * template))))


def noise_m5(exposure: Exposure) -> float:
    """Return the true 5-sigma depth for a point source: from the variance of the sky and the PSF's effective area."""
    x0, y0, width, height = exposure.bbox
    kernel = (
        exposure.require_psf().kernel_at(np.array([x0 + width / 2]), np.array([y0 + height / 2]))[0].astype(np.float64)
    )
    area = float(kernel.sum() ** 2 / (kernel**2).sum())
    level = float(MaskedImage.of(exposure, "BAD", "SAT").sky_levels(exposure.bbox, max(width, height))[0, 0])
    flux = 5 * np.sqrt(level * area) * (exposure.photo_calib.mean if exposure.photo_calib else 1.0)
    return float(AB_ZERO_NJY - 2.5 * np.log10(flux)) if flux > 0 else float("nan")


def noise_correlation(exposure: Exposure, lags: tuple[int, ...] = (1, 2, 3, 4, 5), rows: int = 600) -> dict[str, float]:
    """Return the correlation of sky pixels at horizontal lags and the std of image / sigma (0 and 1 are perfect)."""
    low = max((exposure.height - rows) // 2, 0)
    part = slice(low, low + rows)
    planes = MaskedImage.of(exposure, "BAD", "SAT", "CR", "DETECTED", "DETECTED_NEGATIVE", "SUSPECT", "EDGE")
    ok = planes.good(part)
    z = np.where(ok, exposure.image[part] / np.sqrt(np.where(ok, exposure.variance[part], 1)), 0)
    ok &= np.abs(z) < 5  # what stands out is no noise
    out = {"noiseStdOverSigma": float(z[ok].std()) if ok.any() else float("nan")}
    for lag in lags:
        pair = ok[:, lag:] & ok[:, :-lag]
        value = float(np.mean((z[:, lag:] * z[:, :-lag])[pair])) if pair.any() else float("nan")
        out[f"noiseCorrelationLag{lag}"] = value / max(out["noiseStdOverSigma"] ** 2, 1e-30)
    return out


def plain_noise_correlation(
    kernel: SpatialKernel, unconvolved: Exposure, convolved: Exposure, lags: tuple[int, ...] = (1, 2, 3, 4, 5)
) -> dict[str, float]:
    """Return the correlation of sky pixels at horizontal lags that U - K * C has before it is whitened, for white inputs.

    With sky variances u and c it is c sum(K K shifted) / (u + c sum(K^2)).
    """
    x0, y0, width, height = kernel.box
    stamp = kernel.kernels_at(x0 + width / 2, y0 + height / 2)[0].astype(np.float64)
    u, c = (
        float(MaskedImage.of(e, "BAD", "SAT").sky_levels(kernel.box, max(width, height))[0, 0])
        for e in (unconvolved, convolved)
    )
    total = u + c * float((stamp**2).sum())
    return {f"noiseCorrelationBeforeLag{k}": c * float((stamp[:, k:] * stamp[:, :-k]).sum()) / total for k in lags}


def mask_fractions(exposure: Exposure) -> dict[str, float]:
    """Return the fraction of pixels with each plane; -1 for a plane that no pixel has."""
    counts = np.zeros(32, np.int64)
    step = max(1, int(np.sqrt(exposure.mask.size / 2_000_000)))
    values, n = np.unique(exposure.mask[::step, ::step], return_counts=True)
    for bit in range(31):
        counts[bit] = n[(values & (1 << bit)) != 0].sum()
    total = max(int(n.sum()), 1)
    return {name: float(counts[bit] / total) if counts[bit] else -1.0 for name, bit in PLANES.items()}


MASKED = ("BAD", "SAT", "SAT_TEMPLATE", "CR", "STREAK", "SUSPECT")


def masked_shares(exposure: Exposure, science: Exposure, extra_rays: int) -> dict[str, float]:
    """Return which share of the pixels that have data is hit by cosmic rays, on streaks, and masked for any reason.

    ``nBadPixels`` are those that are masked or have no data, ``nGoodPixels`` the others.

    Parameters
    ----------
    exposure
        The difference. A kernel has spread the marks of cosmic rays there: those of the image are counted.
    science
        The image.
    extra_rays
        How many pixels were found on the difference alone.
    """
    step = max(1, int(np.sqrt(exposure.mask.size / 2_000_000)))
    some = exposure.mask[::step, ::step]
    some = some[(some & plane_bits(["NO_DATA"])) == 0]
    bad = count_flagged(exposure.mask, exposure.mask, plane_bits(["NO_DATA", *MASKED]))
    counts = {"nBadPixels": float(bad), "nGoodPixels": float(exposure.mask.size - bad)}
    planes = {"streakFraction": ("STREAK",), "maskedFraction": MASKED}
    shares = {n: float(((some & plane_bits(b)) != 0).mean()) if some.size else 1.0 for n, b in planes.items()}
    seen = science.mask.size - count_flagged(science.mask, science.mask, plane_bits(["NO_DATA"]))
    rays = count_flagged(science.mask, science.mask, plane_bits(["CR"])) + extra_rays
    return counts | {"cosmicRayFraction": float(rays / max(seen, 1))} | shares


def sample_metrics(
    difference: Exposure,
    science: Exposure,
    template: Exposure,
    sources: pd.DataFrame,
    kernel: SpatialKernel | None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return metrics in boxes of +-100 px around 100 random points (the seed is part of the input: same bytes out).

    Columns: x, y, ra, dec; source and dipole density (deg^-2), mean dipole angle (circular, rad) and length (px); median
    and variance of the three images; their PSF FWHM (px); mask fractions; kernel sum and centroid shift (px), its
    direction on the sky (deg E of N).
    """
    rng = np.random.default_rng([seed, *difference.key])
    x0, y0, width, height = difference.bbox
    x, y = rng.uniform(x0, x0 + width, SAMPLES), rng.uniform(y0, y0 + height, SAMPLES)
    out: dict[str, Any] = {"x": x, "y": y}
    if difference.wcs is not None:
        out["ra"], out["dec"] = difference.wcs.pixel_to_sky(x, y)
    out |= _source_metrics(difference, sources, x, y)
    for name, e in (("science", science), ("template", template), ("difference", difference)):
        out |= _pixel_metrics(name, e, x, y)
    out |= _mask_metrics(difference, x, y)
    if kernel is not None:
        out |= _kernel_metrics(difference, kernel, x, y)
    return pd.DataFrame(out)


def _boxes(e: Exposure, x: F64, y: F64) -> list[tuple[slice, slice]]:
    out = []
    for u, v in zip(x - e.origin[0], y - e.origin[1], strict=True):
        rows = slice(max(int(v) - HALF_BOX, 0), max(int(v) + HALF_BOX + 1, 1))
        out.append((rows, slice(max(int(u) - HALF_BOX, 0), max(int(u) + HALF_BOX + 1, 1))))
    return out


def _source_metrics(d: Exposure, sources: pd.DataFrame, x: F64, y: F64) -> dict[str, F64]:
    near = np.abs(sources.x.to_numpy()[None, :] - x[:, None]) <= HALF_BOX
    near &= np.abs(sources.y.to_numpy()[None, :] - y[:, None]) <= HALF_BOX
    dipole = near & sources.isDipole.to_numpy(bool)[None, :]
    scale = float(d.wcs.pixel_scale_arcsec(x[0], y[0])) / 3600 if d.wcs is not None else 1.0
    clipped = [
        (np.minimum(c + HALF_BOX, o + s) - np.maximum(c - HALF_BOX, o))
        for c, o, s in ((x, d.origin[0], d.width), (y, d.origin[1], d.height))
    ]
    area = np.maximum(clipped[0] * clipped[1], 1.0) * scale**2
    angle = np.nan_to_num(sources.dipoleAnglePixels.to_numpy(np.float64))
    length = np.nan_to_num(sources.dipoleLengthPixels.to_numpy(np.float64))
    n = dipole.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_angle = np.arctan2((dipole * np.sin(angle)).sum(1), (dipole * np.cos(angle)).sum(1))
        mean_length = (dipole * length).sum(1) / n
    return {
        "sourceDensity": near.sum(1) / area,
        "dipoleDensity": n / area,
        "dipoleAngle": np.where(n > 0, mean_angle, np.nan),
        "dipoleLength": mean_length,
    }


def _pixel_metrics(name: str, e: Exposure, x: F64, y: F64) -> dict[str, F64]:
    values, variances = np.full(x.size, np.nan), np.full(x.size, np.nan)
    for k, box in enumerate(_boxes(e, x, y)):
        image, variance = e.image[box][::2, ::2], e.variance[box][::2, ::2]
        ok = np.isfinite(image) & np.isfinite(variance) & ((e.mask[box][::2, ::2] & plane_bits(["NO_DATA"])) == 0)
        if ok.any():
            values[k], variances[k] = np.median(image[ok]), np.median(variance[ok])
    fwhm = fwhm_of(e.require_psf().moments_at(x, y))
    return {f"{name}Value": values, f"{name}Variance": variances, f"{name}PsfFwhm": np.asarray(fwhm, np.float64)}


def _mask_metrics(d: Exposure, x: F64, y: F64) -> dict[str, F64]:
    out = {}
    boxes = _boxes(d, x, y)
    for plane in ("NO_DATA", "BAD", "SAT", "CR", "SUSPECT", "DETECTED", "DETECTED_NEGATIVE", "STREAK"):
        bit = plane_bits([plane])
        out[f"mask_{plane}"] = np.array([float(((d.mask[b][::2, ::2] & bit) != 0).mean()) for b in boxes])
    return out


def _kernel_metrics(d: Exposure, kernel: SpatialKernel, x: F64, y: F64) -> dict[str, F64]:
    stamps = kernel.kernels_at(x, y).astype(np.float64)
    g = np.arange(kernel.size) - kernel.size // 2
    total = stamps.sum((1, 2))
    dx, dy = (stamps.sum(1) * g).sum(1) / total, (stamps.sum(2) * g).sum(1) / total
    out = {"kernelSum": total, "kernelShiftX": dx, "kernelShiftY": dy, "kernelShift": np.hypot(dx, dy)}
    if d.wcs is not None:
        sky = np.einsum("nij,nj->ni", d.wcs.jacobian(x, y), np.column_stack([dx, dy]))
        out["kernelShiftArcsec"] = 3600 * np.hypot(sky[:, 0], sky[:, 1])
        out["kernelShiftAngle"] = np.degrees(np.arctan2(sky[:, 0], sky[:, 1])) % 360
    return out
