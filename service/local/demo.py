"""The demo: a simulated survey through the whole service, judged against its truth, with one picture."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from exposure.io.native import open_fits
from service.local.campaign import consume_alerts, post_visits, wait_finished, wait_published
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
    _draw(out / "demo.png", alerts, verdict)
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


def _draw(path: Path, alerts: list[dict[str, Any]], verdict: dict[str, Any]) -> None:
    """Write the picture: light curves and stamp triplets of the best transient and the best variable.

    Fluxes are those on the science image, as those of the truth are (a galaxy below a transient adds to them); objects without
    a match in the truth are left out.
    """
    matched = verdict["matched"]
    chosen = [(kind, _best(matched, kind)) for kind in ("transient", "variable")]
    chosen = [(kind, who) for kind, who in chosen if who is not None]
    figure = plt.figure(figsize=(12, 4.4 * max(len(chosen), 1)), layout="constrained")
    figure.suptitle(
        f"{verdict['n_alerts']} alerts, purity {verdict['purity']:.2f}, completeness {verdict['completeness']:.2f} at S/N >= 10"
    )
    for row, (kind, who) in enumerate(chosen):
        rows = matched[(matched.trueKind == kind) & (matched.trueId == who)].sort_values("midpointMjdTai")
        brightest = _alert_of(alerts, int(rows.loc[rows.snr.idxmax(), "diaSourceId"]))
        _light_curve(figure.add_subplot(len(chosen), 4, 4 * row + 1), kind, rows, brightest, alerts)
        for k, name in enumerate(("cutoutScience", "cutoutTemplate", "cutoutDifference")):
            _stamp(figure.add_subplot(len(chosen), 4, 4 * row + 2 + k), brightest[name], name.removeprefix("cutout"))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _best(matched: pd.DataFrame, kind: str) -> str | None:
    own = matched[matched.trueKind == kind] if len(matched) else matched
    if own.empty:
        return None
    score = own.groupby("trueId").agg(n=("snr", "size"), snr=("snr", "max"))
    return str(score.sort_values(["n", "snr"]).index[-1])


def _alert_of(alerts: list[dict[str, Any]], source_id: int) -> dict[str, Any]:
    """Return the alert with this diaSourceId."""
    return next(a for a in alerts if a["diaSourceId"] == source_id)


def _light_curve(axes: Any, kind: str, rows: pd.DataFrame, best: dict[str, Any], alerts: list[dict[str, Any]]) -> None:
    owner = int(rows.diaObjectId.mode().iloc[0])
    forced = {
        f["diaForcedSourceId"]: f
        for a in alerts
        if a["diaSource"]["diaObjectId"] == owner
        for f in a["prvDiaForcedSources"] or []
    }
    start = rows.midpointMjdTai.min()
    if forced:
        f = pd.DataFrame(list(forced.values())).sort_values("midpointMjdTai")
        axes.errorbar(
            f.midpointMjdTai - start, f.scienceFlux, f.scienceFluxErr, fmt="s", mfc="none", c="0.5", label="forced"
        )
    axes.errorbar(rows.midpointMjdTai - start, rows.scienceFlux, rows.scienceFluxErr, fmt="o", label="detections")
    axes.plot(rows.midpointMjdTai - start, rows.trueFlux, "x", c="tab:red", label="truth")
    axes.set(
        xlabel=f"days after MJD {start:.2f}",
        ylabel="total flux, on the science image (nJy)",
        title=f"{kind} {best['diaSource']['diaObjectId']}",
    )
    axes.axhline(0, c="0.8", zorder=0)
    axes.legend(fontsize=7)


def _stamp(axes: Any, cutout: bytes | None, title: str) -> None:
    axes.set(title=title, xticks=[], yticks=[])
    if cutout is None:
        return
    with open_fits(io.BytesIO(cutout)) as hdus:
        image = np.asarray(hdus[0].data)
    low, high = np.nanpercentile(image, [2, 99.5])
    axes.imshow(image, origin="lower", vmin=low, vmax=high, cmap="gray")
