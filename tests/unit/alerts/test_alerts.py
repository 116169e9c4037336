"""alerts/: wire format, packets against the published schema, cutouts in astropy."""

import dataclasses
import io
import json

import fastavro
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from fastavro.utils import generate_one

from alertprod_client.filters import AlertFilter, read_for, read_scalars
from alerts import SCHEMA_ID, decode, encode, schema, schema_document, schema_ids
from alerts.archive.store import AlertArchive, AlertFile
from alerts.delivery.reconcile import trigger_id
from alerts.errors import AlertError, FilterError
from alerts.packets.build import build_alerts, build_packets
from alerts.packets.cutouts import CutoutMaker, cutout_sides
from alerts.packets.rows import encode_rows
from alerts.packets.schemas import fields_of
from alerts.packets.trim import trim
from alerts.packets.wire import decode_body, frame
from apdb import columns_of, empty_frame
from tests.support.alert_inputs import frame_with, inputs
from tests.support.exposures import make_exposure

NOT_SENT = {"DiaSource": {"ssObjectReassocTimeMjdTai"}, "DiaObject": {"validityEndMjdTai"}, "DiaForcedSource": set()}


@pytest.mark.parametrize(("table", "record"), [("DiaSource", "diaSource"), ("DiaObject", "diaObject"),
                                               ("DiaForcedSource", "diaForcedSource")])  # fmt: skip
def test_every_column_is_sent_or_named_as_an_exception(table, record):
    sent = {name for name, _, _ in fields_of(record)}
    assert {c.name for c in columns_of(table)} - sent == NOT_SENT[table]


def test_packets_follow_the_published_schema_and_the_frames():
    data = inputs()
    packets = list(build_packets(data))
    for packet in packets:
        raw = encode(packet)
        assert raw[:5] == b"\x00\x00\x00\x04\x4d"
        back = fastavro.schemaless_reader(io.BytesIO(raw[5:]), schema(1101), None)
        assert back == decode(raw)
        assert fastavro.validate(packet, schema())
    first, second, solar = packets
    assert first["diaSource"]["psfFlux"] == pytest.approx(float(data.sources.psfFlux[0]))
    assert first["diaSource"]["trailFlux"] is None
    assert [p["diaSourceId"] for p in first["prvDiaSources"]] == [5, 6]
    assert [p["diaForcedSourceId"] for p in first["prvDiaForcedSources"]] == [3]
    assert second["prvDiaSources"] is None
    assert solar["diaObject"] is None
    assert solar["diaSource"]["diaObjectId"] is None
    assert solar["ssSource"]["ssObjectId"] == int(data.ss_sources.ssObjectId[0])
    assert solar["prvDiaForcedSources"] is None
    assert solar["cutoutDifference"] is None  # its position is off the image
    assert first["observation_reason"] == "why"


def test_cutouts_open_in_astropy_with_the_right_sky_and_pixels():
    e = make_exposure()
    e.image[20:40, 20:60] = np.arange(800).reshape(20, 40)
    x, y = 12345 + 41.3, 67890 + 30.6
    with fits.open(io.BytesIO(CutoutMaker(e, 12.5).cut(x, y, 30))) as hdus:
        hdus.verify("exception")
        assert [h.name for h in hdus] == ["PRIMARY", "UNCERT", "MASK", "PSFIMAGE"]
        head, image = hdus[0].header, hdus[0].data
        assert image.shape == (30, 30)
        wcs = WCS(head)
        px, py = head["CRPIX1"] - 1, head["CRPIX2"] - 1
        ra, dec = e.wcs.pixel_to_sky([x], [y])
        assert np.allclose(wcs.all_pix2world(px, py, 0), [ra[0], dec[0]], atol=1e-9)
        ra2, dec2 = e.wcs.pixel_to_sky([x + 5], [y - 3])
        assert np.allclose(wcs.all_pix2world(px + 5, py - 3, 0), [ra2[0], dec2[0]], atol=1e-8)
        x0, y0 = head["CUTMINX"] + 1, head["CUTMINY"] + 1
        assert (round(px + x0, 6), round(py + y0, 6)) == (round(x, 6), round(y, 6))
        want = e.image[y0 - 67890 : y0 - 67890 + 30, x0 - 12345 : x0 - 12345 + 30] * e.photo_calib.at([x], [y])[0]
        assert np.allclose(image, want, rtol=1e-5)
        assert head["ROTPA"] == 12.5
        assert hdus["PSFIMAGE"].data.sum() == pytest.approx(1, abs=1e-4)


