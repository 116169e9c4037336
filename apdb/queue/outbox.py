"""The outbox: one row per (visit, detector, attempt) names the alert file that the relay publishes.

Rows get their publish order from the leading relay, never from an id (a sequence value may commit late). How far a row
is published is kept in Kafka with the alerts; ``publishedCount`` and ``publishedAt`` repeat it here afterwards.
"""

from dataclasses import astuple, dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from apdb.errors import ApdbError
from apdb.queue.corrections import are_withdrawn, forget, left_of, mark_batch
from apdb.queue.states import VisitState
from apdb.rows import single_row

__all__ = [
    "OutboxEntry",
    "OutboxRow",
    "RowSelection",
    "add",
    "assign_order",
    "catch_up",
    "discrepancies",
    "hold",
    "identity",
    "mark",
    "orphans",
    "rows_of_visits",
    "rows_waiting",
]

_COLUMNS = (
    'o.visit, o.detector, o.attempt, o.file, o.count, o.checksum, o."publishOrder" AS publish_order, '
    'o."publishedCount" AS published_count, o."alertIndex" AS index, o.traceparent, '
    'o."shutterCloseMjdTai" AS shutter_close'
)


@dataclass(frozen=True)
class OutboxRow:
    """An attempt at a visit whose alerts are in a file."""

    visit: int
    detector: int
    attempt: int
    file: str
    count: int
    checksum: str
    publish_order: int | None
    published_count: int
    index: bytes | None
    traceparent: str | None
    shutter_close: float | None

    @property
    def order(self) -> int:
        """The publish order of a row that has one.

        Raises
        ------
        ApdbError
            The leading relay has not numbered it.
        """
        if self.publish_order is None:
            raise ApdbError("its alerts have no publish order", visit=self.visit, detector=self.detector)
        return self.publish_order


@dataclass(frozen=True)
class OutboxEntry:
    """What a new row says.

    Parameters
    ----------
    visit, detector, attempt
        Which attempt at which visit.
    file, count, checksum, index
        The alert file: name in the archive, number of alerts, SHA-256, where each alert lies.
    id_xor
        Exclusive or of the diaSourceIds: what the reconciler must find in the topic.
    held
        Why the relay must not publish it (yet).
    traceparent
        W3C trace context of the visit.
    shutter_close
        End of the exposure (MJD, TAI).
    """

    visit: int
    detector: int
    attempt: int
    file: str
    count: int
    checksum: str
    index: bytes | None = None
    id_xor: int | None = None
    held: str | None = None
    traceparent: str | None = None
    shutter_close: float | None = None


def add(connection: psycopg.Connection[Any], entry: OutboxEntry) -> None:
    """Add a row."""
    connection.execute(
        'INSERT INTO "AlertOutbox" (visit, detector, attempt, file, count, checksum, "alertIndex", "idXor", "heldReason", '
        'traceparent, "shutterCloseMjdTai") VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)',
        astuple(entry),
    )


def identity(connection: psycopg.Connection[Any]) -> str:
    """Return the name of this outbox, made at the first call: a backup of the database keeps it, another one has another."""
    connection.execute(
        "INSERT INTO metadata (name, value) VALUES ('alertprod:outbox', gen_random_uuid()::text) ON CONFLICT (name) DO NOTHING"
    )
    row = single_row(connection.execute("SELECT value FROM metadata WHERE name = 'alertprod:outbox'"))
    return str(row[0])


def assign_order(connection: psycopg.Connection[Any]) -> None:
    """Give the next numbers to alert files and batches of corrections that have none; only the leader calls this.

    One statement sees one snapshot: a correction in it is numbered behind every alert that was committed before.
    """
    connection.execute(
        'WITH waiting AS (SELECT false AS corrects, id FROM "AlertOutbox" WHERE "publishedAt" IS NULL AND "publishOrder" IS NULL '
        'AND "heldReason" IS NULL AND "droppedAt" IS NULL UNION ALL SELECT true, id FROM "CorrectionBatch" WHERE "publishOrder" '
        "IS NULL ORDER BY 1, 2), numbered AS MATERIALIZED (SELECT corrects, id, nextval('\"AlertPublishOrder\"') AS next "
        'FROM waiting), corrected AS (UPDATE "CorrectionBatch" b SET "publishOrder" = n.next FROM numbered n WHERE n.corrects '
        'AND b.id = n.id) UPDATE "AlertOutbox" o SET "publishOrder" = n.next FROM numbered n WHERE NOT n.corrects AND o.id = n.id'
    )


