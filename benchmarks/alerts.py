"""Alerts: ``python -m benchmarks.alerts [build|publish]``."""

import argparse
import io
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pandas as pd
from astropy import units as u
from astropy.nddata import CCDData, VarianceUncertainty

from alerts import AlertArchive, AlertInputs, build_alerts, schema
from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.packets.wire import decode_body
from apdb import Database, columns_of
from apdb.operate.embedded import EmbeddedPostgres
from apdb.queue import outbox
from exposure import Exposure, PhotoCalib, SkyWcs, VisitInfo
from exposure.psf import MoffatPsf
from migrations.run import migrate
from service.local.embedded_kafka import EmbeddedKafka

HISTORY = 100  # rows of sources and of forced sources


def _frame(table: str, n: int, rng: np.random.Generator) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for c in columns_of(table):
        kind = c.dtype.kind
        if kind == "f":
            values = rng.normal(size=n).astype(c.dtype)
            if c.nullable:
                values[rng.uniform(size=n) < 0.2] = np.nan
        elif kind == "i":
            values = rng.integers(1, 1 << 40 if c.dtype.itemsize == 8 else 50, n).astype(c.dtype)
        else:
            values = rng.uniform(size=n) < 0.1 if kind == "b" else np.full(n, "r", object)
        columns[c.name] = values
    return pd.DataFrame(columns)


def _exposure(seed: int) -> Exposure:
    from astropy.wcs import WCS

    rng, side = np.random.default_rng(seed), 4000
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [2000.0, 2000.0]
    wcs.wcs.cd = np.array([[-1, 0.01], [0.01, 1]]) * 0.2 / 3600
    wcs.wcs.set()
    image = rng.normal(0, 10, (side, side)).astype(np.float32)
    mask = (rng.uniform(size=image.shape) < 0.01).astype(np.int32) << 5
    box = (0, 0, side, side)
    return Exposure(
        image,
        np.full_like(image, 100) + 0.1 * np.abs(image),
        mask,
        (0, 0),
        SkyWcs(wcs),
        MoffatPsf((4.0, 0.1), 3.0, 25, box, (0.01,)),
        PhotoCalib(2.5),
        VisitInfo(2026112100001, 7, 61000.1, 30.0, "bench"),
        "r",
    )


def inputs(n: int, seed: int = 0, history: int = HISTORY) -> AlertInputs:
    """Return what `n` alerts with full histories are made of."""
    rng = np.random.default_rng(seed)
    ids = np.arange(1, n + 1)
    sources = _frame("DiaSource", n, rng).assign(
        diaSourceId=ids + 10**12,
        diaObjectId=ids,
        ssObjectId=0,
        x=rng.uniform(20, 3979, n),
        y=rng.uniform(20, 3979, n),
        bboxSize=21,
    )
    owners = np.repeat(ids, history)
    times = np.tile(np.linspace(60_700.0, 61_000.0, history), n)  # as the database gives them: by object and time
    old = _frame("DiaSource", n * history, rng).assign(
        diaObjectId=owners, diaSourceId=np.arange(owners.size), midpointMjdTai=times
    )
    forced = _frame("DiaForcedSource", n * history, rng).assign(
        diaObjectId=owners, diaForcedSourceId=np.arange(owners.size), midpointMjdTai=times
    )
    objects = _frame("DiaObject", n, rng).assign(diaObjectId=ids, nDiaSources=history + 1)
    solar = _frame("SSSource", 0, rng)
    images = (_exposure(1), _exposure(2), _exposure(3))
    return AlertInputs(sources, objects, old, forced.iloc[:0], forced, solar, *images)


def _reference_cutout(e: Exposure, x: float, y: float) -> bytes:
    """A cutout written by astropy, as the published pipeline does it."""
    x0, y0 = int(x) - 15, int(y) - 15
    part = (slice(y0, y0 + 30), slice(x0, x0 + 30))
    header = e.require_wcs().to_header() if hasattr(e.require_wcs(), "to_header") else {"CUTMINX": x0, "CUTMINY": y0}
    ccd = CCDData(
        e.image[part],
        uncertainty=VarianceUncertainty(e.variance[part]),
        mask=e.mask[part] != 0,
        unit=u.nJy,
        meta=dict(header),
        psf=e.require_psf().image_at(np.array([x]), np.array([y]))[0],
    )
    out = io.BytesIO()
    ccd.to_hdu(hdu_mask="MASK", hdu_uncertainty="UNCERT", hdu_psf="PSFIMAGE", as_image_hdu=False).writeto(out)
    return out.getvalue()


def _reference(data: AlertInputs, n: int) -> float:
    """Seconds per alert of fastavro from dictionaries and astropy cutouts."""
    packets = [decode_body(a.body) for _, a in zip(range(n), build_alerts(data), strict=False)]
    rows = data.sources.iloc[:n]
    begin = time.perf_counter()
    for packet, x, y in zip(packets, rows.x, rows.y, strict=True):
        for name, image in (("Difference", data.difference), ("Science", data.science), ("Template", data.template)):
            packet[f"cutout{name}"] = _reference_cutout(image, x, y)
        fastavro.schemaless_writer(io.BytesIO(), schema(), packet)
    return (time.perf_counter() - begin) / n