def test_cutouts_at_the_edge_are_padded():
    with fits.open(io.BytesIO(CutoutMaker(make_exposure()).cut(12346.0, 67891.0, 40))) as hdus:
        assert hdus[0].data.shape == (40, 40)
        assert np.isnan(hdus[0].data[0, 0])
        assert np.isinf(hdus["UNCERT"].data[0, 0])
        assert hdus["MASK"].data[0, 0] == 1 << 8
    assert cutout_sides([3, 64, 900]).tolist() == [30, 64, 102]


def test_wire_format_refuses_what_it_does_not_know():
    assert SCHEMA_ID == 1101
    for data in (b"", b"\x01\x00\x00\x04\x4d", b"\x00\x00\x00\x04\x4d\x02"):
        with pytest.raises(AlertError):
            decode(data)
    with pytest.raises(AlertError, match="no alert schema"):
        decode(b"\x00\x00\x00\xff\xff" + b"\x00" * 10)
    with pytest.raises(AlertError, match="does not fit"):
        encode({"diaSourceId": 1})


@pytest.mark.parametrize("codec", ["zstandard", "deflate", "null"])
def test_alert_file_is_an_avro_container_that_is_checked_alert_by_alert(tmp_path, codec):
    archive = AlertArchive(tmp_path, codec)
    file = archive.write(12345, 6, 1, build_alerts(inputs()))
    assert (file.name, file.count) == ("12/12345_6_1.avro", 3)
    assert [a.diaSourceId for a in archive.stream(file)] == [11, 12, 13]
    assert [a.key for a in archive.stream(file)] == [1, 2, 77]
    assert [a.diaSourceId for a in archive.stream(file, 1, 2)] == [12]
    with pytest.raises(AlertError, match="index of alert file"):
        list(archive.stream(dataclasses.replace(file, checksum="0" * 64)))
    path = tmp_path / file.name
    with path.open("rb") as data:  # any Avro library reads it
        packets = list(fastavro.reader(data))
    assert packets == list(build_packets(inputs()))
    again = archive.write(12345, 6, 1, build_alerts(inputs()))
    assert again == file  # the same alerts give the same bytes
    bare = AlertFile(file.name, 3, file.checksum)  # a file without index is read as any container
    assert list(archive.stream(bare, 1)) == list(archive.stream(file, 1))
    raw = bytearray(path.read_bytes())
    raw[int(file.rows()["offset"][1]) + 5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(AlertError, match="at alert 12"):
        list(archive.stream(file))
    path.write_bytes(b"nonsense")
    for f in (file, bare):
        with pytest.raises(AlertError, match="no Avro container"):
            list(archive.stream(f))
    with pytest.raises(AlertError, match="cannot be read"):
        list(archive.stream(AlertFile("12/absent.avro", 3, "")))
    with pytest.raises(AlertError, match="no name within"):
        archive.path("../../etc/passwd")
    assert archive.delete(file.name)
    assert not archive.delete(file.name)


def test_files_of_older_schemas_stay_readable(tmp_path):
    """An alert of 10.0 in a file of that time is read, framed and filtered by its own schema."""
    packet = generate_one(schema(1000))
    (tmp_path / "1").mkdir()
    with (tmp_path / "1" / "old.avro").open("wb") as out:
        fastavro.writer(out, schema(1000), [packet], metadata={"alertprod.schema_id": "1000"})
    (alert,) = AlertArchive(tmp_path).stream(AlertFile("1/old.avro", 1, ""))
    assert alert.schema_id == 1000
    assert decode(frame(alert.body, alert.schema_id)) == decode_body(alert.body, 1000)
    assert decode_body(alert.body, 1000)["diaSource"].keys() == packet["diaSource"].keys()
    assert read_scalars(alert.body, 1000)["diaSourceId"] == packet["diaSourceId"]


def test_a_failed_attempt_leaves_no_file(tmp_path):
    def broken():
        yield next(build_alerts(inputs()))
        raise AlertError("stop")

    for place in (tmp_path, "memory://broken"):
        archive = AlertArchive(place)
        with pytest.raises(AlertError, match="stop"):
            archive.write(1000, 0, 1, broken())
        with pytest.raises(AlertError, match="cannot be read"):
            archive.open("1/1000_0_1.avro")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_any_fsspec_store_can_be_the_archive():
    archive = AlertArchive("memory://alerts-test")
    file = archive.write(12345, 6, 1, build_alerts(inputs()))
    assert list(AlertArchive("memory://alerts-test").stream(file)) == list(build_alerts(inputs()))
    assert archive.delete(file.name)


def test_rows_are_encoded_as_fastavro_does_it():
    """Every kind of value: nulls of each type, negative and large ids, infinities, text, missing columns."""
    n = 50
    frame = frame_with("DiaSource", n)
    rng = np.random.default_rng(5)
    for name, kind, nullable in fields_of("diaSource"):
        if name in frame and kind in ("float", "double") and nullable:
            frame.loc[rng.uniform(size=n) < 0.3, name] = np.nan
    frame["diaSourceId"] = rng.integers(-(1 << 62), 1 << 62, n)
    frame.loc[3, ["psfFlux", "ra"]] = [np.inf, -np.inf]
    bands = ["r", None, "", "zé", "y"] * 10
    frame["band"] = np.array(bands, object)
    frame["isDipole"] = pd.array([True, False, None, True, False] * 10, dtype="boolean")
    frame = frame.drop(columns=["snr", "detector"])
    encoded = encode_rows(frame, "diaSource")
    names = {f["name"]: f for f in schema()["fields"]}
    record = names["diaSource"]["type"]
    for k in range(n):
        row = fastavro.schemaless_reader(io.BytesIO(encoded.row(k)), record, None)
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, record, row)
        assert buffer.getvalue() == bytes(encoded.row(k))
        assert row["diaSourceId"] == frame.diaSourceId[k]
        assert row["band"] == (bands[k] or None)
        flag = frame.isDipole[k]
        assert row["isDipole"] is (None if flag is pd.NA else bool(flag))
        assert (row["snr"], row["detector"]) == (None, 0)
        for name in ("psfFlux", "raErr", "ra", "trailLength"):
            want = frame[name][k]
            assert row[name] == (want if want == want else None), name
    assert encode_rows(frame.iloc[:0], "diaSource").offsets == [0]
    unsigned = frame.assign(diaSourceId=np.arange(n, dtype=np.uint64) + np.uint64(2**63 - n + 1))
    with pytest.raises(AlertError, match=f"diaSourceId: {2**63} does not fit a long"):
        encode_rows(unsigned, "diaSource")
    assert encode_rows(unsigned.iloc[:-1], "diaSource").row(0) is not None


