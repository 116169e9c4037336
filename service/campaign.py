"""Post visits to a running service, follow them to their end, and read alerts back: what demo, night and tests share."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import httpx
from confluent_kafka import Consumer

from alerts import decode
from apdb.status import service_status
from service.stack import Stack
from tasks.errors import TransientError

__all__ = ["consume_alerts", "post_visits", "wait_finished", "wait_published"]

FINAL = ("done", "no_work", "failed")


def post_visits(stack: Stack, messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """POST each message; returns the replies (problems too, with their HTTP status under ``status``)."""
    out = []
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        for message in messages:
            reply = client.post("/v1/visits", json=message)
            out.append({**reply.json(), "httpStatus": reply.status_code})
    return out


def wait_finished(
    stack: Stack,
    keys: list[tuple[int, int]],
    timeout_s: float,
    progress: Callable[[int, int], None] = lambda d, n: None,
) -> dict[tuple[int, int], dict[str, Any]]:
    """Poll the API until every visit is in a final state.

    Raises
    ------
    TransientError
        They were not in time; the message holds the log of the worker.
    """
    deadline = time.monotonic() + timeout_s
    found: dict[tuple[int, int], dict[str, Any]] = {}
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        while True:
            for key in keys:
                if found.get(key, {}).get("state") not in FINAL:
                    found[key] = client.get(f"/v1/visits/{key[0]}/{key[1]}").json()
            finished = sum(v.get("state") in FINAL for v in found.values())
            progress(finished, len(keys))
            if finished == len(keys):
                return found
            if time.monotonic() > deadline:
                raise TransientError(f"{finished} of {len(keys)} visits in {timeout_s:.0f} s: {stack.log('worker')}")
            time.sleep(0.25)


def wait_published(stack: Stack, timeout_s: float = 60.0) -> int:
    """Wait until the relay has published everything; returns the number of alerts."""
    deadline = time.monotonic() + timeout_s
    while True:
        status = service_status(stack.database)
        if status["unpublished_alerts"] == 0 and status["oldest_unpublished_s"] == 0:
            return int(status["published_alerts"])
        if time.monotonic() > deadline:
            raise TransientError(f"alerts wait unpublished: {stack.log('relay')}")
        time.sleep(0.2)


def consume_alerts(brokers: str, topic: str, expected: int, timeout_s: float = 60.0) -> list[dict[str, Any]]:
    """Read alerts from the beginning of the topic with a consumer of its own, committed transactions only."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers, "group.id": f"alertprod-read-{time.time_ns()}", "auto.offset.reset": "earliest",
            "isolation.level": "read_committed", "enable.auto.commit": False, "enable.partition.eof": True,
        }
    )  # fmt: skip
    out: list[dict[str, Any]] = []
    deadline, ends = time.monotonic() + timeout_s, set()
    consumer.subscribe([topic])
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error() is not None:
                ends.add(message.partition())
                if len(out) >= expected and len(ends) >= len(consumer.assignment()):
                    break
                continue
            out.append(decode(message.value() or b""))
    finally:
        consumer.close()
    return out
