"""Corrections of alerts on a real broker: read with the alerts, in any order, they give what the database holds."""

import io

import fastavro
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, Producer

from alerts import AlertArchive
from alerts.archive.selection import AlertSelection
from alerts.archive.validate import validate_row
from alerts.consumer import AlertConsumer, CurrentSources
from alerts.delivery.reconcile import CorrectionReconciler, Reconciler
from alerts.delivery.relay import Relay
from alerts.delivery.replay import replay
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import AlertError, BrokerUnavailable
from alerts.packets.corrections import CORRECTION_ID, Correction, correction_topic, decode_correction, encode_correction
from apdb.errors import NotFound
from apdb.queue import outbox
from apdb.queue.balance import imbalances
from apdb.queue.corrections import corrections_of_sources
from apdb.queue.holds import release_held
from tests.support.histories import Survey
from tests.support.outbox_rows import patient

ONE = Correction(2**60, 7, None, 12, 3, "replaced", "processed anew", 61000.5)


def test_a_correction_is_read_as_it_was_written():
    assert decode_correction(encode_correction(ONE)) == ONE
    assert int.from_bytes(encode_correction(ONE)[1:5], "big") == CORRECTION_ID
    assert ONE.withdraws
    with pytest.raises(AlertError, match="cut short"):
        decode_correction(encode_correction(ONE)[:12])
    with pytest.raises(AlertError, match="wire format"):
        decode_correction(b"{}")


def test_what_is_read_first_does_not_matter():
    """Alerts and corrections are in two topics: every order that keeps those of one source in order gives the same."""
    packets = [{"diaSourceId": k, "diaSource": {"diaObjectId": 1}} for k in (1, 2, 3)]
    said = [
        Correction(1, 1, 2, 5, 0, "reassigned", "", 1.0),
        Correction(1, 2, 3, 5, 0, "reassigned", "", 2.0),
        Correction(2, 1, None, 5, 0, "retracted", "", 2.0),
        Correction(3, 1, 1, 5, 0, "released", "", 2.0),
    ]
    for first in (packets, said):
        current = CurrentSources()
        for item in (*first, *(said if first is packets else packets), *said[1:]):
            (current.correct if isinstance(item, Correction) else current.add)(item)
        assert current.objects() == {3: {1}, 1: {3}}
        assert current.sources() == {1: 3, 3: 1}


@pytest.fixture
def world(database, kafka, tmp_path, request):
    """A survey whose units leave alerts, and where they go."""
    name = request.node.name.replace("[", "-").strip("]")
    target = KafkaTarget(kafka.brokers, name, transactional_id=name)
    ensure_topics(target)
    return Survey(database, archive=AlertArchive(tmp_path / "alerts")), target


def messages(target, topic):
    """Return the values of a topic, by partition in order."""
    consumer = Consumer({"bootstrap.servers": target.brokers, "group.id": "look", "auto.offset.reset": "earliest",
                         "enable.partition.eof": True, "enable.auto.commit": False})  # fmt: skip
    consumer.subscribe([topic])
    out, ended = [], 0
    while ended < 4:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error() is None:
            out.append(message)
        elif message.error().code() == KafkaError._PARTITION_EOF:
            ended += 1
    consumer.close()
    return out


def stored_objects(database):
    query = 'SELECT "diaObjectId", array_agg("diaSourceId") FROM "DiaSource" WHERE "timeWithdrawnMjdTai" IS NULL AND "diaObjectId" > 0 GROUP BY 1'
    with psycopg.connect(database.uri) as c:
        return {owner: set(ids) for owner, ids in c.execute(query)}


def read_all(target, topic, group):
    current = CurrentSources()
    with AlertConsumer(target.brokers, topic, group, until_end=True).correcting(current.correct) as consumer:
        for alert in consumer:
            current.add(alert.packet)
    return current


def history(survey):
    """A founding visit, one with forced rows, the same twice, with fewer detections; a withdrawal; doubles that are merged."""
    for unit in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (5, 0)):
        survey.store(unit)
    for unit, version in (((0, 0), 1), ((2, 0), 1), ((2, 0), 2), ((3, 0), 3)):
        survey.store(unit, version)
    survey.withdraw((2, 1))
    survey.merge()


