"""What the database knows of the whole service, as metrics: any process that shows them gives the same numbers."""

from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from apdb import Database
from apdb.queue.status import service_status
from tasks.errors import AlertProdError

__all__ = ["render_metrics"]

# name, help, key of `service_status`
_NUMBERS = (
    ("outbox_unpublished", "Alerts that wait for the relay.", "unpublished_alerts"),
    ("corrections_unpublished", "Corrections of alerts that wait for the relay.", "unpublished_corrections"),
    (
        "outbox_oldest_seconds",
        "Age of the oldest alert or correction that waits for the relay.",
        "oldest_unpublished_s",
    ),
    ("alerts_published", "Alerts published since the beginning.", "published_alerts"),
    (
        "alerts_held",
        "Alerts that wait for a person: held by qualityGate=veto or ALERTPROD_ALERT_VETO, or for a broken file.",
        "held_alerts",
    ),
    ("relay_leads", "1 when a relay holds the leader lock.", "relay_leads"),
    (
        "alert_visits_discrepant",
        "Published visits of the last day whose alerts are not in the topic as the outbox says (counted by the reconciler).",
        "discrepant_visits",
    ),
    ("queue_ready", "Visits that a worker may take now.", "queue_ready"),
    ("queue_oldest_seconds", "Age of the oldest of them.", "queue_oldest_s"),
    ("running_longest_seconds", "Seconds that the longest attempt at work has taken so far.", "running_longest_s"),
    (
        "lease_overdue_seconds",
        "Seconds since the first lease ran out that nobody has taken back; 0 where none has.",
        "lease_overdue_s",
    ),
)


def _labelled(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values:
        family.add_metric([value], number)
    return family


class _Status(Collector):
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        s = self._status
        yield _labelled("alertprod_visits", "Visits in the ledger by state.", "state", s["visits"].items())
        for name, text, key in _NUMBERS:
            yield GaugeMetricFamily(f"alertprod_{name}", text, float(s[key]))
        yield _labelled("alertprod_dead_letters", "Dead letters by state.", "state", s["dead_letters"].items())
        yield self._latency()
        text = "Mean seconds per step, last 100 visits."
        yield _labelled("alertprod_step_seconds_mean", text, "step", s["seconds"].items())
        for which in ("median", "p95"):
            text = f"Quality metrics of the last 100 visits: their {which}."
            values = ((name, numbers[which]) for name, numbers in s["quality"].items())
            yield _labelled(f"alertprod_visit_quality_{which}", text, "metric", values)

    def _latency(self) -> Metric:
        text = "From the end of the exposure to a visit's last alert; quantiles of the last 100 visits."
        name, s = "alertprod_alert_latency_seconds", self._status
        latency = Metric(name, text, "summary")
        for quantile, which in (("0.5", "median"), ("0.95", "p95")):
            if s["alert_latency_s"][which] is not None:
                latency.add_sample(name, {"quantile": quantile}, s["alert_latency_s"][which])
        latency.add_sample(f"{name}_count", {}, s["published_visits"])
        latency.add_sample(f"{name}_sum", {}, s["shutter_seconds_sum"])
        return latency


def render_metrics(database: Database, alert_topic: str | None = None, own: CollectorRegistry | None = None) -> bytes:
    """Return the metrics as text, after those of this process (`own`); a database that does not answer gives ``alertprod_up 0``."""
    registry = CollectorRegistry()
    up = Gauge("alertprod_up", "1 when the database answers.", registry=registry)
    try:
        status = service_status(database, alert_topic)
    except (AlertProdError, psycopg.Error):
        up.set(0)
    else:
        registry.register(_Status(status))
        up.set(1)
    return (b"" if own is None else generate_latest(own)) + generate_latest(registry)
