"""Histories of a survey: visits, replacements, withdrawals and merges on a real database, and what they must come to.

A few stars (one at RA 0, one near the pole, two of one star's doubles by bad astrometry) and a moving body are seen by two
detectors. A unit is one (visit, detector); its content follows from its number and version alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from astropy.time import Time

from alerts import Alert, AlertArchive
from alerts.packets.wire import encode_body
from apdb import Database, PostgresApdb, VisitUnitOfWork, columns_of, empty_frame
from apdb.operate.archive import archive_partition, archived, drop_archived, old_partitions
from apdb.operate.export import all_rows, latest_objects
from apdb.operate.restore import restore_partition
from apdb.queue.outbox import OutboxEntry
from apdb.schema.columns import published_schema
from apdb.schema.partitions import month_bounds
from apdb.visit.merge import follow_merges
from apdb.visit.withdraw import withdraw_visit
from association.deduplicate import deduplicate
from association.matching import associate
from association.new_objects import NewSources
from association.solar_system import SolarSystemMatches
from association.steps import History, SourceGroups, lacking_forced, summarize_objects, with_forced_means
from tasks import IdPacker
from tasks.sphere import unit_vectors
from tests.support.alert_inputs import frame_with
from tests.support.outbox_rows import PACKET

__all__ = ["BODY", "PACKER", "Survey", "contents", "dump", "midpoint"]

ARCSEC = 1 / 3600
PACKER = IdPacker(1 << 20, 8)
STARS = np.array([[0.00001, 12.0], [359.999, 12.001], [40.0, 89.999], [120.0, 89.999], [200.0, -30.0]])
DOUBLE, BODY = 1.6, 7_011_101  # arcsec by which a star with bad astrometry is off; ssObjectId
FIRST, SPAN = 61000.0, 500.0  # longer than the window of 360 days
_TABLES = (
    "DiaObject", "DiaObjectLast", "DiaSource", "DiaForcedSource", "DiaForcedSourceFlags", "DiaForcedSourceWithdrawn", "SSSource",
    "StoreLedger", "VisitLedger", "ApdbAudit", "ApdbReplicaChunks", "ApdbArchive", "ArchivedSources",
)  # fmt: skip


def midpoint(visit: int) -> float:
    """When a visit was: both detectors at once."""
    return FIRST + SPAN * (visit / 16) ** 1.5


@dataclass(frozen=True)
class Content:
    """What a unit has: stars seen and where, their fluxes, and the stars that are measured though they were not seen."""

    stars: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    flux: np.ndarray
    err: np.ndarray
    band: str
    body: bool


def contents(visit: int, detector: int, version: int) -> Content:
    """Return the content of a unit; star 0 is in every version of the first two visits."""
    rng = np.random.default_rng([visit, detector, version])
    seen = rng.random(len(STARS)) < 0.6
    seen[0] |= visit < 2
    stars = np.flatnonzero(seen)
    offset = rng.normal(0, 0.05, (len(stars), 2)) * ARCSEC
    offset[(stars > 0) & (rng.random(len(stars)) < 0.2), 1] += DOUBLE * ARCSEC
    dec = STARS[stars, 1] - np.abs(offset[:, 1])
    ra = (STARS[stars, 0] + offset[:, 0]) % 360
    flux = rng.normal(500, 100, len(stars))
    flux[rng.random(len(stars)) < 0.1] = np.nan
    return Content(
        stars, ra, dec, flux, rng.uniform(10, 30, len(stars)), "gr"[int(rng.integers(2))], rng.random() < 0.3
    )


_NEEDED = (
    "diaObjectId", "raErr", "decErr", "ra_dec_Cov", "psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr", "ssObjectId",
    "band", "timeWithdrawnMjdTai", "parentDiaSourceId",
)  # fmt: skip


def _rows(table: str, n: int) -> pd.DataFrame:
    """Return rows with the columns that must have a value, and those that statistics are made of."""
    return _made_once(table, n).copy()


@lru_cache(maxsize=64)
def _made_once(table: str, n: int) -> pd.DataFrame:
    kept = [c.name for c in columns_of(table) if not c.nullable or c.name in _NEEDED]
    return frame_with(table, n)[kept]


def _sources(visit: int, detector: int, release: int, content: Content) -> pd.DataFrame:
    n = len(content.stars)
    table = _rows("DiaSource", n).assign(
        ra=content.ra,
        dec=content.dec,
        raErr=0.1 * ARCSEC,
        decErr=0.15 * ARCSEC,
        ra_dec_Cov=1e-12,
        psfFlux=content.flux,
        psfFluxErr=content.err,
        scienceFlux=content.flux + 7,
        scienceFluxErr=content.err,
        ssObjectId=0,
        parentDiaSourceId=0,
    )
    if content.body:
        table = pd.concat(
            [table, _rows("DiaSource", 1).assign(ra=10.0, dec=-5.0, ssObjectId=BODY, parentDiaSourceId=0)]
        )
    return table.assign(
        diaSourceId=PACKER.ids(visit, detector, len(table), release),
        visit=np.int64(visit),
        detector=np.int16(detector),
        diaObjectId=0,
        midpointMjdTai=midpoint(visit),
        band=content.band,
        timeWithdrawnMjdTai=np.nan,
    ).reset_index(drop=True)


@dataclass
class Unit:
    """A unit that is stored: version of its content, release of its ids, and whether the client stored it (no side tables)."""

    version: int
    release: int
    by_client: bool = False


@dataclass
class Survey:
    """One database and what happened to it."""

    database: Database
    units: dict[tuple[int, int], Unit] = field(default_factory=dict)
    releases: dict[tuple[int, int], int] = field(default_factory=dict)
    now: float = 62000.0
    archive: AlertArchive | None = None  # where each stored unit leaves an alert file, and its row in the outbox
    _kept: dict[bool, list[str]] = field(default_factory=dict)

    def reset(self, *, replicated: bool) -> None:
        """Empty the database."""
        with psycopg.connect(self.database.uri, autocommit=True) as c:
            self._empty(c, replicated)
        self.units, self.releases = {}, {}

    def _empty(self, c: psycopg.Connection[Any], replicated: bool) -> None:
        c.execute("TRUNCATE " + ", ".join(f'"{t}"' for t in _TABLES) + " CASCADE")
        c.execute("DELETE FROM metadata WHERE name = 'version:ApdbSqlReplica'")
        if replicated:
            c.execute("INSERT INTO metadata (name, value) VALUES ('version:ApdbSqlReplica', '1.0.0')")

    def begin(self, units: Sequence[tuple[int, int]], *, replicated: bool) -> None:
        """Empty the database and store units; after the first time their rows are copied from what that left."""
        kept = f"kept_{replicated}".lower()
        if replicated not in self._kept:
            self.reset(replicated=replicated)
            for unit in units:
                self.store(unit)
            with psycopg.connect(self.database.uri, autocommit=True) as c:
                c.execute(f"CREATE SCHEMA {kept}")
                filled = _with_rows(c)
                for table in filled:
                    c.execute(f'CREATE TABLE {kept}."{table}" AS SELECT * FROM "{table}"')
                self._empty(c, replicated)
                self._kept[replicated] = sorted(filled - _with_rows(c))
        with psycopg.connect(self.database.uri) as c:
            self._empty(c, replicated)
            for table in self._kept[replicated]:
                c.execute(f'INSERT INTO "{table}" OVERRIDING SYSTEM VALUE SELECT * FROM {kept}."{table}"')
        self.units, self.releases = {u: Unit(0, 0) for u in units}, dict.fromkeys(units, 0)

    def store(self, unit: tuple[int, int], version: int = 0, *, by_client: bool = False) -> None:
        """Process a unit; one that is there is replaced, by the service's way or by the client's."""
        self.now += 1.0
        replaces = unit in self.units
        release = self.releases.get(unit, -1) + 1
        content = contents(*unit, version)
        with self.database.connect() as connection, VisitUnitOfWork(connection) as work:
            if replaces and not by_client:
                work.remove_visit(*unit, self.now)
            frames = self._frames(work, unit, release, content, by_client)
            if not by_client:
                work.store(self.now, *frames)
                self._note(connection, unit)
                if self.archive is not None:
                    work.add_outbox(_outbox_entry(self.archive, unit, release + 1, frames[1]))
                work.commit()
        if by_client:
            client = PostgresApdb(self.database.uri)
            client.store(Time(self.now, format="mjd", scale="tai"), *frames[:3], replace=replaces)
            client.close()
        self.units[unit], self.releases[unit] = Unit(version, release, by_client), release

    def _note(self, connection: psycopg.Connection[Any], unit: tuple[int, int]) -> None:
        connection.execute(
            'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state) VALUES '
            "(%s, %s, 'x', '{}', 'x', 'done') ON CONFLICT (visit, detector) DO UPDATE SET state = 'done'",
            unit,
        )

    def withdraw(self, unit: tuple[int, int]) -> None:
        """Take a unit back for good."""
        self.now += 1.0
        with self.database.connect() as connection:
            self._note(connection, unit)
        withdraw_visit(self.database, *unit, self.now, "bad subtraction")
        del self.units[unit]

    def send_away(self, mjd: float, folder: Path) -> None:
        """Archive the month of a time and drop it; nothing where it has no rows in the tables."""
        label = month_bounds(mjd)[0]
        with self.database.connect() as connection:
            for partition in old_partitions(connection, midpoint(99)):
                if partition.name.endswith(label):
                    drop_archived(connection, archive_partition(connection, partition, str(folder)))

    def bring_back(self) -> None:
        """Restore all months as the command does."""
        self.now += 1.0
        with self.database.connect() as connection:
            for item in {a.partition: a for a in archived(connection)}.values():
                with connection.transaction():
                    restore_partition(connection, item)
                    chunk = VisitUnitOfWork(connection).replica_chunk(self.now)
                    follow_merges(connection, published_schema(), item.partition, self.now, chunk)

    def merge(self) -> None:
        """Merge until no duplicates are left."""
        self.now += 1.0
        while deduplicate(self.database.connect, 1.5 * DOUBLE, self.now).closed:
            self.now += 1.0

    def _frames(
        self, work: VisitUnitOfWork, unit: tuple[int, int], release: int, content: Content, by_client: bool
    ) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Associate and summarize as the pipeline does; forced fluxes are those of the star, whatever its object.

        Flags are the number of the visit, of the client, which stores none, 0: so some fluxes lack light.
        """
        table = _sources(*unit, release, content)
        objects = work.load_objects_around(STARS[:, 0], STARS[:, 1], 2 * DOUBLE * ARCSEC)
        ids, mjd = objects.diaObjectId.to_numpy(np.int64), midpoint(unit[0])
        history = History(
            objects, work.load_sources(ids, mjd), work.load_forced_sources(ids, mjd), work.load_lacking(ids)
        )
        body = table[table.ssObjectId == BODY]
        found = associate(table[table.ssObjectId != BODY], objects, 1.0).diaSources
        new = found[found.diaObjectId == 0].copy()
        new["diaObjectId"] = new.diaSourceId
        stored = pd.concat([found[found.diaObjectId != 0], new, body]).sort_values("diaSourceId", ignore_index=True)
        seen = _rows("SSSource", len(body)).assign(diaSourceId=body.diaSourceId.to_numpy(), ssObjectId=BODY)
        solar = SolarSystemMatches(body, found, seen, seen.iloc[:0], len(body))
        tables = summarize_objects(SourceGroups(stored, NewSources(new, new.iloc[:0]), solar), history)
        forced = _forced(unit, release, tables.on_image, stored)
        flags = forced[["diaObjectId", "visit", "detector"]].assign(flags=np.int32(0 if by_client else unit[0]))
        updated = with_forced_means(tables.updated, history.forced, forced, lacking_forced(history, flags))
        return updated, stored, forced, seen, flags


