"""Follow the alert stream: light curves as CSV, a picture of each alert.

    python -m examples.read_alerts BROKERS TOPIC OUT ["diaSource.snr > 10"]

Stops at the end of the topic. Run again it goes on where it stood; an alert that was being written when the program died
is written again under the same name.
"""

import sys
from pathlib import Path

from astropy.table import QTable

from alertprod_client import AlertConsumer
from alerts.views import draw_alert


def main(brokers: str, topic: str, out: Path, expression: str | None = None) -> int:
    """Read, write, and return the number of alerts."""
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    with AlertConsumer(brokers, topic, "example-read-alerts", filter=expression, until_end=True) as consumer:
        for alert in consumer:
            name = str(alert.packet["diaSourceId"])
            curve = QTable(alert.light_curve())
            curve["time"] = curve["time"].mjd
            curve.write(out / f"{name}.csv", format="ascii.csv", overwrite=True)
            draw_alert(alert.packet, out / f"{name}.png")
            count += 1
    return count


if __name__ == "__main__":
    print(f"{main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:5])} alerts")
