"""A survey: the plan of its visits, and its images and truth on disk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from simulation.sky import Sky, SkySettings, make_sky
from simulation.visit import Conditions, DetectorImage, simulate_detector

__all__ = ["SurveyConfig", "Visit", "plan_visits", "survey_sky", "write_survey"]


@dataclass(frozen=True)
class SurveyConfig:
    """A synthetic survey; counts are for the whole field."""

    seed: int = 1
    visits: int = 12
    template_visits: int = 4
    detectors: int = 2
    size: int = 1024
    pixel_scale: float = 0.2
    centre: tuple[float, float] = (150.0, 2.2)
    start_mjd: float = 61000.1
    interval_days: float = 0.35
    band: str = "r"
    stars: int = 4000
    galaxies: int = 700
    variables: int = 250
    transients: int = 120
    asteroids: int = 12
    seeing: tuple[float, float] = (0.7, 1.1)
    faint_njy: float = 1000.0

    @property
    def radius_deg(self) -> float:
        """Half side of the sky that is filled."""
        across = self.size * (self.detectors + 1) * self.pixel_scale / 3600
        return 0.5 * across * 1.15 + 0.01


@dataclass(frozen=True)
class Visit:
    """One visit of the plan and the conditions of its detectors."""

    visit: int
    is_template: bool
    detectors: tuple[Conditions, ...]


def survey_sky(config: SurveyConfig) -> Sky:
    """Return the sky of a survey; transients start after the template visits."""
    first = config.start_mjd + config.interval_days * config.template_visits
    span = config.interval_days * max(config.visits - config.template_visits, 1)
    return make_sky(
        SkySettings(
            config.seed,
            config.centre,
            config.radius_deg,
            config.stars,
            config.galaxies,
            config.variables,
            config.transients,
            config.asteroids,
            mjd=first + 0.3 * span,
            span_days=span,
            faint_njy=config.faint_njy,
        )
    )


def plan_visits(config: SurveyConfig) -> list[Visit]:
    """Return the visits in time order: seeing, airmass, pointing and rotation change from one to the next."""
    rng = np.random.default_rng([config.seed, 5])
    out = []
    for k in range(config.visits):
        template = k < config.template_visits
        low, high = config.seeing
        seeing = rng.uniform(low, 0.5 * (low + high)) if template else rng.uniform(low, high)
        airmass, rotation = rng.uniform(1.0, 1.5), rng.uniform(-2, 2) if template else rng.uniform(-4, 4)
        jitter = rng.uniform(-1, 1, 2) * 0.03 * config.size * config.pixel_scale / 3600
        conditions = tuple(
            Conditions(
                visit=1000 + k,
                detector=d,
                mjd=config.start_mjd + k * config.interval_days,
                exposure_time=30.0,
                ra=config.centre[0] + jitter[0],
                dec=config.centre[1] + jitter[1],
                rotation=rotation,
                seeing=seeing,
                airmass=airmass,
                sky=900.0 * (0.8 + 0.2 * airmass),
                nanojansky=1.6 * 10 ** (0.4 * 0.1 * (airmass - 1)),
                band=config.band,
                dx=(d - 0.5 * (config.detectors - 1)) * (config.size + 30),
                dy=0.0,
            )
            for d in range(config.detectors)
        )
        out.append(Visit(1000 + k, template, conditions))
    return out


def detector_images(config: SurveyConfig, sky: Sky, visits: list[Visit]) -> Iterator[DetectorImage]:
    """Render every detector of every visit."""
    for visit in visits:
        for c in visit.detectors:
            yield simulate_detector(sky, c, config.size, config.pixel_scale, config.seed)


def write_survey(
    config: SurveyConfig, directory: Path, progress: Callable[[int, int], None] = lambda written, total: None
) -> pd.DataFrame:
    """Write images as FITS, and truth.parquet, ephemerides.parquet, refcat.parquet.

    Returns
    -------
    index : `pandas.DataFrame`
        visit, detector, mjd, isTemplate, path.
    """
    directory.mkdir(parents=True, exist_ok=True)
    sky, visits = survey_sky(config), plan_visits(config)
    rows, truths, total = [], [], len(visits) * config.detectors
    for image in detector_images(config, sky, visits):
        visit, detector = image.exposure.key
        path = directory / f"simcam_{visit}_{detector}.fits"
        image.exposure.write_fits(path)
        template = visit - 1000 < config.template_visits
        rows.append((visit, detector, visits[visit - 1000].detectors[0].mjd, template, str(path)))
        truths.append(image.truth.assign(visit=visit, detector=detector))
        progress(len(rows), total)
    index = pd.DataFrame(rows, columns=["visit", "detector", "mjd", "isTemplate", "path"])
    index.to_parquet(directory / "index.parquet")
    pd.concat(truths, ignore_index=True).to_parquet(directory / "truth.parquet")
    if len(sky.asteroids.designation):
        grid = np.arange(visits[0].detectors[0].mjd - 0.1, visits[-1].detectors[0].mjd + 0.2, 0.05)
        pd.concat([sky.asteroids.ephemerides(t) for t in grid]).to_parquet(directory / "ephemerides.parquet")
    constant = sky.stars[sky.stars.amplitude == 0]
    constant[["starId", "ra", "dec", "flux"]].to_parquet(directory / "refcat.parquet")
    return index
