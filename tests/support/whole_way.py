"""Numbers of whole subtractions, to be compared between processors: ``python -m tests.support.whole_way FILE``.

Each scene goes the whole way: two images without variance, PSF or stars are characterised (SEP, OpenCV), subtracted,
searched and measured (OpenCV, numba, BLAS), and forced photometry is done on the difference.
"""

import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import llvmlite.binding as llvm
import numba
import numpy as np
import pandas as pd
import scipy.linalg  # noqa: F401 (loads the BLAS of its own)
from threadpoolctl import threadpool_info

from calibration.characterize import characterize
from diffim.options import plain_options
from diffim.pipeline import Differencing
from exposure import Exposure, Instrument, PhotoCalib, SkyWcs, VisitInfo
from forced import ForcedPhotCcdFromDataFrameTask
from tasks import IdFactory, make_task

__all__ = ["SCENES", "Numbers", "Scene", "architectures", "main", "processor", "run_scene"]

SIZE, NOISE = 288, 5.0
RULES = Instrument(
    name="made", pixel_scale=0.4, variance="empirical", zeropoint_value={"constant": 31.4},
    task_config={"ImageDifferenceTask": {"backgroundMesh": 128, "kernelSize": 21}},
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A pair: PSF sigma (px) of both images, number of stars, direction, seed; undersampled ones are smoothed."""

    science: float
    template: float
    stars: int
    mode: str
    seed: int
    smoothing: float = 0.0


SCENES = {
    "broad image": Scene(2.0, 1.6, 60, "auto", 1),
    "sharp image": Scene(1.4, 1.8, 90, "auto", 2),
    "equal widths": Scene(1.7, 1.7, 40, "auto", 3),
    "forced deconvolution": Scene(1.5, 1.8, 60, "convolveTemplate", 4),
    "undersampled": Scene(0.75, 0.85, 80, "convolveTemplate", 5, 0.8),
}


@dataclass(frozen=True)
class Numbers:
    """What a scene gives: the sources, forced fluxes, numbers of the subtraction, pixels of the difference in sigma."""

    sources: pd.DataFrame
    forced: pd.DataFrame
    report: dict[str, Any]
    pixels: np.ndarray


def _image(scene: Scene, sigma: float, noise: float, seed: int, changed: bool) -> Exposure:
    """Round Gaussian stars, integrated over the pixels, on a flat sky; every eighth is new in a changed image."""
    from scipy.special import erf

    rng = np.random.default_rng(scene.seed)
    x, y = rng.uniform(12, SIZE - 12, (2, scene.stars))
    flux = 10 ** rng.uniform(3.0, 5.3, scene.stars)
    tx, ty = rng.uniform(20, SIZE - 20, (2, 12))
    if changed:
        new = NOISE * np.sqrt(4 * np.pi) * scene.science * 10 ** rng.uniform(0.8, 1.8, tx.size)
        x, y, flux = np.concatenate([x, tx]), np.concatenate([y, ty]), np.concatenate([flux, new])
    edges = np.arange(SIZE + 1) - 0.5
    ex, ey = (np.diff(0.5 * erf((edges - c[:, None]) / (np.sqrt(2) * sigma)), axis=1) for c in (x, y))
    light = np.einsum("n,nj,ni->ji", flux, ey, ex)
    image = light + 300 + np.random.default_rng(seed).normal(size=light.shape) * np.sqrt(light + noise**2)
    wcs = SkyWcs.tan((SIZE / 2, SIZE / 2), (150.0, 2.0), [[-0.4 / 3600, 0], [0, 0.4 / 3600]])
    return Exposure(
        image.astype(np.float32), np.full(image.shape, np.nan, np.float32), np.zeros(image.shape, np.int32), (0, 0), wcs,
        None, PhotoCalib(1.0), VisitInfo(7, 3, 61000.0, 30.0), "r",
    )  # fmt: skip


def run_scene(scene: Scene, template_noise: float = 0.0) -> Numbers:
    """Go the whole way with one pair; the template's pixels may be multiplied with 1 + noise."""
    rules = RULES.model_copy(
        update={"characterize": RULES.characterize.model_copy(update={"smoothing": scene.smoothing})}
    )
    new, old = _image(scene, scene.science, NOISE, 11, True), _image(scene, scene.template, 0.5 * NOISE, 12, False)
    for e in (new, old):
        characterize(e, rules)
    if template_noise:
        dice = np.random.default_rng(99).normal(size=old.image.shape)
        old.image[:] = old.image.astype(np.float64) * (1 + template_noise * dice)
    way = Differencing(plain_options(rules.task_config["ImageDifferenceTask"] | {"mode": scene.mode}))
    result = way.run(new, old, new.sources)
    difference = result.subtractedExposure
    assert difference is not None and result.diaSources is not None
    places = np.random.default_rng(scene.seed).uniform(15, SIZE - 15, (2, 60))
    ra, dec = difference.require_wcs().pixel_to_sky(*places)
    forced = make_task(ForcedPhotCcdFromDataFrameTask)
    objects = pd.DataFrame({"diaObjectId": np.arange(1, 61), "ra": ra, "dec": dec})
    reference = forced.df2RefCat([objects], difference.bbox, difference.require_wcs())
    table = forced.run(
        forced.generateMeasCat(IdFactory(7, 20), difference, reference)[0], difference, reference
    ).measCat
    with np.errstate(invalid="ignore"):
        pixels = np.where(difference.good(), difference.image / np.sqrt(difference.variance), np.nan)
    return Numbers(result.diaSources, table, way.numbers, pixels)


def architectures() -> list[str]:
    """Return the architectures for which the linear algebra of numpy and of scipy runs, as `threadpoolctl` has them."""
    return sorted(
        f"{Path(lib['filepath']).parent.name.removesuffix('.libs')} {lib['architecture']}"
        for lib in threadpool_info()
        if lib["user_api"] == "blas" and Path(lib["filepath"]).parent.name in ("numpy.libs", "scipy.libs")
    )


def processor() -> dict[str, Any]:
    """Return what the arithmetic of this process runs on."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return {
        "BLAS": architectures(),
        "OpenCV": cv2.getCPUFeaturesLine(),
        "numpy": found,
        "numba": f"{numba.config.CPU_NAME or llvm.get_host_cpu_name()} {os.environ.get('NUMBA_CPU_FEATURES', '')}".strip(),
    }


def main(target: str, names: list[str]) -> None:
    """Write the processor and the numbers of some scenes to a file."""
    made = {name: run_scene(SCENES[name]) for name in names}
    Path(target).write_bytes(pickle.dumps((processor(), made)))


if __name__ == "__main__":
    from tests.support import whole_way  # what is pickled is to be found there

    whole_way.main(sys.argv[1], sys.argv[2:] or list(SCENES))
