"""What one process measures while it works; `service.observe.ledger_measures` has what the database knows."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

__all__ = [
    "BROKER_LAG", "BROKER_OFFSET", "DEPENDENCY_UP", "INGESTED", "MEASURES", "count_foreign", "count_published", "count_request", "count_visit",
]  # fmt: skip

MEASURES = CollectorRegistry()
ProcessCollector(registry=MEASURES)
_STEP_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600)
_SHUTTER_BUCKETS = (10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1800, 3600, 14400, 86400)
_REQUEST_BUCKETS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
BANDS = "ugrizy"

_STEPS = Histogram(
    "alertprod_step_seconds", "Seconds that a step of a visit took.", ["step"], buckets=_STEP_BUCKETS, registry=MEASURES
)
_ENDED = Counter(
    "alertprod_attempts_ended", "Attempts at visits by how they ended.", ["state", "code"], registry=MEASURES
)
_ALERTS = Counter("alertprod_alerts_made", "Alerts that visits led to, by band.", ["band"], registry=MEASURES)
_SENT = Counter(
    "alertprod_alerts_sent",
    "Messages sent to each topic: the alert topic, and that of each filter.",
    ["topic"],
    registry=MEASURES,
)
_FOREIGN = Counter(
    "alertprod_foreign_messages",
    "Messages of the topics of alerts and corrections that the reconciler passed over: another program wrote them.",
    ["topic"],
    registry=MEASURES,
)
_SHUTTER = Histogram(
    "alertprod_shutter_to_alerts_seconds",
    "Seconds from the end of the exposure to a visit's last alert in the topic.",
    buckets=_SHUTTER_BUCKETS,
    registry=MEASURES,
)
_REQUESTS = Histogram(
    "alertprod_http_request_seconds",
    "Seconds that requests took.",
    ["method", "route", "status"],
    buckets=_REQUEST_BUCKETS,
    registry=MEASURES,
)
INGESTED = Counter(
    "alertprod_visit_messages",
    "Visit messages from Kafka: entered, kept as dead_letter, or to be tried again.",
    ["outcome"],
    registry=MEASURES,
)
BROKER_LAG = Gauge(
    "alertprod_ingest_lag",
    "Visit messages behind the offset that the ingest has committed on the broker.",
    ["topic", "partition"],
    registry=MEASURES,
)
BROKER_OFFSET = Gauge(
    "alertprod_ingest_committed_offset",
    "Offset that the ingest has committed, as the broker has it.",
    ["topic", "partition"],
    registry=MEASURES,
)
DEPENDENCY_UP = Gauge(
    "alertprod_dependency_up",
    "1 where the database, or the broker, answered this process last.",
    ["name"],
    registry=MEASURES,
)


def count_visit(answer: Mapping[str, Any], state: str) -> None:
    """Count an attempt at a visit by the answer of its job process, and the state of the visit after it (or ``retry``)."""
    _ENDED.labels(state, str(answer.get("code", ""))).inc()
    for step, seconds in answer.get("seconds", {}).items():
        _STEPS.labels(step).observe(seconds)
    band = str(answer.get("band", ""))
    _ALERTS.labels(band if band and band in BANDS else "other").inc(answer.get("counts", {}).get("alerts", 0))


def count_foreign(topic: str, count: int) -> None:
    """Count messages of a topic that the reconciler passed over."""
    _FOREIGN.labels(topic).inc(count)


def count_published(sent: Mapping[str, int], since_shutter_s: float | None) -> None:
    """Count messages by topic, and the seconds after the shutter when the last alert of a visit was among them."""
    for topic, count in sent.items():
        _SENT.labels(topic).inc(count)
    if since_shutter_s is not None:
        _SHUTTER.observe(since_shutter_s)


def count_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request; `route` must be one of a fixed number of names."""
    _REQUESTS.labels(method, route, str(status)).observe(seconds)
