"""One alert, as people look at it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alertprod.errors import InputType

if TYPE_CHECKING:
    from astropy.nddata import CCDData
    from astropy.table import QTable

__all__ = ["Alert"]


class Alert:
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
            from alerts.packets.wire import decode

            packet = decode(bytes(packet))
        if not isinstance(packet, Mapping):
            raise InputType(f"an alert is made of a packet, a ReceivedAlert or bytes; got {type(packet).__name__}")
        self.packet: Mapping[str, Any] = packet

    def __getitem__(self, name: str) -> Any:
        return self.packet[name]

    def light_curve(self) -> "QTable":
        """Return ``time`` (TAI), ``band``, ``flux`` and ``fluxErr`` (nJy), ``kind`` (source or forced)."""
        from alerts.views import light_curve

        return light_curve(self.packet)

    def cutout(self, which: str = "Difference") -> "CCDData | None":
        """Return ``Difference``, ``Science`` or ``Template`` with its WCS; None where the packet has no such cutout."""
        from alerts.views import cutout

        return cutout(self.packet, which)

    def plot(self, path: "Path | str") -> None:
        """Draw stamps and light curve as PNG."""
        from alerts.views import draw_alert

        draw_alert(self.packet, path)

    def __repr__(self) -> str:
        from alerts.preview import alert_text

        return alert_text(self.packet)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from alerts.preview import alert_html

        return alert_html(self.packet)
