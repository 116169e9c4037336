"""Real or bogus: the probability that a detection is a change on the sky and not an artefact.

Gradient-boosted trees on numbers that do not depend on seeing, depth or zero point, served by ONNX Runtime. The model in
``models/reliability.onnx`` is made by ``tools/train_reliability.py``; its version is in the model's metadata.
"""

from functools import lru_cache
from importlib import resources

import numpy as np
import onnxruntime
import pandas as pd

from exposure import Exposure
from exposure.mask import plane_bits
from exposure.photometry import psf_images
from exposure.psf import fwhm_of
from exposure.stamps import gather, sided
from tasks.arrays import F32, F64, Flags, nearest_pixels

__all__ = ["FEATURES", "VERSION_KEY", "features", "reliability"]

SIDE = 31
BATCH = 1024
MISSING = -9.0
VERSION_KEY = "reliabilityVersion"
_MASKS = {
    "saturated": ("SAT", "SAT_TEMPLATE", "SUSPECT"), "cosmic": ("CR",), "unusable": ("BAD", "NO_DATA", "EDGE"),
    "streak": ("STREAK",),
}  # fmt: skip
FEATURES = (
    "significance", "likeness", "chi2", "curve_of_growth", "opposite", "trough", "size", "elongation", "isDipole",
    "dipole_length", "dipole_balance", "science_snr", "template_snr", "template_ratio", "like_template",
    "like_gradient", "sharpness", "neighbours", "unrest", "centroid_error", "masked_saturated", "masked_cosmic",
    "masked_unusable", "masked_streak",
)  # fmt: skip


def features(difference: Exposure, template: Exposure, table: pd.DataFrame) -> F32:
    """Return an array of shape (N, F) about the rows of a table of raw measurements; `MISSING` where there is none.

    Everything is relative to the noise, the PSF or the flux of the source, and the sign is taken out: a source that
    vanished looks like one that appeared.
    """
    n = len(table)
    out = np.full((n, len(FEATURES)), MISSING, np.float32)
    if n == 0:
        return out
    psf = difference.require_psf()
    x, y = table.x.to_numpy(np.float64), table.y.to_numpy(np.float64)
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    ox, oy = difference.origin
    sign = table.peakSign.to_numpy(np.float64)
    fwhm = np.asarray(fwhm_of(psf.moments_at(x, y)), np.float64)
    data = np.nan_to_num(gather(difference.image, ix - ox, iy - oy, SIDE, 0.0)).astype(np.float64)
    data *= sign[:, None, None]
    sigma = np.sqrt(np.maximum(np.nan_to_num(gather(difference.variance, ix - ox, iy - oy, SIDE, np.nan)), 1e-30))
    model = sided(psf_images(psf, x, y), SIDE).astype(np.float64)
    static = np.nan_to_num(gather(template.image, ix - template.origin[0], iy - template.origin[1], SIDE, 0.0))
    values = _from_table(table, sign, fwhm) | _from_stamps(data, sigma, model, static.astype(np.float64), fwhm)
    mask = gather(difference.mask, ix - ox, iy - oy, SIDE, plane_bits(["NO_DATA"]))
    near = _radius() <= 2 * float(np.median(fwhm))
    for name, planes in _MASKS.items():
        values[f"masked_{name}"] = ((mask & plane_bits(planes)) != 0)[:, near].mean(1)
    values["neighbours"] = _neighbours(x, y, 5 * fwhm)
    for k, name in enumerate(FEATURES):
        column = np.asarray(values[name], np.float64)
        out[:, k] = np.where(np.isfinite(column), column, MISSING)
    return out


