"""Packets: one per stored DiaSource, from the frames that the association gives."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from alerts.cutouts import CutoutMaker, cutout_side
from alerts.wire import schema
from exposure import Exposure

__all__ = ["AlertInputs", "build_packets"]


@dataclass(frozen=True)
class AlertInputs:
    """What the packets of one visit are made of (frames with APDB columns)."""

    sources: pd.DataFrame
    objects: pd.DataFrame
    history_sources: pd.DataFrame
    history_forced: pd.DataFrame
    forced: pd.DataFrame
    ss_sources: pd.DataFrame
    difference: Exposure
    science: Exposure
    template: Exposure


@lru_cache(maxsize=8)
def _fields(record: str) -> tuple[tuple[str, str, bool], ...]:
    """Return (name, avro type, nullable) of a record of the alert schema."""
    fields = _record(record)["fields"]
    out = []
    for f in fields:
        options = f["type"] if isinstance(f["type"], list) else [f["type"]]
        kinds = [o for o in options if o != "null"]
        kind = kinds[0]["type"] if isinstance(kinds[0], dict) else kinds[0]
        out.append((f["name"], str(kind), "null" in options))
    return tuple(out)


def _record(name: str) -> dict[str, Any]:
    """Find a named record inside the loaded schema, wherever it was first used."""
    full = f"lsst.v11_1.{name}"
    stack: list[Any] = [schema()]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if item.get("type") == "record" and item.get("name") in (full, name):
                return item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    raise KeyError(full)


def _records(frame: pd.DataFrame, record: str) -> list[dict[str, Any]]:
    """Turn rows into Avro records: NaN and ids of 0 become null where the schema allows it."""
    columns: dict[str, list[Any]] = {}
    n = len(frame)
    for name, kind, nullable in _fields(record):
        if name not in frame:
            columns[name] = [None if nullable else _zero(kind)] * n
            continue
        values = frame[name]
        if kind in ("float", "double"):
            numbers = values.to_numpy(np.float64)
            plain = numbers.tolist()
            columns[name] = [None if v != v else v for v in plain] if nullable else plain
        elif kind in ("int", "long"):
            integers = (
                np.nan_to_num(values.to_numpy(np.float64)).astype(np.int64)
                if values.dtype.kind == "f"
                else values.to_numpy(np.int64)
            )
            plain = integers.tolist()
            empty = nullable and name in ("diaObjectId", "ssObjectId", "parentDiaSourceId")
            columns[name] = [None if v == 0 else v for v in plain] if empty else plain
        elif kind == "boolean":
            columns[name] = values.to_numpy(bool).tolist()
        else:
            columns[name] = [str(v) if v not in ("", None) and v == v else (None if nullable else "") for v in values]
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)] if n else []


def _zero(kind: str) -> Any:
    return {"boolean": False, "string": "", "float": 0.0, "double": 0.0}.get(kind, 0)


def _grouped(frame: pd.DataFrame, record: str, key: str) -> dict[int, list[dict[str, Any]]]:
    out: dict[int, list[dict[str, Any]]] = {}
    for owner, row in zip(frame[key].to_numpy(np.int64).tolist(), _records(frame, record), strict=True):
        out.setdefault(owner, []).append(row)
    return out


def build_packets(inputs: AlertInputs) -> Iterator[dict[str, Any]]:
    """Yield one packet per source, in order of diaSourceId.

    Objects: trigger, history window, forced history with this visit's, the updated object. Solar-system bodies:
    trigger and ssSource. Cutouts of difference, science and template (None where the position is off the image).
    """
    sources = inputs.sources.sort_values("diaSourceId", ignore_index=True)
    wanted = set(sources.diaObjectId.to_numpy(np.int64).tolist()) - {0}
    history = inputs.history_sources[inputs.history_sources.diaObjectId.isin(wanted)]
    before = _grouped(history, "diaSource", "diaObjectId")
    frames = [f[f.diaObjectId.isin(wanted)] for f in (inputs.history_forced, inputs.forced)]
    joined = pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)
    forced = _grouped(joined.drop_duplicates("diaForcedSourceId"), "diaForcedSource", "diaObjectId")
    objects = {r["diaObjectId"]: r for r in _records(inputs.objects, "diaObject")}
    bodies = {r["diaSourceId"]: r for r in _records(inputs.ss_sources, "ssSource")}
    info = inputs.difference.visit_info
    rotation = 0.0 if info is None else info.rotation
    makers = [CutoutMaker(e, rotation) for e in (inputs.difference, inputs.science, inputs.template)]
    names = ("cutoutDifference", "cutoutScience", "cutoutTemplate")
    for row, x, y, side in zip(
        _records(sources, "diaSource"),
        sources.x.to_numpy(),
        sources.y.to_numpy(),
        sources.bboxSize.to_numpy(),
        strict=True,
    ):
        owner = row["diaObjectId"]
        cuts = {n: m.cut(float(x), float(y), cutout_side(int(side))) for n, m in zip(names, makers, strict=True)}
        yield {
            "diaSourceId": row["diaSourceId"],
            "observation_reason": (info.observation_reason or None) if info else None,
            "target_name": (info.target_name or None) if info else None,
            "diaSource": row,
            "prvDiaSources": (before.get(owner) or None) if owner else None,
            "prvDiaForcedSources": forced.get(owner, []) if owner else None,
            "diaObject": objects.get(owner) if owner else None,
            "ssSource": bodies.get(row["diaSourceId"]),
            "mpc_orbits": None,
            **cuts,
        }
