"""An ingest of this process with a topic of its own, and what it left."""

import json
import threading
from contextlib import contextmanager
from uuid import uuid4

from confluent_kafka import Consumer, Producer, TopicPartition

from alerts.delivery.target import KafkaTarget, ensure_topics
from service.intake.dead_letters import dead_letter_topic
from service.intake.ingest import Ingest
from service.settings import Settings
from tasks.waiting import wait_until

__all__ = ["committed", "ingesting", "letters_in_topic", "message", "send", "settings_for"]


def settings_for(uri, kafka, folder, **more):
    """Settings of an ingest whose topic nobody has."""
    values = {"visit_topic": f"visits-{uuid4().hex[:12]}", "alert_partitions": 2, "data_roots": [folder], **more}
    return Settings(
        database_uri=uri, kafka_brokers=kafka.brokers, upload_dir=folder, ingest_group=uuid4().hex, **values
    )


def message(folder, visit, **more):
    """A visit message for which no file is opened."""
    return {"instrument": "simcam", "science": str(folder / "x.fits"), "visit": visit, "detector": 1, **more}


def send(settings, *values, headers=None, largest=20 << 20):
    """Put values on the visit topic: bytes, or what becomes JSON."""
    producer = Producer({"bootstrap.servers": settings.kafka_brokers, "message.max.bytes": largest})
    refused = []
    for k, value in enumerate(values):
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(settings.visit_topic, raw, key=str(k).encode(), headers=headers,
                         on_delivery=lambda error, _: refused.append(error) if error else None)  # fmt: skip
    assert producer.flush(30) == 0
    assert refused == []


@contextmanager
def ingesting(settings, topics=True):
    """Run an ingest in a thread; `topics` makes its topics before."""
    if topics:
        for topic in (settings.visit_topic, dead_letter_topic(settings.visit_topic)):
            ensure_topics(KafkaTarget(settings.kafka_brokers, topic), 2, progress=False, largest=12 << 20)
    ingest, failed = Ingest(settings), []

    def run():
        try:
            ingest.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ingest
    finally:
        ingest.stop()
        thread.join(60)
    assert failed == []
    assert not thread.is_alive()


def committed(settings):
    """Return committed offsets and ends of the visit topic, by partition, as the broker has them."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_brokers, "group.id": settings.ingest_group})
    try:
        places = [TopicPartition(settings.visit_topic, p) for p in range(2)]
        ends = [consumer.get_watermark_offsets(p, timeout=10)[1] for p in places]
        return [max(p.offset, 0) for p in consumer.committed(places, timeout=10)], ends
    finally:
        consumer.close()


def letters_in_topic(settings, count):
    """Return so many messages of the topic of dead letters, by (source partition, source offset)."""
    topic, found = dead_letter_topic(settings.visit_topic), {}
    consumer = Consumer({"bootstrap.servers": settings.kafka_brokers, "group.id": uuid4().hex,
                         "auto.offset.reset": "earliest", "fetch.message.max.bytes": 16 << 20})  # fmt: skip
    consumer.subscribe([topic])

    def complete():
        got = consumer.poll(0.5)
        if got is not None and got.error() is None:
            headers = dict(got.headers())
            found[int(headers["source_partition"]), int(headers["source_offset"])] = got
        return len(found) >= count

    try:
        assert wait_until(complete, 30.0, 0.0), sorted(found)
    finally:
        consumer.close()
    return found
