"""The page of what goes out: outbox, what the topic really holds, readers and their lag, dead letters."""

import json
import subprocess
import threading
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from apdb.queue.dead_letters import DeadLetterState
from apdb.queue.holds import held
from apdb.queue.outbox import discrepancies
from apdb.queue.status import service_status, yields
from apdb.tallies import alerts_of_nights, alerts_of_topic
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, Shared, need_answer, reading
from service.subprocesses.children import child_environment, program

__all__ = ["stream_pages"]

stream_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

NIGHTS = 30  # that are listed
LAG_KEPT_S = 10.0
LAG_LIMIT_S = 25.0
FIRST_ANSWER_S = 2.0  # that others wait for it where nothing was told yet
NOT_YET = "the broker is being asked"
_ROWS = (
    'SELECT o.visit, o.detector, o.attempt, o.count, o."publishedCount" AS sent, o."topicCount" AS in_topic, o."createdAt" AS created, '
    'o."publishedAt" AS published, o."heldReason" AS held, o."droppedAt" AS dropped, o."secondsSinceShutterClose" AS latency, '
    'CASE WHEN l.attempt = o.attempt THEN extract(epoch FROM o."publishedAt" - l."createdAt")::float8 END AS since_message FROM '
    '(SELECT * FROM "AlertOutbox" ORDER BY id DESC LIMIT 40) o LEFT JOIN "VisitLedger" l USING (visit, detector) ORDER BY o.id DESC'
)
_LETTERS = (
    'SELECT id, topic, "partition", "offset", "errorCode" AS code, "errorText" AS text, state, "createdAt" AS created FROM "DeadLetter" '
    "WHERE state = %s ORDER BY id DESC LIMIT 100"
)
_CAUGHT_UP = (
    'SELECT topic, min("caughtUpAt") AS at, sum(next) AS next FROM "AlertTopicOffset" GROUP BY topic ORDER BY topic'
)

_SENT = (
    'SELECT "publishedAt" AS at, sum("publishedCount") OVER (ORDER BY id DESC)::bigint AS since FROM (SELECT id, "publishedAt", '
    '"publishedCount" FROM "AlertOutbox" ORDER BY id DESC LIMIT %s) o WHERE "publishedAt" IS NOT NULL ORDER BY id DESC'
)
SENT = 5000  # ccdVisits among whose alerts the oldest that a group has not read is looked for
MARKS = 10  # messages behind that may be none: marks of transactions


@stream_pages.get("/streams")
def streams(request: Request, shared: Pages) -> Response:
    """What goes out."""
    need_answer(shared.database)
    settings = shared.settings
    return page(
        request, "streams.html", topic=settings.alert_topic, fan_out=settings.alert_fan_out, rest=lambda: _rest(shared)
    )


def _rest(shared: Pages) -> dict[str, Any]:
    """Return what the database says of it."""
    with reading(shared.database) as cursor:
        outbox = cursor.execute(_ROWS).fetchall()
        letters = cursor.execute(_LETTERS, (str(DeadLetterState.WAITING),)).fetchall()
        caught_up = cursor.execute(_CAUGHT_UP).fetchall()
    with shared.database.session() as connection:
        holds, wrong = held(connection), discrepancies(connection, shared.settings.alert_topic)
        passed, totals, nights = yields(connection), alerts_of_topic(connection), alerts_of_nights(connection, NIGHTS)
    return {
        "status": service_status(shared.database, shared.settings.alert_topic), "totals": totals, "outbox": outbox, "nights": nights,
        "letters": letters, "caught_up": caught_up, "holds": holds, "wrong": wrong, "passed": passed,
        "filters": sorted({t for night in passed.values() for t in night} | set(shared.settings.alert_fan_out)),
    }  # fmt: skip


@stream_pages.get("/streams/readers")
def readers(request: Request, shared: Pages) -> Response:
    """Who reads the alert topic, and how far behind: asked of the broker by a process of its own."""
    groups, why = _LAGS.of(shared)
    if any(g["lag"] > MARKS for g in groups):
        with reading(shared.database) as cursor:
            sent = cursor.execute(_SENT, (SENT,)).fetchall()
        groups = [{**g, **_oldest_unread(g["lag"], sent)} for g in groups]
    return page(request, "readers.html", groups=groups, why=why)


def _oldest_unread(lag: int, sent: list[dict[str, Any]]) -> dict[str, Any]:
    """Return about when the oldest message that a group has not read was sent (``at``), and whether it may be older.

    Parameters
    ----------
    sent
        Of ccdVisits, the newest first: when their alerts were sent (``at``), and how many alerts since (``since``).
    """
    if lag <= MARKS or not sent:
        return {}
    first = next((row for row in sent if row["since"] >= lag), None)
    return {"at": (first or sent[-1])["at"], "older": first is None}


class _Lags:
    """The last answer of the broker, kept for some seconds: one process asks for all viewers, and nobody waits for it twice."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._until, self._last = 0.0, ([], NOT_YET)  # type: tuple[float, tuple[list[dict[str, Any]], str]]

    def of(self, shared: Shared) -> tuple[list[dict[str, Any]], str]:
        """Return the groups, and why there are none where the broker gave no answer: while another asks, what was told last."""
        wait = FIRST_ANSWER_S if self._last[1] == NOT_YET else 0.0
        if time.monotonic() > self._until and self._asking.acquire(timeout=wait):
            try:
                if time.monotonic() > self._until:
                    self._last = _ask_broker(shared)
                    self._until = time.monotonic() + LAG_KEPT_S
            finally:
                self._asking.release()
        return self._last


_LAGS = _Lags()


def _ask_broker(shared: Shared) -> tuple[list[dict[str, Any]], str]:
    if not shared.settings.kafka_brokers:
        return [], "no brokers are named: ALERTPROD_KAFKA_BROKERS"
    command = program("service.commands.main", "alerts", "lag", "--json")
    try:
        done = subprocess.run(
            command,
            env=child_environment(shared.settings),
            capture_output=True,
            text=True,
            timeout=LAG_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [], f"no broker answered within {LAG_LIMIT_S:.0f} s"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return [], lines[-1] if lines else "the broker gave no answer"
    groups: list[dict[str, Any]] = json.loads(done.stdout)
    return groups, ""
