"""Post visits to a running service, follow them to their end, and read alerts back: what demo, night and tests share."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import httpx

from alerts.consumer import AlertConsumer, ReceivedAlert
from apdb import VisitState
from apdb.queue.states import FINAL_STATES
from apdb.queue.status import service_status
from service.local.stack import Stack
from tasks.errors import TransientError

__all__ = ["consume_alerts", "post_visits", "read_alerts", "wait_finished", "wait_published"]


def post_visits(stack: Stack, messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """POST each message; returns the replies (problems too, with their HTTP status under ``httpStatus``, 0 without an answer)."""
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        return [_post(client, message) for message in messages]


def _post(client: httpx.Client, message: dict[str, Any]) -> dict[str, Any]:
    try:
        reply = client.post("/v1/visits", json=message)
    except httpx.HTTPError as error:
        return {
            "httpStatus": 0,
            "code": "no_answer",
            "detail": f"the API did not answer: {error or type(error).__name__}",
        }
    try:
        body = reply.json()
    except ValueError:
        body = {"code": f"http_{reply.status_code}", "detail": reply.text[:500]}
    return {**body, "httpStatus": reply.status_code}


def wait_finished(
    stack: Stack,
    keys: list[tuple[int, int]],
    timeout_s: float,
    progress: Callable[[int, int, int], None] = lambda done, total, failed: None,
) -> dict[tuple[int, int], dict[str, Any]]:
    """Poll the API until every visit is in a final state; `progress` is told how many are, of how many, and how many failed.

    Raises
    ------
    TransientError
        They were not in time, or a process ended; the message holds the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    states_of: dict[tuple[int, int], dict[str, Any]] = {}
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        while True:
            for key in keys:
                if states_of.get(key, {}).get("state") not in FINAL_STATES:
                    states_of[key] = _state(client, key)
            states = [v.get("state") for v in states_of.values()]
            finished = sum(s in FINAL_STATES for s in states)
            progress(finished, len(keys), states.count(VisitState.FAILED))
            if finished == len(keys):
                return states_of
            stack.require_alive()
            if time.monotonic() > deadline:
                raise TransientError(f"{finished} of {len(keys)} visits in {timeout_s:.0f} s: {stack.log('worker')}")
            time.sleep(0.25)


def _state(client: httpx.Client, key: tuple[int, int]) -> dict[str, Any]:
    try:
        return dict(client.get(f"/v1/visits/{key[0]}/{key[1]}").json())
    except (httpx.HTTPError, ValueError):  # asked again; whether the API lives is looked at elsewhere
        return {}


def wait_published(stack: Stack, timeout_s: float = 60.0, check: Callable[[], None] = lambda: None) -> int:
    """Wait until the relay has published everything; returns the number of alerts. What `check` raises ends the wait."""
    deadline = time.monotonic() + timeout_s
    while True:
        check()
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
