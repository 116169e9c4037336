"""Times of headers: every way of writing one moment, and what is refused, with file and card."""

import json
import math

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time

from exposure import Exposure, SkyWcs
from exposure.errors import CardInvalid, FitsUnreadable, InstrumentError
from exposure.header.cards import Cards
from exposure.header.rules import TimeRule
from exposure.instrument import Instrument
from exposure.io.native import open_fits
from exposure.io.plain import header_visit_info
from service.errors import BadMessage
from service.intake.headers import read_facts
from service.intake.message import image_facts, parse_message, resolve_message
from service.processing.images import open_science

UTC = "2024-03-02T03:04:05.5"
MOMENT = float(Time(UTC, scale="utc").tai.mjd)
TOL = 2e-3 / 86400  # 2 ms: a JD in a double is good to 40 us, TDB differs by 1.7 ms


def at(rule, name="m31.fits", **header):
    keys = {key.replace("__", "-"): value for key, value in header.items()}
    return TimeRule(**{"key": "DATE-OBS"} | rule).mjd_tai(Cards([keys], name), 0.0)


@pytest.mark.parametrize(
    ("rule", "header"),
    [
        ({}, {"DATE__OBS": UTC}), ({}, {"DATE__OBS": UTC + "Z"}), ({}, {"DATE__OBS": "2024-03-02 03:04:05.5000000"}),
        ({}, {"DATE__OBS": "2024-03-02T05:04:05.5+02:00"}), ({}, {"DATE__OBS": "2024-03-01T22:34:05.5-0430"}),
        ({}, {"DATE__OBS": "2024-03-02", "TIME__OBS": "03:04:05.5"}), ({}, {"DATE__OBS": "2024/03/02", "UT": "3:04:05.5"}),
        ({}, {"DATE__OBS": "2024-03-02", "UTC__OBS": "03:04:05.5"}), ({}, {"DATE__OBS": "2024-03-02", "UTSTART": "03:04:05.5"}),
        ({"time_key": "SHUTOPEN"}, {"DATE__OBS": "2024-03-02", "TIME__OBS": "11:11:11", "SHUTOPEN": "03:04:05.5"}),
        ({"key": "MJD-OBS", "format": "mjd"}, {"MJD__OBS": Time(UTC).mjd}), ({"key": "JD", "format": "jd"}, {"JD": Time(UTC).jd}),
        ({"key": "MJD-OBS", "format": "mjd"}, {"MJD__OBS": f"{Time(UTC).mjd:.12E}".replace("E", "D")}),
        ({"key": "MJD-OBS", "format": "mjd"}, {"MJD__OBS": MOMENT, "TIMESYS": "TAI"}),
        ({"key": "MJD-OBS", "format": "mjd", "scale": "tai"}, {"MJD__OBS": MOMENT}),
        ({}, {"DATE__OBS": Time(UTC).tt.isot, "TIMESYS": "TT"}), ({}, {"DATE__OBS": Time(UTC).tdb.isot, "TIMESYS": "TDB"}),
        ({}, {"DATE__OBS": Time(MOMENT - 19 / 86400, format="mjd").isot, "TIMESYS": "GPS"}), ({}, {"DATE__OBS": UTC, "TIMESYS": "UTC(NIST)"}), ({}, {"DATE__OBS": UTC, "TIMESYS": "utc approximate"}),
        ({"key": "UT-OBS"}, {"UT__OBS": UTC, "TIMESYS": "TAI"}),
        ({"key": "FILENAME", "regex": r"(\d{8})_(\d{6}\.\d)", "format": "%Y%m%d%H%M%S.%f"}, {}),
        ({"key": "FILENAME", "regex": r"(\d{8})", "format": "%Y%m%d"}, {"UT": "03:04:05.5"}),
    ],
)  # fmt: skip
def test_one_moment_written_in_many_ways(rule, header):
    assert at(rule, name="c1_20240302_030405.5.fits", **header) == pytest.approx(MOMENT, abs=TOL)


