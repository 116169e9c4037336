"""Corrections of alerts: what is told to readers of alerts whose source was taken back, replaced, moved, or held at first.

They wait in the same line as the alerts: a batch is what one transaction changed, and gets its publish order from the leading
relay together with the rows of the outbox, behind every alert that was committed before it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import class_row

from alertprod_client.corrections import Correction, CorrectionKind
from apdb.errors import ApdbError
from apdb.rows import single_row
from tasks.arrays import I64

if TYPE_CHECKING:  # the API process loads none
    import pandas as pd

__all__ = [
    "ALERT_INDEX",
    "IDS",
    "Correction",
    "CorrectionBatch",
    "CorrectionKind",
    "add",
    "alerted_sources",
    "are_withdrawn",
    "batches_waiting",
    "corrections_of_batch",
    "corrections_of_sources",
    "forget",
    "has_alerts",
    "left_of",
    "mark_batch",
    "unpublished",
]

# an entry of ``AlertOutbox.alertIndex``: trigger and key of an alert, where its block lies in the alert file
ALERT_INDEX = np.dtype([("diaSourceId", "<i8"), ("key", "<i8"), ("offset", "<i8"), ("size", "<i4"), ("crc", "<u4")])


@dataclass(frozen=True)
class CorrectionBatch:
    """The corrections of one transaction and how many of them are published."""

    id: int
    count: int
    publish_order: int | None
    published_count: int

    @property
    def order(self) -> int:
        """The publish order of a batch that has one.

        Raises
        ------
        ApdbError
            The leading relay has not numbered it.
        """
        if self.publish_order is None:
            raise ApdbError(f"batch {self.id} of corrections has no publish order")
        return self.publish_order


IDS = ("diaSourceId", "oldDiaObjectId", "newDiaObjectId", "visit", "detector")


def has_alerts(connection: psycopg.Connection[Any], visit: int, detector: int) -> bool:
    """Return whether a (visit, detector) ever left alerts."""
    query = 'SELECT 1 FROM "AlertOutbox" WHERE visit = %s AND detector = %s LIMIT 1'
    return connection.execute(query, (visit, detector)).fetchone() is not None


def alerted_sources(connection: psycopg.Connection[Any], units: Collection[tuple[int, int]]) -> I64:
    """Return the diaSourceIds, ascending, that (visit, detector)s have alerts of: published, or in the line to be."""
    ordered = sorted(units)
    rows = connection.execute(
        'SELECT o."alertIndex", o."publishedCount", o."heldReason" IS NOT NULL OR o."droppedAt" IS NOT NULL FROM "AlertOutbox" o '
        "JOIN unnest(%s::bigint[], %s::int[]) u(v, d) ON o.visit = u.v AND o.detector = u.d",
        ([v for v, _ in ordered], [d for _, d in ordered]),
    )
    parts = []
    for index, published, aside in rows:
        ids = np.frombuffer(bytes(index or b""), ALERT_INDEX)["diaSourceId"]
        parts.append(ids[:published] if aside else ids)
    return np.unique(np.concatenate([*parts, np.zeros(0, np.int64)])).astype(np.int64)


def left_of(index: bytes | None, published: int) -> NDArray[Any]:
    """Return the entries (`ALERT_INDEX`) of a file's alerts behind the first `published`."""
    return np.frombuffer(bytes(index or b""), ALERT_INDEX)[published:]


def are_withdrawn(connection: psycopg.Connection[Any], visit: int, detector: int, ids: I64) -> bool:
    """Whether sources of a (visit, detector) were taken back, all that are there; of an archived month nobody can tell."""
    valid, known = single_row(
        connection.execute(
            'SELECT count(*) FILTER (WHERE "timeWithdrawnMjdTai" IS NULL), count(*) FROM "DiaSource" WHERE visit = %s AND '
            'detector = %s AND "diaSourceId" = ANY(%s::bigint[])',
            (visit, detector, ids.tolist()),
        )
    )
    return bool(known) and not valid


