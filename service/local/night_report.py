"""What a night leaves: ``report.json``, a row per frame for the table, the exit status, and the result tables."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from apdb import Database, VisitState
from apdb.operate.export import all_rows, latest_objects, ledger_rows
from apdb.queue.states import FINAL_STATES
from service.local.night_frames import Frame, LeftOut

__all__ = ["exit_status", "make_report", "write_report", "write_tables"]

COUNTS = ("diaSources", "newObjects", "updatedObjects", "forced", "alerts", "unconfirmed", "marginal", "rejected",
          "solarSystem")  # fmt: skip
POSITION_COLUMNS = ["id", "visit", "detector", "mjd", "band", "ra", "dec", "psfFlux", "psfFluxErr", "scienceFlux",
                    "scienceFluxErr"]  # fmt: skip


def make_report(frames: list[Frame], left_out: list[LeftOut], rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return what report.json holds, of the frames, those left out, and the rows of the ledger."""
    paths = {f.key: f.path for f in frames}
    visits = [_visit(row, paths.get((row["visit"], row["detector"]))) for row in rows]
    visit_by_key = {(v["visit"], v["detector"]): v for v in visits}
    listed = [_frame(f, visit_by_key.get(f.key)) for f in frames if not any(x.path == f.path for x in left_out)]
    listed += [_left(x) for x in left_out]
    science = [x for x in left_out if not x.template]
    return {
        "visits": visits,
        "refused": [{"science": str(x.path), "code": x.code, "message": x.reason} for x in science],
        "frames": sorted(listed, key=lambda x: (x["visit"] is None, x["visit"], x["detector"], x["frame"])),
        "interrupted": False,
        "error": None,
    }


def _visit(row: dict[str, Any], path: Path | None) -> dict[str, Any]:
    counts = row["counts"] or {}
    error = None if row["errorCode"] is None else {"code": row["errorCode"], "message": row["errorText"]}
    return {
        "visit": row["visit"],
        "detector": row["detector"],
        "mjd": row["midpointMjdTai"],
        "band": row["band"],
        "state": row["state"],
        "error": error,
        "seconds": row["seconds"] or {},
        "counts": {n: counts.get(n, 0) for n in COUNTS},
        "frame": None if path is None else str(path),
    }


def _frame(frame: Frame, visit: dict[str, Any] | None) -> dict[str, Any]:
    state = "not processed" if visit is None or visit["state"] not in FINAL_STATES else visit["state"]
    error = (visit or {}).get("error") or {}
    return {
        "frame": str(frame.path),
        "visit": frame.visit,
        "detector": frame.detector,
        "state": state,
        "code": error.get("code"),
        "reason": error.get("message"),
    }


def _left(x: LeftOut) -> dict[str, Any]:
    state = "template refused" if x.template else "refused"
    return {
        "frame": str(x.path),
        "visit": x.visit,
        "detector": x.detector,
        "state": state,
        "code": x.code,
        "reason": x.reason,
    }


def exit_status(report: dict[str, Any]) -> int:
    """Return 0 when every frame was used; 1 when one failed, was refused or was not processed, or for an error of the whole."""
    bad = any(f["state"] not in (VisitState.DONE, VisitState.NO_WORK) for f in report["frames"])
    return 1 if bad or report["error"] is not None else 0


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write report.json, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f".report.{os.getpid()}.part"
    partial.write_text(json.dumps(report, indent=1), encoding="utf-8")
    os.replace(partial, out / "report.json")


def write_tables(database: Database, out: Path, products: Path) -> None:
    """Write diaObjects, diaSources, diaForcedSources and forcedPositions (Parquet)."""
    latest_objects(database).to_parquet(out / "diaObjects.parquet")
    all_rows(database, "DiaSource").to_parquet(out / "diaSources.parquet")
    all_rows(database, "DiaForcedSource").to_parquet(out / "diaForcedSources.parquet")
    finished = [r for r in ledger_rows(database) if r["state"] == VisitState.DONE]
    paths = [products / f"positions_{r['visit']}_{r['detector']}_{r['attempt']}.parquet" for r in finished]
    parts = [pd.read_parquet(p) for p in paths if p.exists()]
    table = pd.concat(parts, ignore_index=True)[POSITION_COLUMNS] if parts else pd.DataFrame(columns=POSITION_COLUMNS)
    table.sort_values(["id", "mjd"], ignore_index=True).to_parquet(out / "forcedPositions.parquet")
