"""One alert: its packet, and how people look at it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alertprod_client.corrections import KnownCorrections
from alertprod_client.preview import alert_facts, alert_html, alert_text

if TYPE_CHECKING:
    from astropy.nddata import CCDData
    from astropy.timeseries import TimeSeries

__all__ = ["Alert", "ReceivedAlert"]


@dataclass(frozen=True, repr=False)
class Alert:
    """A packet with its light curve, its cutouts and its picture.

    Parameters
    ----------
    packet
        Decoded packet: of Rubin's form of any version; ZTF's show their cutouts.
    """

    packet: Mapping[str, Any]

    @property
    def known(self) -> KnownCorrections | None:
        """Corrections that hold for it; None: none are known."""
        return None

    def __getitem__(self, name: str) -> Any:
        return self.packet[name]

    @property
    def source_id(self) -> int:
        """Trigger of the alert, which identifies it."""
        return int(self.packet["diaSourceId"])

    @property
    def object_id(self) -> int | None:
        """Object that the trigger belongs to, after what is known of corrections; None: a solar-system body."""
        alerted = self.packet["diaSource"].get("diaObjectId") or None
        return self.known.owner(self.source_id, alerted) if self.known is not None else alerted

    @property
    def withdrawn(self) -> bool:
        """Whether the trigger is known to have been taken back."""
        return self.known is not None and self.known.is_withdrawn(self.source_id)

    def light_curve(self) -> "TimeSeries":
        """Return ``time`` (TAI), ``band``, ``flux`` and ``fluxErr`` (nJy), ``kind`` (source or forced).

        Fluxes are of the difference images. Sources that are known to be taken back are left out.
        """
        from alertprod_client.views import light_curve

        return light_curve(self.packet, self.known)

    def cutout(self, which: str = "Difference") -> "CCDData | None":
        """Return ``Difference``, ``Science`` or ``Template`` with its WCS; None where the packet has no such cutout.

        Raises
        ------
        AlertError
            There is no cutout of this name, or it is no FITS file.
        """
        from alertprod_client.views import cutout

        return cutout(self.packet, which)

    def show(self, path: "Path | str | None" = None) -> None:
        """Show stamps, light curve and facts: in a notebook, or as a page of HTML at `path`; else the facts as text."""
        if path is not None:
            page = f'<!DOCTYPE html><meta charset="utf-8"><title>alert</title>{self._repr_html_()}\n'
            Path(path).write_text(page, encoding="utf-8")
            return
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if shell is not None and hasattr(shell, "kernel"):
            from IPython.display import display

            display(self)  # type: ignore[no-untyped-call]
            return
        rows = [(k or "diaSourceId", v) for k, v in alert_facts(self.packet, self.known)]
        print("\n".join(f"{k:20} {v}" for k, v in rows))

    def __repr__(self) -> str:
        return alert_text(self.packet, known=self.known)

    def _repr_html_(self) -> str:
        """What a notebook shows: stamps, light curve and facts."""
        return alert_html(self.packet, self.known)


@dataclass(frozen=True, repr=False)
class ReceivedAlert(Alert):
    """An alert with where it came from; bytes of key and headers that are no UTF-8 are written ``\\xNN``.

    `corrections` is what the consumer has read of corrections so far; it goes on learning while the consumer reads.
    """

    packet: dict[str, Any]
    topic: str
    partition: int
    offset: int
    key: str
    headers: dict[str, str]
    corrections: KnownCorrections | None = field(default=None, compare=False)

    @property
    def known(self) -> KnownCorrections | None:
        """Corrections that hold for it; None: none are read."""
        return self.corrections

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}; {self.topic}[{self.partition}] at {self.offset}>"