def add(connection: psycopg.Connection[Any], rows: "pd.DataFrame", reason: str, mjd_tai: float) -> int:
    """Put corrections in the line within the caller's transaction, those of sources that were alerted; returns how many.

    Parameters
    ----------
    rows
        Columns `IDS` and ``kind``; an object of 0 is none.
    reason
        Why, for people.
    mjd_tai
        When it was decided.
    """
    if rows.empty:
        return 0
    units = set(zip(rows.visit.tolist(), rows.detector.tolist(), strict=True))
    told = rows[rows.diaSourceId.isin(alerted_sources(connection, units))].sort_values("diaSourceId")
    if told.empty:
        return 0
    connection.execute(
        'WITH b AS (INSERT INTO "CorrectionBatch" (count) VALUES (%s) RETURNING id) INSERT INTO "AlertCorrection" (batch, number, '
        '"diaSourceId", "oldDiaObjectId", "newDiaObjectId", visit, detector, kind, reason, "mjdTai") SELECT b.id, r.k - 1, r.s, '
        "nullif(r.o, 0), nullif(r.n, 0), r.v, r.d, r.w, %s, %s FROM b, unnest(%s::bigint[], %s::bigint[], %s::bigint[], "
        "%s::bigint[], %s::int[], %s::text[]) WITH ORDINALITY r(s, o, n, v, d, w, k)",
        (len(told), reason[:1000], mjd_tai, *(told[n].tolist() for n in (*IDS, "kind"))),
    )
    return len(told)


def forget(connection: psycopg.Connection[Any], ids: Collection[int]) -> None:
    """Take corrections out of the line that wait behind alerts which are not published after all.

    Only the relay calls this: it publishes no batch meanwhile.
    """
    batches = connection.execute(
        'DELETE FROM "AlertCorrection" a USING "CorrectionBatch" b WHERE b.id = a.batch AND b."publishedAt" IS NULL AND '
        'b."publishedCount" = 0 AND a."diaSourceId" = ANY(%s::bigint[]) RETURNING b.id',
        (list(ids),),
    ).fetchall()
    numbers = sorted({number for (number,) in batches})
    connection.execute(
        'UPDATE "CorrectionBatch" b SET count = (SELECT count(*) FROM "AlertCorrection" a WHERE a.batch = b.id) WHERE b.id = ANY(%s)',
        (numbers,),
    )
    connection.execute('DELETE FROM "CorrectionBatch" WHERE id = ANY(%s) AND count = 0', (numbers,))


_BATCH = 'id, count, "publishOrder" AS publish_order, "publishedCount" AS published_count'


def batches_waiting(connection: psycopg.Connection[Any], limit: int = 100) -> list[CorrectionBatch]:
    """Return numbered batches that are not published, in publish order."""
    with connection.cursor(row_factory=class_row(CorrectionBatch)) as cursor:
        return cursor.execute(
            f'SELECT {_BATCH} FROM "CorrectionBatch" WHERE "publishedAt" IS NULL AND "publishOrder" IS NOT NULL '
            'ORDER BY "publishOrder" LIMIT %s',
            (limit,),
        ).fetchall()


def mark_batch(connection: psycopg.Connection[Any], order: int, count: int) -> None:
    """Note that `count` corrections of a batch are published."""
    connection.execute(
        'UPDATE "CorrectionBatch" SET "publishedCount" = greatest("publishedCount", %s), "publishedAt" = CASE WHEN %s >= count '
        'THEN coalesce("publishedAt", now()) END WHERE "publishOrder" = %s',
        (count, count, order),
    )


_FIELDS = '"diaSourceId", "oldDiaObjectId", "newDiaObjectId", visit, detector, kind, reason, "mjdTai"'


def corrections_of_batch(connection: psycopg.Connection[Any], batch: int) -> list[Correction]:
    """Return the corrections of a batch in their order."""
    with connection.cursor(row_factory=class_row(Correction)) as cursor:
        return cursor.execute(
            f'SELECT {_FIELDS} FROM "AlertCorrection" WHERE batch = %s ORDER BY number', (batch,)
        ).fetchall()


def corrections_of_sources(connection: psycopg.Connection[Any], ids: Iterable[int]) -> list[Correction]:
    """Return everything that was said of sources, in the order in which it was decided."""
    with connection.cursor(row_factory=class_row(Correction)) as cursor:
        return cursor.execute(
            f'SELECT {_FIELDS} FROM "AlertCorrection" WHERE "diaSourceId" = ANY(%s::bigint[]) ORDER BY batch, number',
            (list(ids),),
        ).fetchall()


def unpublished(connection: psycopg.Connection[Any]) -> int:
    """Return the number of corrections that wait."""
    query = 'SELECT coalesce(sum(count - "publishedCount"), 0) FROM "CorrectionBatch" WHERE "publishedAt" IS NULL'
    return int(single_row(connection.execute(query))[0])
