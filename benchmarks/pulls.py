"""Whether errors are errors: ``python -m benchmarks.pulls [--chains A,B,equal,production] [--kinds new,moved,trail,constant] [--images 4] [--json]``.

Sources of known place and flux, with the noise of their own light, are put on images that are subtracted then
(`benchmarks.pull_scenes`). A pull is (measured - true) / error; widths are robust (half the distance between the 16th and the
84th percentile), and so are their means (medians); both come with the error that their number leaves. One row per chain,
direction of convolution, kind, signal-to-noise and measurement.

Fluxes are held against the light on the PSF's stamp, as the aperture correction stands for the rest. ``new``: point sources, half of the
faint ones of negative light, lest all of them together raise the sky; ``forced`` is measured at the true place (of all that were put in), the others are of detections within 1.5 px.
``moved``: stars that lie `MOVED` px elsewhere in the frames of the template: dipoles. ``trail``: lines of `LENGTH` px.
``constant``: the stars of the scene, forced on the difference, where 0 is true, by their signal-to-noise on the image.

A, B: registered pairs of `benchmarks.pairs` with their true PSFs; equal: the same with one seeing; production: dithered frames, their
PSFs measured, coadded, resampled, with the same rotations as in a survey.
"""

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from benchmarks import pairs
from benchmarks.pull_scenes import BORDER, SIZE, Scene, add_sources, light_on, places, produced, registered
from diffim import ImageDifferenceTask
from diffim.result import Differenced
from exposure.photometry import forced_psf_photometry
from tasks import make_task

__all__ = ["main", "measured", "pulls"]

CHAINS = ("A", "B", "equal", "production")
# signal-to-noise: px between places, and how many for each image: bright ones are rare, and are taken for sky where they are not
CELLS = {5.0: (50.0, 300), 20.0: (50.0, 300), 100.0: (36.0, 160), 300.0: (36.0, 120)}
MANY = 50.0  # up to that signal-to-noise
FAR = 20.0  # its distance is that of stars from what is new
FAINT, LOWER = 10.0, 3.0  # below that signal-to-noise the threshold is lower: a cut in their flux is none of the errors
MOVED, LENGTH = 3.0, 16.0  # px
CONSTANT = (10.0, 20.0, 50.0, 100.0)
KINDS = {
    "new": {"forced": "flux", "psfInstFlux": "flux", "apInstFlux": "flux", "trailInstFlux": "flux", "x": "x", "y": "y"},
    "moved": {
        "dipole_pos_instFlux": "flux", "dipole_neg_instFlux": "minus", "dipoleMeanInstFlux": "flux",
        "dipoleDiffInstFlux": "zero", "dipole_x": "x", "dipole_y": "y",
    },
    "trail": {"trailInstFlux": "flux", "x": "x", "y": "y"},
}  # fmt: skip
"""Of each kind the measurements and the true values that they are held against."""


def subtracted(scene: Scene, stars: Any, template: Any, snr: float) -> tuple[Differenced, dict[str, Any]]:
    """Subtract and measure."""
    lower = {"detectionThreshold": LOWER} if snr < FAINT else {}
    options = {"qualityGate": "off", "doReliability": False, "doFindGlints": False, "doMaskStreaks": False}
    task = make_task(ImageDifferenceTask, options | lower)
    result = task.run(scene.science.exposure, stars, template)
    return result, {"direction": task.metadata["convolved"]}


def measured(scene: Scene, kind: str, snr: float, rng: np.random.Generator) -> pd.DataFrame:
    """Add sources of one kind and signal-to-noise to a copy of the images, subtract, and return one row a source with its pulls.

    Of one: wings of the brightest would raise the sky under the faintest.
    """
    scene = replace(scene, science=scene.science.copy(), frames=[f.copy() for f in scene.frames])
    apart, number = CELLS[snr]
    truth = places(scene, scene.joined([f.exposure.copy() for f in scene.frames]), number, apart, rng)
    truth["snr"], truth["angle"] = snr, rng.uniform(0, np.pi, len(truth))
    wide = 1 + (LENGTH / scene.science.psf.fwhm[0] if kind == "trail" else 0)
    truth["flux"] = 0.5 * (snr**2 + np.sqrt(snr**4 + 4 * snr**2 * truth.sky * wide))
    if kind == "new" and snr <= MANY:
        truth["flux"] *= np.where(np.arange(len(truth)) % 2, -1.0, 1.0)
    dx, dy = (0.5 * MOVED * f(truth.angle) * (kind == "moved") for f in (np.cos, np.sin))
    e = scene.science.exposure
    add_sources(
        scene.science, e.require_wcs(), truth.assign(x=truth.x + dx, y=truth.y + dy), rng, LENGTH * (kind == "trail")
    )
    if kind == "moved":
        for frame in scene.frames:
            add_sources(frame, e.require_wcs(), truth.assign(x=truth.x - dx, y=truth.y - dy), rng)
    side = e.require_psf().size
    truth["flux"] *= light_on(scene.science.psf, side, truth.x.to_numpy(), truth.y.to_numpy())
    truth["minus"], truth["zero"] = -truth.flux, 0.0
    result, notes = subtracted(scene, scene.stars, scene.joined([f.exposure for f in scene.frames]), snr)
    d, t = result.subtractedExposure, result.diaSources
    assert d is not None
    assert t is not None
    if kind == "moved":
        t = t[t.isDipole].reset_index(drop=True)
    distance, row = cKDTree(t[["x", "y"]]).query(truth[["x", "y"]], distance_upper_bound=1.5)
    found = t.iloc[np.where(np.isfinite(distance), row, 0)].reset_index(drop=True)
    forced = forced_psf_photometry(d.image, d.variance, d.require_psf(), truth.x, truth.y, bad=~d.good("BAD", "CR"))
    found["forced"], found["forcedErr"] = forced.instFlux.to_numpy(), forced.instFluxErr.to_numpy()
    rows = []
    for name, true in KINDS[kind].items():
        sign = np.sign(truth.flux) if true == "flux" else 1.0  # upwards is brighter than it is
        pull = (sign * (found[name] - truth[true]) / found[f"{name}Err"]).where(
            np.isfinite(distance) | (name == "forced")
        )
        rows.append(truth[["x", "y", "snr", "flux"]].assign(measurement=name, pull=pull, error=found[f"{name}Err"]))
    return pd.concat(rows, ignore_index=True).assign(kind=kind, **notes)


