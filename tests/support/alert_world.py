"""Three visits with alerts on a topic, for tests of what reads them and of what looks after them."""

from uuid import uuid4

import numpy as np
from typer.testing import CliRunner

from alerts import Alert, AlertArchive
from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.packets.wire import encode_body
from apdb import VisitUnitOfWork
from apdb.queue import outbox
from service.commands.main import app
from service.local.campaign import read_alerts
from service.settings import Settings
from tasks.errors import AlertProdError
from tests.support.alert_inputs import frame_with
from tests.support.outbox_rows import PACKET, patient

MIDPOINT = {1: 61000.1, 2: 61000.6, 3: 61001.2}


def alert_of(source, size=0):
    """The alert of a row of DiaSource."""
    trigger = {**PACKET["diaSource"], "diaSourceId": int(source.diaSourceId), "diaObjectId": int(source.diaObjectId),
               "visit": int(source.visit), "snr": float(source.snr), "band": "r", "midpointMjdTai": source.midpointMjdTai}  # fmt: skip
    packet = {**PACKET, "diaSourceId": int(source.diaSourceId), "diaSource": trigger}
    if size:
        packet["cutoutScience"] = bytes(size)
    return Alert(int(source.diaSourceId), int(source.diaObjectId), encode_body(packet))


def make_world(database, kafka, folder):
    """Three visits with 20 sources of 10 objects each: rows, alert files, outbox, topic."""
    settings = Settings(
        database_uri=database.uri,
        kafka_brokers=kafka.brokers,
        archive_dir=str(folder / "alerts"),
        upload_dir=folder / "u",
        alert_topic=f"alerts-{uuid4().hex[:8]}",
    )
    archive = AlertArchive(settings.archive_dir)
    now = 61100.0
    for visit, midpoint in MIDPOINT.items():
        n = 20
        ids = visit * 1000 + np.arange(n)
        sources = frame_with("DiaSource", n).assign(
            diaSourceId=ids,
            diaObjectId=1 + np.arange(n) % 10,
            ssObjectId=0,
            visit=visit,
            detector=0,
            midpointMjdTai=midpoint,
            snr=np.arange(n).astype(float),
            timeWithdrawnMjdTai=np.nan,
            band="r",
            ra=10.0,
            dec=2.0,
        )
        objects = frame_with("DiaObject", 10).assign(
            diaObjectId=1 + np.arange(10), ra=10.0, dec=2.0, validityEndMjdTai=np.nan
        )
        forced = frame_with("DiaForcedSource", 0)
        file = archive.write(visit, 0, 1, map(alert_of, sources.itertuples()))
        with database.connect() as connection:
            connection.execute(
                'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt, '
                "\"midpointMjdTai\") VALUES (%s, 0, 'simcam', '{}', 'x', 'done', 1, %s)",
                (visit, midpoint),
            )
            with VisitUnitOfWork(connection) as work:
                work.store(now + visit, objects, sources, forced)
                trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                work.add_outbox(
                    outbox.OutboxEntry(
                        visit,
                        0,
                        1,
                        file.name,
                        file.count,
                        file.checksum,
                        index=file.index,
                        id_xor=file.id_xor(),
                        traceparent=trace,
                        shutter_close=midpoint + 1e-4,
                    )
                )
                work.commit()
    target = KafkaTarget(kafka.brokers, settings.alert_topic, transactional_id=settings.alert_topic)
    ensure_topics(target)
    relay = Relay(database, archive, target)
    assert patient(relay) == 60
    relay.close()
    assert len(read_alerts(kafka.brokers, target.topic, 60)) == 60
    return settings, archive, target


def alertprod(settings, *arguments):
    """Run a command in this process: exit status, standard output, standard error."""
    done = CliRunner().invoke(app, ["alerts", *arguments], env=settings.environment())
    if isinstance(done.exception, AlertProdError):
        return 1, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr
