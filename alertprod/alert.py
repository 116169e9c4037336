"""One alert, as people look at it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import alertprod_client.alert
from alertprod.errors import InputType

__all__ = ["Alert"]


class Alert(alertprod_client.alert.Alert):
    """A packet that shows itself: stamps, light curve and facts in a notebook.

    Parameters
    ----------
    packet
        A decoded packet (a mapping), a `alerts.consumer.ReceivedAlert`, or the bytes of a message in wire format.

    Raises
    ------
    InputType
        None of these.
    AlertError
        Bytes that are no message.
    """

    def __init__(self, packet: Any) -> None:
        packet = getattr(packet, "packet", packet)
        if isinstance(packet, bytes | bytearray | memoryview):
            from alertprod_client.wire import decode

            packet = decode(bytes(packet))
        if not isinstance(packet, Mapping):
            raise InputType(f"an alert is made of a packet, a ReceivedAlert or bytes; got {type(packet).__name__}")
        super().__init__(packet)

    def plot(self, path: "Path | str") -> None:
        """Draw stamps and light curve as PNG."""
        from alerts.views import draw_alert

        draw_alert(self.packet, path)