def test_midnight_leap_seconds_and_old_dates():
    assert at({}, DATE__OBS="2024-02-29T24:00:00") == at({}, DATE__OBS="2024-03-01T00:00:00")
    leap = at({}, DATE__OBS="2016-12-31T23:59:60") - at({}, DATE__OBS="2016-12-31T23:59:59")
    assert leap * 86400 == pytest.approx(1.0, abs=1e-4)  # 1 us of an MJD is a part in 1e16 too much for a double
    pattern = {"format": "%Y%m%d%H%M%S"}
    assert at(pattern, DATE__OBS="20161231235960") == pytest.approx(at({}, DATE__OBS="2016-12-31T23:59:60"), abs=1e-9)
    assert at({}, DATE__OBS="31/12/99", TIME__OBS="01:02:03") == at({}, DATE__OBS="1999-12-31T01:02:03")
    assert at({}, DATE__OBS="03/02/24", UT="01:02:03") == at({"scale": "tai"}, DATE__OBS="1924-02-03T01:02:03"), (
        "a plate"
    )
    shifted = TimeRule(key="DATE-OBS", at="end").mjd_tai({"DATE-OBS": UTC}, 60.0)
    assert (MOMENT - shifted) * 86400 == pytest.approx(30.0, abs=1e-4)


@pytest.mark.parametrize(
    ("rule", "header", "words"),
    [
        ({}, {"DATE__OBS": "2024-03-02"}, "without a time"), ({}, {"DATE__OBS": "31/12/99"}, "without a time"),
        ({}, {"DATE__OBS": "2024-03-02", "TIME__OBS": "soon"}, "TIME-OBS='soon'"), ({}, {"DATE__OBS": "2024-03-02", "UT": 3.5}, "UT='3.5'"),
        ({}, {"DATE__OBS": ""}, "no time"), ({}, {"DATE__OBS": "yesterday"}, "no time"), ({}, {"DATE__OBS": 2460345.5}, "no time"),
        ({}, {"DATE__OBS": "2024-13-02T01:02:03"}, "no date"), ({}, {"DATE__OBS": "2024-03-02T25:02:03"}, "no time"),
        ({}, {"DATE__OBS": "2024-03-02T03:04:60"}, "no time"), ({}, {"DATE__OBS": "2024-03-02T03:64:00"}, "no time"),
        ({}, {"DATE__OBS": "2024-03-02T23:59:60"}, "no time"), ({}, {"DATE__OBS": "2024-03-02T24:00:01"}, "no time"),
        ({}, {"DATE__OBS": "1970-01-01T00:00:12"}, "clock"), ({}, {"DATE__OBS": "0001-01-01T00:00:00"}, "1890"),
        ({}, {"DATE__OBS": "2089-01-01T00:00:00"}, "future"), ({}, {"DATE__OBS": "9999-01-01T00:00:00"}, "2100"),
        ({"key": "MJD-OBS", "format": "mjd"}, {"MJD__OBS": 2460345.7118}, "looks like a JD"),
        ({"key": "JD", "format": "jd"}, {"JD": 60345.7}, "looks like an MJD"), ({"key": "MJD-OBS", "format": "mjd"}, {"MJD__OBS": 0.0}, "1890"),
        ({"key": "MJD-OBS", "format": "mjd"}, {"MJD__OBS": 1.7e9}, "1890"), ({"key": "MJD-OBS", "format": "mjd"}, {"MJD__OBS": "60345,7"}, "no number"),
        ({"key": "MJD-OBS", "format": "mjd"}, {"MJD__OBS": 80000.0}, "future"), ({"key": "MJD-OBS", "format": "mjd"}, {"MJD__OBS": "nan"}, "no number"),
        ({}, {"DATE__OBS": UTC, "TIMESYS": "LOCAL"}, "TIMESYS='LOCAL'"), ({"scale": "utc"}, {"DATE__OBS": UTC, "TIMESYS": "TAI"}, "contradicts"),
        ({}, {"DATE__OBS": UTC + "Z", "TIMESYS": "TAI"}, "UTC"), ({"format": "%Y-%m-%d"}, {"DATE__OBS": "2024-03-02"}, "without a time"),
    ],
)  # fmt: skip
def test_what_is_no_moment_names_file_and_card(rule, header, words):
    key = rule.get("key", "DATE-OBS")
    with pytest.raises(CardInvalid, match=words) as caught:
        at(rule, **header)
    assert "m31.fits" in str(caught.value)
    assert key in str(caught.value) or "TIMESYS" in str(caught.value)
    assert caught.value.code == "bad_card"


def cam(**more):
    return Instrument.model_validate({"name": "cam", "pixel_scale": 0.4, **more})