def _with_rows(connection: psycopg.Connection[Any]) -> set[str]:
    """Return the tables that have rows."""
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
    tables = [table for (table,) in connection.execute(query)]
    return {t for t in tables if connection.execute(f'SELECT 1 FROM "{t}" LIMIT 1').fetchone() is not None}


def star_of(rows: pd.DataFrame) -> np.ndarray:
    """Return the star that each row is of."""
    return np.argmax(unit_vectors(rows.ra, rows.dec) @ unit_vectors(*STARS.T).T, axis=1)


def _forced(unit: tuple[int, int], release: int, objects: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """Measure the objects that were seen, and star 0 always."""
    chosen = objects[objects.diaObjectId.isin(stored.diaObjectId) | (star_of(objects) == 0)]
    if chosen.empty:
        return empty_frame("DiaForcedSource")
    star = star_of(chosen)
    flux = np.random.default_rng([*unit, 77]).normal(300, 50, len(STARS))[star].astype(np.float32)
    return _rows("DiaForcedSource", len(chosen)).assign(
        diaForcedSourceId=PACKER.ids(*unit, len(chosen), release),
        diaObjectId=chosen.diaObjectId.to_numpy(),
        ra=STARS[star, 0],
        dec=STARS[star, 1],
        visit=np.int64(unit[0]),
        detector=np.int16(unit[1]),
        psfFlux=flux,
        psfFluxErr=np.float32(12.0),
        scienceFlux=flux + 1,
        scienceFluxErr=np.float32(3.0),
        midpointMjdTai=midpoint(unit[0]),
        band="gr"[unit[1]],
        timeWithdrawnMjdTai=np.nan,
        timeProcessedMjdTai=61000.0,
    )


def _outbox_entry(archive: AlertArchive, unit: tuple[int, int], attempt: int, stored: pd.DataFrame) -> OutboxEntry:
    """Write an alert for each source and return what the outbox is to say."""
    alerts = []
    for source, owner, body in zip(stored.diaSourceId, stored.diaObjectId, stored.ssObjectId, strict=True):
        trigger = {**PACKET["diaSource"], "diaSourceId": int(source), "diaObjectId": int(owner) or None}
        packet = {**PACKET, "diaSourceId": int(source), "diaSource": trigger}
        alerts.append(Alert(int(source), int(owner) or int(body), encode_body(packet)))
    file = archive.write(*unit, attempt, alerts)
    return OutboxEntry(*unit, attempt, file.name, file.count, file.checksum, index=file.index, id_xor=file.id_xor())


_NO_CONTENT = ("diaObjectId", "diaSourceId", "diaForcedSourceId", "validityStartMjdTai", "validityEndMjdTai", "pixelId")


def dump(database: Database) -> dict[str, pd.DataFrame]:
    """Return what is valid by table, by star instead of by id, without validity times."""
    objects = latest_objects(database)
    sources, forced = all_rows(database, "DiaSource"), all_rows(database, "DiaForcedSource")
    with database.connect() as c:
        side = c.execute('SELECT visit, detector, flags, "diaObjectId" FROM "DiaForcedSourceFlags"').fetchall()
        bodies = c.execute(
            'SELECT s.visit, s.detector, b."ssObjectId" FROM "SSSource" b LEFT JOIN "DiaSource" s USING ("diaSourceId")'
        ).fetchall()
    sources, forced = (t[t.timeWithdrawnMjdTai.isna()] for t in (sources, forced))
    star = dict(zip(objects.diaObjectId, star_of(objects), strict=True)) if len(objects) else {}
    flags = pd.DataFrame(side, columns=["visit", "detector", "flags", "diaObjectId"])
    tables = {
        "objects": objects.assign(star=objects.diaObjectId.map(star)),
        "sources": sources.assign(star=sources.diaObjectId.map(star).fillna(-1)),
        "forced": forced.assign(star=forced.diaObjectId.map(star).fillna(-2)),
        "flags": flags.assign(star=flags.diaObjectId.map(star).fillna(-2)),
        "bodies": pd.DataFrame(bodies, columns=["visit", "detector", "ssObjectId"]).assign(star=-1),
    }
    return {name: _in_order(t) for name, t in tables.items()}


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    keys = [k for k in ("star", "visit", "detector", "psfFlux") if k in table]
    kept = table.drop(columns=[c for c in _NO_CONTENT if c in table])
    return kept.sort_values(keys, ignore_index=True)