def build() -> None:
    """Build, encode and write alerts on one core; cost against their number and their histories."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    list(build_alerts(inputs(20)))  # compiles
    for n, history in ((2500, HISTORY), (5000, HISTORY), (10_000, HISTORY), (10_000, 0)):
        data = inputs(n, history=history)
        seconds, count = [], 0
        with tempfile.TemporaryDirectory() as folder:
            for attempt in range(3 if n < 10_000 or not history else 2):
                begin = time.perf_counter()
                file = AlertArchive(folder).write(1, 1, attempt, build_alerts(data))
                seconds.append(time.perf_counter() - begin)
                count = file.count
                size = (Path(folder) / file.name).stat().st_size
                (Path(folder) / file.name).unlink()
        mean = np.mean([len(a.body) for _, a in zip(range(200), build_alerts(data), strict=False)])
        print(
            json.dumps(
                {
                    "alerts": count,
                    "historyRows": history,
                    "kBPerAlert": round(float(mean) / 1e3, 1),
                    "seconds": round(statistics.median(seconds), 2),
                    "fileMB": round(size / 1e6),
                }
            ),
            flush=True,
        )
        if n == 2500:
            each = _reference(data, 100)
            print(
                json.dumps(
                    {
                        "reference": "fastavro and astropy",
                        "msPerAlert": round(each * 1e3, 2),
                        "oursMsPerAlert": round(statistics.median(seconds) / n * 1e3, 2),
                    }
                ),
                flush=True,
            )


class Servers:
    """PostgreSQL and Kafka of a benchmark, with an archive beside them."""

    def __enter__(self) -> "Servers":
        self.root = Path(tempfile.mkdtemp(prefix="alertprod-bench-"))
        self.root.chmod(0o755)
        self.postgres = EmbeddedPostgres(self.root / "postgres")
        self.database = Database(self.postgres.start())
        migrate(self.database.uri)
        self.kafka = EmbeddedKafka(self.root / "kafka")
        self.kafka.start()
        self.archive = AlertArchive(self.root / "alerts")
        return self

    def __exit__(self, *error: object) -> None:
        import shutil

        self.kafka.stop()
        self.postgres.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def commit(self, visit: int, alerts: Any) -> float:
        """Add a visit with its alerts; returns when it was committed."""
        file = self.archive.write(visit, 1, 1, alerts)
        with self.database.connect() as connection:
            entry = outbox.OutboxEntry(
                visit, 1, 1, file.name, file.count, file.checksum, index=file.index, id_xor=file.id_xor()
            )
            outbox.add(connection, entry)
        return time.perf_counter()


def publish(n: int = 10_000) -> None:
    """Publish a visit of `n` alerts: time to the first and to the last acknowledgement; reference: flush per alert."""
    data = inputs(n)
    with Servers() as servers:
        target = KafkaTarget(servers.kafka.brokers, "alerts")
        ensure_topics(target)
        acknowledged: list[float] = []
        relay = Relay(
            servers.database,
            servers.archive,
            target,
            crash=lambda name: acknowledged.append(time.perf_counter()) if name == "relay_committed" else None,
        )
        stop = threading.Event()
        thread = threading.Thread(target=_serve, args=(relay, stop))
        thread.start()
        servers.commit(1, (a for _, a in zip(range(50), build_alerts(data), strict=False)))
        _wait(servers, 1)
        for visit in range(2, 5):
            acknowledged.clear()
            committed = servers.commit(visit, build_alerts(data))
            _wait(servers, visit)
            first, last = acknowledged[0] - committed, acknowledged[-1] - committed
            print(
                json.dumps(
                    {
                        "alerts": n,
                        "firstAcknowledged_s": round(first, 3),
                        "lastAcknowledged_s": round(last, 2),
                        "transactions": len(acknowledged),
                    }
                ),
                flush=True,
            )
        stop.set()
        thread.join()
        relay.close()
        print(
            json.dumps(
                {
                    "reference": "flush per alert",
                    "seconds": round(_flush_per_alert(servers, data, 500) * n / 500, 1),
                    "alerts": n,
                    "measuredWith": 500,
                }
            ),
            flush=True,
        )


def _serve(relay: Relay, stop: threading.Event) -> None:
    from tasks.errors import TransientError

    while not stop.is_set():
        try:
            stop.wait(0.0 if relay.step() else 0.2)
        except TransientError:
            stop.wait(0.5)


def _wait(servers: Servers, visit: int) -> None:
    query = 'SELECT "publishedAt" IS NOT NULL FROM "AlertOutbox" WHERE visit = %s'
    with servers.database.connect() as connection:
        while connection.execute(query, (visit,)).fetchone() != (True,):
            time.sleep(0.05)


def _flush_per_alert(servers: Servers, data: AlertInputs, n: int) -> float:
    from confluent_kafka import Producer

    from alerts.packets.wire import frame

    values = [frame(a.body) for _, a in zip(range(n), build_alerts(data), strict=False)]
    producer = Producer(
        {
            "bootstrap.servers": servers.kafka.brokers,
            "batch.size": 2_097_152,
            "linger.ms": 5,
            "compression.type": "snappy",
            "message.max.bytes": 10_485_760,
        }
    )
    begin = time.perf_counter()
    for value in values:
        producer.produce("alerts", value)
        producer.flush()
    return time.perf_counter() - begin


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["build", "publish"], nargs="?", default="build")
    {"build": build, "publish": publish}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
