"""Real packets: Rubin's are read and encoded again field for field; ZTF's stamps go through the same code."""

import io

import fastavro
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from PIL import Image

from alertprod_client.filters import AlertFilter, read_scalars
from alerts.packets.schemas import schema
from alerts.packets.wire import decode, encode
from alerts.views import cutout, draw_alert, forced_frame, light_curve, sources_frame, stamp_images
from tests.support.real import real_data

RUBIN = 1000  # schema 10.0


def plain(value, kind, names):
    """Return a value of the Parquet file as the Avro schema has it (NaN is null there, whole numbers are floats)."""
    if isinstance(kind, list):
        if value is None or value != value:
            return None
        return plain(value, next(k for k in kind if k != "null"), names)
    if isinstance(kind, str) and kind in names:
        kind = names[kind]
    if isinstance(kind, dict):
        if kind["type"] == "record":
            return {f["name"]: plain(value.get(f["name"]), f["type"], names) for f in kind["fields"]}
        if kind["type"] == "array":
            return [plain(v, kind["items"], names) for v in value]
        return value
    if kind in ("int", "long"):
        return int(value)
    if kind == "float":
        return float(np.float32(value))
    return value


@pytest.fixture(scope="module")
def rubin():
    folder = real_data("rubin_alerts")
    rows = pq.read_table(folder / "rubin_sample_alerts_v10_0.parquet").to_pylist()
    full = schema(RUBIN)
    return [
        {f["name"]: plain(row[f["name"]], f["type"], full["__named_schemas"]) for f in full["fields"]} for row in rows
    ]


def test_rubin_packets_are_read_and_encoded_again_field_for_field(rubin):
    assert len(rubin) == 25
    for packet in rubin:
        data = encode(packet, RUBIN)
        assert data[:5] == b"\x00\x00\x00\x03\xe8"
        back = decode(data)
        assert back == packet
        assert fastavro.validate(back, schema(RUBIN))
        assert encode(back, RUBIN) == data
        scalars = read_scalars(data[5:], RUBIN)
        assert scalars["diaSource"] == packet["diaSource"]
    bright = AlertFilter("diaSource.snr > 20 and diaObject.nDiaSources >= 1")
    chosen = [bool(bright(p)) for p in rubin]
    assert chosen == [
        p["diaSource"]["snr"] is not None
        and p["diaSource"]["snr"] > 20
        and p["diaObject"] is not None
        and p["diaObject"]["nDiaSources"] >= 1
        for p in rubin
    ]


def test_rubin_packets_become_tables_images_and_a_picture(rubin, tmp_path):
    longest = max(rubin, key=lambda p: len(p["prvDiaForcedSources"] or []))
    sources, forced, curve = sources_frame(longest), forced_frame(longest), light_curve(longest)
    assert len(curve) == len(sources) + len(forced)
    assert curve["flux"].unit == u.nJy
    assert (np.diff(curve["time"].tai.mjd) >= 0).all()
    for packet in rubin:
        stamp = cutout(packet, "Difference")
        assert stamp.shape[0] == stamp.shape[1] >= 30
        assert stamp.unit == u.nJy
        assert stamp.uncertainty.array.shape == stamp.shape
        assert abs(stamp.psf.sum() - 1) < 0.05
    draw_alert(longest, tmp_path / "rubin.png")
    with Image.open(tmp_path / "rubin.png") as image:
        picture = np.asarray(image.convert("L"))
    assert picture.shape[1] > 900
    assert len(np.unique(picture)) > 100


def test_ztf_stamps_go_through_the_same_code(tmp_path):
    files = sorted(real_data("ztf_alerts").glob("*.avro"))
    assert len(files) == 30
    for path in files:
        with path.open("rb") as data:
            packet = next(fastavro.reader(data))
        images = stamp_images(packet)
        assert set(images) == {"Science", "Template", "Difference"}
        # stamps at the edge of the image are smaller
        assert all(max(i.shape) == 63 and np.isfinite(i).any() for i in images.values())
        middle = images["Difference"]
        if middle.shape == (63, 63):  # the detection is in the middle (its sign is that of the subtraction made)
            scatter = np.nanmedian(np.abs(middle - np.nanmedian(middle)))
            assert np.nanmax(np.abs(middle[28:35, 28:35])) > 5 * scatter, path.name
    draw_alert(packet, tmp_path / "ztf.png")
    with Image.open(tmp_path / "ztf.png") as picture:
        assert picture.size[0] > 900
    assert cutout({**packet, "cutoutScience": None}, "Science") is None
    assert cutout({"cutoutScience": io.BytesIO().getvalue() or None}, "Science") is None
