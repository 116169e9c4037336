"""Reading alerts from Kafka; the client, which is a package of its own and knows no room, does it."""

from alertprod_client.alert import ReceivedAlert
from alertprod_client.consumer import AlertConsumer
from alertprod_client.corrections import Correction, CurrentSources
from alertprod_client.scan import scan_alerts

__all__ = ["AlertConsumer", "Correction", "CurrentSources", "ReceivedAlert", "scan_alerts"]
