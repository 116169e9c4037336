"""Post visits to a running service, follow them to their end, and read alerts back: what demo, night and tests share."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import httpx

from alerts.consumer import AlertConsumer, ReceivedAlert
from apdb.status import service_status
from service.stack import Stack
from tasks.errors import TransientError

__all__ = ["consume_alerts", "post_visits", "read_alerts", "wait_finished", "wait_published"]

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


def read_alerts(
    brokers: str, topic: str, expected: int, client: dict[str, str] | None = None, timeout_s: float = 60.0
) -> list[ReceivedAlert]:
    """Read alerts from the beginning of the topic to its end, and on until there are `expected` or the time is over."""
    out: list[ReceivedAlert] = []
    deadline = time.monotonic() + timeout_s
    with AlertConsumer(brokers, topic, f"reader-{time.time_ns()}", client=client, until_end=True) as consumer:
        while True:
            out += consumer  # the end of what is committed: the marker of the last transaction may still be on its way
            if len(out) >= expected or time.monotonic() > deadline:
                return out


def consume_alerts(brokers: str, topic: str, expected: int) -> list[dict[str, Any]]:
    """Return the packets of `read_alerts`."""
    return [alert.packet for alert in read_alerts(brokers, topic, expected)]
