"""OpenMetrics of the whole service, read from the database: any API process gives the same answer."""

from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from apdb import Database
from apdb.status import service_status

__all__ = ["render_metrics"]


class _Status(Collector):
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Any:
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
            "alertprod_outbox_oldest_seconds", "Age of the oldest of them.", s["oldest_unpublished_s"]
        )
        yield GaugeMetricFamily(
            "alertprod_alerts_published", "Alerts published since the beginning.", s["published_alerts"]
        )
        yield GaugeMetricFamily(
            "alertprod_alerts_held", "Alerts of visits that failed the quality gate.", s["held_alerts"]
        )
        steps = GaugeMetricFamily(
            "alertprod_step_seconds_mean", "Mean seconds per step, last 100 visits.", labels=["step"]
        )
        for step, seconds in s["seconds"].items():
            steps.add_metric([step], seconds)
        yield steps


def render_metrics(database: Database) -> bytes:
    """Return the metrics as text; a database that does not answer gives ``alertprod_up 0``."""
    registry = CollectorRegistry()
    up = Gauge("alertprod_up", "1 when the database answers.", registry=registry)
    try:
        registry.register(_Status(service_status(database)))
        up.set(1)
    except Exception:
        up.set(0)
    return generate_latest(registry)
