"""alertprod_client on a real broker: corrections applied, start from a date, filters, commit after processing."""

import time
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from alertprod_client import AlertError, scan_alerts
from alertprod_client.corrections import Correction, correction_topic
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.packets.corrections import encode_correction
from alerts.packets.wire import encode
from tests.support.outbox_rows import PACKET

DAY_MS = 86_400_000
FIRST_MS = 1_790_812_800_000  # 2026-10-01 00:00 UTC


@pytest.fixture
def target(kafka):
    place = KafkaTarget(kafka.brokers, f"client-{uuid4().hex}")
    ensure_topics(place, 2)
    return place


def message(number, earlier=()):
    history = [{**PACKET["diaSource"], "diaSourceId": k, "diaObjectId": 7} for k in earlier] or None
    trigger = {**PACKET["diaSource"], "diaSourceId": number, "diaObjectId": 7, "snr": float(number)}
    return encode({**PACKET, "diaSourceId": number, "diaSource": trigger, "prvDiaSources": history,
                   "prvDiaForcedSources": None})  # fmt: skip


def send(target, alerts=(), corrections=()):
    """Alerts (number, numbers of earlier sources), a day after one another by their numbers; corrections."""
    producer = Producer({"bootstrap.servers": target.brokers})
    for number, earlier in alerts:
        sent = FIRST_MS + (number - 1) * DAY_MS
        producer.produce(target.topic, message(number, earlier), key=b"7", timestamp=sent)
    for source, kind, new in corrections:
        told = Correction(source, 7, new, 1, 0, kind, "", 61400.0)
        producer.produce(correction_topic(target.topic), encode_correction(told), key=str(source).encode())
    assert producer.flush(20) == 0


def test_a_scan_gives_alerts_as_they_are_by_now(target):
    send(target, [(k, range(1, k)) for k in (1, 2, 3, 4)], [(2, "retracted", None), (3, "reassigned", 9)])
    found = {a.source_id: a for a in scan_alerts(target.brokers, target.topic)}
    assert sorted(found) == [1, 3, 4]
    assert {k: a.object_id for k, a in found.items()} == {1: 7, 3: 9, 4: 7}
    assert [len(found[k].light_curve()) for k in (1, 3, 4)] == [
        1,
        1,
        2,
    ]  # 4: without 2, which is gone, and 3, of another
    assert found[4].packet["prvDiaSources"] is not None
    chosen = scan_alerts(target.brokers, target.topic, filter="diaSource.snr > 2.5")
    assert sorted(a.source_id for a in chosen) == [3, 4]


def test_a_scan_begins_at_a_date_and_a_group_goes_on_where_it_stood(target):
    send(target, [(k, ()) for k in range(1, 7)])
    late = scan_alerts(target.brokers, target.topic, start="2026-10-04")
    assert [a.source_id for a in late] == [4, 5, 6]
    assert list(scan_alerts(target.brokers, target.topic, start="2027-01-01")) == []
    group, seen = uuid4().hex, []
    reader = scan_alerts(target.brokers, target.topic, group=group, start="2026-10-02")
    for alert in reader:
        seen.append(alert.source_id)
        if len(seen) == 3:
            break  # in the middle of the third one: it was not done with
    reader.close()
    assert seen == [2, 3, 4]
    again = [a.source_id for a in scan_alerts(target.brokers, target.topic, group=group, start="2026-10-02")]
    assert again == [4, 5, 6]
    assert list(scan_alerts(target.brokers, target.topic, group=group)) == []


def test_who_follows_hears_of_corrections(target):
    send(target, [(1, ())], [(5, "reassigned", 8), (5, "reassigned", 9)])
    told = []
    following = scan_alerts(target.brokers, target.topic, follow=True, on_correction=told.append)
    first = next(following)
    assert not first.withdrawn
    send(target, corrections=[(1, "retracted", None)])
    deadline = time.monotonic() + 60
    for number in range(2, 1000):
        assert time.monotonic() < deadline
        send(target, [(number, ())])
        alert = next(following)
        if number == 5:
            assert alert.object_id == 9  # the order of what was said of it stays
        if first.withdrawn and number >= 5:
            break
    following.close()
    assert [(c.diaSourceId, c.kind) for c in told] == [(1, "retracted")]


def test_what_cannot_be_read_is_said_at_once(target):
    with pytest.raises(AlertError, match=rf"no topic nowhere at .*{target.topic}"):
        next(scan_alerts(target.brokers, "nowhere"))
    with pytest.raises(AlertError, match="'soon' is no time"):
        next(scan_alerts(target.brokers, target.topic, start="soon"))
