"""The client stands alone: no room, no Rubin package, nothing of the service is needed to read alerts."""

import json
import subprocess
import sys
import tomllib
from importlib.resources import as_file, files
from pathlib import Path

import fastavro
import numpy as np
import pytest
from astropy import units as u
from astropy.timeseries import TimeSeries
from confluent_kafka import KafkaError

import alertprod_client
from alertprod_client.alert import ReceivedAlert
from alertprod_client.broker import kafka_error
from alertprod_client.corrections import Correction, KnownCorrections
from alertprod_client.errors import AlertError, BrokerUnavailable
from alertprod_client.moments import milliseconds
from alertprod_client.schemas import SCHEMA_ID, schema
from alerts.packets.wire import encode
from tests.support.alert_packet import alert_packet
from tests.support.outbox_rows import PACKET

ROOT = Path(__file__).parents[3]

ALONE = """
import sys, pathlib
for name in {blocked}:
    sys.modules[name] = None  # as if it were not installed
import pkgutil, importlib, alertprod_client
for module in pkgutil.walk_packages(alertprod_client.__path__, "alertprod_client."):
    importlib.import_module(module.name)
alert = alertprod_client.Alert(alertprod_client.decode(pathlib.Path(sys.argv[1]).read_bytes()))
assert alertprod_client.AlertFilter("diaSource.visit >= 0 or diaSource.visit < 0")(alert.packet)
print(len(alert.light_curve()), alert.cutout("Science").shape, len(alert._repr_html_()) > 1000)
try:
    alertprod_client.decode(b"\\0\\0\\0\\3\\xe8")
except alertprod_client.errors.AlertError as error:
    print(error.code, "learn_schemas" in str(error))
"""


def test_it_reads_alerts_where_neither_a_room_nor_a_rubin_package_is(tmp_path):
    rooms = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    blocked = {*rooms, "lsst", "pandas", "matplotlib", "sqlalchemy", "psycopg"} - {"alertprod_client"}
    (tmp_path / "message").write_bytes(encode(PACKET))
    program = [sys.executable, "-P", "-c", ALONE.format(blocked=blocked), str(tmp_path / "message")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)
    rows = 1 + sum(len(PACKET[k] or []) for k in ("prvDiaSources", "prvDiaForcedSources"))
    side = alertprod_client.Alert(PACKET).cutout("Science").shape
    assert (done.returncode, done.stdout) == (0, f"{rows} {side} True\nalert True\n"), done.stderr


def test_its_dependencies_are_few_and_its_version_is_that_of_the_service():
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
    names = {d.split(">")[0].split("=")[0] for d in project["dependencies"]}
    assert names == {"numpy", "astropy", "fastavro", "confluent-kafka"}
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == service["version"]
    assert next(d for d in project["dependencies"] if "kafka" in d) in service["dependencies"]


def test_the_schema_that_it_carries_is_the_published_one():
    with as_file(files("lsst.alert.packet") / "schema" / "11" / "1" / "lsst.v11_1.alert.avsc") as path:
        published = fastavro.schema.load_schema(str(path))
    own = {k: v for k, v in schema(SCHEMA_ID).items() if not k.startswith("__")}
    assert own == {k: v for k, v in published.items() if not k.startswith("__")}
    assert json.loads((files("alertprod_client") / "alert-1101.json").read_text()) == own


def test_light_curves_are_time_series_without_what_was_taken_back():
    packet = alert_packet()
    packet["prvDiaSources"].append({**packet["diaSource"], "diaSourceId": 40, "midpointMjdTai": 60998.1})
    packet["prvDiaForcedSources"] = [{**packet["diaSource"], "midpointMjdTai": 60999.5, "psfFlux": None}]
    known = KnownCorrections()
    alert = ReceivedAlert(packet, "alerts", 0, 1, "7", {}, known)
    curve = alert.light_curve()
    assert isinstance(curve, TimeSeries)
    assert np.allclose(curve.time.tai.mjd, [60998.1, 60999.1, 60999.5, 61000.1])
    assert list(curve["kind"]) == ["source", "source", "forced", "source"]
    assert curve["flux"].unit == u.nJy
    assert np.isnan(curve["flux"][2])
    known.correct(Correction(41, 7, None, 1, 0, "retracted", "satellite", 61001.0))
    known.correct(Correction(40, 7, 9, 1, 0, "reassigned", "merged", 61001.0))
    assert np.allclose(alert.light_curve().time.mjd, [60999.5, 61000.1])  # one is gone, one is of another object
    known.correct(Correction(42, 7, 9, 1, 0, "reassigned", "merged", 61002.0))
    assert alert.object_id == 9
    assert "object 9" in repr(alert)
    assert np.allclose(alert.light_curve().time.mjd, [60998.1, 60999.5, 61000.1])
    known.correct(Correction(42, 9, None, 1, 0, "retracted", "bad visit", 61003.0))
    assert alert.withdrawn
    assert "taken back" in alert._repr_html_()


