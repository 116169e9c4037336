"""Packets: one per stored DiaSource, from the frames that the association gives.

The Avro bytes of a packet are put together from rows that were encoded for many alerts at once (`alerts.packets.rows`) and from
cutouts; no Python object stands for a value of a history.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from alerts.packets.cutouts import CutoutMaker, cutout_sides
from alerts.packets.rows import EncodedRows, encode_rows
from alerts.packets.wire import Alert, decode_body, varint
from exposure import Exposure
from tasks.arrays import I64
from tasks.lacking import blanked

__all__ = ["AlertInputs", "build_alerts", "build_packets"]

BATCH = 400  # alerts whose rows are encoded together: bounds the memory
_NULL, _SOME = b"\x00", b"\x02"


@dataclass(frozen=True)
class AlertInputs:
    """What the packets of one visit are made of (frames with APDB columns).

    `bodies` is the table of solar-system objects that the association was given; its columns ``MPCORB_*`` are the
    orbits. `cutout_psf` is ``source``, ``average`` or ``none``. `lacking` has the keys of the forced sources that lack light
    (`tasks.lacking.lacking_keys`): a packet has no place for their flags, so their flux on the difference is null in it.
    """

    sources: pd.DataFrame
    objects: pd.DataFrame
    history_sources: pd.DataFrame
    history_forced: pd.DataFrame
    forced: pd.DataFrame
    ss_sources: pd.DataFrame
    difference: Exposure
    science: Exposure
    template: Exposure
    bodies: pd.DataFrame | None = None
    cutout_psf: str = "source"
    lacking: pd.DataFrame | None = None


def _plain_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with its columns' names as Python's strings: pandas looks them up faster than Arrow's."""
    return frame.set_axis(frame.columns.astype(object), axis=1)


class _History:
    """Rows of many objects, sorted, of which alerts take the stretches of their objects."""

    def __init__(self, frame: pd.DataFrame, record: str, order: str) -> None:
        keys = [frame[c].to_numpy() for c in (order, "midpointMjdTai", "diaObjectId")]
        rows = np.lexsort(keys)
        in_order = bool((np.diff(rows) > 0).all())  # as the database gave them, mostly: then nothing is copied
        self._frame = _plain_names(frame if in_order else frame.take(rows))
        self._owners = self._frame.diaObjectId.to_numpy(np.int64)
        self._record = record

    def encode(self, owners: I64) -> tuple[EncodedRows, list[int]]:
        """Return the rows of the owners one after the other, and where each owner's rows begin (and the end)."""
        first = np.searchsorted(self._owners, owners, "left")
        count = np.where(owners != 0, np.searchsorted(self._owners, owners, "right") - first, 0)
        starts = np.concatenate([[0], np.cumsum(count)])
        rows = np.repeat(first - starts[:-1], count) + np.arange(starts[-1])
        return encode_rows(self._frame.take(rows), self._record), starts.tolist()


class _Lookup:
    """Rows found by a unique id."""

    def __init__(self, frame: pd.DataFrame, key: str, record: str) -> None:
        self._frame = _plain_names(frame.sort_values(key, ignore_index=True))
        self._ids = self._frame[key].to_numpy(np.int64) if len(frame) else np.zeros(0, np.int64)
        self._record = record

    def encode(self, ids: I64) -> list[memoryview | None]:
        """Return the encoded row of each id, None for those that have none."""
        positions = np.minimum(np.searchsorted(self._ids, ids), max(len(self._ids) - 1, 0))
        exists = (self._ids[positions] == ids) & (ids != 0) if len(self._ids) else np.zeros(ids.size, np.bool_)
        rows = encode_rows(self._frame.take(positions[exists]), self._record)
        numbers = np.cumsum(exists) - 1
        return [rows.row(n) if ok else None for n, ok in zip(numbers.tolist(), exists.tolist(), strict=True)]


def build_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    """Yield one alert per source, in order of diaSourceId.

    Objects: trigger, history window, forced history with this visit's, the updated object. Solar-system bodies:
    trigger, ssSource and, where it is known, the orbit. Cutouts of difference, science and template (null where the
    position is off the image).
    """
    sources = inputs.sources.sort_values("diaSourceId", ignore_index=True)
    wanted = np.asarray(sources.diaObjectId.unique(), np.int64)
    history = inputs.history_sources
    history = history[history.diaObjectId.isin(wanted) & ~history.diaSourceId.isin(sources.diaSourceId)]
    builder = _Builder(
        _History(history, "diaSource", "diaSourceId"),
        _History(_forced(inputs, wanted), "diaForcedSource", "diaForcedSourceId"),
        _Lookup(inputs.objects, "diaObjectId", "diaObject"),
        dict(zip(inputs.objects.diaObjectId.tolist(), inputs.objects.nDiaSources.tolist(), strict=True)),
        _Lookup(inputs.ss_sources, "diaSourceId", "ssSource"),
        _orbits(inputs.bodies),
        _makers(inputs),
        _scheduler_fields(inputs.difference),
    )
    for first in range(0, len(sources), BATCH):
        yield from builder.batch(sources.iloc[first : first + BATCH])


