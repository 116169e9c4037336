"""Changes of the published client to rows that are stored: each one transaction, entered in the audit and told to replication."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import astropy.time
import numpy as np
import pandas as pd
import psycopg
from lsst.dax.apdb import DiaForcedSourceId, DiaObjectId, DiaSourceId, ReplicaChunk
from lsst.dax.apdb.apdbUpdateRecord import ApdbUpdateRecord

from apdb.client.base import ClientBase
from apdb.client.reads import DEDUP_KEY
from apdb.queue import corrections
from apdb.replication import taken_back, update_records
from apdb.replication.replica import store_update_records
from apdb.sky.locks import pixels_of_positions
from apdb.visit import changes
from apdb.visit.corrected import of_moved, of_withdrawn
from apdb.visit.renewal import Renewal, newest_versions, renew
from apdb.visit.take_back import withdraw_forced_of

__all__ = ["ClientChanges"]


class ClientChanges(ClientBase):
    """Reassignment, withdrawal, end of validity, deduplication times, update records."""

    def reassignDiaSourcesToDiaObjects(
        self,
        idMap: Mapping[DiaSourceId, int],
        *,
        increment_nDiaSources: bool = True,
        decrement_nDiaSources: bool = True,
    ) -> None:
        """Move DiaSources to other DiaObjects; both are made anew from the sources that they have then.

        Parameters
        ----------
        increment_nDiaSources, decrement_nDiaSources
            False leaves the objects that get sources, or those that lose them, as they are.

        Raises
        ------
        LookupError
            A source or a target does not exist; nothing was changed.
        """
        targets = {source.diaSourceId: int(target) for source, target in idMap.items()}

        def work(connection: psycopg.Connection[Any]) -> None:
            owners = changes.objects_of_sources(connection, targets)
            if missing := targets.keys() - owners.keys():
                raise LookupError(f"Some source IDs are missing from DiaSource table: {sorted(missing)}")
            former = _valid(connection, owners)
            losing = {o for o in former.values() if o is not None}
            objects = changes.positions_and_counts(connection, losing | set(targets.values()))
            if missing := set(targets.values()) - objects.keys():
                raise LookupError(f"Some object IDs are missing from DiaObject table: {sorted(missing)}")
            changes.reassign_sources(connection, targets, to_solar_system=False, mjd_tai=0.0)
            moved = {s: (owner or 0, targets[s]) for s, owner in former.items()}
            now_mjd = float(self._current_time().tai.mjd)
            corrections.add(connection, of_moved(connection, moved), "source reassigned", now_mjd)
            steps: Counter[int] = Counter()
            if increment_nDiaSources:
                steps.update(targets[s] for s in former)
            if decrement_nDiaSources:
                steps.subtract(o for o in former.values() if o is not None)
            self._follow(connection, steps, objects, update_records.reassigned(idMap))

        others = sorted(set(targets.values()))
        self._transactions.run(
            work, repeatable=True, pixels=lambda c: _pixels(c, "DiaSource", list(targets), objects=others)
        )

    def setValidityEnd(
        self, objects: list[DiaObjectId], validityEnd: astropy.time.Time, raise_on_missing_id: bool = False
    ) -> int:
        """End the open versions of objects; returns how many were open.

        Raises
        ------
        LookupError
            `raise_on_missing_id`, and an object has no open version; nothing was changed.
        """
        end_mjd = float(validityEnd.tai.mjd)
        by_id = {o.diaObjectId: o for o in objects}

        def work(connection: psycopg.Connection[Any]) -> int:
            closed = changes.close_objects(connection, by_id, end_mjd)
            if raise_on_missing_id and (missing := by_id.keys() - set(closed)):
                raise LookupError(f"Some object IDs are missing from DiaObject table: {sorted(missing)}")
            self._send(connection, update_records.closed(closed, {k: (o.ra, o.dec) for k, o in by_id.items()}, end_mjd))
            return len(closed)

        return self._transactions.run(work) if by_id else 0

    def resetDedup(self, dedup_time: astropy.time.Time | None = None) -> None:
        """Remember the time of the last deduplication."""
        time = self._current_time() if dedup_time is None else dedup_time
        self.metadata.set(DEDUP_KEY, json.dumps({"dedup_time_iso_tai": time.tai.to_value("iso")}), force=True)

    def reassignDiaSources(self, idMap: Mapping[int, int]) -> None:
        """Move DiaSources to solar-system objects: their diaObjectId becomes NULL.

        The objects that they had are made anew from the sources that they have left; those without any are closed.

        Raises
        ------
        ValueError
            A source does not exist; nothing was changed.
        """
        targets = {int(k): int(v) for k, v in idMap.items()}
        now_mjd = float(self._current_time().tai.mjd)

        def work(connection: psycopg.Connection[Any]) -> None:
            owners = changes.objects_of_sources(connection, targets)
            if missing := targets.keys() - owners.keys():
                listed = ",".join(map(str, sorted(missing)))
                raise ValueError(f"Following DiaSource IDs do not exist in the database: {listed}")
            former = _valid(connection, owners)
            steps = Counter(o for o in former.values() if o is not None)
            objects = changes.positions_and_counts(connection, steps)
            changes.reassign_sources(connection, targets, to_solar_system=True, mjd_tai=now_mjd)
            moved = {s: (owner or 0, 0) for s, owner in former.items()}
            corrections.add(connection, of_moved(connection, moved), "a solar-system body", now_mjd)
            told = update_records.moved_to_bodies(connection, targets, now_mjd) if self.config.enable_replica else []
            self._follow(connection, Counter({k: -n for k, n in steps.items()}), objects, told)

        self._transactions.run(work, repeatable=True, pixels=lambda c: _pixels(c, "DiaSource", list(targets)))

    def withdrawDiaSources(
        self, diaSourceIds: Iterable[DiaSourceId], *, timeWithdrawn: astropy.time.Time | None = None
    ) -> None:
        """Mark DiaSources as withdrawn; those that are already keep their time.

        Their objects are made anew from the sources that they have left; those without any are closed.

        Raises
        ------
        LookupError
            A source does not exist; nothing was changed.
        """
        by_id = {s.diaSourceId: s for s in diaSourceIds}
        self._withdraw("DiaSource", by_id, timeWithdrawn, changes.sources_withdrawn_at, changes.withdraw_sources)

    def withdrawDiaForcedSources(
        self, diaForcedSourceIds: Iterable[DiaForcedSourceId], *, timeWithdrawn: astropy.time.Time | None = None
    ) -> None:
        """Mark DiaForcedSources as withdrawn; those that are already keep their time.

        Raises
        ------
        LookupError
            A forced source does not exist; nothing was changed.
        """
        by_key = {(s.diaObjectId, s.visit, s.detector): s for s in diaForcedSourceIds}
        self._withdraw("DiaForcedSource", by_key, timeWithdrawn, changes.forced_withdrawn_at, changes.withdraw_forced)

    def _withdraw(
        self,
        table: str,
        rows: Mapping[Any, Any],
        time: astropy.time.Time | None,
        withdrawal_times: Callable[[psycopg.Connection[Any], Any], dict[Any, float | None]],
        withdraw: Callable[[psycopg.Connection[Any], Any, float], None],
    ) -> None:
        """Withdraw the valid ones of rows that must all exist."""
        mjd = float((self._current_time() if time is None else time).tai.mjd)

        def work(connection: psycopg.Connection[Any]) -> None:
            withdrawn_mjd = withdrawal_times(connection, rows)
            if missing := rows.keys() - withdrawn_mjd.keys():
                raise LookupError(f"Some source IDs are missing from {table} table: {sorted(missing)}")
            valid = [k for k in rows if withdrawn_mjd[k] is None]
            if valid:
                owners = _owners(connection, table, valid)
                withdraw(connection, valid, mjd)
                if table == "DiaSource":
                    corrections.add(connection, _retracted(connection, valid), "source withdrawn", mjd)
                self._renew(connection, owners, close=table == "DiaSource")
            self._send(connection, update_records.withdrawn([rows[k] for k in valid], mjd))

        # a visit that is stored meanwhile renews the same objects; one that only measures them holds the lock of their sky
        self._transactions.run(work, repeatable=True, pixels=lambda c: _pixels(c, table, list(rows)))

    def _follow(
        self,
        connection: psycopg.Connection[Any],
        steps: Counter[int],
        before: Mapping[int, tuple[float, float, int]],
        told: list[update_records.Change],
    ) -> None:
        """Make objects anew whose sources were reassigned, and send records of that and of the counts that are others now.

        Parameters
        ----------
        steps
            By how many sources each object has more, which counts where a schema lacks what objects are made of.
        before
            Their positions and counts (`changes.positions_and_counts`); others are left as they are.
        """
        own = [k for k in steps if k in before]
        renewal = self._renew(connection, own, close=True)
        done = {*renewal.objects, *renewal.closed}
        changes.add_to_counts(connection, Counter({k: n for k, n in steps.items() if k in before and k not in done}))
        after = changes.positions_and_counts(connection, own)
        recounted = {k: new[2] - before[k][2] for k, new in after.items() if new[2] != before[k][2]}
        self._send(connection, told + update_records.recounted(recounted, before))

    def _renew(self, connection: psycopg.Connection[Any], objects: Collection[int], *, close: bool) -> Renewal:
        """Make objects that lost or got sources anew; with `close`, those without any left are closed."""
        now, schema = self._current_time(), self._published
        versions = newest_versions(connection, schema, objects)
        renewal = renew(connection, schema, versions, float(now.tai.mjd), close=close)
        left = withdraw_forced_of(connection, schema, renewal.closed, float(now.tai.mjd))
        if self.config.enable_replica:
            chunk = ReplicaChunk.make_replica_chunk(now, self.config.replica_chunk_seconds)
            taken_back.tell(connection, chunk, left.iloc[:0].assign(diaSourceId=0), left, {})
            taken_back.tell_versions(connection, chunk, renewal.objects)
            taken_back.tell_ended(connection, chunk, renewal.closed)
        return renewal

    def _send(self, connection: psycopg.Connection[Any], records: list[update_records.Change]) -> None:
        """Enter update records in this transaction, where replication is on."""
        if self.config.enable_replica:
            update_records.send(connection, records, self._current_time(), self.config.replica_chunk_seconds)

    def store_update_records(self, update: Iterable[ApdbUpdateRecord], chunk: ReplicaChunk) -> None:
        """Enter update records of the caller under a chunk.

        Raises
        ------
        TypeError
            Replication is off.
        """
        if not self.config.enable_replica:
            raise TypeError("Replication is not enabled for this APDB instance.")
        records = list(update)
        self._transactions.run(lambda c: store_update_records(c, records, chunk))


def _pixels(
    connection: psycopg.Connection[Any], table: str, keys: list[Any], objects: Collection[int] = ()
) -> list[int]:
    """Return the pixels of the sky to be locked for rows that are about to leave: theirs, those of their objects, and of `objects`."""
    query = 'SELECT "pixelId" FROM "DiaObjectLast" WHERE "diaObjectId" = ANY(%(objects)s::bigint[])'
    if table == "DiaForcedSource":
        objects = {*objects, *(key[0] for key in keys)}
    else:
        query = (
            'WITH s AS MATERIALIZED (SELECT "pixelId", "diaObjectId" FROM "DiaSource" WHERE "diaSourceId" = ANY(%(ids)s::bigint[])) '
            f'SELECT "pixelId" FROM s UNION SELECT l."pixelId" FROM "DiaObjectLast" l JOIN s USING ("diaObjectId") UNION {query}'
        )
    ids = [] if table == "DiaForcedSource" else sorted(keys)
    found = connection.execute(query, {"ids": ids, "objects": sorted(objects)}).fetchall()
    return pixels_of_positions(np.array(found, np.int64).ravel()) if found else []


def _owners(connection: psycopg.Connection[Any], table: str, keys: list[Any]) -> set[int]:
    """Return the objects of rows that are about to be withdrawn."""
    if table == "DiaForcedSource":
        return {key[0] for key in keys}
    return {o for o in changes.objects_of_sources(connection, keys).values() if o is not None}


def _valid(connection: psycopg.Connection[Any], owners: Mapping[int, int | None]) -> dict[int, int | None]:
    """Return those of sources (with their objects) that are not withdrawn."""
    withdrawn_mjd = changes.sources_withdrawn_at(connection, owners)
    return {source: owner for source, owner in owners.items() if withdrawn_mjd[source] is None}


def _retracted(connection: psycopg.Connection[Any], ids: list[int]) -> pd.DataFrame:
    """Return the corrections of sources that were withdrawn one by one."""
    rows = connection.execute(
        'SELECT visit, detector, "diaSourceId", coalesce("diaObjectId", 0), ra, dec FROM "DiaSource" WHERE "diaSourceId" = ANY(%s)',
        (ids,),
    ).fetchall()
    table = pd.DataFrame(rows, columns=["visit", "detector", "diaSourceId", "diaObjectId", "ra", "dec"])
    units = table[["visit", "detector"]].drop_duplicates().itertuples(index=False)
    of_unit = [(int(v), int(d), table[(table.visit == v) & (table.detector == d)]) for v, d in units]
    return pd.concat([of_withdrawn(v, d, part, None) for v, d, part in of_unit])
