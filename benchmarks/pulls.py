"""Whether errors of new sources are errors: ``python -m benchmarks.pulls [--chains A,B,equal,production] [--images 4] [--json]``.

Sources of known place and flux, with the noise of their own light, are put on images that are subtracted then.
A pull is (measured - true) / error; widths are robust (half the distance between the 16th and the 84th percentile), and so are
their means (medians). One row per chain, signal-to-noise and measurement; ``flux`` is forced at the true place (of all that were
put in), the others are of detections within 1.5 px. A, B: registered pairs of `benchmarks.pairs` with their true PSFs; equal:
the same with one seeing; production: dithered frames, their PSFs measured, coadded, resampled, with the same rotations as in a survey.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks import pairs
from calibration.characterize import characterize
from diffim import ImageDifferenceTask
from diffim.templates.coadd import coadd_tile
from diffim.templates.patches import merge_patches
from diffim.templates.store import without_cosmic_rays
from diffim.templates.tiling import Tile
from exposure import Exposure, SkyWcs, load_instrument
from exposure.photometry import forced_psf_photometry
from exposure.psf import Psf
from exposure.stamps import add_stamps
from exposure.threads import in_threads
from service.pairs.prepare import kernel_candidates, subtract_sky
from simulation.survey import SurveyConfig, plan_visits, survey_sky
from simulation.visit import simulate_detector
from tasks import make_task
from tasks.arrays import nearest_pixels

__all__ = ["main", "measured", "pulls"]

F64 = NDArray[np.float64]
CHAINS = ("A", "B", "equal", "production")
SIZE, BORDER, APART = 1024, 80, 24  # px
CANDIDATES = {
    5.0: 700,
    20.0: 500,
    100.0: 160,
    300.0: 80,
}  # places for each image: bright ones are rare, and are taken for sky where they are not
PER_FRAME = 4  # production: images for each template
CLEAR = 0.5  # sigma of a pixel: more light of the static sky there is not under a new source


@dataclass(frozen=True)
class Scene:
    """A pair to which sources can be added: the prepared exposures, the stars, the true PSF, and places (N, 2) of what is new there."""

    science: Exposure
    template: Exposure
    stars: Any
    psf: Psf
    others: F64


def registered(case: str, seed: int) -> Scene:
    """Return a registered pair; its transients are those of `benchmarks.pairs` (they are kept away from)."""
    pair = pairs.make_pair(case, SIZE, seed)
    rules = load_instrument("generic")
    in_threads(partial(subtract_sky, rules=rules), (pair.science, pair.template))
    stars, psf = kernel_candidates(pair.science, rules), pair.science.require_psf()
    return Scene(pair.science, pair.template, stars, psf, pair.truth[["x", "y"]].to_numpy())


def produced(seed: int, images: int) -> Iterator[Scene]:
    """Yield images of a survey of static sky with their templates, each of three frames."""
    rules = load_instrument("simcam")
    for first in range(0, images, PER_FRAME):
        number = min(PER_FRAME, images - first)
        config = SurveyConfig(
            seed=seed * 1000 + first, visits=3 + number, template_visits=3, detectors=1, size=SIZE, stars=2400,
            galaxies=400, variables=0, transients=0, asteroids=0,
        )  # fmt: skip
        sky, visits = survey_sky(config), plan_visits(config)
        frames = []
        for visit in visits[:3]:
            frames.append(simulate_detector(sky, visit.detectors[0], SIZE, config.pixel_scale, config.seed).exposure)
            characterize(frames[-1], rules)
        size, s = SIZE + 240, config.pixel_scale / 3600
        wcs = SkyWcs.tan(((size - 1) / 2, (size - 1) / 2), config.centre, [[-s, 0], [0, s]])
        coadd = coadd_tile(Tile(0, 0, wcs, size), [without_cosmic_rays(e) for e in frames])
        assert coadd is not None
        for visit in visits[3:]:
            made = simulate_detector(sky, visit.detectors[0], SIZE, config.pixel_scale, config.seed)
            characterize(made.exposure, rules)
            template = merge_patches(made.exposure, [coadd])
            yield Scene(made.exposure, template, made.exposure.sources, made.psf, np.zeros((0, 2)))


def measured(scene: Scene, snr: float, rng: np.random.Generator) -> pd.DataFrame:
    """Add sources of one signal-to-noise to a copy of an image, subtract, and return one row a source with its pulls.

    Of one: wings of the brightest would raise the sky under the faintest.
    """
    scene = replace(scene, science=scene.science.copy(), template=scene.template.copy())
    truth = _places(scene, snr, rng)
    _add(scene, truth, rng)
    task = make_task(ImageDifferenceTask, {"qualityGate": "off", "doReliability": False})
    result = task.run(scene.science, scene.stars, scene.template)
    d, t = result.subtractedExposure, result.diaSources
    assert d is not None
    assert t is not None
    forced = forced_psf_photometry(d.image, d.variance, d.require_psf(), truth.x, truth.y, bad=~d.good("BAD", "CR"))
    truth["flux_"] = ((forced.instFlux - truth.flux) / forced.instFluxErr).to_numpy()
    distance, row = cKDTree(t[["x", "y"]]).query(truth[["x", "y"]], distance_upper_bound=1.5)
    seen = np.isfinite(distance)
    found = t.iloc[np.where(seen, row, 0)].reset_index(drop=True)
    for name, column in (("psfFlux", "psfInstFlux"), ("apFlux", "apInstFlux"), ("trailFlux", "trailInstFlux")):
        truth[name] = (found[column] - truth.flux) / found[f"{column}Err"]
    truth["x_"], truth["y_"] = (found.x - truth.x) / found.xErr, (found.y - truth.y) / found.yErr
    truth.loc[~seen, ["psfFlux", "apFlux", "trailFlux", "x_", "y_"]] = np.nan
    numbers = {k: task.metadata[k] for k in ("scaleTemplateVarianceFactor", "scaleDiffimVarianceFactor")}
    return truth.assign(direction=task.metadata["convolved"], **numbers)


def _places(scene: Scene, snr: float, rng: np.random.Generator) -> pd.DataFrame:
    """Return places that are clear of the static sky, with the flux of a signal-to-noise."""
    science, template = scene.science, scene.template
    # at random: the sky is freed of what comes in columns or waves, which a grid of sources would do
    x, y = rng.uniform(BORDER, SIZE - BORDER, (2, CANDIDATES[snr]))
    first = cKDTree(np.column_stack([x, y])).query_pairs(APART, output_type="ndarray")[:, 0]
    alone = np.ones(x.size, np.bool_)
    alone[first] = False
    if len(scene.others):
        alone &= cKDTree(scene.others).query(np.column_stack([x, y]))[0] > APART
    x, y = x[alone], y[alone]
    whole = template.cutout(*science.bbox)
    level, noise = np.nanmedian(whole.image), np.sqrt(np.nanmedian(whole.variance))
    light = np.nan_to_num(whole.image - level, nan=np.inf) / noise
    around = np.stack(
        [light[(y + j).astype(int), (x + i).astype(int)] for j in range(-6, 7, 3) for i in range(-6, 7, 3)]
    )
    marked = (science.mask | whole.mask)[y.astype(int), x.astype(int)] != 0
    clear = (np.abs(around.mean(0)) < CLEAR) & (np.abs(around).max(0) < 5) & ~marked
    x, y = x[clear], y[clear]
    ratio = (
        science.photo_calib.mean / template.photo_calib.mean if science.photo_calib and template.photo_calib else 1.0
    )
    stamps = scene.psf.kernel_at(x, y).astype(np.float64)
    both = np.nanmedian(science.variance) + np.nanmedian(whole.variance) / ratio**2
    sky = both / (stamps**2).sum((1, 2))
    return pd.DataFrame({"x": x, "y": y, "snr": snr, "flux": 0.5 * (snr**2 + np.sqrt(snr**4 + 4 * snr**2 * sky))})


def _add(scene: Scene, truth: pd.DataFrame, rng: np.random.Generator) -> None:
    """Add sources to the image, and the noise of their photons to it and to its variance."""
    e, x, y = scene.science, truth.x.to_numpy(), truth.y.to_numpy()
    light = np.zeros(e.image.shape, np.float32)
    flux = truth.flux.to_numpy(np.float32)
    add_stamps(light, scene.psf.image_at(x, y), nearest_pixels(x), nearest_pixels(y), flux)
    e.image += light + rng.standard_normal(light.shape, np.float32) * np.sqrt(light)
    e.variance += light


def pulls(table: pd.DataFrame) -> pd.DataFrame:
    """Return number, median and robust width of the pulls of each signal-to-noise and measurement."""
    rows = []
    for (direction, snr), part in table.groupby(["direction", "snr"]):
        for name in ("flux_", "psfFlux", "apFlux", "x_", "y_", "trailFlux"):
            values = part[name].dropna()
            low, middle, high = np.quantile(values, (0.16, 0.5, 0.84)) if len(values) else (np.nan,) * 3
            rows.append((direction, snr, name.rstrip("_"), len(values), middle, (high - low) / 1.989))
    return pd.DataFrame(rows, columns=["direction", "snr", "measurement", "n", "median", "width"])


def main() -> None:
    """Print the table of each chain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", default=",".join(CHAINS))
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", help="a Parquet file that every source is written to")
    args = parser.parse_args()
    pairs.CASES["equal"] = (0.85, 0.85)
    everything = []
    for chain in args.chains.split(","):
        rng = np.random.default_rng([args.seed, CHAINS.index(chain)])
        seeds = range(args.seed * 100, args.seed * 100 + args.images)
        scenes = produced(args.seed, args.images) if chain == "production" else (registered(chain, k) for k in seeds)
        table = pd.concat([measured(scene, snr, rng) for scene in scenes for snr in CANDIDATES], ignore_index=True)
        everything.append(table.assign(chain=chain))
        for row in pulls(table).round(3).to_dict("records"):
            print(json.dumps({"chain": chain, **row}) if args.json else {"chain": chain, **row}, flush=True)
    if args.rows:
        pd.concat(everything, ignore_index=True).to_parquet(args.rows)


if __name__ == "__main__":
    main()
