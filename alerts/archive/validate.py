"""Validation of alert files: bytes, schema, and the rows of the database."""

import numpy as np

from alerts.archive.selection import alert_file
from alerts.archive.store import AlertArchive
from alerts.errors import AlertError
from alerts.packets.wire import decode_body, encode_body
from apdb import Database
from apdb.queue.corrections import corrections_of_sources
from apdb.queue.outbox import OutboxRow

__all__ = ["validate_row"]


def validate_row(database: Database, archive: AlertArchive, row: OutboxRow) -> list[str]:
    """Return what is wrong with the alert file of a row (nothing, when it is right).

    Every alert must have its CRC, decode by the schema and encode to the same bytes again, and be about the source that
    the index names; together they must be the DiaSources of the visit in the database, each once.
    """
    problems: list[str] = []
    ids = []
    try:
        for alert in archive.stream(alert_file(row)):
            ids.append(alert.diaSourceId)
            packet = decode_body(alert.body, alert.schema_id)
            if encode_body(packet, alert.schema_id) != alert.body:
                problems.append(f"alert {alert.diaSourceId} is not encoded as its schema says")
            if packet["diaSourceId"] != alert.diaSourceId or packet["diaSource"]["diaSourceId"] != alert.diaSourceId:
                problems.append(f"alert {alert.diaSourceId} is about source {packet['diaSourceId']}")
    except AlertError as error:
        return [*problems, error.message]
    if len(ids) != row.count:
        problems.append(f"{len(ids)} alerts, {row.count} were written")
    with database.session() as connection:
        stored = connection.execute(
            'SELECT "diaSourceId" FROM "DiaSource" WHERE visit = %s AND detector = %s AND "timeWithdrawnMjdTai" IS NULL',
            (row.visit, row.detector),
        ).fetchall()
        withdrawn = [
            c.diaSourceId for c in corrections_of_sources(connection, ids) if c.kind in ("retracted", "replaced")
        ]
    stored_ids = np.array([s for (s,) in stored], np.int64)
    lost, extra = np.setdiff1d(stored_ids, ids), np.setdiff1d(ids, [*stored_ids, *withdrawn])
    if len(set(ids)) != len(ids):
        problems.append(f"{len(ids) - len(set(ids))} alerts are there twice")
    if lost.size:
        problems.append(f"{lost.size} stored sources have no alert (first: {int(lost[0])})")
    if extra.size:
        problems.append(f"{extra.size} alerts have no stored source (first: {int(extra[0])})")
    return problems
