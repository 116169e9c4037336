"""Pairs of images to which sources of known place and flux are added with the noise of their light (`benchmarks.pulls`).

What is added has the true PSF of the simulation, sampled on each image by itself: nothing of it goes through the project's own models.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks import pairs
from calibration.characterize import characterize
from diffim.templates.coadd import coadd_tile
from diffim.templates.patches import merge_patches
from diffim.templates.store import without_cosmic_rays
from diffim.templates.tiling import Tile
from exposure import Exposure, SkyWcs, load_instrument
from exposure.psf import MoffatPsf
from exposure.stamps import add_stamps
from exposure.stars import Stars
from exposure.threads import in_threads
from service.pairs.prepare import kernel_candidates, subtract_sky
from simulation.survey import SurveyConfig, plan_visits, survey_sky
from simulation.visit import simulate_detector
from tasks.arrays import nearest_pixels

__all__ = ["Frame", "Scene", "add_sources", "light_on", "places", "produced", "registered"]

F64 = NDArray[np.float64]
SIZE, BORDER = 1024, 80  # px
PER_FRAME = 4  # production: images for each template
TEMPLATE_FRAMES = 3
CLEAR = 0.5  # sigma of a pixel: more light of the static sky there is not under a new source
CANDIDATES = 8000  # places that are tried
STEP = 0.5  # px between the points of a trail
WIDE = 81  # px, of the stamps that are added: next to nothing of the light is outside


@dataclass(frozen=True)
class Frame:
    """An image with its true PSF, its counts for each count of the science image, and its variance for each of its own counts.

    What its WCS says lies at x, y lies `off` (x, y) px from there.
    """

    exposure: Exposure
    psf: MoffatPsf
    unit: float = 1.0
    noise: float = 1.0
    off: Callable[[F64, F64], tuple[F64, F64]] = lambda x, y: (np.zeros_like(x), np.zeros_like(y))

    def copy(self) -> "Frame":
        """Return a frame whose pixels may be changed."""
        return replace(self, exposure=self.exposure.copy())


@dataclass(frozen=True)
class Scene:
    """A prepared image, the frames behind its template and what makes the template of them, its stars, and places (N, 2) px
    that are kept away from."""

    science: Frame
    frames: list[Frame]
    joined: Callable[[list[Exposure]], Exposure]
    stars: Stars
    others: F64 = field(default_factory=lambda: np.zeros((0, 2)))


def registered(case: str, seed: int) -> Scene:
    """Return a registered pair; its transients are those of `benchmarks.pairs` (they are kept away from)."""
    pair = pairs.make_pair(case, SIZE, seed)
    rules = load_instrument("generic")
    in_threads(partial(subtract_sky, rules=rules), (pair.science, pair.template))
    stars = kernel_candidates(pair.science, rules)
    unit, noise = pairs.FLUX_RATIO, pairs.FLUX_RATIO / pairs.TEMPLATE_VISITS
    template = Frame(pair.template, pair.psfs[1], unit, noise, partial(pairs.displacement, SIZE))
    others = pair.truth[["x", "y"]].to_numpy()
    return Scene(Frame(pair.science, pair.psfs[0]), [template], lambda frames: frames[0], stars, others)


def produced(seed: int, images: int) -> Iterator[Scene]:
    """Yield images of a survey of static sky, each with frames that a template is made of."""
    rules = load_instrument("simcam")
    for first in range(0, images, PER_FRAME):
        number = min(PER_FRAME, images - first)
        config = SurveyConfig(
            seed=seed * 1000 + first, visits=TEMPLATE_FRAMES + number, template_visits=TEMPLATE_FRAMES, detectors=1, size=SIZE,
            stars=2400, galaxies=400, variables=0, transients=0, asteroids=0,
        )  # fmt: skip
        sky, visits = survey_sky(config), plan_visits(config)
        size, s = SIZE + 240, config.pixel_scale / 3600
        wcs = SkyWcs.tan(((size - 1) / 2, (size - 1) / 2), config.centre, [[-s, 0], [0, s]])
        made = []
        for visit in visits:
            image = simulate_detector(sky, visit.detectors[0], SIZE, config.pixel_scale, config.seed)
            characterize(image.exposure, rules)
            made.append(Frame(image.exposure, image.psf))
        for science in made[TEMPLATE_FRAMES:]:
            frames = [replace(f, unit=_njy(science) / _njy(f)) for f in made[:TEMPLATE_FRAMES]]
            assert science.exposure.sources is not None
            stars = Stars.of(science.exposure.sources)
            yield Scene(science, frames, partial(_coadded, science.exposure, Tile(0, 0, wcs, size)), stars)


def _njy(frame: Frame) -> float:
    return frame.exposure.require_photo_calib().mean


def _coadded(science: Exposure, tile: Tile, frames: list[Exposure]) -> Exposure:
    coadd = coadd_tile(tile, [without_cosmic_rays(e) for e in frames])
    assert coadd is not None
    return merge_patches(science, [coadd])


def places(scene: Scene, template: Exposure, number: int, apart: float, rng: np.random.Generator) -> pd.DataFrame:
    """Return at most `number` random places, `apart` px from each other and clear of the static sky.

    Columns: x, y (px) and the variance (counts^2) of the flux of a faint source there.
    """
    science = scene.science.exposure
    # at random: the sky is freed of what comes in columns or waves, which a grid of sources would do
    x, y = rng.uniform(BORDER, SIZE - BORDER, (2, CANDIDATES))
    whole = template.cutout(*science.bbox)
    level, noise = np.nanmedian(whole.image), np.sqrt(np.nanmedian(whole.variance))
    light = np.nan_to_num(whole.image - level, nan=np.inf) / noise
    around = np.stack(
        [light[(y + j).astype(int), (x + i).astype(int)] for j in range(-6, 7, 3) for i in range(-6, 7, 3)]
    )
    marked = (science.mask | whole.mask)[y.astype(int), x.astype(int)] != 0
    clear = (np.abs(around.mean(0)) < CLEAR) & (np.abs(around).max(0) < 5) & ~marked
    if len(scene.others):
        clear &= cKDTree(scene.others).query(np.column_stack([x, y]))[0] > apart
    x, y = x[clear], y[clear]
    chosen = _apart(x, y, apart)[:number]
    x, y = x[chosen], y[chosen]
    calibs = science.photo_calib, template.photo_calib
    ratio = calibs[0].mean / calibs[1].mean if calibs[0] and calibs[1] else 1.0
    both = np.nanmedian(science.variance) + np.nanmedian(whole.variance) / ratio**2
    area = 1 / (scene.science.psf.kernel_at(x, y).astype(np.float64) ** 2).sum((1, 2))
    return pd.DataFrame({"x": x, "y": y, "sky": both * area})


def light_on(psf: MoffatPsf, side: int, x: F64, y: F64) -> F64:
    """Return the share (N,) of the light of point sources at positions (N,) that is on stamps of a side: the unit of PSF fluxes."""
    half, middle = min(side, WIDE) // 2, WIDE // 2
    part = slice(middle - half, middle + half + 1)
    stamps = replace(psf, size=WIDE).kernel_at(x, y).astype(np.float64)
    return np.asarray(stamps[:, part, part].sum((1, 2)))


def _apart(x: F64, y: F64, apart: float) -> NDArray[np.int64]:
    """Return which places are taken when each is unless an earlier one within `apart` px was."""
    pairs_ = cKDTree(np.column_stack([x, y])).query_pairs(apart, output_type="ndarray")  # the first is the earlier one
    taken, open_ = np.zeros(x.size, np.bool_), np.ones(x.size, np.bool_)
    while open_.any():
        both = pairs_[open_[pairs_].all(1)]
        first = open_.copy()
        first[both[:, 1]] = False
        taken |= first
        open_ &= ~first
        open_[both[first[both[:, 0]], 1]] = False
    return np.flatnonzero(taken)


def add_sources(frame: Frame, wcs: SkyWcs, table: pd.DataFrame, rng: np.random.Generator, length: float = 0.0) -> None:
    """Add sources to a frame, in place, and the noise of their photons to it and to its variance.

    Parameters
    ----------
    table
        x, y (px) on the pixels that `wcs` describes, flux (counts of the science image; below zero light is taken off), and the
        angle (rad) of trails.
    length
        Of trails, px: points close to each other stand for them.
    """
    e, light = frame.exposure, np.zeros(frame.exposure.image.shape, np.float32)
    psf = replace(frame.psf, size=WIDE)
    flux = (table.flux * frame.unit).to_numpy(np.float32)
    number = max(1, round(length / STEP))
    for along in ((np.arange(number) + 0.5) / number - 0.5) * length:
        x, y = table.x + along * np.cos(table.angle), table.y + along * np.sin(table.angle)
        x, y = e.require_wcs().sky_to_pixel(*wcs.pixel_to_sky(x.to_numpy(), y.to_numpy()))
        dx, dy = frame.off(x, y)
        x, y = x + dx, y + dy
        add_stamps(light, psf.image_at(x, y), nearest_pixels(x), nearest_pixels(y), flux / np.float32(number))
    noise = np.abs(light) * np.float32(frame.noise)
    e.image += light + rng.standard_normal(light.shape, np.float32) * np.sqrt(noise)
    e.variance += noise
