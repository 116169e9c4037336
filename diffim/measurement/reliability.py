"""Real or bogus: the probability that a detection is a change on the sky and not an artefact.

Gradient-boosted trees on numbers that do not depend on seeing, depth or zero point, served by ONNX Runtime. The model in
``models/reliability.onnx`` is made by ``tools/train_reliability.py``; its version is in the model's metadata.
"""

from functools import lru_cache
from importlib import resources

import numpy as np
import onnxruntime
import pandas as pd

from diffim.measurement.judged_stamps import JudgedStamps, cut_stamps, numbers_of_stamps
from exposure import Exposure
from tasks.arrays import F32, F64

__all__ = ["FEATURES", "VERSION_KEY", "features", "numbers", "reliability"]

BATCH = 256
MISSING = -9.0
VERSION_KEY = "reliabilityVersion"
FEATURES = (
    "significance", "likeness", "chi2", "curve_of_growth", "opposite", "trough", "size", "elongation", "isDipole",
    "dipole_length", "dipole_balance", "science_snr", "template_snr", "template_ratio", "science_ratio", "like_template",
    "like_gradient", "sharpness", "neighbours", "unrest", "centroid_error", "masked_saturated",
    "masked_cosmic", "masked_unusable", "masked_streak", "masked_inexact", "near_saturated", "near_unusable", "misfit",
    "inner_flux", "outer_flux", "asymmetry", "pedestal", "one_sided", "stretched", "column", "row",
    "narrow", "wide", "narrow_pull", "moved", "gain", "rest",
    "own_sharpness", "own_likeness", "own_narrow", "own_wide", "own_narrow_pull", "own_moved", "own_gain", "own_rest",
    "other_sharpness", "other_likeness", "other_narrow", "other_wide", "other_narrow_pull", "other_moved", "other_gain",
    "other_rest",
)  # fmt: skip


def features(difference: Exposure, science: Exposure, template: Exposure, table: pd.DataFrame) -> F32:
    """Return an array of shape (N, F) about the rows of a table of raw measurements; `MISSING` where there is none.

    Everything is relative to the noise, the PSF or the flux of the source, and the sign is taken out: a source that
    vanished looks like one that appeared.
    """
    if len(table) == 0:
        return np.zeros((0, len(FEATURES)), np.float32)
    parts = [
        numbers(cut_stamps(difference, science, template, table.iloc[k : k + BATCH]), table.iloc[k : k + BATCH])
        for k in range(0, len(table), BATCH)
    ]
    out = np.concatenate(parts)
    x, y = table.x.to_numpy(np.float64), table.y.to_numpy(np.float64)
    out[:, FEATURES.index("neighbours")] = _neighbours(x, y, table)
    return out


def numbers(stamps: JudgedStamps, table: pd.DataFrame) -> F32:
    """Return what `features` does, but for the neighbours, of stamps that were cut out."""
    values = _from_table(table, stamps.fwhm) | numbers_of_stamps(stamps, table)
    out = np.full((len(table), len(FEATURES)), MISSING, np.float32)
    for k, name in enumerate(FEATURES):
        column = np.asarray(values.get(name, np.nan), np.float64)
        out[:, k] = np.where(np.isfinite(column), column, MISSING)
    return out


def _from_table(t: pd.DataFrame, fwhm: F64) -> dict[str, F64]:
    def column(name: str) -> F64:
        return np.asarray(t[name].to_numpy(np.float64))

    sign = column("peakSign")
    with np.errstate(divide="ignore", invalid="ignore"):
        size = (column("ixx") + column("iyy")) / (column("ixxPSF") + column("iyyPSF"))
        root = np.hypot(0.5 * (column("ixx") - column("iyy")), column("ixy"))
        half = 0.5 * (column("ixx") + column("iyy"))
        template_snr = column("templateInstFlux") / column("templateInstFluxErr")
        snr = np.maximum(np.abs(column("significance")), 1)
        return {
            "significance": np.log10(snr),
            "chi2": np.log10(np.maximum(column("psfChi2") / np.maximum(column("psfNdata"), 1), 1e-3)),
            "size": np.log10(np.maximum(size, 1e-2)),
            "elongation": root / half,
            "isDipole": column("isDipole"),
            "dipole_length": column("dipoleLengthPixels") / fwhm,
            "dipole_balance": column("dipoleDiffInstFlux") * sign / np.maximum(column("dipoleMeanInstFlux"), 1e-30),
            "science_snr": np.arcsinh(column("scienceInstFlux") / column("scienceInstFluxErr")),
            "template_snr": np.arcsinh(template_snr),
            "template_ratio": np.arcsinh(template_snr / snr),
            "science_ratio": np.arcsinh(column("scienceInstFlux") / np.maximum(np.abs(column("psfInstFlux")), 1e-30)),
            "centroid_error": np.log10(np.maximum(np.hypot(column("xErr"), column("yErr")) / fwhm, 1e-4)),
        }


def _neighbours(x: F64, y: F64, table: pd.DataFrame) -> F64:
    """Return how many other rows are within 5 FWHM (of the PSF's second moments) of each."""
    from scipy.spatial import cKDTree

    reach = 5 * 2.3548 * np.sqrt(0.5 * (table.ixxPSF + table.iyyPSF)).to_numpy(np.float64)
    points = np.column_stack([x, y])
    return (
        np.asarray(cKDTree(points).query_ball_point(points, np.nan_to_num(reach), return_length=True), np.float64) - 1
    )


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
