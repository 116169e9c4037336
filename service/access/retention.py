"""What is forgotten after a while: the record of acts, tokens that ended, counts of use, keys, changes of state."""

import psycopg

from apdb import Database
from apdb.access.record import Act, record
from apdb.announcements import prune_announcements
from apdb.queue.events import prune_events
from apdb.queue.keys import prune_keys

__all__ = ["forget_old"]

BATCH = 5_000  # rows of one statement: a long one would hold others up
MOST_BATCHES = 200
_ACTS = 'SELECT id FROM "AccessAudit" WHERE at < now() - make_interval(secs => %s) ORDER BY at LIMIT %s'


def forget_old(database: Database, audit_days: float) -> dict[str, int]:
    """Delete what is older than it is kept; returns how many rows of what.

    Parameters
    ----------
    audit_days
        How long acts, and tokens after their end, are kept; for ever where it is 0. That acts were deleted is an act.
    """
    with database.session() as connection:
        gone = {"events": prune_events(connection), "keys": prune_keys(connection)}
        prune_announcements(connection)
        if audit_days > 0:
            gone |= _audit(connection, audit_days * 86_400.0)
    return gone


def _audit(connection: psycopg.Connection[tuple[object, ...]], seconds: float) -> dict[str, int]:
    acts = 0
    for _ in range(MOST_BATCHES):
        deleted = connection.execute(f'DELETE FROM "AccessAudit" WHERE id IN ({_ACTS})', (seconds, BATCH)).rowcount
        acts += deleted
        if deleted < BATCH:
            break
    tokens = connection.execute(
        'DELETE FROM "AccessToken" WHERE least("expiresAt", "revokedAt") < now() - make_interval(secs => %s)',
        (seconds,),
    ).rowcount
    usage = connection.execute(
        'DELETE FROM "AccessUsage" WHERE day < (now() - make_interval(secs => %s))::date', (seconds,)
    ).rowcount
    if acts or tokens:
        record(
            connection,
            Act("service:retention", "forget", detail={"acts": acts, "tokens": tokens, "days": seconds / 86_400.0}),
        )
    return {"acts": acts, "tokens": tokens, "usage": usage}
