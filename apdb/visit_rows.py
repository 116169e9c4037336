"""The rows of one visit: checked, put in order, and encoded for COPY when they are asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from apdb.copy.encode import EncodedRows, encode
from apdb.copy.row_checks import check_frame, check_time, check_times_of_visit
from apdb.schema.columns import PIXEL_TABLES, PublishedSchema
from apdb.sky.htm import htm_ids
from apdb.sky.locks import LEVELS, pixels_of_positions

__all__ = ["VisitRows", "prepare"]


@dataclass(frozen=True)
class VisitRows:
    """What one store writes. Tables are encoded when they are first asked for: while the server takes in another one."""

    schema: PublishedSchema
    mjd_tai: float
    objects: pd.DataFrame
    frames: dict[str, pd.DataFrame]  # of DiaSource and DiaForcedSource, where there are any
    visit: int | None
    detector: int | None
    strict: bool = False  # whether they are held against what is stored: those of a caller from outside

    @property
    def placed(self) -> list[pd.DataFrame]:
        """The frames whose rows have places of their own."""
        return [f for f in (self.objects, self.frames.get("DiaSource")) if f is not None and len(f)]

    @cached_property
    def pixels(self) -> list[int]:
        """Pixels of the sky to be locked."""
        return self.pixels_with([])

    def pixels_with(self, more: Sequence[int]) -> list[int]:
        """Return `pixels` with further ones of the finest lock level."""
        ids = [htm_ids(f.ra, f.dec, LEVELS[0]) for f in self.placed]
        ids += [np.array(more, np.int64)] if more else []
        return pixels_of_positions(np.concatenate(ids), LEVELS[0]) if ids else []

    @property
    def days_mjd(self) -> list[float]:
        """The days (MJD, TAI) of sources and forced sources."""
        days: set[float] = set()
        for frame in self.frames.values():
            days |= set(np.floor(frame.midpointMjdTai.to_numpy(np.float64)).tolist())
        return sorted(days)

    @cached_property
    def versions(self) -> EncodedRows:
        """Rows of DiaObject, with the begin of their validity first: it may yet change."""
        objects = _with_pixels(self.objects)
        if len(objects):
            objects = objects.assign(validityStartMjdTai=self.mjd_tai, validityEndMjdTai=np.nan)
        return encode("DiaObject", objects, self.schema.stored_columns("DiaObject"), "validityStartMjdTai")

    @cached_property
    def sources(self) -> EncodedRows:
        """Rows of DiaSource."""
        return self._encoded("DiaSource")

    @cached_property
    def forced(self) -> EncodedRows:
        """Rows of DiaForcedSource."""
        return self._encoded("DiaForcedSource")

    def encoded(self, table: str) -> EncodedRows:
        """Rows of DiaSource or DiaForcedSource."""
        return self.sources if table == "DiaSource" else self.forced

    def _encoded(self, table: str) -> EncodedRows:
        frame = self.frames.get(table, pd.DataFrame())
        frame = _with_pixels(frame) if table in PIXEL_TABLES else frame
        return encode(table, frame, self.schema.stored_columns(table))

    @cached_property
    def digest(self) -> str:
        """What identifies the content (not the time of processing); all rows are encoded for it."""
        digest = hashlib.blake2b(repr(self.mjd_tai).encode(), digest_size=16)
        for rows in (self.versions, self.sources, self.forced):
            digest.update(rows.digest + rows.count.to_bytes(8, "little"))
        if not self.frames:  # then no row says of which visit they are
            digest.update(repr((self.visit, self.detector)).encode())
        return digest.hexdigest()


def _single(frame: pd.DataFrame, name: str) -> int | None:
    """Return the value of a column that has only one, else None."""
    if name not in frame.columns:
        return None
    values = frame[name].unique()
    return int(values[0]) if len(values) == 1 else None


def _with_pixels(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(pixelId=htm_ids(frame.ra, frame.dec)) if len(frame) else frame


def _sorted(frame: pd.DataFrame | None, key: tuple[str, ...]) -> pd.DataFrame:
    """Return the rows in order of the key, whatever the order they came in (most come in order: nothing is moved)."""
    if frame is None or frame.empty:
        return pd.DataFrame() if frame is None else frame
    names = [k for k in key if k in frame.columns]
    if not names:
        return frame
    first = frame[names[0]]
    if first.is_monotonic_increasing and first.is_unique:
        return frame
    return frame.sort_values(names, kind="stable")


def prepare(
    schema: PublishedSchema,
    mjd_tai: float,
    objects: pd.DataFrame,
    sources: pd.DataFrame | None,
    forced: pd.DataFrame | None,
    *,
    strict: bool = False,
    of: tuple[int, int] | None = None,
) -> VisitRows:
    """Check frames with APDB column names, put them in order, and find out where and of which visit they are.

    No database is needed. `strict` refuses columns that the tables do not have, which are left out else, and times far from that of
    the visit. `of` is the visit and detector where no source and no forced source tells them.

    Raises
    ------
    ApdbError
        As `apdb.copy.row_checks.check_frame`; numbers and text are checked as `apdb.copy.encode.encode` comes to them.
    """
    check_time(mjd_tai, "the time of the visit")
    for table, frame in (("DiaObject", objects), ("DiaSource", sources), ("DiaForcedSource", forced)):
        if frame is not None:
            key = [k for k in schema.keys[table] if k != "validityStartMjdTai"]
            ids = ["diaForcedSourceId"] if table == "DiaForcedSource" else []
            check_frame(table, frame, schema.columns(table), key, ids=ids, strict=strict)
    objects = _sorted(objects, ("diaObjectId",))
    sources = _sorted(sources, ("diaSourceId",))
    forced = _sorted(forced, ("diaObjectId", "visit", "detector"))
    frames = {t: f for t, f in (("DiaSource", sources), ("DiaForcedSource", forced)) if len(f)}
    for table, frame in frames.items() if strict else ():
        check_times_of_visit(table, frame, schema.columns(table), mjd_tai)
    source = sources if len(sources) else forced
    visit, detector = (_single(source, "visit"), _single(source, "detector")) if frames else of or (None, None)
    return VisitRows(schema, mjd_tai, objects, frames, visit, detector, strict)
