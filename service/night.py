"""A night from files: embedded servers, a template, every frame through the real service, results as files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from apdb.export import all_rows, latest_objects, ledger_rows
from exposure import Instrument, load_instrument
from exposure.fits import open_fits
from exposure.plain import header_visit_info
from service.campaign import post_visits, wait_finished, wait_published
from service.errors import BadMessage
from service.stack import Stack
from service.templates import template_from_frames

__all__ = ["NightPlan", "run_night"]

TEMPLATE_SET = "night"
SECONDS_PER_FRAME = 300.0


@dataclass(frozen=True)
class NightPlan:
    """What `run_night` is asked to do."""

    instrument: str
    template_frames: list[Path]
    frames: list[Path]
    out: Path
    positions: Path | None = None
    keep: bool = False


def run_night(plan: NightPlan, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Process the frames and write report.json, diaObjects, diaSources, diaForcedSources, forcedPositions (Parquet).

    Returns
    -------
    report : `dict`
        What report.json holds.

    Raises
    ------
    BadMessage
        The positions file lacks a column, or a frame was refused.
    """
    rules = load_instrument(plan.instrument)
    plan.out.mkdir(parents=True, exist_ok=True)
    if plan.positions is not None:
        missing = {"id", "ra", "dec"} - set(pd.read_csv(plan.positions, nrows=1).columns)
        if missing:
            raise BadMessage(f"{plan.positions} lacks the columns {sorted(missing)}")
    frames = sorted((p.resolve() for p in plan.frames), key=lambda p: _when(p, rules))
    overrides: dict[str, Any] = {
        "data_roots": sorted({p.parent for p in frames}), "template_set": TEMPLATE_SET,
        "template_dir": plan.out.resolve() / "templates", "products_dir": plan.out.resolve() / "products",
        "archive_dir": str(plan.out.resolve() / "alerts"),
    }  # fmt: skip
    if plan.positions is not None:
        overrides["forced_positions"] = plan.positions.resolve()
    say(f"building the template from {len(plan.template_frames)} frames")
    template_from_frames(overrides["template_dir"], TEMPLATE_SET, [p.resolve() for p in plan.template_frames], rules)
    with Stack(overrides, say=say) as stack:
        messages = [{"instrument": plan.instrument, "science": str(p)} for p in frames]
        replies = post_visits(stack, messages)
        refused = [(m["science"], r) for m, r in zip(messages, replies, strict=True) if r["httpStatus"] != 202]
        for path, reply in refused:
            say(f"refused: {path}: {reply.get('detail')}")
        keys = sorted({(r["visit"], r["detector"]) for r in replies if r["httpStatus"] == 202})
        say(f"processing {len(keys)} visits")
        wait_finished(stack, keys, SECONDS_PER_FRAME * max(len(keys), 1), _Progress(say))
        say(f"{wait_published(stack)} alerts published")
        report = _report(stack, refused)
        _write_tables(stack, plan)
    (plan.out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


class _Progress:
    """Says a line whenever another tenth is done."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._last = say, -1

    def __call__(self, done: int, total: int) -> None:
        if done * 10 // max(total, 1) > self._last:
            self._last = done * 10 // max(total, 1)
            self._say(f"{done} of {total} visits done")


def _when(path: Path, rules: Instrument) -> float:
    with open_fits(path) as hdus:
        return header_visit_info(hdus, rules, name=path).midpoint_mjd_tai


def _report(stack: Stack, refused: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    names = ("diaSources", "newObjects", "updatedObjects", "forced", "alerts", "marginal", "rejected", "solarSystem")
    visits = []
    for row in ledger_rows(stack.database):
        counts = row["counts"] or {}
        error = None if row["errorCode"] is None else {"code": row["errorCode"], "message": row["errorText"]}
        visits.append(
            {
                "visit": row["visit"], "detector": row["detector"], "mjd": row["midpointMjdTai"], "band": row["band"],
                "state": row["state"], "error": error, "seconds": row["seconds"] or {},
                "counts": {n: counts.get(n, 0) for n in names},
            }
        )  # fmt: skip
    return {
        "visits": visits,
        "refused": [{"science": p, "code": r.get("code"), "message": r.get("detail")} for p, r in refused],
    }


def _write_tables(stack: Stack, plan: NightPlan) -> None:
    latest_objects(stack.database).to_parquet(plan.out / "diaObjects.parquet")
    all_rows(stack.database, "DiaSource").to_parquet(plan.out / "diaSources.parquet")
    all_rows(stack.database, "DiaForcedSource").to_parquet(plan.out / "diaForcedSources.parquet")
    done = {(r["visit"], r["detector"]): r["attempt"] for r in ledger_rows(stack.database) if r["state"] == "done"}
    products = plan.out / "products"
    parts = []
    for (visit, detector), attempt in done.items():
        path = products / f"positions_{visit}_{detector}_{attempt}.parquet"
        if path.exists():
            parts.append(pd.read_parquet(path))
    columns = ["id", "visit", "detector", "mjd", "band", "ra", "dec", "psfFlux", "psfFluxErr", "scienceFlux",
               "scienceFluxErr"]  # fmt: skip
    table = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    table.sort_values(["id", "mjd"], ignore_index=True).to_parquet(plan.out / "forcedPositions.parquet")
    if not plan.keep:
        import shutil

        for path in (products, plan.out / "templates", plan.out / "alerts"):
            shutil.rmtree(path, ignore_errors=True)
