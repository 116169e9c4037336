"""Messages that other programs put on the alert topic: binary keys and headers, tombstones; all alerts are still read."""

import time
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from alerts.consumer import AlertConsumer
from alerts.delivery.reconcile import Reconciler
from alerts.delivery.target import KafkaTarget, ensure_topics, require_topics
from alerts.errors import AlertError
from alerts.packets.wire import encode
from tests.support.outbox_rows import PACKET

LONG_KEY = (170_000_000_000_000_000).to_bytes(8, "big")  # as Java's LongSerializer writes it: no UTF-8


@pytest.fixture
def target(kafka):
    place = KafkaTarget(kafka.brokers, f"awkward-{uuid4().hex}")
    ensure_topics(place, 1, progress=False)
    return place


def send(target, *messages):
    producer = Producer({"bootstrap.servers": target.brokers})
    for value, key, headers in messages:
        producer.produce(target.topic, value, key=key, headers=headers)
    assert producer.flush(20) == 0


def alert(number):
    return encode({**PACKET, "diaSourceId": number, "diaSource": {**PACKET["diaSource"], "diaSourceId": number}})


def test_binary_keys_and_headers_and_tombstones_hold_up_no_reader(target, database):
    send(
        target,
        (alert(1), b"123", []),
        (alert(2), LONG_KEY, []),
        (alert(3), b"124", [("ts", b"\x9a\xff"), ("none", None)]),
        (None, b"123", []),
        (alert(4), None, [("visit", b"\xff"), ("detector", b"1"), ("attempt", b"1")]),
        (None, b"1", [("visit", b"1"), ("detector", b"1"), ("attempt", b"1")]),
        (alert(5), b"125", []),
    )
    with AlertConsumer(target.brokers, target.topic, f"g-{uuid4().hex}", until_end=True) as consumer:
        found = list(consumer)
    assert [a.packet["diaSourceId"] for a in found] == [1, 2, 3, 4, 5]
    assert found[0].key == "123"
    assert found[1].key == LONG_KEY.decode(errors="backslashreplace")
    assert found[2].headers == {"ts": "\\x9a\\xff", "none": ""}
    reconciler = Reconciler(database, target)
    try:
        counted, deadline = 0, time.monotonic() + 60
        while counted < 7:  # all are passed, none of them is an alert of ours
            assert time.monotonic() < deadline
            counted += reconciler.step(0.3)
    finally:
        reconciler.close()


def test_what_is_no_alert_is_named_and_passed(target):
    send(target, (alert(1), b"1", []), (b"rubbish", b"\xff", []), (alert(2), b"2", []))
    seen = []
    with AlertConsumer(target.brokers, target.topic, f"g-{uuid4().hex}", until_end=True) as consumer:
        with pytest.raises(AlertError, match=r"at offset 1: not in the Confluent wire format"):
            for received in consumer:
                seen.append(received.packet["diaSourceId"])
        seen += [received.packet["diaSourceId"] for received in consumer]
    assert seen == [1, 2]


def test_a_topic_that_is_not_there_is_named_at_once(target):
    require_topics(target)
    with pytest.raises(AlertError, match=rf"no topic nowhere .* there are: .*{target.topic}"):
        require_topics(target.only("nowhere"))