def rows_waiting(connection: psycopg.Connection[Any], limit: int = 100) -> list[OutboxRow]:
    """Return numbered rows that are not published, in publish order."""
    with connection.cursor(row_factory=class_row(OutboxRow)) as cursor:
        return cursor.execute(
            f'SELECT {_COLUMNS} FROM "AlertOutbox" o WHERE o."publishedAt" IS NULL AND o."publishOrder" IS NOT NULL '
            'ORDER BY o."publishOrder" LIMIT %s',
            (limit,),
        ).fetchall()


def catch_up(connection: psycopg.Connection[Any], order: int, count: int) -> None:
    """Take over what Kafka knows: rows before `order` are published, and `count` alerts of that one.

    A database that was restored may not know the orders that it had given last; rows whose alerts the reconciler has found in the
    topic, all of them and no others, are published.
    """
    with connection.transaction():
        connection.execute(
            'UPDATE "AlertOutbox" SET "publishedCount" = count, "publishedAt" = now() WHERE "publishedAt" IS NULL AND '
            '"publishOrder" IS NULL AND "droppedAt" IS NULL AND count > 0 AND "topicCount" = count AND "topicXor" = "idXor"'
        )
        connection.execute(
            'UPDATE "AlertOutbox" SET "publishedCount" = count, "publishedAt" = now() WHERE "publishedAt" IS NULL AND '
            '"publishOrder" < %s',
            (order,),
        )
        connection.execute(
            'UPDATE "AlertOutbox" SET "publishedCount" = greatest("publishedCount", %s) WHERE "publishedAt" IS NULL AND '
            '"publishOrder" = %s',
            (count, order),
        )
        connection.execute(
            'UPDATE "CorrectionBatch" SET "publishedCount" = count, "publishedAt" = now() WHERE "publishedAt" IS NULL AND '
            '"publishOrder" < %s',
            (order,),
        )
        mark_batch(connection, order, count)
        connection.execute(
            'SELECT setval(\'"AlertPublishOrder"\', greatest(%s, (SELECT last_value FROM "AlertPublishOrder")))',
            (max(order, 1),),
        )


def mark(
    connection: psycopg.Connection[Any], order: int, count: int, since_shutter: float | None, complete: bool
) -> None:
    """Note that `count` alerts of a row are published, and, when it is `complete`, that nothing is left of it."""
    connection.execute(
        'UPDATE "AlertOutbox" SET "publishedCount" = greatest("publishedCount", %s), "publishStartedAt" = '
        'coalesce("publishStartedAt", now()), "publishedAt" = CASE WHEN %s THEN coalesce("publishedAt", now()) END, '
        '"secondsSinceShutterClose" = CASE WHEN %s THEN coalesce("secondsSinceShutterClose", %s) END '
        'WHERE "publishOrder" = %s',
        (count, complete, complete, since_shutter, order),
    )


def hold(connection: psycopg.Connection[Any], order: int, reason: str) -> None:
    """Set a row aside that cannot be published; the rest of it follows when it is released.

    What waits behind it to correct the alerts that are not published is forgotten. A row whose sources were taken back since is
    dropped: it would be released behind its retraction.
    """
    with connection.transaction():
        row = connection.execute(
            'UPDATE "AlertOutbox" SET "heldReason" = %s, "publishOrder" = NULL WHERE "publishOrder" = %s AND "publishedAt" IS NULL '
            'RETURNING id, visit, detector, "alertIndex", "publishedCount"',
            (reason[:1000], order),
        ).fetchone()
        if row is None:
            return
        number, visit, detector, index, count = row
        ids = left_of(index, count)["diaSourceId"]
        forget(connection, ids.tolist())
        if are_withdrawn(connection, visit, detector, ids):
            connection.execute('UPDATE "AlertOutbox" SET "droppedAt" = now() WHERE id = %s', (number,))