def _from_table(t: pd.DataFrame, sign: F64, fwhm: F64) -> dict[str, F64]:
    def column(name: str) -> F64:
        return np.asarray(t[name].to_numpy(np.float64))

    with np.errstate(divide="ignore", invalid="ignore"):
        size = (column("ixx") + column("iyy")) / (column("ixxPSF") + column("iyyPSF"))
        root = np.hypot(0.5 * (column("ixx") - column("iyy")), column("ixy"))
        half = 0.5 * (column("ixx") + column("iyy"))
        template_snr = column("templateInstFlux") / column("templateInstFluxErr")
        return {
            "significance": np.log10(np.maximum(np.abs(column("significance")), 1)),
            "chi2": np.log10(np.maximum(column("psfChi2") / np.maximum(column("psfNdata"), 1), 1e-3)),
            "size": np.log10(np.maximum(size, 1e-2)),
            "elongation": root / half,
            "isDipole": column("isDipole"),
            "dipole_length": column("dipoleLengthPixels") / fwhm,
            "dipole_balance": column("dipoleDiffInstFlux") * sign / np.maximum(column("dipoleMeanInstFlux"), 1e-30),
            "science_snr": np.arcsinh(column("scienceInstFlux") / column("scienceInstFluxErr")),
            "template_snr": np.arcsinh(template_snr),
            "template_ratio": np.arcsinh(template_snr / np.maximum(np.abs(column("significance")), 1)),
            "centroid_error": np.log10(np.maximum(np.hypot(column("xErr"), column("yErr")) / fwhm, 1e-4)),
        }


def _from_stamps(data: F64, sigma: F64, model: F64, static: F64, fwhm: F64) -> dict[str, F64]:
    r = _radius()[None] / fwhm[:, None, None]
    inner: Flags = np.asarray(r <= 1.5)
    core, ring = r <= 1.0, (r > 2.0) & (r <= 4.0)
    z = data / sigma
    gy, gx = (np.asarray(g, np.float64) for g in np.gradient(static, axis=(1, 2)))
    middle = slice(SIDE // 2 - 1, SIDE // 2 + 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        flux = (model * data * core).sum((1, 2)) / (model**2 * core).sum((1, 2))
        grown = (data * (r <= 2.0)).sum((1, 2)) / (flux * (model * (r <= 2.0)).sum((1, 2)))
        peak = data[:, SIDE // 2, SIDE // 2] / data[:, middle, middle].sum((1, 2))
        psf_peak = model[:, SIDE // 2, SIDE // 2] / model[:, middle, middle].sum((1, 2))
        high = np.maximum((z * core).max((1, 2)), 1e-3)
        return {
            "likeness": _cosine(data, model, inner),
            "curve_of_growth": np.clip(grown, -5, 5),
            "opposite": ((z < -2) & (r <= 2.0)).sum((1, 2)) / (r <= 2.0).sum((1, 2)),
            "trough": np.clip(-np.where(r <= 2.0, z, 0).min((1, 2)) / high, 0, 5),
            "like_template": _cosine(data, static, inner),
            "like_gradient": np.hypot(_cosine(data, gx, inner), _cosine(data, gy, inner)),
            "sharpness": np.clip(peak / psf_peak, -5, 5),
            "unrest": np.log10(
                np.sqrt((np.clip(z, -20, 20) ** 2 * ring).sum((1, 2)) / np.maximum(ring.sum((1, 2)), 1))
            ),
        }


def _cosine(a: F64, b: F64, where: Flags) -> F64:
    """Likeness of two stamps, -1 to 1."""
    top = (a * b * where).sum((1, 2))
    return np.asarray(top / np.sqrt(np.maximum((a**2 * where).sum((1, 2)) * (b**2 * where).sum((1, 2)), 1e-30)))


def _radius() -> F64:
    g = np.arange(SIDE) - SIDE // 2
    return np.asarray(np.hypot(g[:, None], g[None, :]), np.float64)


def _neighbours(x: F64, y: F64, reach: F64) -> F64:
    from scipy.spatial import cKDTree

    points = np.column_stack([x, y])
    return np.asarray(cKDTree(points).query_ball_point(points, reach, return_length=True), np.float64) - 1


@lru_cache(maxsize=1)
def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # small work; equal bytes whatever the machine
    model = (resources.files("diffim") / "models" / "reliability.onnx").read_bytes()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def reliability(numbers: F32) -> tuple[F32, str]:
    """Return the probabilities, shape (N,), of rows of `features`, shape (N, F), and the version of the model (7 characters)."""
    session = _session()
    version = str(session.get_modelmeta().custom_metadata_map[VERSION_KEY])
    name = session.get_inputs()[0].name
    parts = [
        np.asarray(session.run(["probability"], {name: numbers[k : k + BATCH]})[0])[:, 0]
        for k in range(0, len(numbers), BATCH)
    ]
    return (np.concatenate(parts) if parts else np.zeros(0)).astype(np.float32), version
