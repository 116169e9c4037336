"""A simulated survey that is fed to a service which runs: something to see where no images are at hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.local.campaign import post_visits
from service.local.stack import Stack
from service.processing.build_template import template_from_frames
from service.processing.instruments import checked_instrument
from simulation.survey import SurveyConfig, write_survey

__all__ = ["feed", "simulated_settings"]

CONFIG = SurveyConfig(
    visits=16,
    template_visits=4,
    detectors=4,
    size=512,
    stars=4000,
    galaxies=500,
    variables=220,
    transients=90,
    asteroids=10,
    start_mjd=61000.55,  # with the interval: one night, so that its page shows the whole survey
    interval_days=0.05,
)


def simulated_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a service that is fed with the survey of a folder."""
    return {"data_roots": [folder], "template_set": "simulated", "ephemerides": folder / "ephemerides.parquet"}


def feed(stack: Stack, folder: Path, say: Callable[[str], None]) -> None:
    """Write the survey, build its template, and post its visits; what was done before is not done again."""
    import pandas as pd

    if (folder / "index.parquet").exists():
        index = pd.read_parquet(folder / "index.parquet")
    else:
        say(f"simulating {CONFIG.visits} visits x {CONFIG.detectors} detectors")
        index = write_survey(CONFIG, folder)
    if not (stack.settings.template_dir / "simulated").exists():
        say("building the template")
        frames = [Path(p) for p in index[index.isTemplate].path]
        template_from_frames(stack.settings.template_dir, "simulated", frames, checked_instrument("simcam"))
    rows = index[~index.isTemplate].sort_values(["mjd", "detector"])
    messages = [
        {"instrument": "simcam", "science": p, "visit": int(v), "detector": int(d), "midpointMjdTai": float(t)}
        for p, v, d, t in zip(rows.path, rows.visit, rows.detector, rows.mjd, strict=True)
    ]
    post_visits(stack, messages)
    say(f"{len(messages)} ccdVisits are posted")
