"""Alerts from Kafka for people who run no service: read, filtered, corrected, as astropy tables and images.

Needs fastavro, confluent-kafka and astropy; what is named here is loaded when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alertprod_client.alert import Alert, ReceivedAlert
    from alertprod_client.consumer import AlertConsumer
    from alertprod_client.corrections import Correction, CurrentSources
    from alertprod_client.errors import AlertError, BrokerRefused, BrokerUnavailable, FilterError
    from alertprod_client.filters import AlertFilter
    from alertprod_client.scan import scan_alerts
    from alertprod_client.schemas import learn_schemas
    from alertprod_client.wire import decode

__all__ = [
    "Alert",
    "AlertConsumer",
    "AlertError",
    "AlertFilter",
    "BrokerRefused",
    "BrokerUnavailable",
    "Correction",
    "CurrentSources",
    "FilterError",
    "ReceivedAlert",
    "decode",
    "learn_schemas",
    "scan_alerts",
]

_HOMES = {
    "Alert": "alert", "ReceivedAlert": "alert", "AlertConsumer": "consumer", "AlertFilter": "filters",
    "Correction": "corrections", "CurrentSources": "corrections", "decode": "wire", "learn_schemas": "schemas",
    "scan_alerts": "scan", "AlertError": "errors", "BrokerRefused": "errors", "BrokerUnavailable": "errors",
    "FilterError": "errors",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'alertprod_client' has no attribute {name!r}")
    return getattr(import_module(f"alertprod_client.{_HOMES[name]}"), name)
