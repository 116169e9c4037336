"""What runs under ``pipetask`` and the service leave behind for the same frames: rows of the APDB, and alerts."""

from pathlib import Path
from typing import Any

import fastavro
import pandas as pd

from apdb import Database, Ledger
from apdb.operate.export import all_rows, latest_objects
from service.intake.headers import read_facts
from service.intake.submit import submit_visit
from service.processing.visit import Processor
from service.settings import Settings

__all__ = ["TIMES", "alerts_in", "assert_same_alerts", "assert_same_rows", "run_service", "tables"]

TIMES = ["timeProcessedMjdTai", "validityStartMjdTai", "validityEndMjdTai", "timeWithdrawnMjdTai"]


def run_service(settings: Settings, messages: list[dict[str, Any]]) -> None:
    """Submit visits and process them as a worker does, until none is left; each must succeed."""
    database = Database(settings.database())
    ledger, processor = Ledger(database), Processor(settings)
    for message in messages:
        submit_visit(message, settings, ledger, read_facts)
    while (claim := ledger.claim("test", 600, 0)) is not None:
        assert processor.run(claim)["state"] == "done"


def tables(uri: str) -> dict[str, pd.DataFrame]:
    """Return objects, sources and forced sources of a database, each in the order of its ids."""
    database = Database(uri)
    return {
        "objects": latest_objects(database).sort_values("diaObjectId", ignore_index=True),
        "sources": all_rows(database, "DiaSource").sort_values("diaSourceId", ignore_index=True),
        "forced": all_rows(database, "DiaForcedSource").sort_values("diaForcedSourceId", ignore_index=True),
    }


def assert_same_rows(ours: dict[str, pd.DataFrame], theirs: dict[str, pd.DataFrame], rtol: float = 0.0) -> None:
    """Compare all rows but for their times of processing, to the last bit where no tolerance is given."""
    for name, rows in theirs.items():
        drop = [c for c in TIMES if c in rows]
        one, other = ours[name].drop(columns=drop), rows.drop(columns=drop)
        pd.testing.assert_frame_equal(one, other, obj=name, check_exact=rtol == 0, rtol=rtol or 1.0)


def alerts_in(archive: Path) -> dict[int, dict[str, Any]]:
    """Return the packets below a folder by their source, without times of processing."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in TIMES}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    out: dict[int, dict[str, Any]] = {}
    for path in sorted(archive.rglob("*.avro")):
        with path.open("rb") as file:
            out |= {packet["diaSourceId"]: timeless(packet) for packet in fastavro.reader(file)}
    return out


def assert_same_alerts(ours: Path, theirs: Path) -> int:
    """Compare the packets below two folders; returns how many there are."""
    one, other = alerts_in(ours), alerts_in(theirs)
    assert set(one) == set(other)
    for number, packet in one.items():
        assert packet.keys() == other[number].keys()
        assert [k for k in packet if str(packet[k]) != str(other[number][k])] == []  # NaN are equal
    return len(one)
