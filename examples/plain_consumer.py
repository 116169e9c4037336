"""Read alerts with nothing of this project: confluent-kafka, fastavro, and the schemas that the service serves.

python examples/plain_consumer.py BROKERS TOPIC http://HOST:8080
"""

import io
import json
import sys
import urllib.request
from functools import cache
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError


@cache
def schema_of(service: str, number: int) -> Any:
    """Return the writer's schema of a wire id."""
    with urllib.request.urlopen(f"{service}/schemas/ids/{number}", timeout=10) as reply:  # noqa: S310
        return fastavro.parse_schema(json.loads(json.load(reply)["schema"]))


def main(brokers: str, topic: str, service: str) -> None:
    """Print a line for each alert, to the end of the topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "plain-example",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",  # librdkafka's default; Java, aiokafka and kafka-python differ
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.subscribe([topic])
    ended = set()
    while True:
        message = consumer.poll(5.0)
        if message is None:
            continue
        if message.error() is None:
            value = message.value()
            if value is None:  # a tombstone of a compacted topic
                continue
            schema = schema_of(service, int.from_bytes(value[1:5], "big"))
            alert = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
            source = alert["diaSource"]
            print(source["diaSourceId"], source["midpointMjdTai"], source["band"], source["psfFlux"])
            consumer.commit(message, asynchronous=False)  # after the work
        elif message.error().code() == KafkaError._PARTITION_EOF:
            ended.add(message.partition())
            if {p.partition for p in consumer.assignment()} <= ended:
                break
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
