"""alerts/: wire format, packets against the published schema, cutouts in astropy."""

import io

import fastavro
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from alerts import SCHEMA_ID, decode, encode, schema
from alerts.archive import AlertFile, read_alerts, sweep_orphans, write_alerts
from alerts.cutouts import CutoutMaker, cutout_side
from alerts.errors import AlertError
from alerts.packets import AlertInputs, build_packets
from apdb import columns_of, empty_frame
from tests.unit.test_exposure import make_exposure

NOT_SENT = {"DiaSource": {"ssObjectReassocTimeMjdTai"}, "DiaObject": {"validityEndMjdTai"}, "DiaForcedSource": set()}


@pytest.mark.parametrize(("table", "record"), [("DiaSource", "diaSource"), ("DiaObject", "diaObject"),
                                               ("DiaForcedSource", "diaForcedSource")])  # fmt: skip
def test_every_column_is_sent_or_named_as_an_exception(table, record):
    from alerts.packets import _fields

    sent = {name for name, _, _ in _fields(record)}
    assert {c.name for c in columns_of(table)} - sent == NOT_SENT[table]


def frame_with(table, n):
    rng = np.random.default_rng(0)
    out = {}
    for c in columns_of(table):
        kind = c.dtype.kind
        out[c.name] = (
            rng.normal(size=n).astype(c.dtype) if kind == "f" else rng.integers(1, 50, n).astype(c.dtype)
            if kind == "i" else rng.uniform(size=n) < 0.5 if kind == "b" else np.full(n, "r", object)
        )  # fmt: skip
    return pd.DataFrame(out)


def inputs():
    e = make_exposure()
    s = frame_with("DiaSource", 3)
    s["diaSourceId"], s["diaObjectId"], s["ssObjectId"] = [11, 12, 13], [1, 2, 0], [0, 0, 77]
    s["x"], s["y"], s["bboxSize"] = [12380.2, 12346.0, 12300.0], [67915.7, 67891.0, 67900.0], [20, 40, 500]
    s.loc[0, "trailFlux"] = np.nan
    o = frame_with("DiaObject", 2).assign(diaObjectId=[1, 2])
    h = frame_with("DiaSource", 2).assign(diaObjectId=[1, 1], diaSourceId=[5, 6])
    f = frame_with("DiaForcedSource", 2).assign(diaObjectId=[1, 2], diaForcedSourceId=[3, 4])
    ss = frame_with("SSSource", 1).assign(diaSourceId=13)
    return AlertInputs(s, o, h, f.iloc[:0], f, ss, e, e, e)


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
    assert [cutout_side(s) for s in (3, 64, 900)] == [30, 64, 102]


def test_wire_format_refuses_what_it_does_not_know():
    assert SCHEMA_ID == 1101
    for data in (b"", b"\x01\x00\x00\x04\x4d", b"\x00\x00\x00\x04\x4d\x02"):
        with pytest.raises(AlertError):
            decode(data)
    with pytest.raises(AlertError, match="no alert schema"):
        decode(b"\x00\x00\x00\xff\xff" + b"\x00" * 10)
    with pytest.raises(AlertError, match="does not fit"):
        encode({"diaSourceId": 1})


def test_alert_file_is_checked_and_orphans_are_swept(tmp_path):
    file = write_alerts(tmp_path, 12345, 6, 1, build_packets(inputs()))
    assert file.count == 3
    assert [p["diaSourceId"] for p in read_alerts(tmp_path, file)] == [11, 12, 13]
    with pytest.raises(AlertError, match="checksum"):
        list(read_alerts(tmp_path, AlertFile(file.name, 3, "0" * 64)))
    with pytest.raises(AlertError, match="cannot be read"):
        list(read_alerts(tmp_path, AlertFile("12/absent.avro", 3, "")))
    orphan = write_alerts(tmp_path, 12345, 6, 2, iter([]))
    assert sweep_orphans(tmp_path, {file.name}, older_than_s=-10) == 1
    assert not (tmp_path / orphan.name).exists()
    assert (tmp_path / file.name).exists()


def test_empty_frames_have_the_columns_and_types():
    for table in ("DiaObject", "DiaSource", "DiaForcedSource"):
        frame = empty_frame(table)
        assert list(frame.columns) == [c.name for c in columns_of(table)]
        assert frame.empty
