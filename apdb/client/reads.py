"""Reads of the published client."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import astropy.time
import pandas as pd
import psycopg
from lsst.dax.apdb import DiaObjectId
from lsst.sphgeom import Region

from apdb.client.base import LOG, ClientBase
from apdb.copy.decode import select_frame
from apdb.rows import single_row
from apdb.visit import load

__all__ = ["DEDUP_KEY", "ClientReads"]

DEDUP_KEY = "status:deduplication.json"
DAYS_PER_MONTH = 30
# the history of many objects is read by two server processes
MANY_OBJECTS = 2000
BACKENDS = 2


class ClientReads(ClientBase):
    """Objects of a region, histories, what deduplication needs, counts."""

    def getDiaObjects(self, region: Region) -> pd.DataFrame:
        """Return the newest versions in the pixels that cover a region."""
        wanted = self.config.dia_object_columns
        columns = self._published.columns("DiaObjectLast")
        chosen = [c for c in columns if c.name in wanted] if wanted else columns
        return self._read(
            lambda c: load.objects_in_region(
                c,
                self._published,
                region,
                columns=chosen,
                nullable=True,
                max_ranges=self.config.pixelization.htm_max_ranges,
            )
        )

    def getDiaSources(
        self,
        region: Region,
        object_ids: Iterable[int] | None,
        visit_time: astropy.time.Time,
        start_time: astropy.time.Time | None = None,
    ) -> pd.DataFrame | None:
        """Return the DiaSources of objects, or of the region; the start of the window is included in both."""
        start = self._start(visit_time, start_time, self.config.read_sources_months)
        if start is None:
            return None
        if object_ids is None:
            ranges = self.config.pixelization.htm_max_ranges
            return self._read(lambda c: load.history_in_region(c, self._published, region, start, max_ranges=ranges))
        return self._history("DiaSource", list(object_ids), start)

    def getDiaForcedSources(
        self,
        region: Region,
        object_ids: Iterable[int] | None,
        visit_time: astropy.time.Time,
        start_time: astropy.time.Time | None = None,
    ) -> pd.DataFrame | None:
        """Return the DiaForcedSources of objects; those of a region are the ones of the objects that are there now."""
        start = self._start(visit_time, start_time, self.config.read_forced_sources_months)
        if start is None:
            return None
        if object_ids is None:
            ranges = self.config.pixelization.htm_max_ranges

            def read(connection: psycopg.Connection[Any]) -> pd.DataFrame:
                ids = load.objects_in_region(connection, self._published, region, max_ranges=ranges).diaObjectId
                return load.history_of_objects(
                    connection, self._published, "DiaForcedSource", ids.to_numpy(), start, nullable=True
                )

            return self._read(read)
        return self._history("DiaForcedSource", list(object_ids), start)

    @staticmethod
    def _start(visit_time: astropy.time.Time, start: astropy.time.Time | None, months: int) -> float | None:
        if start is not None:
            return float(start.tai.mjd)
        return None if months == 0 else float(visit_time.tai.mjd) - DAYS_PER_MONTH * months

    def _history(self, table: str, ids: list[int], start: float) -> pd.DataFrame:
        backends = BACKENDS if len(ids) > MANY_OBJECTS else 1
        with self._transactions.shared_snapshot(backends) as connections:
            frame = load.history_of_objects(connections, self._published, table, ids, start, nullable=True)
        LOG.debug("found %d rows", len(frame))
        return frame

    def _read(self, work: Callable[[psycopg.Connection[Any]], pd.DataFrame]) -> pd.DataFrame:
        frame = self._transactions.run(work, snapshot=True)
        LOG.debug("found %d rows", len(frame))
        return frame

    def getDiaObjectsForDedup(self, since: astropy.time.Time | None = None) -> pd.DataFrame:
        """Return the open versions that began at or after `since` (by default the last deduplication)."""
        if since is None and (kept := self.metadata.get(DEDUP_KEY)) is not None:
            since = astropy.time.Time(json.loads(kept)["dedup_time_iso_tai"], format="iso", scale="tai")
        start = -1.0 if since is None else float(since.tai.mjd)
        wanted = {"diaObjectId", "validityStartMjdTai", *self.config.dia_object_columns_for_dedup}
        every = not self.config.dia_object_columns_for_dedup
        columns = [c for c in self._published.columns("DiaObjectLast") if every or c.name in wanted]
        rest = psycopg.sql.SQL('WHERE t."validityStartMjdTai" >= %s')
        return self._read(lambda c: select_frame(c, "DiaObjectLast", columns, rest, (start,), nullable=True))

    def getDiaSourcesForDiaObjects(
        self, objects: list[DiaObjectId], start_time: astropy.time.Time, max_dist_arcsec: float = 1.0
    ) -> pd.DataFrame:
        """Return the DiaSources of objects from a time on (no distance is needed: they are found by id)."""
        return self._history("DiaSource", [o.diaObjectId for o in objects], float(start_time.tai.mjd))

    def containsVisitDetector(
        self, visit: int, detector: int, region: Region | None = None, visit_time: astropy.time.Time | None = None
    ) -> bool:
        """Return whether the (visit, detector) was stored, also when it had no row."""
        return self._transactions.run(lambda c: load.visit_is_stored(c, int(visit), int(detector)))

    def countUnassociatedObjects(self) -> int:
        """Return the number of objects with one source (newest versions)."""
        query = 'SELECT count(*) FROM "DiaObjectLast" WHERE "nDiaSources" = 1'
        return int(self._transactions.run(lambda c: single_row(c.execute(query)))[0])