def test_readers_come_to_what_the_database_holds(world, tmp_path):
    survey, target = world
    history(survey)
    relay = Relay(survey.database, survey.archive, target)
    sent = patient(relay)
    assert relay.step() == 0
    relay.close()
    said = messages(target, target.correction_topic)
    with psycopg.connect(survey.database.uri) as c:
        corrections = c.execute('SELECT kind, count(*) FROM "AlertCorrection" GROUP BY 1').fetchall()
        alerts = c.execute('SELECT sum(count) FROM "AlertOutbox"').fetchone()[0]
        early = c.execute(
            'SELECT count(*) FROM "AlertCorrection" a JOIN "CorrectionBatch" b ON b.id = a.batch JOIN "AlertOutbox" o USING (visit, '
            'detector) WHERE o."publishOrder" > b."publishOrder" AND o."createdAt" < b."createdAt"'
        ).fetchone()
    assert len(said) == sum(n for _, n in corrections) == sent - alerts
    assert {kind for kind, _ in corrections} == {"retracted", "replaced", "reassigned"}
    assert early == (0,)
    assert {m.key() for m in said} == {str(decode_correction(m.value()).diaSourceId).encode() for m in said}
    assert read_all(target, target.topic, "reader").objects() == stored_objects(survey.database)
    # the archive has them, and any Avro library reads it
    files = sorted((tmp_path / "alerts" / "corrections").rglob("*.avro"))
    kept = [r for f in files for r in fastavro.reader(io.BytesIO(f.read_bytes()))]
    assert sorted(r["diaSourceId"] for r in kept) == sorted(decode_correction(m.value()).diaSourceId for m in said)
    for row in AlertSelection().rows(survey.database):
        assert validate_row(survey.database, survey.archive, row) == []


def test_replayed_alerts_come_with_their_corrections(world):
    survey, target = world
    history(survey)
    chosen = AlertSelection()

    def corrections_of(ids):
        with survey.database.session() as connection:
            return corrections_of_sources(connection, ids)

    rows = chosen.rows(survey.database)
    again = f"{target.topic}-again"
    for topic in (again, correction_topic(again)):
        ensure_topics(target.only(topic), progress=False)
    alerts = ((row, alert) for row in rows for alert in chosen.read(survey.archive, row))
    assert replay(alerts, target, again, 1101, corrections_of=corrections_of) > 0
    assert read_all(target, again, "again").objects() == stored_objects(survey.database)
    with pytest.raises(AlertError, match="the relay writes"):
        replay([], target, target.correction_topic, 1101)


class _Died(Exception):
    """A relay that ends here."""


@pytest.mark.parametrize("point", ["relay_sent", "relay_committed"])
def test_a_relay_that_dies_sends_no_correction_twice(world, point):
    survey, target = world
    history(survey)
    seen = []

    def crash(name):
        seen.append(name)
        if name == point and seen.count(point) == 14:
            raise _Died

    relay = Relay(survey.database, survey.archive, target, crash=crash)
    with pytest.raises((_Died, BrokerUnavailable)):
        for _ in range(3):
            patient(relay)
    relay.close()
    other = Relay(survey.database, survey.archive, target)
    patient(other)
    other.close()
    with psycopg.connect(survey.database.uri) as c:
        expected = c.execute('SELECT sum(count) FROM "CorrectionBatch"').fetchone()[0]
    assert len(messages(target, target.correction_topic)) == expected
    assert read_all(target, target.topic, "reader").objects() == stored_objects(survey.database)


def _reconciled(survey, target, report=lambda topic, count: None):
    """Count both topics to their ends, and let that be a while after the last was published."""
    for one in (Reconciler(survey.database, target, report), CorrectionReconciler(survey.database, target, report)):
        while one.step(0.4) or not one._finished:
            pass
        one.close()
    with psycopg.connect(survey.database.uri, autocommit=True) as c:
        c.execute('UPDATE "AlertTopicOffset" SET "caughtUpAt" = now() + interval \'60 seconds\'')
        return imbalances(c, target.topic, target.correction_topic)


def test_stored_is_published_less_retracted(world):
    survey, target = world
    history(survey)
    relay = Relay(survey.database, survey.archive, target)
    patient(relay)
    relay.close()
    assert _reconciled(survey, target) == []
    with psycopg.connect(survey.database.uri, autocommit=True) as c:
        c.execute(
            'UPDATE "DiaSource" SET "timeWithdrawnMjdTai" = 1 WHERE visit = 5 AND "diaSourceId" = (SELECT min("diaSourceId") FROM '
            '"DiaSource" WHERE visit = 5)'
        )
        (wrong,) = imbalances(c, target.topic, target.correction_topic)
    assert (wrong["visit"], wrong["detector"]) == (5, 0)
    assert wrong["nStored"] == wrong["nPublished"] - wrong["nRetracted"] - 1


def test_what_was_corrected_long_after_its_alerts_is_judged_too(world):
    """A visit of three days ago is withdrawn; the readers are not told of one source."""
    survey, target = world
    for unit in ((0, 0), (1, 0)):
        survey.store(unit)
    relay = Relay(survey.database, survey.archive, target)
    patient(relay)
    with psycopg.connect(survey.database.uri, autocommit=True) as c:
        c.execute('UPDATE "AlertOutbox" SET "publishedAt" = "publishedAt" - interval \'3 days\'')
    survey.withdraw((1, 0))
    patient(relay)
    relay.close()
    assert _reconciled(survey, target) == []
    with psycopg.connect(survey.database.uri, autocommit=True) as c:
        c.execute('UPDATE "CorrectionTopicCount" SET count = count - 1')
        (wrong,) = imbalances(c, target.topic, target.correction_topic)
        assert (wrong["visit"], wrong["nStored"]) == (1, 0) and wrong["nPublished"] == wrong["nRetracted"] + 1
        c.execute('UPDATE "CorrectionBatch" SET "publishedAt" = "publishedAt" - interval \'2 days\'')
        assert imbalances(c, target.topic, target.correction_topic) == []


