"""Precovery: forced photometry of young objects on the stored differences of the days before their first detection.

The job runs beside the service: visit by visit, under the sky locks, each visit one transaction. A difference is opened where
the patch of its visit, which the ledger has, holds objects that are not measured on it yet. What was measured once is not measured
again, so the job can be repeated and broken off at any time. The store makes the forced means of the objects anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from psycopg.rows import class_row

from apdb import VisitState, VisitUnitOfWork, empty_frame
from apdb.audit import audit
from apdb.id_layouts import claim_layout
from apdb.sky.htm import htm_ids, polygon
from apdb.sky.locks import LEVELS, lock_pixels, sky_locks
from association.forced_rows import rows_on_difference
from exposure import Exposure
from exposure.exposure_ids import claimed_sizes
from tasks.arrays import I64
from tasks.ids import IdGenerator, IdPacker

__all__ = ["PrecoveryReport", "PrecoveryWindow", "StoredVisit", "precover", "young_objects"]


@dataclass(frozen=True)
class StoredVisit:
    """A processed visit, as the ledger has it."""

    visit: int
    detector: int
    attempt: int
    release: int
    instrument: str
    midpoint: float
    region: list[int] | None


@dataclass(frozen=True)
class PrecoveryReport:
    """What a run did: young objects, visits looked at, of these without a stored difference, rows measured."""

    objects: int
    visits: int
    without_difference: int
    measured: int


def young_objects(connection: psycopg.Connection[Any], since_mjd: float) -> pd.DataFrame:
    """Return diaObjectId, ra, dec, firstDiaSourceMjdTai of the open objects first detected at or after a time."""
    rows = connection.execute(
        'SELECT "diaObjectId", ra, dec, "firstDiaSourceMjdTai" FROM "DiaObject" WHERE "validityEndMjdTai" IS NULL AND '
        '"firstDiaSourceMjdTai" >= %s ORDER BY "diaObjectId"',
        (since_mjd,),
    ).fetchall()
    columns = ["diaObjectId", "ra", "dec", "firstDiaSourceMjdTai"]
    return pd.DataFrame(rows, columns=columns).astype({"diaObjectId": np.int64})


def _visits(connection: psycopg.Connection[Any], objects: pd.DataFrame, begin: float, end: float) -> list[StoredVisit]:
    """Return the visits of a time whose patch of sky holds any of the objects, or is not known."""
    pixels = np.unique(_pixels(objects))
    with connection.cursor(row_factory=class_row(StoredVisit)) as cursor:
        return cursor.execute(
            'SELECT visit, detector, attempt, release, instrument, "midpointMjdTai" AS midpoint, region FROM "VisitLedger" WHERE '
            'state = %s AND "midpointMjdTai" BETWEEN %s AND %s AND (region IS NULL OR region && %s::bigint[]) ORDER BY '
            '"midpointMjdTai", visit, detector',
            (VisitState.DONE, begin, end, pixels.tolist()),
        ).fetchall()


def _pixels(objects: pd.DataFrame) -> I64:
    """Return the pixels that objects are in, shape (lock levels, N): a patch is made of pixels of one of them."""
    ra, dec = objects.ra.to_numpy(np.float64), objects.dec.to_numpy(np.float64)
    return np.array([htm_ids(ra, dec, level) for level in LEVELS], np.int64)


@dataclass(frozen=True)
class PrecoveryWindow:
    """Which objects are measured on which visits.

    Parameters
    ----------
    at_mjd
        End of the time looked at (MJD, TAI).
    days
        How far back from `at_mjd` visits are measured.
    founded_within_days
        Objects first detected in so many days before `at_mjd` are measured.
    """

    at_mjd: float
    days: float = 30.0
    founded_within_days: float = 3.0


def precover(
    connect: Callable[[], psycopg.Connection[Any]],
    difference_of: Callable[[StoredVisit], Exposure | None],
    packer_of: Callable[[StoredVisit], IdPacker],
    window: PrecoveryWindow,
    now_mjd: float,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda visits_done, visits: None,
) -> PrecoveryReport:
    """Measure young objects on the differences from before they were found.

    Parameters
    ----------
    connect
        Gives a database session in autocommit mode.
    difference_of
        Gives the stored difference image of a visit, None where there is none.
    packer_of
        Gives the id layout of the visit's camera.
    window
        The objects and visits.
    now_mjd
        Processing time (MJD, TAI).
    dry_run
        Measure, store nothing.
    progress
        Told visits done and in all.

    Raises
    ------
    IdLayoutConflict
        The ids of a visit's camera could meet others of the database; the same for visits measured before.
    DatabaseUnavailable
        Visits measured before stay measured; run it again.
    """
    with connect() as connection:
        objects = young_objects(connection, window.at_mjd - window.founded_within_days)
        visits = _visits(connection, objects, window.at_mjd - window.days, window.at_mjd) if len(objects) else []
        missing, measured, pixels = 0, 0, _pixels(objects)
        for count, visit in enumerate(visits, 1):
            inside = np.isin(pixels, visit.region).any(axis=0) if visit.region else np.ones(len(objects), np.bool_)
            earlier = objects[inside & (objects.firstDiaSourceMjdTai > visit.midpoint).to_numpy()]
            earlier = earlier[~earlier.diaObjectId.isin(_measured(connection, visit))]
            if len(earlier):
                difference = difference_of(visit)
                missing += difference is None
                if difference is not None:
                    measured += _measure(connection, visit, difference, earlier, packer_of(visit), now_mjd, dry_run)
            progress(count, len(visits))
    return PrecoveryReport(len(objects), len(visits), missing, measured)


def _measured(connection: psycopg.Connection[Any], visit: StoredVisit) -> list[int]:
    """Return the objects that have a forced source of the visit, withdrawn ones too."""
    rows = connection.execute(
        'SELECT "diaObjectId" FROM "DiaForcedSource" WHERE visit = %s AND detector = %s', (visit.visit, visit.detector)
    ).fetchall()
    return [row[0] for row in rows]


def _measure(
    connection: psycopg.Connection[Any],
    visit: StoredVisit,
    difference: Exposure,
    objects: pd.DataFrame,
    packer: IdPacker,
    now_mjd: float,
    dry_run: bool,
) -> int:
    """Measure and store the objects of one visit; returns how many lie on its image."""
    if not dry_run:
        claim_layout(connection, visit.instrument, claimed_sizes(packer))
    with sky_locks(connection, lock_pixels(polygon(*difference.sky_corners()))):
        with VisitUnitOfWork(connection) as work:
            # objects may have been closed since they were listed: rows of theirs would be of none
            still_open = work.positions_of(objects.diaObjectId.tolist())
            left = objects[
                objects.diaObjectId.isin(still_open) & ~objects.diaObjectId.isin(_measured(connection, visit))
            ]
            generator = IdGenerator(
                packer, visit.visit, visit.detector, visit.release, used=_last_counter(connection, visit, packer)
            )
            rows, flags = rows_on_difference(left, difference, generator, now_mjd)
            if len(rows) and not dry_run:
                if not _stands(connection, visit):
                    return 0
                work.store(now_mjd, empty_frame("DiaObject"), empty_frame("DiaSource"), rows, forced_flags=flags)
                audit(
                    connection,
                    "precovery",
                    "DiaForcedSource",
                    len(rows),
                    {"visit": visit.visit, "detector": visit.detector},
                )
                work.commit()
    return len(rows)


def _stands(connection: psycopg.Connection[Any], visit: StoredVisit) -> bool:
    """Whether a visit was neither withdrawn nor processed anew since it was listed; until the transaction ends it will not be."""
    query = 'SELECT 1 FROM "VisitLedger" WHERE visit = %s AND detector = %s AND state = %s AND attempt = %s FOR SHARE'
    try:
        row = connection.execute(query, (visit.visit, visit.detector, VisitState.DONE, visit.attempt)).fetchone()
    except psycopg.errors.SerializationFailure:  # it was, while it was measured
        return False
    return row is not None


def _last_counter(connection: psycopg.Connection[Any], visit: StoredVisit, packer: IdPacker) -> int:
    """Return the highest counter that the visit's forced sources have used in its release."""
    row = connection.execute(
        'SELECT max("diaForcedSourceId") FROM "DiaForcedSource" WHERE visit = %s AND detector = %s',
        (visit.visit, visit.detector),
    ).fetchone()
    if row is None or row[0] is None:
        return 0
    last = packer.unpack(int(row[0]))
    return last.counter if last.release == visit.release else 0
