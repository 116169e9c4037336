"""The table that `alertprod night` prints when it ends."""

import json
from pathlib import Path
from typing import Any

from apdb import VisitState
from service.terminal import print_table, say

__all__ = ["print_night"]

COUNTS = ("diaSources", "newObjects", "alerts")


def print_night(report: dict[str, Any], as_json: bool = False) -> None:
    """Print the report, or a row per visit and below it a row per frame that was not used, with the reason."""
    if as_json:
        print(json.dumps(report), flush=True)
        return
    print_table(
        ("visit", "detector", "state", "sources", "new", "alerts", "seconds"),
        [
            (
                v["visit"],
                v["detector"],
                v["state"],
                *(v["counts"][c] for c in COUNTS),
                f"{sum(v['seconds'].values()):.1f}",
            )
            for v in report["visits"]
        ],
    )
    others = [f for f in report["frames"] if f["state"] != VisitState.DONE]
    if others:
        print_table(
            ("frame", "visit", "state", "code", "reason"),
            [
                (Path(f["frame"]).name, _number(f), f["state"], f["code"] or "", " ".join((f["reason"] or "").split()))
                for f in others
            ],
        )
    states = [f["state"] for f in report["frames"]]
    say(", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys([VisitState.DONE, *states])))
    if report["interrupted"]:
        say(f"ended by {report['signal']}: the report holds what was done")


def _number(frame: dict[str, Any]) -> str:
    return "" if frame["visit"] is None else f"{frame['visit']}, {frame['detector']}"