def build_packets(inputs: AlertInputs) -> Iterator[dict[str, Any]]:
    """Yield the packets of `build_alerts` as dictionaries."""
    for alert in build_alerts(inputs):
        yield decode_body(alert.body)


def _forced(inputs: AlertInputs, wanted: I64) -> pd.DataFrame:
    """Return the forced history with this visit's, without fluxes that lack light; a duplicate id keeps its first row."""
    frames = [f[f.diaObjectId.isin(wanted)] for f in (inputs.history_forced, inputs.forced)]
    joined = pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)
    joined = joined.drop_duplicates("diaForcedSourceId")
    return joined if inputs.lacking is None else blanked(joined, inputs.lacking)


def _orbits(bodies: pd.DataFrame | None) -> _Lookup | None:
    """Return the orbits of the bodies, None when the table has none; MPC's row id and time stamps are not carried."""
    if bodies is None or not any(str(c).startswith("MPCORB_") for c in bodies.columns):
        return None
    columns = {c: str(c)[7:] for c in bodies.columns if str(c).startswith("MPCORB_")}
    orbits = bodies[["ssObjectId", *columns]].rename(columns=columns)
    kept = orbits.drop(columns=["id", "created_at", "updated_at", "fitting_datetime"], errors="ignore")
    return _Lookup(kept.drop_duplicates("ssObjectId"), "ssObjectId", "mpc_orbits")


def _makers(inputs: AlertInputs) -> tuple[CutoutMaker, ...]:
    info = inputs.difference.visit_info
    rotation = 0.0 if info is None else info.rotation
    images = (inputs.difference, inputs.science, inputs.template)
    return tuple(CutoutMaker(e, rotation, inputs.cutout_psf) for e in images)


def _optional(value: bytes | memoryview | None) -> tuple[bytes | memoryview, ...]:
    return (_NULL,) if value is None else (_SOME, value)


def _sized(value: bytes | memoryview | None) -> tuple[bytes | memoryview, ...]:
    """Avro bytes or string that may be null."""
    return (_NULL,) if value is None else (_SOME, varint(len(value)), value)


def _scheduler_fields(difference: Exposure) -> bytes:
    info = difference.visit_info
    texts = (info.observation_reason, info.target_name) if info else ("", "")
    return b"".join(piece for text in texts for piece in _sized(text.encode() if text else None))


@dataclass(frozen=True)
class _Builder:
    history: _History
    forced: _History
    objects: _Lookup
    n_sources: dict[int, int]
    bodies: _Lookup
    orbits: _Lookup | None
    makers: tuple[CutoutMaker, ...]
    scheduler: bytes

    def batch(self, sources: pd.DataFrame) -> Iterator[Alert]:
        """Encode the alerts of some sources."""
        ids, owners = sources.diaSourceId.to_numpy(np.int64), sources.diaObjectId.to_numpy(np.int64)
        bodies = sources.ssObjectId.to_numpy(np.int64)
        triggers = encode_rows(sources, "diaSource")
        history, history_offsets = self.history.encode(owners)
        forced, forced_offsets = self.forced.encode(owners)
        objects, solar = self.objects.encode(owners), self.bodies.encode(ids)
        orbits = self.orbits.encode(bodies) if self.orbits else [None] * ids.size
        x, y = sources.x.to_numpy(np.float64), sources.y.to_numpy(np.float64)
        sides = cutout_sides(sources.bboxSize.to_numpy(np.int64))
        cutouts = zip(*(maker.cut_all(x, y, sides) for maker in self.makers), strict=True)
        columns = zip(ids.tolist(), owners.tolist(), bodies.tolist(), objects, solar, orbits, cutouts, strict=True)
        for k, (source, owner, body, object_, ss, orbit, stamps) in enumerate(columns):
            pieces: list[bytes | memoryview] = [varint(source), self.scheduler, triggers.row(k)]
            if owner and self.n_sources.get(owner, 0) > 1:
                pieces += [_SOME, *history.array(history_offsets[k], history_offsets[k + 1])]
            else:
                pieces.append(_NULL)
            pieces += [_SOME, *forced.array(forced_offsets[k], forced_offsets[k + 1])] if owner else [_NULL]
            pieces += [*_optional(object_), *_optional(ss), *_optional(orbit if ss else None)]
            for stamp in stamps:
                pieces += _sized(stamp)
            yield Alert(source, owner or body or source, b"".join(pieces))
