"""What every role opens beside its work: the watch over what it needs, and the port of its metrics."""

from collections.abc import Callable

from service.observe.ledger_measures import render_metrics
from service.observe.listener import Listener
from service.observe.measures import MEASURES
from service.observe.watch import Watch, ask_broker, ask_database, ask_lag, reach_broker
from service.settings import Settings

__all__ = ["NEEDS", "open_port"]

# serve has no Kafka client: it sees whether a broker is there, and is ready without one (visits are accepted, alerts wait)
NEEDS: dict[str, tuple[str, ...]] = {
    "serve": ("database", "reach"),
    "worker": ("database",),
    "relay": ("database", "broker"),
    "reconcile": ("database", "lag"),
    "ingest": ("database", "lag"),
}
_TELLS_ALL = (
    "serve",
    "reconcile",
)  # also what the database knows: of several workers each would ask it at every scrape
_KINDS: dict[str, tuple[str, Callable[[Settings], Callable[[], None]]]] = {
    "database": ("database", ask_database),
    "broker": ("broker", ask_broker),
    "lag": ("broker", ask_lag),
    "reach": ("broker", lambda settings: reach_broker(settings.kafka_brokers)),
}


def open_port(role: str, settings: Settings) -> tuple[Watch, Listener | None]:
    """Start the watch of a role, and its port where one is set.

    Raises
    ------
    PortInUse
        Another program listens there.
    """
    kinds = [_KINDS[name] for name in NEEDS[role] if name == "database" or settings.kafka_brokers]
    watch = Watch({name: make(settings) for name, make in kinds})
    watch.start()
    if not settings.metrics_port:
        return watch, None

    def metrics() -> bytes:
        from prometheus_client import generate_latest

        if role not in _TELLS_ALL:
            return generate_latest(MEASURES)
        from apdb import Database

        return render_metrics(Database(settings.database(), statement_timeout_s=5), settings.alert_topic, MEASURES)

    def problems() -> dict[str, str]:
        texts = watch.problems()
        return {name: said for name, said in texts.items() if role != "serve" or name == "database"}

    return watch, Listener((settings.metrics_host, settings.metrics_port), problems, metrics).start()
