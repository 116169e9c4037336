"""Rows that pages are drawn from, the same at all times: two nights of four detectors, one object with a light curve, a few hundred others.

And what other processes would answer: the readers of the topic, a place followed through a visit, cutouts.
"""

import io
from base64 import b64encode
from typing import Any

import numpy as np
import psycopg
from PIL import Image

from apdb.sky.htm import htm_ids

__all__ = ["OBJECT", "PLACE", "READERS", "Followed", "cutout", "store_rows"]

OBJECT = 137_851_807_203_331
PLACE = (150.05, 2.2)
READERS = [
    {"group": "classifier", "state": "stable", "members": 2, "lag": 18_230}, {"group": "followup", "state": "stable", "members": 1, "lag": 3},
    {"group": "archive", "state": "empty", "members": 0, "lag": 0},
]  # fmt: skip
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
_REGION = 'UPDATE "VisitLedger" SET region = %s WHERE detector = 0 AND visit > 2003'
_BODIES = """
INSERT INTO "DiaSource" ("diaSourceId", visit, detector, "ssObjectId", "midpointMjdTai", ra, dec, x, y, "psfNdata", "trailNdata",
 "dipoleNdata", "timeProcessedMjdTai", "bboxSize", "pixelId", band, "psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr", snr, reliability)
SELECT %(first)s + n, 2000 + n %% 7, 3, 900 + n %% 4, 61000.9 + (n %% 7) * 0.1, 150 + 0.01 * n, 2.1, 100, 100, 1, 0, 0, 61001, 1, %(pixel)s, 'r',
 3000, 150, 3000, 160, 20 - n %% 9, 0.95 FROM generate_series(1, 14) n
"""
_SEEN = """
INSERT INTO "SSSource" ("diaSourceId", "ssObjectId", designation, "eclLambda", "eclBeta", "galLon", "galLat", "ephRa", "ephDec", "ephOffset",
 "ephOffsetRa", "ephOffsetDec", "ephOffsetAlongTrack", "ephOffsetCrossTrack", "ephVmag", "diaDistanceRank")
SELECT %(first)s + n, 900 + n %% 4, '2025 A' || chr(65 + n %% 4), 150, 2, 230, 40, 150, 2, 0.05 + 0.005 * n, 0.05 * sin(n), 0.06 * cos(2 * n),
 0.04 * sin(n), 0.03 * cos(n), 21.5, 1 FROM generate_series(1, 14) n
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
    bodies = {"first": 2 << 40, "pixel": pixels[0]}
    connection.execute(_BODIES, bodies)
    connection.execute(_SEEN, bodies)
    connection.execute(_REGION, ([int(htm_ids([PLACE[0]], [PLACE[1]], 6)[0])],))


def cutout(which: str, side: int = 63) -> bytes:
    """Return a picture of a star beside another, or of what is left of them, as PNG."""
    y, x = np.mgrid[:side, :side] - side // 2
    stars = {"science": (160, 240), "template": (60, 240), "difference": (150, 0), "score": (220, 0), "mask": (90, 0)}[
        which
    ]
    level = (
        30
        + 12 * np.sin(7 * x + 3 * y * y)
        + stars[0] * np.exp(-(x**2 + y**2) / 18)
        + stars[1] * np.exp(-((x + 14) ** 2 + (y - 9) ** 2) / 40)
    )
    png = io.BytesIO()
    Image.fromarray(np.clip(level, 0, 255).astype(np.uint8)).save(png, "PNG")
    return png.getvalue()


class Followed:
    """Answers as the viewer of an application does: of what a place was asked, at once."""

    def soon(self, ledger: Any, visit: int, detector: int, question: dict[str, Any]) -> dict[str, Any]:
        """Return a place that is a little too faint, on each image that is asked for it."""
        if question["what"] == "where":
            images = [{"visit": i["visit"], "detector": i["detector"], "holds": True} for i in question["images"]]
            return {"images": images, "unread": [], "said": {}}
        signal = "highest significance within 2 arcsec 3.4 (threshold 5); flux on the difference 512 +- 160 nJy, on the image 8800 +- 170"
        steps = [
            ("visit", True, "done", {"state": "done", "attempt": 1, "band": "r"}), ("stored", False, "no DiaSource of visit 2007, detector 0 within 2 arcsec", {}),
            ("mask", True, "pixel (210.0, 155.0): no plane set", {"x": 210.0, "y": 155.0}), ("signal", False, signal, {"peakSignificance": 3.4}),
            ("detected", False, "nothing is detected within 2 arcsec", {}),
        ]  # fmt: skip
        pictures = {w: b64encode(cutout(w)).decode() for w in ("science", "template", "difference", "score", "mask")}
        ra, dec = PLACE
        return {
            "place": {"ra": ra, "dec": dec, "x": 210.0, "y": 155.0, "boxX": 179, "boxY": 124, "boxWidth": 63, "boxHeight": 63},
            "steps": [dict(zip(("name", "passed", "text", "values"), s, strict=True)) for s in steps],
            "pictures": pictures, "noPictures": "",
        }  # fmt: skip