def test_forced_photometry_of_images_that_were_taken_back_is_left_out():
    packet = alert_packet()
    times = {(1, 0): 60990.0, (2, 0): 60991.0, (2, 1): 60992.0, (3, 0): 60993.0}
    packet["prvDiaForcedSources"] = [
        {
            "visit": v,
            "detector": d,
            "midpointMjdTai": t,
            "timeProcessedMjdTai": 61000.0,
            "band": "r",
            "psfFlux": 1.0,
            "psfFluxErr": 1.0,
        }
        for (v, d), t in times.items()
    ]
    known = KnownCorrections()
    alert = ReceivedAlert(packet, "alerts", 0, 1, "7", {}, known)

    def forced():
        curve = alert.light_curve()
        return curve.time.mjd[np.array(curve["kind"]) == "forced"].tolist()

    known.correct(Correction(98, 5, None, 1, 0, "retracted", "satellite", 61001.0))  # of another object on the image
    known.correct(Correction(99, 5, 5, 2, 0, "replaced", "processed anew", 61001.0))
    known.correct(
        Correction(97, 5, 5, 3, 0, "replaced", "processed anew", 60999.0)
    )  # the row is of the processing since
    assert forced() == pytest.approx([60992.0, 60993.0])
    known.correct(Correction(42, 7, None, 9, 0, "reassigned", "a body", 61002.0))
    assert alert.object_id is None
    assert forced() == []
    packet["prvDiaForcedSources"] = None
    assert forced() == []


def test_who_takes_too_long_is_told_what_to_do():
    error = kafka_error(KafkaError(KafkaError._MAX_POLL_EXCEEDED))
    assert isinstance(error, BrokerUnavailable)
    assert "max.poll.interval.ms" in str(error)
    assert "iterate again" in str(error)


def test_an_alert_is_shown_as_text_and_as_a_page(tmp_path, capsys):
    alert = alertprod_client.Alert(alert_packet())
    alert.show()
    said = capsys.readouterr().out
    assert "5000 +- 100 nJy" in said
    assert said.splitlines()[0].split() == ["diaSourceId", "42"]
    alert.show(tmp_path / "alert.html")
    assert (tmp_path / "alert.html").read_text().count("<img ") == 3


@pytest.mark.parametrize("data", [b"no FITS", b"SIMPLE  =                    T", b"\x1f\x8brubbish"])
def test_a_broken_cutout_is_named(data):
    with pytest.raises(AlertError, match="cutoutScience"):
        alertprod_client.Alert({**alert_packet(), "cutoutScience": data}).cutout("Science")


def test_a_cutout_that_promises_more_than_it_has_is_refused():
    whole = alert_packet()["cutoutScience"]
    header = whole[:2880].replace(b"NAXIS1  =                   31", b"NAXIS1  =              9999999")
    assert header != whole[:2880]
    with pytest.raises(AlertError, match=r"cut short|cutoutScience"):
        alertprod_client.Alert({**alert_packet(), "cutoutScience": header + whole[2880:]}).cutout("Science")


def test_times_are_read_in_the_forms_that_people_write():
    from datetime import UTC, datetime

    from astropy.time import Time

    want = 1_790_812_800_000  # 2026-10-01 00:00 UTC, from `date -d 2026-10-01T00:00Z +%s`
    forms = ("2026-10-01", "2026-10-01T02:00+02:00", datetime(2026, 10, 1), datetime(2026, 10, 1, tzinfo=UTC),
             Time("2026-10-01"), 61314 + 37 / 86400)  # fmt: skip
    assert {milliseconds(form) for form in forms} == {want}
    for wrong in ("yesterday", None, [1]):
        with pytest.raises(AlertError, match="start"):
            milliseconds(wrong)
