"""The proof, visit by visit, that what is stored is what was published less what was retracted, by what the topics hold."""

from typing import Any

import numpy as np
import psycopg
from psycopg.rows import dict_row

from apdb.queue.corrections import alerted_sources

__all__ = ["imbalances"]

# visits with alerts or corrections that were published lately, all of them a while before the reconciler last stood at the end of
# both topics
_SETTLED = """
WITH judged AS (
    SELECT visit, detector FROM "AlertOutbox" WHERE "publishedAt" > now() - make_interval(secs => %(within)s)
    UNION SELECT a.visit, a.detector FROM "CorrectionBatch" b JOIN "AlertCorrection" a ON a.batch = b.id
        WHERE b."publishedAt" > now() - make_interval(secs => %(within)s)
)
SELECT o.visit, o.detector, sum(o."topicCount")::bigint AS published, bit_xor(o."topicXor") AS published_xor,
    coalesce(c.count, 0) AS retracted, coalesce(c.xor, 0) AS retracted_xor
FROM judged JOIN "AlertOutbox" o USING (visit, detector) LEFT JOIN "CorrectionTopicCount" c USING (visit, detector)
WHERE NOT EXISTS (SELECT 1 FROM "AlertCorrection" a JOIN "CorrectionBatch" b ON b.id = a.batch WHERE a.visit = o.visit AND
    a.detector = o.detector AND (b."publishedAt" IS NULL OR b."publishedAt" >= (SELECT min("caughtUpAt") FROM "AlertTopicOffset"
    WHERE topic = %(corrections)s) - interval '10 seconds'))
GROUP BY o.visit, o.detector, c.count, c.xor
HAVING bool_and(o."publishedAt" IS NOT NULL OR o."heldReason" IS NOT NULL OR o."droppedAt" IS NOT NULL)
    AND bool_and(o."idXor" IS NOT NULL) AND max(o."publishedAt") < (SELECT min("caughtUpAt") FROM "AlertTopicOffset"
    WHERE topic = %(alerts)s) - interval '10 seconds'
ORDER BY o.visit, o.detector
"""
_VALID = (
    'SELECT s.visit, s.detector, s."diaSourceId" FROM "DiaSource" s JOIN unnest(%s::bigint[], %s::int[]) u(v, d) ON s.visit = u.v '
    'AND s.detector = u.d WHERE s."timeWithdrawnMjdTai" IS NULL'
)


def imbalances(
    connection: psycopg.Connection[Any], topic: str, correction_topic: str, within_s: float = 86_400.0
) -> list[dict[str, Any]]:
    """Return the visits where stored is not published - retracted, in number or by the exclusive or of the ids.

    Stored are the valid sources that have an alert (those that wait for a second detection have none); published is what the
    reconciler counted in the topic of alerts, over all processings; retracted what it counted in that of corrections (kinds
    retracted and replaced). Judged are visits with alerts or corrections that were published in the last `within_s` seconds; not
    those with something still on its way.
    """
    values = {"alerts": topic, "corrections": correction_topic, "within": within_s}
    with connection.cursor(row_factory=dict_row) as cursor:
        visits = cursor.execute(_SETTLED, values).fetchall()
    if not visits:
        return []
    units = [(v["visit"], v["detector"]) for v in visits]
    rows = connection.execute(_VALID, ([v for v, _ in units], [d for _, d in units])).fetchall()
    table = np.array(rows, np.int64).reshape(-1, 3)
    table = table[np.isin(table[:, 2], alerted_sources(connection, units))]
    wrong = []
    for v in visits:  # a few numbers of each visit
        ids = table[(table[:, 0] == v["visit"]) & (table[:, 1] == v["detector"]), 2]
        xor = int(np.bitwise_xor.reduce(ids)) if len(ids) else 0
        balanced = len(ids) == v["published"] - v["retracted"] and xor == v["published_xor"] ^ v["retracted_xor"]
        if not balanced:
            wrong.append(
                {
                    "visit": v["visit"],
                    "detector": v["detector"],
                    "nStored": len(ids),
                    "nPublished": v["published"],
                    "nRetracted": v["retracted"],
                }
            )
    return wrong