def orphans(connection: psycopg.Connection[Any], older_than_s: float, within_s: float) -> list[tuple[int, int, int]]:
    """Return (visit, detector, attempt) of attempts that ended without an outbox row: their files are of no use.

    Looks at visits that changed between `within_s` and `older_than_s` seconds ago.
    """
    return connection.execute(
        'SELECT l.visit, l.detector, a.attempt FROM "VisitLedger" l CROSS JOIN LATERAL generate_series(1, l.attempt) AS '
        'a(attempt) WHERE l."updatedAt" BETWEEN now() - make_interval(secs => %s) AND now() - make_interval(secs => %s) '
        f"AND (l.state <> '{VisitState.RUNNING}' OR a.attempt < l.attempt) AND NOT EXISTS (SELECT 1 FROM \"AlertOutbox\" o WHERE "
        "o.visit = l.visit AND o.detector = l.detector AND o.attempt = a.attempt) ORDER BY 1, 2, 3",
        (within_s, older_than_s),
    ).fetchall()


@dataclass(frozen=True)
class RowSelection:
    """Conditions on rows; those left out do not restrict.

    Parameters
    ----------
    visit, detector
        One visit, one detector of it.
    begin_mjd, end_mjd
        Midpoint of the exposure (MJD, TAI), end excluded.
    object_id
        DiaObject or solar-system object that the visit has a source of.
    source_id
        diaSourceId of the trigger of an alert.
    """

    visit: int | None = None
    detector: int | None = None
    begin_mjd: float | None = None
    end_mjd: float | None = None
    object_id: int | None = None
    source_id: int | None = None


def rows_of_visits(connection: psycopg.Connection[Any], wanted: RowSelection) -> list[OutboxRow]:
    """Return the rows that fit every condition, by time of the visit: the newest attempt of each visit."""
    where, values = ['o."droppedAt" IS NULL'], []
    for text, value in (
        ("o.visit = %s", wanted.visit),
        ("o.detector = %s", wanted.detector),
        ('l."midpointMjdTai" >= %s', wanted.begin_mjd),
        ('l."midpointMjdTai" < %s', wanted.end_mjd),
    ):
        if value is not None:
            where.append(text)
            values.append(value)
    owner = '(o.visit, o.detector) IN (SELECT s.visit, s.detector FROM "DiaSource" s WHERE '
    if wanted.object_id is not None:
        where.append(f'{owner}s."diaObjectId" = %s OR s."ssObjectId" = %s)')
        values += [wanted.object_id, wanted.object_id]
    if wanted.source_id is not None:
        where.append(f'{owner}s."diaSourceId" = %s)')
        values.append(wanted.source_id)
    with connection.cursor(row_factory=class_row(OutboxRow)) as cursor:
        return cursor.execute(
            f'SELECT DISTINCT ON (l."midpointMjdTai", o.visit, o.detector) {_COLUMNS} FROM "AlertOutbox" o LEFT JOIN '
            f'"VisitLedger" l ON l.visit = o.visit AND l.detector = o.detector WHERE {" AND ".join(where)} '
            'ORDER BY l."midpointMjdTai", o.visit, o.detector, o.attempt DESC',
            values,
        ).fetchall()


def discrepancies(connection: psycopg.Connection[Any], topic: str, within_s: float = 86_400.0) -> list[dict[str, Any]]:
    """Return published rows whose alerts are not in the topic as they should be, as the reconciler counted.

    Rows that were published less than 10 s before the reconciler last stood at the end of the topic, or longer ago than
    `within_s`, are not judged.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            'SELECT visit, detector, attempt, count AS "nAlerts", "topicCount" AS "nInTopic", "publishedAt" '
            'FROM "AlertOutbox" WHERE "publishedAt" > now() - make_interval(secs => %s) AND "publishedAt" < (SELECT '
            'min("caughtUpAt") FROM "AlertTopicOffset" WHERE topic = %s) - interval \'10 seconds\' AND ("topicCount" <> '
            'count OR ("idXor" IS NOT NULL AND "topicXor" <> "idXor")) ORDER BY visit, detector, attempt',
            (within_s, topic),
        ).fetchall()
