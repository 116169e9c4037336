"""Changes to rows that are stored: reassignment, withdrawal, closing and deletion, each one set operation.

Every change is entered in ``ApdbAudit`` in the same transaction.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from apdb.audit import audit

__all__ = [
    "add_to_counts",
    "close_objects",
    "delete_rows",
    "forced_withdrawn_at",
    "lock_versions",
    "objects_of_sources",
    "positions_and_counts",
    "reassign_sources",
    "sources_withdrawn_at",
    "withdraw_forced",
    "withdraw_sources",
]

Key = tuple[int, int, int]


def objects_of_sources(connection: psycopg.Connection[Any], ids: Collection[int]) -> dict[int, int | None]:
    """Return the DiaObject of each DiaSource that exists, and lock these rows."""
    query = 'SELECT "diaSourceId", "diaObjectId" FROM "DiaSource" WHERE "diaSourceId" = ANY(%s) FOR UPDATE'
    return dict(connection.execute(query, (sorted(ids),)).fetchall())


def positions_and_counts(
    connection: psycopg.Connection[Any], ids: Collection[int]
) -> dict[int, tuple[float, float, int]]:
    """Return ra, dec and nDiaSources of the open versions, and lock these rows (in order of id)."""
    query = (
        'SELECT "diaObjectId", ra, dec, "nDiaSources" FROM "DiaObjectLast" WHERE "diaObjectId" = ANY(%s) '
        'ORDER BY "diaObjectId" FOR UPDATE'
    )
    return {row[0]: row[1:] for row in connection.execute(query, (sorted(ids),))}


def reassign_sources(
    connection: psycopg.Connection[Any], targets: Mapping[int, int], *, to_solar_system: bool, mjd_tai: float
) -> None:
    """Move sources to DiaObjects or to SSObjects; the other id becomes NULL, never 0."""
    ids, owners = list(targets), list(targets.values())
    values = (
        '"ssObjectId" = m.owner, "diaObjectId" = NULL, "ssObjectReassocTimeMjdTai" = %(at)s'
        if to_solar_system
        else '"diaObjectId" = m.owner, "ssObjectId" = NULL'
    )
    connection.execute(
        f'UPDATE "DiaSource" s SET {values} FROM unnest(%(ids)s::bigint[], %(owners)s::bigint[]) m(id, owner) '
        'WHERE s."diaSourceId" = m.id',
        {"ids": ids, "owners": owners, "at": mjd_tai},
    )
    action = "reassign to SSObject" if to_solar_system else "reassign to DiaObject"
    audit(connection, action, "DiaSource", len(ids), [[int(a), int(b)] for a, b in targets.items()])


def lock_versions(connection: psycopg.Connection[Any], ids: Collection[int]) -> None:
    """Lock the newest versions of objects in order of id."""
    query = 'SELECT 1 FROM "DiaObjectLast" WHERE "diaObjectId" = ANY(%s) ORDER BY "diaObjectId" FOR UPDATE'
    connection.execute(query, (sorted(ids),))


def add_to_counts(connection: psycopg.Connection[Any], steps: Counter[int]) -> dict[int, int]:
    """Add to nDiaSources of the open versions; returns the steps that are not zero."""
    wanted = {k: n for k, n in sorted(steps.items()) if n}
    if not wanted:
        return {}
    for table, condition in (("DiaObjectLast", "TRUE"), ("DiaObject", '"validityEndMjdTai" IS NULL')):
        connection.execute(
            sql.SQL(
                'UPDATE {} o SET "nDiaSources" = o."nDiaSources" + m.step FROM unnest(%s::bigint[], %s::int[]) m(id, step) '
                'WHERE o."diaObjectId" = m.id AND ' + condition
            ).format(sql.Identifier(table)),
            (list(wanted), list(wanted.values())),
        )
    audit(connection, "change nDiaSources", "DiaObject", len(wanted), [[int(k), int(n)] for k, n in wanted.items()])
    return wanted


def close_objects(
    connection: psycopg.Connection[Any], ids: Collection[int], mjd_tai: float, renewed_ids: Collection[int] = ()
) -> list[int]:
    """End the open versions of objects and take them out of DiaObjectLast; returns the ids that were open.

    An open version that this same transaction has made (of objects in `renewed_ids`) is deleted: its predecessor has ended.
    """
    own = sorted(set(renewed_ids) & set(ids))
    rows = connection.execute(
        'DELETE FROM "DiaObject" WHERE "diaObjectId" = ANY(%s) AND "validityEndMjdTai" IS NULL RETURNING "diaObjectId"',
        (own,),
    ).fetchall()
    rows += connection.execute(
        'UPDATE "DiaObject" SET "validityEndMjdTai" = greatest(%s, "validityStartMjdTai") WHERE "diaObjectId" = ANY(%s) '
        'AND "validityEndMjdTai" IS NULL RETURNING "diaObjectId"',
        (mjd_tai, sorted(ids)),
    ).fetchall()
    closed = sorted(row[0] for row in rows)
    connection.execute('DELETE FROM "DiaObjectLast" WHERE "diaObjectId" = ANY(%s)', (closed,))
    if closed:
        audit(connection, "close validity", "DiaObject", len(closed), closed)
    return closed


def sources_withdrawn_at(connection: psycopg.Connection[Any], ids: Collection[int]) -> dict[int, float | None]:
    """Return the withdrawal time (None: valid) of each DiaSource that exists, and lock these rows."""
    query = 'SELECT "diaSourceId", "timeWithdrawnMjdTai" FROM "DiaSource" WHERE "diaSourceId" = ANY(%s) FOR UPDATE'
    return dict(connection.execute(query, (sorted(ids),)).fetchall())


def withdraw_sources(connection: psycopg.Connection[Any], ids: Sequence[int], mjd_tai: float) -> None:
    """Mark DiaSources as withdrawn."""
    connection.execute(
        'UPDATE "DiaSource" SET "timeWithdrawnMjdTai" = %s WHERE "diaSourceId" = ANY(%s) '
        'AND "timeWithdrawnMjdTai" IS NULL',
        (mjd_tai, list(ids)),
    )
    audit(connection, "withdraw", "DiaSource", len(ids), [int(i) for i in ids])


_FORCED_KEYS = (
    "unnest(%(o)s::bigint[], %(v)s::bigint[], %(d)s::smallint[]) k(o, v, d) "
    'WHERE t."diaObjectId" = k.o AND t.visit = k.v AND t.detector = k.d'
)


def _columns(keys: Collection[Key]) -> dict[str, list[int]]:
    ordered = sorted(keys)
    return {"o": [k[0] for k in ordered], "v": [k[1] for k in ordered], "d": [k[2] for k in ordered]}


def forced_withdrawn_at(connection: psycopg.Connection[Any], keys: Collection[Key]) -> dict[Key, float | None]:
    """Return the withdrawal time (None: valid) of each DiaForcedSource (object, visit, detector) that exists."""
    query = (
        'SELECT t."diaObjectId", t.visit, t.detector, t."timeWithdrawnMjdTai" FROM "DiaForcedSource" t, '
        + _FORCED_KEYS
        + " FOR UPDATE OF t"
    )
    return {(o, v, d): mjd for o, v, d, mjd in connection.execute(query, _columns(keys))}


def withdraw_forced(connection: psycopg.Connection[Any], keys: Collection[Key], mjd_tai: float) -> None:
    """Mark DiaForcedSources as withdrawn."""
    query = f'UPDATE "DiaForcedSource" t SET "timeWithdrawnMjdTai" = %(at)s FROM {_FORCED_KEYS} AND t."timeWithdrawnMjdTai" IS NULL'
    connection.execute(query, {**_columns(keys), "at": mjd_tai})
    audit(connection, "withdraw", "DiaForcedSource", len(keys), [list(map(int, k)) for k in sorted(keys)])


def delete_rows(
    connection: psycopg.Connection[Any], objects: Collection[int], sources: Collection[int], forced: Collection[Key]
) -> None:
    """Delete objects (all versions), sources and forced sources; the ledger of stores forgets them."""
    for table in ("DiaObject", "DiaObjectLast"):
        query = sql.SQL('DELETE FROM {} WHERE "diaObjectId" = ANY(%s)').format(sql.Identifier(table))
        connection.execute(query, (sorted(objects),))
    of_sources = 'DELETE FROM "DiaSource" WHERE "diaSourceId" = ANY(%s) RETURNING visit, detector, true, "diaSourceId"'
    of_forced = (  # not every published schema has an id of forced rows
        'DELETE FROM "DiaForcedSource" t USING '
        + _FORCED_KEYS
        + " RETURNING t.visit, t.detector, false, (to_jsonb(t) ->> 'diaForcedSourceId')::bigint"
    )
    gone = connection.execute(of_sources, (sorted(sources),)).fetchall()
    gone += connection.execute(of_forced, _columns(forced)).fetchall()
    _forget_stored(connection, gone)
    detail = {"objects": sorted(objects), "sources": sorted(sources), "forced": [list(k) for k in sorted(forced)]}
    audit(connection, "delete", "DiaObject", len(objects) + len(sources) + len(forced), detail)


# which entry a row is of: one whose range of ids has it, the narrowest of several, the newest of these; one that tells no ids last
_CHARGED = (
    'SELECT DISTINCT ON (g.n) l."contentHash" AS hash, g.source FROM unnest(%(v)s::bigint[], %(d)s::int[], %(s)s::bool[], %(i)s::bigint[]) '
    'WITH ORDINALITY g(visit, detector, source, id, n) JOIN "StoreLedger" l ON l.visit = g.visit AND l.detector = g.detector CROSS JOIN '
    'LATERAL (SELECT CASE WHEN g.source THEN l."sourceIds" ELSE l."forcedIds" END AS ids, CASE WHEN g.source THEN l."nSources" ELSE '
    'l."nForcedSources" END AS count) r WHERE r.count > 0 AND coalesce(r.ids @> g.id, true) ORDER BY g.n, r.ids IS NULL, '
    'upper(r.ids) - lower(r.ids), l."storedAt" DESC, l."contentHash"'
)


def _forget_stored(connection: psycopg.Connection[Any], gone: Sequence[tuple[int, int, bool, int | None]]) -> None:
    """Take rows (visit, detector, whether a source, id) out of the ledger, each out of one entry: the same may be stored again.

    A store that has rows left is known by its visit still, and no more by what it stored.
    """
    columns = zip(*gone, strict=True) if gone else ((),) * 4
    values = {name: list(column) for name, column in zip("vdsi", columns, strict=True)}
    connection.execute(
        f"WITH charged AS ({_CHARGED}), gone AS (SELECT hash, count(*) FILTER (WHERE source) AS sources, count(*) FILTER (WHERE NOT "
        'source) AS forced FROM charged GROUP BY 1) UPDATE "StoreLedger" l SET "contentHash" = \'deleted from \' || l."contentHash", '
        '"nSources" = greatest(l."nSources" - g.sources, 0), "nForcedSources" = greatest(l."nForcedSources" - g.forced, 0) FROM gone g '
        'WHERE l."contentHash" = g.hash',
        values,
    )
    connection.execute(
        'DELETE FROM "StoreLedger" WHERE starts_with("contentHash", \'deleted from \') AND "nSources" + "nForcedSources" = 0 AND '
        "(visit, detector) IN (SELECT * FROM unnest(%(v)s::bigint[], %(d)s::int[]))",
        values,
    )
