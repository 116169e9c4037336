"""Images with known changes and known damage, through the chain of production: what reliability is trained on and judged by.

Cameras: three simulated ones (dithered frames, cosmic rays found, coadded, warped, subtracted, of a fine, an ordinary and an
undersampled camera) and the two real ones where their frames are at hand. Every scene gets artefacts of `simulation.artefacts` on
the image and on the frames of its template, and sources that appear, vanish or vary, with the noise of their own light. Labels
come from what was put where, never from a score.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.real_bogus import DATA
from benchmarks.reliability_truth import (
    TemplateFrames,
    add_changes,
    damaged_frame,
    labelled,
    spoiled_stars,
)
from calibration import ReferenceStars
from calibration.characterize import characterize
from calibration.errors import TooFewStars
from diffim import ImageDifferenceTask
from diffim.templates.coadd import coadd_tile
from diffim.templates.patches import merge_patches
from diffim.templates.store import merge_stars, without_cosmic_rays
from diffim.templates.tiling import Tile
from exposure import Exposure, Instrument, SkyWcs, load_instrument
from exposure.psf import fwhm_of
from simulation.artefacts import FRAME_KINDS, SCIENCE_KINDS, Labels
from simulation.survey import SurveyConfig, Visit, plan_visits, survey_sky
from simulation.visit import SATURATION, detector_wcs, simulate_detector
from tasks import make_task

__all__ = ["CAMERAS", "Subtracted", "camera_scenes", "is_at_hand", "simulated_scenes"]

F64 = NDArray[np.float64]
CAMERAS = ("fine", "ordinary", "coarse", "decam", "hatp32")
SIZE = 640
SCALES = {"fine": 0.12, "ordinary": 0.2, "coarse": 0.4}  # arcsec/px
DECAM = (("18", "04"), ("04", "18"))
HATP32 = DATA.parent / "microobs_hatp32"
_UNDAMAGED = (1, 3)  # of five: most images of a survey are good
HATP32_TEMPLATES = (("000", "064", "140"), ("016",), ("036", "100"))


@dataclass(frozen=True)
class Subtracted:
    """One subtracted image and what is known of its detections.

    Parameters
    ----------
    sources
        Raw measurements; flagged ones too.
    kind
        Shape (N,): one of `REAL`, a name of `simulation.artefacts.KINDS`, `OTHER` or `UNKNOWN`.
    truth
        x, y (frame px), kind, sign, snr of all that was put on the image; found: it is among the detections.
    matched
        Shape (len(truth),): the row of `sources` that it is, -1 where it was not found.
    """

    science: Exposure
    template: Exposure
    difference: Exposure
    sources: pd.DataFrame
    kind: NDArray[np.str_]
    truth: pd.DataFrame
    matched: NDArray[np.int64]


def is_at_hand(camera: str) -> bool:
    """Whether the images of a camera are there; made-up ones always are."""
    folder = {"decam": DATA, "hatp32": HATP32}.get(camera)
    return folder is None or folder.exists()


def camera_scenes(camera: str, seed: int, scenes: int) -> Iterator[Subtracted]:
    """Yield subtracted images of a camera; equal arguments give equal ones."""
    made = {"decam": _decam, "hatp32": _hatp32}.get(camera)
    return made(seed, scenes) if made else simulated_scenes(camera, seed, scenes)


def simulated_scenes(
    camera: str, seed: int, scenes: int, damaged: bool = True, density: float | None = None
) -> Iterator[Subtracted]:
    """Yield images of a made-up camera, damaged (but two of five, whose template alone is) or not.

    The template is new for every five of them.
    `density` is the number of stars per px^2; without it that is drawn anew for each template.
    """
    rules = load_instrument("simcam")
    options: dict[str, Any] = {}
    if camera == "coarse":
        rules = rules.model_copy(update={"characterize": rules.characterize.model_copy(update={"smoothing": 0.8})})
        options = dict(load_instrument("hatp32").task_config["ImageDifferenceTask"])
    for first in range(0, scenes, 5):
        rng = np.random.default_rng([seed, first, CAMERAS.index(camera)])
        n_template = int(rng.choice([1, 2, 3, 4]))
        side, drawn = 2.3 * SIZE + 72 / SCALES[camera], 10 ** rng.uniform(-3.6, -2.7)
        config = SurveyConfig(
            seed=seed * 1000 + first, visits=n_template + min(5, scenes - first), template_visits=n_template, detectors=1,
            size=SIZE, pixel_scale=SCALES[camera], stars=int(side**2 * (density or drawn)),
            galaxies=int(side**2 * 1.5e-4), variables=0, transients=0, asteroids=0,
        )  # fmt: skip
        sky, visits = survey_sky(config), plan_visits(config)
        frames, labels = [], []
        for visit in visits[:n_template]:
            made = simulate_detector(sky, visit.detectors[0], SIZE, config.pixel_scale, config.seed)
            fwhm = visit.detectors[0].seeing / config.pixel_scale
            labels.append(damaged_frame(made.exposure, fwhm, FRAME_KINDS if damaged else (), rng))
            characterize(made.exposure, rules)
            frames.append(made.exposure)
        template = _coadd(frames, labels, config.pixel_scale, SIZE + 240)
        for number, visit in enumerate(visits[n_template:]):
            spoiled = damaged and number not in _UNDAMAGED
            yield _simulated_scene(sky, config, visit, rules, template, options, rng, spoiled)


def _simulated_scene(
    sky: Any,
    config: SurveyConfig,
    visit: Visit,
    rules: Instrument,
    template: TemplateFrames,
    options: dict[str, Any],
    rng: np.random.Generator,
    damaged: bool,
) -> Subtracted:
    """Render, damage and subtract one image."""
    conditions = visit.detectors[0]
    made = simulate_detector(sky, conditions, SIZE, config.pixel_scale, config.seed)
    e, fwhm = made.exposure, conditions.seeing / config.pixel_scale
    e.psf = made.psf
    stars = pd.DataFrame({"x": made.truth.x, "y": made.truth.y, "flux": made.truth.flux / conditions.nanojansky})
    peak = 0.7 / fwhm**2 * stars.flux
    galaxies = sky.galaxies
    gx, gy = e.require_wcs().sky_to_pixel(galaxies.ra.to_numpy(), galaxies.dec.to_numpy())
    hosts = pd.DataFrame({"x": gx, "y": gy, "re": galaxies.re_arcsec / config.pixel_scale})
    labels = damaged_frame(e, fwhm, SCIENCE_KINDS if damaged else (), rng)
    if damaged:
        labels = spoiled_stars(e, stars[peak < 0.5 * SATURATION], stars[peak > 0.3 * SATURATION], labels, fwhm, rng)
    truth = add_changes(e, stars[peak < 0.5 * SATURATION], hosts, template, fwhm, rng)
    e.psf = None
    if damaged and rng.random() < 0.2:  # the WCS is off and nobody registers
        shift = rng.uniform(-0.25, 0.25, 2)
        off = replace(conditions, dx=conditions.dx + shift[0], dy=conditions.dy + shift[1])
        e.wcs = detector_wcs(off, SIZE, config.pixel_scale)
        options = options | {"doUseRegister": False}
    characterize(e, rules)
    return _subtracted(e, template, labels, truth, options, None)


def _decam(seed: int, scenes: int) -> Iterator[Subtracted]:
    """Yield DECam images of one season against frames of the other."""
    rules, templates = load_instrument("decam"), {}
    for k in range(scenes):
        rng = np.random.default_rng([seed, k, 3])
        old, new = DECAM[k % 2]
        if old not in templates:
            paths = sorted(DATA.glob(f"DEC-OBS{old}*.fits"))
            templates[old] = _real_template(paths[: int(rng.integers(1, len(paths) + 1))], rules, 4.5, 480, rng)
        with suppress(TooFewStars):  # small images: damage may leave none
            yield _real_scene(sorted(DATA.glob(f"DEC-OBS{new}*.fits")), rules, templates[old], 4.5, rng)


def _hatp32(seed: int, scenes: int) -> Iterator[Subtracted]:
    """Yield images of a night of the undersampled camera."""
    rules = load_instrument("hatp32")
    used = {name for names in HATP32_TEMPLATES for name in names}
    frames = [p for p in sorted(HATP32.glob("hatp32_*.fits.gz")) if p.name[7:10] not in used]
    for k in range(scenes):
        rng = np.random.default_rng([seed, k, 4])
        if k % 10 == 0:
            names = HATP32_TEMPLATES[(seed + k // 10) % 3]
            template = _real_template([HATP32 / f"hatp32_{n}.fits.gz" for n in names], rules, 2.0, 1000, rng)
        yield _real_scene(frames, rules, template, 2.0, rng)


def _real_template(
    paths: list[Path], rules: Instrument, fwhm: float, size: int, rng: np.random.Generator
) -> TemplateFrames:
    frames: list[Exposure] = []
    labels = []
    for path in paths:
        e = Exposure.read_fits(path, rules)
        labels.append(damaged_frame(e, fwhm, FRAME_KINDS, rng))
        scale = rules.pixel_scale or e.pixel_scale_arcsec()
        characterize(e, rules, ReferenceStars(merge_stars(frames, scale)) if frames else None)
        frames.append(e)
    return _coadd(frames, labels, rules.pixel_scale or frames[0].pixel_scale_arcsec(), size)


def _real_scene(
    paths: list[Path], rules: Instrument, template: TemplateFrames, fwhm: float, rng: np.random.Generator
) -> Subtracted:
    """Damage one of the frames, put sources with the PSF of the frame on it, and subtract."""
    e = Exposure.read_fits(paths[int(rng.integers(len(paths)))], rules)
    labels = damaged_frame(e, fwhm, SCIENCE_KINDS, rng)
    characterize(e, rules, template.stars)
    fwhm = float(fwhm_of(e.require_psf().moments_at([e.width / 2], [e.height / 2]))[0])
    s = e.sources
    stars = pd.DataFrame({"x": s.x - e.origin[0], "y": s.y - e.origin[1], "flux": s.psfFlux})[s.snr > 20]
    bright = stars.nlargest(3, "flux")
    usual = stars[~s.flagged[stars.index]]
    labels = spoiled_stars(e, usual, bright, labels, fwhm, rng)
    truth = add_changes(e, usual, None, template, fwhm, rng)
    options = dict(rules.task_config.get("ImageDifferenceTask", {}))
    return _subtracted(e, template, labels, truth, options, s)


def _coadd(frames: list[Exposure], labels: list[Labels], scale: float, size: int) -> TemplateFrames:
    first, s = frames[0], scale / 3600.0
    centre = first.require_wcs().pixel_to_sky([first.width / 2], [first.height / 2])
    wcs = SkyWcs.tan(((size - 1) / 2, (size - 1) / 2), (float(centre[0][0]), float(centre[1][0])), [[-s, 0], [0, s]])
    coadd = coadd_tile(Tile(0, 0, wcs, size), [without_cosmic_rays(e) for e in frames])
    assert coadd is not None
    marked = [(e.require_wcs(), label) for e, label in zip(frames, labels, strict=True)]
    return TemplateFrames(coadd, marked, ReferenceStars(merge_stars(frames, scale)), len(frames))


def _subtracted(
    e: Exposure,
    template: TemplateFrames,
    labels: Labels,
    truth: pd.DataFrame,
    options: dict[str, Any],
    catalogue: pd.DataFrame | None,
) -> Subtracted:
    options = options | {"doReliability": False, "badSourceFlags": [], "qualityGate": "off", "doWriteMatchedExp": True}
    warped = merge_patches(e, [template.coadd])
    r = make_task(ImageDifferenceTask, options).run(e, e.sources, warped)
    d, t = r.subtractedExposure, r.diaSources.reset_index(drop=True)
    assert d is not None
    kind, matched = labelled(d, t, template, labels, truth, catalogue)
    return Subtracted(e, r.warpedExposure, d, t, kind, truth.assign(found=matched >= 0), matched)
