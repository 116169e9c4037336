"""The demo: a simulated survey through the whole service, judged against its truth, with one picture."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from service.local.campaign import consume_alerts, post_visits, wait_finished, wait_published
from service.local.demo_picture import draw
from service.local.judge import judge
from service.local.stack import Stack
from service.processing.build_template import template_from_frames
from service.processing.instruments import checked_instrument
from simulation.survey import SurveyConfig, write_survey

__all__ = ["run_demo"]


def run_demo(out: Path, seed: int = 1, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Simulate, process, consume, judge, draw; returns the numbers.

    The picture is ``OUT/demo.png``; the simulated images lie below ``OUT/survey``.
    """
    out = out.resolve()
    survey = out / "survey"
    config = SurveyConfig(seed=seed, visits=12, template_visits=4)
    say(f"simulating {config.visits} visits x {config.detectors} detectors")
    index = write_survey(config, survey)
    overrides = {"data_roots": [survey], "template_set": "demo", "ephemerides": survey / "ephemerides.parquet"}
    with Stack(overrides, roles=("serve",), say=say) as stack:
        say("building the template")
        frames = [Path(p) for p in index[index.isTemplate].path]
        template_from_frames(stack.settings.template_dir, "demo", frames, checked_instrument("simcam"))
        for role in ("worker", "relay"):
            stack.start(role)
        rows = index[~index.isTemplate].sort_values(["mjd", "detector"])
        messages = [
            {"instrument": "simcam", "science": p, "visit": int(v), "detector": int(d), "midpointMjdTai": float(t)}
            for p, v, d, t in zip(rows.path, rows.visit, rows.detector, rows.mjd, strict=True)
        ]
        say(f"posting {len(messages)} ccdVisits to {stack.url}")
        replies = post_visits(stack, messages)
        keys = [(r["visit"], r["detector"]) for r in replies]
        states = wait_finished(stack, keys, 600)
        published = wait_published(stack)
        say(f"{published} alerts published; reading them back")
        alerts = consume_alerts(stack.kafka.brokers, stack.settings.alert_topic, published)
    verdict = judge(pd.read_parquet(survey / "truth.parquet"), alerts, config.size)
    _print(states, verdict)
    draw(out / "demo.png", alerts, verdict)
    say(f"picture: {out / 'demo.png'}")
    return {"visits": list(states.values()), **{k: v for k, v in verdict.items() if k != "matched"}}


def _print(states: dict[tuple[int, int], dict[str, Any]], verdict: dict[str, Any]) -> None:
    steps = ("open", "characterize", "template", "difference", "associate", "alerts")
    table = Table("visit", "det", "state", "sources", "new", "forced", "alerts", *steps)
    for (visit, detector), s in states.items():
        c, seconds = s.get("counts") or {}, s.get("seconds") or {}
        numbers = [str(c.get(k, "")) for k in ("diaSources", "newObjects", "forced", "alerts")]
        table.add_row(
            str(visit), str(detector), s["state"], *numbers, *(f"{seconds.get(k, np.nan):.2f}" for k in steps)
        )
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    console.print(
        f"transients with S/N >= 10: {verdict['n_bright']} detections expected, completeness {verdict['completeness']:.3f}; "
        f"purity {verdict['purity']:.3f} ({verdict['n_false']} false of {verdict['n_alerts']} alerts); "
        f"one diaObjectId per transient or variable: {verdict['single_object']:.3f}"
    )
