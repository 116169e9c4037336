"""Alerts as notices in the JSON of NASA's GCN (core schema 6), one a line; hop-client sends them on.

    python examples/gcn_notices.py BROKERS TOPIC "diaSource.snr > 20" > notices.jsonl
    hop publish kafka://HOST/TOPIC -f BLOB < notices.jsonl     # pip install hop-client

A correction of an alert that was sent becomes an ``update`` or a ``retraction`` while it follows (``--follow``).
"""

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from math import log, log10
from typing import Any

from astropy.time import Time

from alertprod_client import Alert, Correction, scan_alerts

SCHEMA = "https://gcn.nasa.gov/schema/v6.3.0/gcn/notices/core/"
AB_OF_1_NJY = 31.4  # magnitude: -2.5 log10(1e-9 Jy / 3631 Jy)


def notice(alert: Alert) -> dict[str, Any]:
    """Return the notice of an alert; magnitudes are of the difference, absent where its flux is negative."""
    source = alert["diaSource"]
    out = {
        "$schema": f"{SCHEMA}Alert.schema.json",
        "alert_datetime": _now(),
        "alert_tense": "current",
        "alert_type": "initial",
        "id": [str(alert.source_id)],
        "event_name": [f"diaObject {alert.object_id}" if alert.object_id else f"ssObject {source['ssObjectId']}"],
        "trigger_time": _utc(source["midpointMjdTai"]),
        "ra": source["ra"],
        "dec": source["dec"],
        "filter": source["band"],
        "mag_system": "AB",
    }
    if source.get("raErr") and source.get("decErr"):
        # radius of a circle that holds 68 % of a round Gaussian of one sigma in each axis: 1.515 sigma
        sigma = ((source["raErr"] ** 2 + source["decErr"] ** 2) / 2) ** 0.5
        out |= {"position_a_error": 1.515 * sigma, "containment_probability": 0.68}
    flux, error = source["psfFlux"], source["psfFluxErr"]
    if flux and flux > 0 and error:
        out |= {"mag": AB_OF_1_NJY - 2.5 * log10(flux), "mag_error": 2.5 / log(10) * error / flux}
    return out


def correction_notice(correction: Correction) -> dict[str, Any]:
    """Return the notice that takes an earlier one back, or says to which object it belongs."""
    return {
        "$schema": f"{SCHEMA}Alert.schema.json",
        "alert_datetime": _now(),
        "alert_type": "retraction" if correction.withdraws else "update",
        "id": [str(correction.diaSourceId)],
        "event_name": [f"diaObject {correction.newDiaObjectId}"] if correction.newDiaObjectId else [],
        "additional_info": correction.reason,
    }


def notices(brokers: str, topic: str, expression: str | None = None, **more: Any) -> Iterator[dict[str, Any]]:
    """Yield notices; corrections come between them."""
    waiting: list[dict[str, Any]] = []
    said = scan_alerts(
        brokers, topic, filter=expression, on_correction=lambda c: waiting.append(correction_notice(c)), **more
    )
    for alert in said:
        yield from waiting
        waiting.clear()
        yield notice(alert)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _utc(mjd_tai: float) -> str:
    return f"{Time(mjd_tai, format='mjd', scale='tai').utc.isot}Z"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("brokers")
    parser.add_argument("topic")
    parser.add_argument("filter", nargs="?")
    parser.add_argument("--group", help="name that the place is kept under")
    parser.add_argument("--follow", action="store_true", help="wait for alerts to come")
    chosen = parser.parse_args()
    for made in notices(chosen.brokers, chosen.topic, chosen.filter, group=chosen.group, follow=chosen.follow):
        print(json.dumps(made), flush=True)
