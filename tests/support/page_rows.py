"""Rows that pages are drawn from, the same at all times: two nights of four detectors, one object with a light curve, a few hundred others."""

from typing import Any

import numpy as np
import psycopg

from apdb.sky.htm import htm_ids

__all__ = ["OBJECT", "store_rows"]

OBJECT = 137_851_807_203_331
_LEDGER = """
INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt, failures, "midpointMjdTai", band, counts,
 seconds, "createdAt", "finishedAt", "errorCode", "errorText")
SELECT v, d, 'simcam', '{}', '', CASE WHEN (v, d) = (2005, 2) THEN 'failed' WHEN (v, d) = (2001, 0) THEN 'running' ELSE 'done' END, 1,
 ((v, d) = (2005, 2))::int, 61000.9 + (v - 2000) * 0.1, substr('gri', 1 + v % 3, 1),
 jsonb_build_object('diaSources', 20 + v % 7 + d, 'newObjects', 3 + d, 'forced', 40, 'alerts', 18 + d),
 CASE WHEN (v, d) <> (2005, 2) THEN jsonb_build_object('open', 0.1 + 0.01 * d, 'template', 0.4, 'characterize', 0.7, 'difference',
  2.0 + 0.3 * (v % 3), 'associate', 0.5, 'alerts', 0.2, 'products', 0.3) END,
 timestamptz '2025-11-22 01:00:00+00' + (v - 2000) * interval '40 s', timestamptz '2025-11-22 01:00:05+00' + (v - 2000) * interval '40 s',
 CASE WHEN (v, d) = (2005, 2) THEN 'fits_unreadable' END, CASE WHEN (v, d) = (2005, 2) THEN 'image.fits cannot be read as FITS: it ends early' END
FROM generate_series(2000, 2011) v, generate_series(0, 3) d WHERE (v, d) <> (2007, 3)
"""
_QUALITY = """
INSERT INTO "VisitQuality" (visit, detector, metrics) SELECT visit, detector, jsonb_build_object('seeingArcsec', 0.8 + 0.03 * (visit % 5) +
 0.01 * detector, 'airmass', 1.05 + 0.04 * (visit - 2000), 'kernelResidualRms', 1 + 0.02 * (visit % 3), 'maskedFraction', 0.02 + 0.002 * detector,
 'nKernelUsed', 40 + visit % 11, 'starFluxResidual', 0.01 + 0.001 * detector, 'psfFwhm', 4 + 0.1 * (visit % 5))
FROM "VisitLedger" WHERE state <> 'failed'
"""
_OUTBOX = """
INSERT INTO "AlertOutbox" (visit, detector, attempt, file, count, checksum, "createdAt", "publishOrder", "publishedAt", "publishedCount",
 "secondsSinceShutterClose") SELECT visit, detector, 1, visit || '-' || detector, 18 + detector, '', now() - interval '100 days',
 10 * visit + detector, now() - interval '100 days', 18 + detector, 30 + detector FROM "VisitLedger" WHERE state = 'done' ORDER BY 1, 2
"""
_SOURCES = """
INSERT INTO "DiaSource" ("diaSourceId", visit, detector, "diaObjectId", "midpointMjdTai", ra, dec, x, y, "psfNdata", "trailNdata",
 "dipoleNdata", "timeProcessedMjdTai", "bboxSize", "pixelId", band, "psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr", snr, reliability)
SELECT %(first)s + n, 2000 + n %% 12, n %% 3, %(object)s, 60990 + n * 0.4, 150.05, 2.2, 100 + 3 * n, 900 - 7 * n, 1, 0, 0, 61001, 1, %(pixel)s,
 substr('gri', 1 + n %% 3, 1), 4000 * sin(n * 0.3) + 300 * (n %% 3), 150, 9000 + 4000 * sin(n * 0.3), 160, 6 + n %% 9, 0.9
FROM generate_series(1, 45) n
"""
_OBJECTS = 'INSERT INTO "DiaObjectLast" ("diaObjectId", "validityStartMjdTai", ra, dec, "nDiaSources", "pixelId") VALUES (%s, 61001, %s, %s, 1, %s)'


def store_rows(connection: psycopg.Connection[Any]) -> None:
    """Store them; partitions for the months are there."""
    for statement in (_LEDGER, _QUALITY, _OUTBOX):
        connection.execute(statement)
    rng = np.random.default_rng(3)
    ra, dec = 150.05 + rng.normal(0, 0.4, 300), 2.2 + rng.normal(0, 0.4, 300)
    ra[0], dec[0] = 150.05, 2.2
    pixels = htm_ids(ra, dec, 20).tolist()
    ids = [OBJECT, *range(1, 300)]
    with connection.cursor() as cursor:
        cursor.executemany(_OBJECTS, list(zip(ids, ra.tolist(), dec.tolist(), pixels, strict=True)))
    counts = {f"{b}_psfFluxNdata": 15 if b in "gri" else 0 for b in "ugrizy"}
    names = "".join(f', "{name}"' for name in counts)
    connection.execute(
        f'INSERT INTO "DiaObject" ("diaObjectId", "validityStartMjdTai", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai", ra, dec, "nDiaSources", '
        f'"pixelId"{names}) VALUES (%s, 61001, 60990.4, 61008, 150.05, 2.2, 45, %s{", %s" * len(counts)})',
        (OBJECT, pixels[0], *counts.values()),
    )
    connection.execute(_SOURCES, {"first": 1 << 40, "object": OBJECT, "pixel": pixels[0]})
