"""OpenMetrics of the whole service, read from the database: any API process gives the same answer."""

from collections.abc import Iterator
from typing import Any

import psycopg
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from apdb import Database
from apdb.queue.status import service_status
from tasks.errors import AlertProdError

__all__ = ["render_metrics"]


class _Status(Collector):
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        s = self._status
        visits = GaugeMetricFamily("alertprod_visits", "Visits in the ledger by state.", labels=["state"])
        for state, count in s["visits"].items():
            visits.add_metric([state], count)
        yield visits
        yield GaugeMetricFamily(
            "alertprod_outbox_unpublished", "Alerts that wait for the relay.", s["unpublished_alerts"]
        )
        yield GaugeMetricFamily(
            "alertprod_corrections_unpublished",
            "Corrections of alerts that wait for the relay.",
            s["unpublished_corrections"],
        )
        yield GaugeMetricFamily(
            "alertprod_outbox_oldest_seconds", "Age of the oldest of them.", s["oldest_unpublished_s"]
        )
        yield GaugeMetricFamily(
            "alertprod_alerts_published", "Alerts published since the beginning.", s["published_alerts"]
        )
        yield GaugeMetricFamily(
            "alertprod_alerts_held", "Alerts of visits that failed the quality gate.", s["held_alerts"]
        )
        yield GaugeMetricFamily("alertprod_relay_leads", "1 when a relay holds the leader lock.", int(s["relay_leads"]))
        yield GaugeMetricFamily(
            "alertprod_alert_visits_discrepant",
            "Published visits of the last day whose alerts are not in the topic as "
            "the outbox says (counted by the reconciler).",
            s["discrepant_visits"],
        )
        letters = GaugeMetricFamily("alertprod_dead_letters", "Dead letters by state.", labels=["state"])
        for state, count in s["dead_letters"].items():
            letters.add_metric([state], count)
        yield letters
        latency = GaugeMetricFamily(
            "alertprod_alert_latency_seconds",
            "From the end of the exposure to a visit's last alert, last 100 visits.",
            labels=["quantile"],
        )
        for quantile, name in (("0.5", "median"), ("0.95", "p95")):
            if s["alert_latency_s"][name] is not None:
                latency.add_metric([quantile], s["alert_latency_s"][name])
        yield latency
        steps = GaugeMetricFamily(
            "alertprod_step_seconds_mean", "Mean seconds per step, last 100 visits.", labels=["step"]
        )
        for step, seconds in s["seconds"].items():
            steps.add_metric([step], seconds)
        yield steps


def render_metrics(database: Database, alert_topic: str | None = None) -> bytes:
    """Return the metrics as text; a database that does not answer gives ``alertprod_up 0``."""
    registry = CollectorRegistry()
    up = Gauge("alertprod_up", "1 when the database answers.", registry=registry)
    try:
        status = service_status(database, alert_topic)
    except (AlertProdError, psycopg.Error):
        up.set(0)
    else:
        registry.register(_Status(status))
        up.set(1)
    return generate_latest(registry)