def test_messages_of_others_are_passed_over_and_told(world, caplog):
    survey, target = world
    history(survey)
    relay = Relay(survey.database, survey.archive, target)
    patient(relay)
    relay.close()
    producer = Producer({"bootstrap.servers": target.brokers})
    other = encode_correction(ONE)
    key = [("visit", b"12"), ("detector", b"3")]
    out_of_range = encode_correction(Correction(5, 7, None, 12, 99_999, "retracted", "", 61000.5))
    for value, headers in (
        (b"hello", []), (other[:12], key), (bytes([0, 0, 1, 95, 244]) + b"\xff" * 40, key), (other, []),
        (other, [("visit", b"13"), ("detector", b"3")]), (out_of_range, [("visit", b"12"), ("detector", b"99999")]),
        (b"", key),
    ):  # fmt: skip
        producer.produce(target.correction_topic, value, b"5", headers=headers)
    for value, headers in (
        (b"hello", []),
        (b"\0\0\0\0\1", [*key, ("attempt", b"1")]),
        (b"\xff" * 20, [*key, ("attempt", b"1")]),
    ):
        producer.produce(target.topic, value, b"5", headers=headers)
    producer.flush(20)
    told = []
    assert _reconciled(survey, target, lambda topic, count: told.append((topic, count))) == []
    assert sum(n for t, n in told if t == target.correction_topic) == 7
    assert sum(n for t, n in told if t == target.topic) == 3
    assert f"of topic {target.correction_topic} are none of the relay's; the first: [" in caplog.text


def test_alerts_whose_file_breaks_after_they_were_taken_back_are_not_released(world, tmp_path):
    """Two visits wait; both files break, one visit is withdrawn, of the other one source is withdrawn and one moved."""
    survey, target = world
    survey.store((0, 0))
    relay = Relay(survey.database, survey.archive, target)
    patient(relay)
    for unit in ((1, 0), (2, 0)):
        survey.store(unit)
    kept = {}
    for file in sorted((tmp_path / "alerts").rglob("*_*.avro")):
        if any(file.name.startswith(f"{v}_") or f"_{v}_" in file.name for v in (1, 2)):
            kept[file] = file.read_bytes()
    assert len(kept) == 2, sorted((tmp_path / "alerts").rglob("*"))
    survey.withdraw((1, 0))
    for file in kept:
        file.write_bytes(b"broken")
    for _ in range(4):
        try:
            relay.step()
        except BrokerUnavailable:
            continue
    with survey.database.connect() as c:
        state = dict(
            c.execute(
                'SELECT visit, "droppedAt" IS NOT NULL FROM "AlertOutbox" WHERE "heldReason" IS NOT NULL'
            ).fetchall()
        )
        assert state == {1: True, 2: False}
        assert c.execute('SELECT count(*) FROM "AlertCorrection" WHERE visit = 1').fetchone() == (0,)
        with pytest.raises(NotFound):
            release_held(c, 1, 0)
        ids = [
            i
            for (i,) in c.execute(
                'SELECT "diaSourceId" FROM "DiaSource" WHERE visit = 2 AND "diaObjectId" > 0 ORDER BY 1'
            )
        ]
        c.execute('UPDATE "DiaSource" SET "timeWithdrawnMjdTai" = 1 WHERE "diaSourceId" = %s', (ids[0],))
        c.execute('UPDATE "DiaSource" SET "diaObjectId" = 77 WHERE "diaSourceId" = %s', (ids[1],))
        for file, data in kept.items():
            file.write_bytes(data)
        release_held(c, 2, 0)
    patient(relay)
    relay.close()
    assert _reconciled(survey, target) == []
    assert read_all(target, target.topic, "reader").objects() == stored_objects(survey.database)


def test_held_alerts(world):
    """Taken back while held: dropped, and nobody is told. Released: told behind them."""
    survey, _ = world
    for unit in ((0, 0), (1, 0)):
        survey.store(unit)
    with survey.database.connect() as c:
        c.execute('UPDATE "AlertOutbox" SET "heldReason" = \'gate\'')
        count = release_held(c, 0, 0)
        survey.store((1, 0), 1)
        dropped = c.execute(
            'SELECT attempt, "droppedAt" IS NOT NULL FROM "AlertOutbox" WHERE visit = 1 ORDER BY 1'
        ).fetchall()
        kinds = c.execute('SELECT kind, count(*) FROM "AlertCorrection" GROUP BY 1').fetchall()
        outbox.assign_order(c)
        orders = c.execute(
            'SELECT max(o."publishOrder"), min(b."publishOrder") FROM "AlertOutbox" o, "CorrectionBatch" b'
        ).fetchone()
    assert dropped == [(1, True), (2, False)]
    assert kinds == [("released", count)]
    assert orders[0] < orders[1]