def constant(scene: Scene) -> pd.DataFrame:
    """Subtract, and return one row a star that is in both images: how much of it is left, in units of its error."""
    scene, stars = replace(scene, science=scene.science.copy()), scene.stars
    result, notes = subtracted(scene, stars, scene.joined([f.exposure.copy() for f in scene.frames]), CONSTANT[-1])
    d = result.subtractedExposure
    assert d is not None
    use = stars.star & stars.isolated & ~stars.flagged & (stars.snr >= CONSTANT[0]) & (stars.snr < CONSTANT[-1])
    use &= (np.abs(np.stack([stars.x, stars.y]) - SIZE / 2) < SIZE / 2 - BORDER).all(0)
    if len(scene.others):
        use &= cKDTree(scene.others).query(np.column_stack([stars.x, stars.y]))[0] > CELLS[FAR][0]
    chosen = stars.take(np.flatnonzero(use))
    t = forced_psf_photometry(d.image, d.variance, d.require_psf(), chosen.x, chosen.y, bad=~d.good("BAD", "CR"))
    brighter = np.asarray(CONSTANT)[np.searchsorted(CONSTANT, chosen.snr, side="right")]
    return pd.DataFrame(
        {
            "x": chosen.x,
            "y": chosen.y,
            "snr": brighter,
            "flux": chosen.psfFlux,
            "measurement": "forced",
            "pull": (t.instFlux / t.instFluxErr).to_numpy(),
            "error": t.instFluxErr.to_numpy(),
        }
    ).assign(kind="constant", **notes)


def pulls(table: pd.DataFrame) -> pd.DataFrame:
    """Return number, median and robust width of the pulls, with errors of both, of each kind, signal-to-noise and measurement."""
    rows = []
    keys = ["direction", "kind", "snr", "measurement"]
    for key, part in table.groupby(keys, sort=False):
        values = part.pull.dropna()
        low, middle, high = np.quantile(values, (0.16, 0.5, 0.84)) if len(values) else (np.nan,) * 3
        width = (high - low) / 1.989
        # of a Gaussian's quantiles
        errors = {"median_error": 1.25 * width / len(values) ** 0.5, "width_error": 0.96 * width / len(values) ** 0.5}
        rows.append(dict(zip(keys, key, strict=True)) | {"n": len(values), "median": middle, "width": width} | errors)
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table of each chain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", default=",".join(CHAINS))
    parser.add_argument("--kinds", default="new,moved,trail,constant")
    parser.add_argument("--snr", default=",".join(f"{s:g}" for s in CELLS))
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", help="a Parquet file that every pull is written to")
    args = parser.parse_args()
    pairs.CASES["equal"] = (0.85, 0.85)
    everything: list[pd.DataFrame] = []
    levels = [float(s) for s in args.snr.split(",")]
    for chain in args.chains.split(","):
        rng = np.random.default_rng([args.seed, CHAINS.index(chain)])
        seeds = range(args.seed * 100, args.seed * 100 + args.images)
        scenes = produced(args.seed, args.images) if chain == "production" else (registered(chain, k) for k in seeds)
        parts = []
        for k, scene in enumerate(scenes):
            for kind in args.kinds.split(","):
                made = [constant(scene)] if kind == "constant" else [measured(scene, kind, s, rng) for s in levels]
                parts += [part.assign(chain=chain, image=k) for part in made]
                if args.rows:  # what there is of a run that is cut short
                    pd.concat(everything + parts, ignore_index=True).to_parquet(args.rows)
        everything += parts
        for row in pulls(pd.concat(parts, ignore_index=True)).round(3).to_dict("records"):
            print(json.dumps({"chain": chain, **row}) if args.json else {"chain": chain, **row}, flush=True)


if __name__ == "__main__":
    main()