def image(tmp_path, raw=None, **cards):
    """A plain image with cards as astropy writes them, some replaced by raw text."""
    header = fits.Header(
        {
            "DATE-OBS": UTC,
            "EXPTIME": 30.0,
            "FILTER": "r",
            "GAIN": 1.5,
            "RDNOISE": 5.0,
            "SATURATE": 6e4,
            "OBSERVER": "nobody",
        }
        | cards
    )
    path = tmp_path / "m31.fits"
    fits.writeto(path, np.random.default_rng(1).normal(300, 5, (40, 50)).astype(np.float32), header, overwrite=True)
    content = bytearray(path.read_bytes())
    for key, text in (raw or {}).items():
        start = content.index(f"{key:<8}=".encode())
        content[start : start + 80] = (text if isinstance(text, bytes) else text.encode())[:80].ljust(80)
    path.write_bytes(content)
    return path


def visit_info(path, rules=None, **known):
    with open_fits(path) as hdus:
        return header_visit_info(hdus, rules or cam(), known, path)


@pytest.mark.parametrize(
    ("cards", "raw"),
    [
        ({"EXPTIME": 0.0}, {}), ({"EXPTIME": -30.0}, {}), ({"EXPTIME": "nan"}, {}), ({"EXPTIME": "inf"}, {}), ({"EXPTIME": "30 s"}, {}),
        ({"EXPTIME": "30,0"}, {}), ({"EXPTIME": True}, {}), ({"EXPTIME": "1_0"}, {}), ({}, {"EXPTIME": "EXPTIME =                  NaN"}),
        ({}, {"EXPTIME": "EXPTIME =                 30,0"}), ({}, {"EXPTIME": "EXPTIME ="}), ({}, {"EXPTIME": "EXPTIME = '30.0"}),
        ({}, {"EXPTIME": "EXPTIME = " + "9" * 70}), ({}, {"EXPTIME": b"EXPTIME = 3\0\n0"}),
    ],
)  # fmt: skip
def test_an_exposure_time_is_a_number_above_zero(tmp_path, cards, raw):
    path = image(tmp_path, raw, **cards)
    with pytest.raises(CardInvalid, match=r"m31\.fits.*EXPTIME"):
        visit_info(path)
    assert visit_info(path, exposure_time=30.0).midpoint_mjd_tai == pytest.approx(MOMENT + 15 / 86400, abs=TOL)


def test_cards_in_odd_spellings_are_read(tmp_path):
    for text in (
        "EXPTIME =             3.00D+01",
        "exptime =                 30.0",
        "EXPTIME = 30 / [s]",
        "EXPTIME = 30.",
    ):
        assert visit_info(image(tmp_path, {"EXPTIME": text})).exposure_time == 30.0
    path = image(tmp_path, {"OBSERVER": "EXPTIME =                 99.0"})
    assert visit_info(path).exposure_time == 30.0, "of cards that come twice the first counts"
    long_name = image(tmp_path, {"OBSERVER": "HIERARCH ESO DET EXPTIME = 12.5"})
    assert visit_info(long_name, cam(exposure_time={"key": "ESO DET EXPTIME"})).exposure_time == 12.5


@pytest.mark.parametrize(
    "text",
    [
        "CONTINUE= '        '           /   '&' / Current observing program", b"OBSERVER= 'Zo\xeb'", b"OBSERVER= 'CASA 4.7\n\0  '",
        "OBSERVER=                  nan", "OBSERVER= 'no end", "FOCUS   = 1,5", "BADKEY%%= 3", "HIERARCH = = =",
    ],
)  # fmt: skip
def test_a_broken_card_that_nobody_needs_does_no_harm(tmp_path, text):
    assert visit_info(image(tmp_path, {"OBSERVER": text})).exposure_time == 30.0


@pytest.mark.parametrize(("key", "quantity"), [("GAIN", "gain"), ("SATURATE", "saturation"), ("RDNOISE", "read_noise")])
def test_numbers_of_the_detector_are_checked(tmp_path, key, quantity):
    rule = getattr(cam(**{quantity: {"key": key}}), quantity)
    for value in ("nan", "inf", -1.0, "1,5") + ((0.0,) if quantity != "read_noise" else ()):
        with fits.open(image(tmp_path, **{key: value})) as hdus, pytest.raises(CardInvalid, match=rf"m31\.fits.*{key}"):
            rule.number(Cards.of_hdus(hdus))
    with fits.open(image(tmp_path)) as hdus:
        del hdus[0].header[key]
        with pytest.raises(InstrumentError, match=rf"m31\.fits has no {key}"):
            rule.number(Cards.of_hdus(hdus))