def test_history_goes_to_its_object_in_order_of_time():
    data = inputs()
    rng = np.random.default_rng(1)
    n = 60
    history = frame_with("DiaSource", n).assign(diaObjectId=rng.integers(1, 4, n), diaSourceId=np.arange(n) + 100)
    forced = frame_with("DiaForcedSource", n).assign(
        diaObjectId=rng.integers(1, 4, n), diaForcedSourceId=np.repeat(np.arange(n // 2), 2)
    )
    data.objects["nDiaSources"] = [9, 1]
    data = dataclasses.replace(data, history_sources=history, history_forced=forced)
    first, second, _ = build_packets(data)
    own = history[history.diaObjectId == 1].sort_values("midpointMjdTai")
    assert [p["diaSourceId"] for p in first["prvDiaSources"]] == own.diaSourceId.tolist()
    assert second["prvDiaSources"] is None  # one source: there is no earlier one
    for packet in (first, second):
        rows = pd.concat([forced, data.forced])
        rows = rows[rows.diaObjectId < 3].drop_duplicates("diaForcedSourceId")
        want = rows[rows.diaObjectId == packet["diaObject"]["diaObjectId"]].sort_values("midpointMjdTai")
        assert [f["diaForcedSourceId"] for f in packet["prvDiaForcedSources"]] == want.diaForcedSourceId.tolist()


def test_orbit_of_a_body_is_sent_when_it_is_known():
    bodies = pd.DataFrame({"ssObjectId": [77], "MPCORB_designation": ["2026 AB1"], "MPCORB_a": [2.5], "MPCORB_id": [9],
                           "MPCORB_created_at": [5]})  # fmt: skip
    first, _, solar = build_packets(dataclasses.replace(inputs(), bodies=bodies))
    assert first["mpc_orbits"] is None
    orbit = solar["mpc_orbits"]
    assert (orbit["designation"], orbit["a"], orbit["id"], orbit["created_at"], orbit["e"]) == (
        "2026 AB1",
        2.5,
        0,
        None,
        None,
    )


def test_psf_of_cutouts_can_be_the_average_or_left_out():
    e = make_exposure()
    x, y = 12345 + 41.3, 67890 + 30.6
    with fits.open(io.BytesIO(CutoutMaker(e, psf="average").cut(x, y, 30))) as hdus:
        at = e.psf.average_position()
        assert np.allclose(hdus["PSFIMAGE"].data, e.psf.image_at(*at)[0])
    with fits.open(io.BytesIO(CutoutMaker(e, psf="none").cut(x, y, 30))) as hdus:
        assert [h.name for h in hdus] == ["PRIMARY", "UNCERT", "MASK"]


def test_every_published_schema_can_be_had():
    ids = schema_ids()
    assert set(ids) >= {300, 400, 500, 600, 601, 700, 701, 702, 703, 704, 800, 900, 1000, 1100, 1101}
    for number in ids:
        document = json.loads(schema_document(number))
        assert "__named_schemas" not in json.dumps(document)
        fastavro.parse_schema(document)


def test_oversized_packets_are_trimmed_by_the_rule():
    data = inputs()
    history = frame_with("DiaForcedSource", 300).assign(diaObjectId=1, diaForcedSourceId=np.arange(300) + 50)
    data = dataclasses.replace(data, history_forced=history, objects=data.objects.assign(nDiaSources=3))
    data.sources["bboxSize"] = [50, 50, 50]
    body = next(build_alerts(data)).body
    whole = decode_body(body)
    sizes, limit = {}, len(body)
    for _ in range(60):
        limit = int(limit * 0.8)
        try:
            trimmed, done = trim(body, limit)
        except AlertError as error:
            reason = str(error)
            break
        assert len(trimmed) <= limit
        packet = decode_body(trimmed)
        sizes[done] = packet
        assert packet["diaSource"] == whole["diaSource"]
        assert packet["diaObject"] == whole["diaObject"]
    else:
        pytest.fail("no limit is too small")
    assert "without cutouts and history" in reason
    steps = list(sizes)
    assert steps[0] == "crop"
    assert steps[-1].startswith("crop,cutoutTemplate,cutoutScience,cutoutDifference,prvDiaForcedSources")
    with (
        fits.open(io.BytesIO(whole["cutoutDifference"])) as a,
        fits.open(io.BytesIO(sizes["crop"]["cutoutDifference"])) as b,
    ):
        assert (a[0].data.shape, b[0].data.shape) == ((50, 50), (30, 30))
        assert [h.name for h in a] == [h.name for h in b]
        assert np.array_equal(a["UNCERT"].data[10:40, 10:40], b["UNCERT"].data, equal_nan=True)
        assert np.array_equal(a["PSFIMAGE"].data, b["PSFIMAGE"].data)
        sky = [WCS(h[0].header).all_pix2world(h[0].header["CRPIX1"] + 3, h[0].header["CRPIX2"] - 2, 1) for h in (a, b)]
        assert np.allclose(sky[0], sky[1], atol=1e-12)
        assert b[0].header["CUTMINX"] == a[0].header["CUTMINX"] + 10
    last = sizes[steps[-1]]["prvDiaForcedSources"]
    assert last == whole["prvDiaForcedSources"][len(whole["prvDiaForcedSources"]) - len(last) :]  # the newest stay


PACKET = {
    "diaSourceId": 5, "diaSource": {"band": "r", "snr": 12.0, "psfFlux": -3000.0, "isDipole": False, "reliability": None},
    "diaObject": {"nDiaSources": 3}, "ssSource": None, "prvDiaSources": [1, 2], "target_name": "what",
}  # fmt: skip


@pytest.mark.parametrize(("text", "passes"), [
    ("diaSource.band == 'r' and diaSource.snr > 10", True), ("diaSource.band in ['g', 'i']", False),
    ("diaSource.band not in ['g', 'i']", True), ("abs(diaSource.psfFlux) > 1000 and not diaSource.isDipole", True),
    ("diaSource.reliability > 0.5", False), ("diaSource.reliability <= 0.5", False), ("diaSource.reliability is None", True),
    ("not diaSource.reliability > 0.5", True), ("ssSource is not None", False), ("ssSource.ephRate > 1", False),
    ("len(prvDiaSources) == 2", True), ("diaSource.reliability + 1 > 0 or diaObject.nDiaSources >= 2", True),
    ("-diaSource.psfFlux / 2 > 1499 and diaSource.snr * 2 - 4 == 20", True), ("diaSource.snr / 0 > 1", False),
    ("diaSource.band > 5", False), ("target_name == 'what'", True), ("max(diaSource.snr, 20) == 20", True),
    ("not (diaSource.band > 5)", True),
])  # fmt: skip
def test_filters_say_what_passes(text, passes):
    assert AlertFilter(text)(PACKET) is passes


@pytest.mark.parametrize("text", [
    "", "diaSource.snr >", "diaSource.brightness > 5", "brightness > 5", "__import__('os')", "diaSource.__class__",
    "diaSource.snr.real > 5", "1 < diaSource.snr < 5", "diaSource.band in diaObject", "lambda: 1", "[x for x in y]",
    "diaSource['snr'] > 5", "ssSource is 5", "2 ** 999999999", "f'{diaSource}'", "abs(diaSource.snr, key=1)", "diaSource.snr(3)",
    "(" * 500 + "1" + ")" * 500, "1 == 1 or " * 400,
])  # fmt: skip
def test_filters_refuse_what_is_no_filter(text):
    with pytest.raises(FilterError):
        AlertFilter(text)


def test_filters_need_only_the_scalars_of_a_packet():
    body = next(build_alerts(inputs())).body
    whole, light = decode_body(body), read_scalars(body)
    assert {k for k in whole if k not in light} == {
        "prvDiaSources",
        "prvDiaForcedSources",
        "cutoutDifference",
        "cutoutScience",
        "cutoutTemplate",
    }
    assert all(whole[k] == v for k, v in light.items())
    few, many = AlertFilter("diaSource.snr > 0"), AlertFilter("len(prvDiaSources) == 2 and cutoutScience is not None")
    assert read_for([few], body) == light
    assert read_for([few, many], body) == whole
    assert many(read_for([many], body))
    assert not many(read_for([many], [*build_alerts(inputs())][1].body))


def test_the_reconciler_reads_the_trigger_from_the_first_bytes():
    for number in (0, 1, 63, 64, 12345678901234567, (1 << 63) - 1):
        assert trigger_id(encode({**next(build_packets(inputs())), "diaSourceId": number})) == number
    with pytest.raises(AlertError, match="cut short"):
        trigger_id(b"\0\0\0\4\x4d\xff")


def test_empty_frames_have_the_columns_and_types():
    for table in ("DiaObject", "DiaSource", "DiaForcedSource"):
        frame = empty_frame(table)
        assert list(frame.columns) == [c.name for c in columns_of(table)]
        assert frame.empty
