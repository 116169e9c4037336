"""What the alert commands share: choosing alerts of the archive, and printing them."""

import json
from collections.abc import Iterator
from typing import Any

from alertprod_client.filters import AlertFilter, read_for
from alerts.archive.selection import AlertSelection
from alerts.archive.store import AlertArchive
from alerts.packets.schemas import SCHEMA_ID
from alerts.packets.wire import Alert
from apdb.queue.outbox import OutboxRow
from service.commands.options import open_database, read_settings
from service.errors import BadMessage
from service.settings import Settings
from service.terminal import print_table, progress

__all__ = ["ArchivedAlerts", "alert_line", "chosen_alerts", "mjd_of_text", "print_packet", "writer_id"]


def mjd_of_text(text: str | None) -> float | None:
    """Return MJD TAI of an MJD or an ISO time."""
    from astropy.time import Time

    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        try:
            return float(Time(text, scale="utc").tai.mjd)
        except ValueError as error:
            raise BadMessage(f"{text!r} is neither an MJD nor an ISO time") from error


def chosen_alerts(
    visit: int | None, detector: int | None, since: str | None, until: str | None, object_id: int | None
) -> AlertSelection:
    """Return the selection of the options.

    Raises
    ------
    BadMessage
        Nothing restricts it, or a time is none.
    """
    chosen = AlertSelection(visit, detector, mjd_of_text(since), mjd_of_text(until), object_id)
    if chosen.everything:
        raise BadMessage("say which alerts: --visit, --since/--until or --object")
    return chosen


class ArchivedAlerts:
    """The alerts of a selection with a progress bar over the visits."""

    def __init__(self, chosen: AlertSelection, text: str | None, what: str) -> None:
        self._chosen, self._what = chosen, what
        self._archive = AlertArchive(read_settings().archive_dir)
        self._passes = None if text is None else AlertFilter(text)
        self.rows = chosen.rows(open_database())

    def __iter__(self) -> Iterator[tuple[OutboxRow, Alert]]:
        with progress(f"{self._what}, visits", len(self.rows)) as step:
            for done, row in enumerate(self.rows, 1):
                for alert in self._chosen.read(self._archive, row):
                    if self._passes is None or self._passes(read_for([self._passes], alert.body, alert.schema_id)):
                        yield row, alert
                step(done)


def writer_id(settings: Settings) -> int | None:
    """With a registry of the site the ids in the messages are its own; the relay writes the newest schema."""
    return SCHEMA_ID if settings.schema_registry.get_secret_value() else None


def alert_line(packet: dict[str, Any], as_json: bool) -> str:
    """Return one line about an alert."""
    s = packet["diaSource"]
    names = (
        "diaSourceId",
        "diaObjectId",
        "ssObjectId",
        "visit",
        "detector",
        "midpointMjdTai",
        "ra",
        "dec",
        "band",
        "psfFlux",
        "psfFluxErr",
        "snr",
        "reliability",
    )
    if as_json:
        more = {
            "nPrvDiaSources": len(packet["prvDiaSources"] or []),
            "nPrvDiaForcedSources": len(packet["prvDiaForcedSources"] or []),
        }
        return json.dumps({n: s.get(n) for n in names} | more)
    owner = f"object {s['diaObjectId']}" if s["diaObjectId"] else f"body {s['ssObjectId']}"
    flux = "        none" if s["psfFlux"] is None else f"{s['psfFlux']:12.1f}"
    return f"{s['diaSourceId']} {owner} {s['midpointMjdTai']:.5f} {s['band'] or '-'} {s['ra']:11.6f} {s['dec']:+10.6f} {flux} nJy"


def print_packet(packet: dict[str, Any]) -> None:
    """Print the records of a packet as tables; cutouts are texts already."""
    for name in ("diaSource", "diaObject", "ssSource", "mpc_orbits"):
        record = packet[name]
        if record:
            shown = [(field, value) for field, value in record.items() if value is not None and value is not False]
            print_table(("field", "value"), shown, title=name)
    for name in ("prvDiaSources", "prvDiaForcedSources"):
        print(f"{name}: {'none' if packet[name] is None else f'{len(packet[name])} rows'}")
    for name in ("cutoutDifference", "cutoutScience", "cutoutTemplate"):
        print(f"{name}: {packet[name] or 'none'}")