def test_visit_and_detector_are_whole_numbers_in_range(tmp_path):
    rules = cam(visit={"key": "OBSID"}, detector={"key": "CCD"})
    assert visit_info(image(tmp_path, OBSID=2024030200123, CCD="07"), rules).visit == 2024030200123
    assert visit_info(image(tmp_path, OBSID=(1 << 53) - 1, CCD=7), rules).visit == (1 << 53) - 1
    for bad in (
        {"OBSID": 1 << 53, "CCD": 1},
        {"OBSID": -1, "CCD": 1},
        {"OBSID": 1.5, "CCD": 1},
        {"OBSID": 1, "CCD": 1 << 15},
    ):
        with pytest.raises(CardInvalid, match=r"m31\.fits: (OBSID|CCD)"):
            visit_info(image(tmp_path, **bad), rules)


def test_the_message_goes_before_the_header_and_is_checked_too():
    message = {"instrument": "simcam", "science": "/x.fits"}
    for field, value in (
        ("exposureTime", 0.0),
        ("exposureTime", math.inf),
        ("exposureTime", math.nan),
        ("photoCalib", math.inf),
        ("midpointMjdTai", 0.0),
        ("midpointMjdTai", 2460345.5),
        ("midpointMjdTai", math.nan),
    ):
        with pytest.raises(BadMessage, match=field):
            parse_message(json.loads(json.dumps(message | {field: value})))
    with pytest.raises(BadMessage, match="looks like a JD"):
        parse_message(message | {"midpointMjdTai": 2460345.5})
    assert image_facts(parse_message(message | {"visit": 0, "exposureTime": 1.0}).model_dump()) == {
        "visit": 0,
        "exposure_time": 1.0,
    }


def test_what_is_said_elsewhere_is_not_read_from_cards(tmp_path):
    """Broken cards of time, filter, WCS: no error where the message has what they would say."""
    path = image(
        tmp_path,
        {"EXPTIME": "EXPTIME = 1,5", "FILTER": "FILTER  = nan"},
        CTYPE1="RA---TAN",
        CTYPE2="DEC--TAN",
        CRVAL1="abc",
    )
    with pytest.raises(CardInvalid, match=r"m31\.fits"):
        Exposure.read_fits(path, cam())
    wcs = SkyWcs.tan((1.0, 1.0), (150.0, 2.0), np.eye(2) * 1e-4)
    known = {"visit": 0, "detector": 3, "midpoint_mjd_tai": 60000.5, "exposure_time": 12.0, "band": "g", "wcs": wcs}
    read = Exposure.read_fits(path, cam(), known)
    assert read.visit_info is not None
    assert (read.visit_info.visit, read.visit_info.detector, read.visit_info.exposure_time, read.band) == (
        0,
        3,
        12.0,
        "g",
    )
    assert read.wcs is wcs
    science = open_science({"science": str(path), "visit": 0, "detector": 3, "midpointMjdTai": 60000.5, "exposureTime": 12.0,
                            "band": "g", "wcs": str(_header_file(tmp_path, wcs))}, cam(), [tmp_path])  # fmt: skip
    assert science.wcs is not None
    assert science.wcs.terms == wcs.terms


def _header_file(folder, wcs):
    path = folder / "wcs.fits"
    fits.PrimaryHDU(header=wcs.to_header()).writeto(path)
    return path


def test_a_file_whose_structure_is_broken_names_the_card(tmp_path):
    path = image(tmp_path, {"OBSERVER": "BZERO   =             0,000000"})
    with pytest.raises(FitsUnreadable, match=r"m31\.fits.*BZERO"):
        Exposure.read_fits(path, cam())


def test_a_message_is_resolved_by_the_cards_that_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "somecam.yaml").write_text("name: somecam\npixel_scale: 0.4\ngain: {constant: 1.5}\n")
    monkeypatch.setenv("ALERTPROD_INSTRUMENTS", str(tmp_path))
    message = {"instrument": "somecam", "science": str(image(tmp_path, {"OBSERVER": "CONTINUE= '        '  / '&'"}))}
    found = resolve_message(parse_message(message), [tmp_path], read_facts)
    assert (found.visit, found.midpointMjdTai) == (24030211097, pytest.approx(MOMENT + 15 / 86400, abs=TOL))
    message["science"] = str(image(tmp_path, {"EXPTIME": "EXPTIME = 1,5"}))
    with pytest.raises(CardInvalid, match=r"m31\.fits.*EXPTIME"):
        resolve_message(parse_message(message), [tmp_path], read_facts)
    assert resolve_message(parse_message(message | {"exposureTime": 30.0}), [tmp_path], read_facts).visit == found.visit
