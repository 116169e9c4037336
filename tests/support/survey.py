"""A small simulated survey for tests of the whole service."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from exposure import load_instrument
from service.processing.build_template import template_from_frames
from simulation.survey import SurveyConfig, write_survey

__all__ = ["make_survey", "messages", "science", "survey_settings"]

CONFIG = SurveyConfig(
    visits=7,
    template_visits=3,
    detectors=2,
    size=448,
    stars=2600,
    galaxies=200,
    variables=150,
    transients=50,
    asteroids=6,
)


def make_survey(folder: Path, science_visits: int = CONFIG.visits - CONFIG.template_visits) -> Path:
    """Write the images, and a template of some of them; returns the folder."""
    index = write_survey(replace(CONFIG, visits=CONFIG.template_visits + science_visits), folder)
    frames = [Path(p) for p in index[index.isTemplate].path]
    template_from_frames(folder / "templates", "default", frames, load_instrument("simcam"))
    return folder


def science(survey: Path) -> pd.DataFrame:
    """Return the rows of the images that are no part of the template, in order of time."""
    index = pd.read_parquet(survey / "index.parquet")
    return index[~index.isTemplate].sort_values(["mjd", "detector"])


def messages(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the visit messages of rows."""
    return [
        {"instrument": "simcam", "science": r.path, "visit": int(r.visit), "detector": int(r.detector),
         "midpointMjdTai": float(r.mjd)}
        for r in rows.itertuples()
    ]  # fmt: skip


def survey_settings(survey: Path, **more: Any) -> dict[str, Any]:
    """Return the settings of a service that processes the survey, in one job process: each takes seconds to load."""
    return {"data_roots": [survey], "template_dir": survey / "templates", "lease_s": 3.0, "retry_s": 0.2,
            "ephemerides": survey / "ephemerides.parquet", "workers": 1, **more}  # fmt: skip
