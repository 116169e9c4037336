"""Pages without a browser: what they answer without a database or to strangers, what they load, how they count."""

import asyncio
import gzip
import re
import threading
from datetime import UTC, datetime
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from fastapi.routing import iter_route_contexts

from apdb.errors import Busy
from apdb.schema.partitions import ensure_months
from apdb.sky.htm import htm_ids
from service.access.policy import PAGES, PUBLIC, RULES
from service.local.top import run_top
from service.pages import assets, kept, live
from service.pages.live import look
from service.pages.nights import page as night_page
from service.pages.nights.facts import Night, night_of, nights
from service.pages.nights.mosaic import mosaic
from service.pages.objects import page as object_page
from service.pages.objects.compass import compass_svg
from service.pages.objects.curve import binned
from service.pages.objects.periods import strongest_periods
from service.pages.objects.plot import curve_plot, ticks, worded
from service.pages.positions import position_of
from service.pages.streams import _oldest_unread
from service.pages.viewer import MOST_RENDERING, Viewer
from service.pages.visits.page import _against
from service.pages.words import age, mjd_utc, night_date, number, seconds
from service.settings import load_settings
from tasks.errors import CallerError
from tasks.waiting import wait_until
from tests.support.asking import asker
from tests.support.page_rows import OBJECT, store_rows

HTML = {"Accept": "text/html,application/xhtml+xml"}


def visit(number, detector, *, state="done", mjd=61000.5, spent=None, **more):
    plain = {
        "visit": number, "detector": detector, "instrument": "cam", "band": "r", "mjd": mjd, "state": state, "attempt": 1,
        "failures": 0, "code": None, "text": None, "next_at": None, "counts": {}, "seconds": spent, "created": None,
        "finished": None, "metrics": {}, "held": None, "latency": None, "alerts": 0, "published": None,
    }  # fmt: skip
    return {**plain, **more}


@pytest.mark.parametrize(("text", "ra", "dec"), [
    ("150.1 +2.2", 150.1, 2.2), ("150.1, -2.2", 150.1, -2.2), ("10:00:24 +02:12:00", 150.1, 2.2), ("10h00m24s -2d12m0s", 150.1, -2.2),
    ("10 00 24.0 -00 30 00", 150.1, -0.5), ("J100024.0+021200", 150.1, 2.2), ("AT J100024.00-021200.0", 150.1, -2.2),
    ("150.1° -2.2°", 150.1, -2.2), ("00:00:00 −00:00:36", 0.0, -0.01),
    ("ra=150.0003, dec=2.2013", 150.0003, 2.2013), ("RA: 10:00:24 Dec: -02:12:00", 150.1, -2.2), ("Dec. -2.2; R.A. 150.1", 150.1, -2.2),
    ("10h00m24s +2d12m", 150.1, 2.2), ("05 35.3 -05 23", 83.825, -5 - 23 / 60), ("10:00 +02:12", 150.0, 2.2), ("10h00m 2d12m", 150.0, 2.2),
    ("123.5°, −45.2°", 123.5, -45.2), ("123.5−45.2", 123.5, -45.2), ("10:00:24 02:12", 150.1, 2.2), ("00 00.5 −00 00.6", 0.125, -0.01),
    ("RA 10h00m24s, DEC +2d12m0s", 150.1, 2.2), ("ra 150.1° dec +2.2°", 150.1, 2.2),
])  # fmt: skip
def test_coordinates_are_understood_in_every_usual_form(text, ra, dec):
    found = position_of(text)
    assert (found.ra, found.dec) == pytest.approx((ra, dec), abs=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nova",
        "150.1",
        "400 10",
        "10 -91",
        "10:61:00 +02:00:00",
        "137851807203331",
        "ra=10, ra=20",
        "ra=10",
        "10 20 30 40",
        "10:61 +02:00",
        "2026-12-01",
    ],
)
def test_what_is_no_place_is_none(text):
    assert position_of(text) is None


def test_numbers_and_times_are_written_for_people():
    assert [seconds(v) for v in (None, 0.0123, 1.5, 75, 600, 9000, 3e6)] == [
        "–", "12 ms", "1.50 s", "75 s", "10 min", "2.5 h", "34.7 d",
    ]  # fmt: skip
    assert number(1234567.2) == "1 234 567"
    assert mjd_utc(60676.0 + 37 / 86400) == "2025-01-01 00:00:00"  # MJD 60676 is 1 January 2025; TAI is 37 s ahead
    assert night_date(60676) == "2025-01-01"
    assert age(datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, 0, 1, 30, tzinfo=UTC)) == "90 s ago"


def test_a_night_knows_its_slowest_step_its_pauses_and_what_never_came():
    night = Night(61000, [
        visit(3, 0, mjd=61000.90, spent={"difference": 3.0, "open": 1.0}),
        visit(2, 0, mjd=61000.52, spent={"difference": 1.0, "open": 1.0}),
        visit(2, 1, mjd=61000.52, state="failed", code="no_psf", text="why"),
        visit(1, 0, mjd=61000.51), visit(1, 1, mjd=61000.51), visit(0, 0, mjd=61000.50), visit(0, 1, mjd=61000.50, held="veto"),
    ])  # fmt: skip
    steps = {s.name: s for s in night.steps()}
    assert list(steps) == ["open", "difference"]  # the order in which they are taken
    assert steps["difference"].share == pytest.approx(4 / 6)
    assert (steps["difference"].longest, steps["difference"].visit) == (3.0, (3, 0))
    reasons = {g.what: g.reason for g in night.gaps()}
    assert "547 min" in reasons["no exposure"]  # 0.38 d between visits 2 and 3; the usual pause is 14.4 min
    assert reasons["visit 3: detector 1"].startswith("never came")
    assert reasons["visit 2, detector 1"] == "no_psf: why"
    assert reasons["visit 0, detector 1"].endswith("held: veto")
    assert night.states["failed"] == 1
    assert night.absent == 1


def test_the_pace_of_a_night_leaves_out_when_nothing_was_to_be_done():
    def at(second):
        return datetime.fromtimestamp(1_800_000_000 + second, UTC)

    # 48 that came together and ended one every 4 s, and one 6 minutes later that took 6 s
    visits = [visit(k, 0, created=at(0), finished=at(4 * k)) for k in range(1, 49)]
    visits.append(visit(99, 0, created=at(552), finished=at(558)))
    pace = Night(61000, visits).pace()
    assert (pace.finished, pace.minutes) == (49, pytest.approx((4 * 48 + 6) / 60))
    assert pace.per_minute == pytest.approx(49 / 3.3)
    # of the last five minutes only: none of the first 48 but those that ended then
    assert Night(61000, visits).pace(5.0).finished == 1
    assert Night(61000, [visit(1, 0)]).pace() is None


def test_the_mosaic_is_laid_out_by_the_camera_file_and_coloured_by_a_metric(tmp_path):
    camera = tmp_path / "camera.yaml"
    entry = "{{id: {0}, name: d{0}, bbox: [0, 0, 99, 49], pixel_size_mm: [0.01, 0.01], offset_mm: [{1}, {2}]}}"
    places = ((0, 0.0, 0.0), (1, 2.0, 0.0), (2, 0.0, 2.0))
    camera.write_text("name: c\ndetectors:\n" + "".join(f"  - {entry.format(*p)}\n" for p in places))
    settings = load_settings(database_uri="postgresql://x@localhost/x", camera=camera)
    visits = [visit(1, 0, metrics={"seeing": 1.0}), visit(1, 1, metrics={"seeing": 2.0})]
    tiles, (width, height), limits = mosaic(settings, visits, [0, 1], "seeing")
    of = {t.detector: t for t in tiles}
    assert limits == (1.0, 2.0)
    assert [of[d].look for d in (0, 1, 2)] == ["shade-0", "shade-8", "state-absent"]
    assert of[1].x > of[0].x
    assert of[2].y < of[0].y  # up in the focal plane is up on the screen
    assert width / height == pytest.approx(3.0 / 2.5)


def curve_of(time, flux, error, band="r"):
    n = len(time)
    return pd.DataFrame({
        "forced": np.zeros(n, bool), "diaSourceId": np.arange(n), "visit": np.arange(n), "detector": 0, "band": band,
        "midpointMjdTai": time, "psfFlux": flux, "psfFluxErr": error, "scienceFlux": flux, "scienceFluxErr": error, "snr": 5.0,
    })  # fmt: skip


def test_bins_are_weighted_means_with_their_errors():
    table = binned(curve_of([0.1, 0.2, 1.5], [10.0, 16.0, 4.0], [1.0, 2.0, 3.0]), 1.0)
    assert table.psfFlux.tolist() == pytest.approx([(10 + 16 / 4) / (1 + 1 / 4), 4.0])
    assert table.psfFluxErr.tolist() == pytest.approx([(1 + 1 / 4) ** -0.5, 3.0])
    assert table.midpointMjdTai.tolist() == pytest.approx([0.15, 1.5])


def test_the_period_of_a_sine_in_two_bands_is_found():
    rng = np.random.default_rng(3)
    time = np.sort(rng.uniform(0, 60, 120))
    band = rng.choice(["g", "r"], time.size)
    flux = 1000 * np.sin(2 * np.pi * time / 1.7321) + np.where(band == "g", 5000, 9000) + rng.normal(0, 100, time.size)
    found = strongest_periods(curve_of(time, flux, 100.0, band), 0.3, 30.0)
    # sigma of the frequency: sqrt(6 / N) sigma / (pi T A), Montgomery & O'Donoghue 1999: 1.2e-4 / d
    assert 1 / found["periods"][0]["period"] == pytest.approx(1 / 1.7321, abs=5 * 1.2e-4)
    assert found["falseAlarmProbability"] < 1e-10


def test_what_regular_times_and_a_short_span_leave_open_is_said_of_a_period():
    rng = np.random.default_rng(5)
    time = 0.05 * np.arange(
        12
    )  # 0.55 d, less than one cycle of 0.689 d; 1 / (1 / 0.05 - 1 / 0.689) = 0.0539 d is its alias
    flux = 1e5 + 5e4 * np.sin(2 * np.pi * time / 0.689) + rng.normal(0, 300, time.size)
    found = strongest_periods(curve_of(time, flux, 300.0), 0.05, 100.0)
    alias = next(p for p in found["periods"] if p["period"] == pytest.approx(0.0539, abs=0.001))
    true = found["periods"][0]  # the longest of those that explain the points equally
    assert 0.4 < true["period"] < 1.0
    assert true["period"] in alias["aliasOf"]
    assert alias["period"] in true["aliasOf"]
    assert true["cycles"] == pytest.approx(0.55 / true["period"])
    assert true["cycles"] < found["fewestCycles"] < alias["cycles"]
    few, spaced, same = found["warnings"]
    assert "span 0.55 d" in few
    assert "about 0.05 d" in spaced
    assert "below 0.1 d" in spaced
    assert "aliases" in same


def test_the_true_period_leads_its_aliases_however_many_there_are():
    time = 0.4 * np.arange(45)  # a frequency has sixteen aliases up to 20 / d
    flux = 4000 * np.sin(2 * np.pi * time / 8.377) + np.random.default_rng(7).normal(0, 50, time.size)
    first, *others = strongest_periods(curve_of(time, flux, 50.0), 0.05, 100.0)["periods"]
    # sigma of the frequency: sqrt(6 / N) sigma / (pi T A): 8e-5 / d
    assert 1 / first["period"] == pytest.approx(1 / 8.377, abs=5 * 8e-5)
    assert all(first["period"] in p["aliasOf"] for p in others)


def test_a_period_of_times_at_random_has_no_alias():
    rng = np.random.default_rng(6)
    time = np.sort(rng.uniform(0, 40, 150))
    flux = 1000 * np.sin(2 * np.pi * time / 1.7321) + rng.normal(0, 100, time.size)
    found = strongest_periods(curve_of(time, flux, 100.0), 0.3, 20.0)
    assert found["periods"][0]["period"] == pytest.approx(1.7321, abs=0.005)
    assert found["periods"][0]["aliasOf"] == []
    assert found["warnings"] == []


def test_the_picture_of_a_light_curve_lies_within_its_frame():
    plot = curve_plot(curve_of([1.0, 2.0, 3.0], [-50.0, 100.0, np.nan], [5.0, 5.0, 5.0]))
    assert len(plot.points) == 2
    assert all(plot.left < p.x < plot.width and 0 < p.y < plot.bottom for p in plot.points)
    assert plot.points[1].y < plot.zero < plot.points[0].y


def test_ticks_that_lie_near_each_other_are_told_apart():
    for begin, length in ((61000.75, 0.3), (61000.75, 2e-4), (0.0, 5.0), (-2.0, 4e6)):
        words = [word.replace("−", "-") for _, word in worded(ticks(begin, begin + length, 7))]
        assert len(set(words)) == len(words) > 2
        assert np.diff(np.array(words, float)) == pytest.approx(np.diff(ticks(begin, begin + length, 7)), rel=1e-6)
        assert len({len(w.partition(".")[2]) for w in words}) == 1  # as many decimals each


def lines_of(drawing):
    """Return (bar, north, east) of a compass: px to the right and up."""
    path = re.search(r' d="([^"]+)"', drawing).group(1)
    bar, *arrows = re.findall(r"M([-\d.]+) ([-\d.]+)(?:h([-\d.]+)|L([-\d.]+) ([-\d.]+))", path)
    return float(bar[2]), *[np.array([float(x1) - float(x0), float(y0) - float(y1)]) for x0, y0, _, x1, y1 in arrows]


@pytest.mark.parametrize(("angle", "flip"), [(0.0, 1), (0.0, -1), (35.0, 1), (200.0, -1)])
def test_a_compass_shows_where_a_step_on_the_sky_leads_and_how_long_an_arcsec_is(angle, flip):
    side, scale = 60, 0.2 / 3600
    turn = np.radians(angle)
    # degrees east and north of the steps of a px: east is to the left where nothing is turned or mirrored
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([-flip, 1.0])
    bar, north, east = lines_of(compass_svg((side, side), matrix))
    assert bar == pytest.approx(2 / 0.2)  # 2 arcsec: 5 would be longer than 0.4 of the side
    for arrow, (to_east, to_north) in ((north, (0, 1)), (east, (1, 0))):
        went = matrix @ arrow
        assert went / np.hypot(*went) == pytest.approx([to_east, to_north], abs=0.01)


def test_one_value_far_out_does_not_squeeze_a_bar_and_what_never_changes_has_none():
    history = [{"a": 1.0 + 0.01 * k, "b": 3} for k in range(50)] + [{"a": 1e6, "b": 3}]
    a, b = _against({"a": 1.25, "b": 3}, history)
    assert a["at"] == pytest.approx(a["from"] + 0.5 * (a["to"] - a["from"]), abs=0.05)
    assert a["to"] - a["from"] > 0.2
    assert (a["below"], a["above"]) == (0, 1)
    assert not b["bar"]


def test_a_file_that_is_known_is_not_sent_again_and_letters_are_asked_for_by_their_digest(tmp_path):
    ask, _ = asker(tmp_path / "uploads")
    style = ask("GET", assets.asset_path("app.css"))
    assert "immutable" in style.headers["cache-control"]
    again = ask("GET", "/assets/app.css", headers={"If-None-Match": style.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    if assets.available("inter.woff2"):  # set-up found npm
        assert assets.asset_path("inter.woff2") in style.text


def test_files_and_pages_are_packed_for_those_who_can_unpack_them(database, tmp_path):
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    for address in (assets.asset_path("app.css"), "/keys"):
        plain = ask("GET", address, headers={"Accept-Encoding": "identity, gzip;q=0"})
        packed = ask("GET", address, headers={"Accept-Encoding": "gzip, br"})
        assert ("content-encoding" in plain.headers, packed.headers["content-encoding"]) == (False, "gzip")
        assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2
        assert re.sub(r"<time.*?</time>", "", packed.text) == re.sub(r"<time.*?</time>", "", plain.text)


def test_a_night_is_made_once_for_all_who_look_and_anew_when_a_visit_came(database, tmp_path, monkeypatch):
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    monkeypatch.setattr(kept, "AGELESS_S", 1e9)
    made = []
    monkeypatch.setattr(night_page, "night_of", lambda *given, **more: made.append(1) or night_of(*given, **more))
    for visits in range(3):
        if visits:
            with database.session() as connection:
                connection.execute(
                    'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, "midpointMjdTai") '
                    "VALUES (%s, 0, 'cam', '{}', '', 'done', 61000.6)",
                    (visits,),
                )
        for _ in range(3):
            text = ask("GET", "/").text
        assert len(made) == visits + 1
        assert f"visit/{visits}/0" in text or not visits


def test_a_page_and_its_stream_say_of_which_state_they_are_and_a_correction_that_waits_is_shown(database, tmp_path):
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    came = (
        'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, "midpointMjdTai") '
        "VALUES (1, 0, 'cam', '{}', '', 'done', 61000.6)"
    )

    async def told():
        stream = live.changes(live._Watch(database, lambda: False))
        first = [await anext(stream), await anext(stream)]
        await stream.aclose()
        return first[1]

    seen, shown = [], []
    for statement in (came, 'INSERT INTO "CorrectionBatch" (count) VALUES (3)'):
        with database.session() as connection:
            connection.execute(statement)
        shown.append(ask("GET", "/").text)
        seen += re.findall(r'data-seen="([^"]+)"', shown[-1])
        assert asyncio.run(told()) == f"event: connected\ndata: {seen[-1]}\n\n"
    assert len(set(seen)) == 2
    assert ["and 3 corrections, oldest" in text for text in shown] == [False, True]


def test_a_part_is_made_anew_where_its_ages_go_on_and_kept_where_it_shows_none():
    parts, made = kept.Kept(keep_s=-1.0), []
    for ages in (True, True, False, False):
        parts.of(ages, "as it was", lambda ages=ages: made.append(ages) or {"ages": ages})
    assert made == [True, True, False]
    parts.of(False, "as it is", lambda: made.append("anew") or {"ages": False})
    assert made[-1] == "anew"


def test_the_age_of_what_is_unread_is_that_of_the_alert_so_many_back():
    def at(minute):
        return datetime(2026, 1, 1, 0, minute, tzinfo=UTC)

    sent = [{"at": at(30 - k), "since": 20 * (k + 1)} for k in range(3)]  # 20 alerts a minute
    assert [_oldest_unread(n, sent) for n in (0, 20, 21, 60)] == [
        {}, {"at": at(30), "older": False}, {"at": at(29), "older": False}, {"at": at(28), "older": False},
    ]  # fmt: skip
    assert _oldest_unread(61, sent) == {"at": at(28), "older": True}
    assert _oldest_unread(61, []) == {}


def test_scripts_and_styles_are_small():
    names = [n for n in assets._FILES if n.endswith((".js", ".css")) and assets.available(n)]
    size = sum(len(gzip.compress(assets._FILES[n].read_bytes())) for n in names)
    assert 0 < size <= 150_000


def test_without_a_database_pages_say_so_to_people_and_problems_to_programs(tmp_path):
    ask, app = asker(tmp_path / "uploads")
    for address in ("/", "/streams", "/trends", "/sky", "/database", "/object/1", "/visit/1/0"):
        answer = ask("GET", address, headers=HTML)
        assert answer.status_code == 503
        assert answer.headers["content-type"].startswith("text/html")
        assert "database_unavailable" in answer.text
    assert ask("GET", "/search?q=x&radius=-1", headers=HTML).status_code == 422
    assert look(app.state.resources.database) == {"database": "away"}


def test_pages_hold_no_script_and_no_style_of_their_own(database, tmp_path):
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    for address in (
        "/",
        "/streams",
        "/database",
        "/sky",
        "/sky?of=visits",
        "/trends",
        "/solar",
        "/scan",
        "/why",
        "/search?q=%3Cscript%3E",
        "/keys",
        "/sign-in",
        "/object/1",
        "/why?ra=1&dec=2",
    ):
        answer = ask("GET", address, headers=HTML)
        assert answer.status_code == (404 if address == "/object/1" else 200), address
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        scripts = re.findall(r"<script[^>]*>", answer.text)
        assert scripts
        assert all(' src="/assets/' in s for s in scripts)
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", answer.text)
    assert "No visit came yet" in ask("GET", "/").text


def test_strangers_are_shown_where_to_sign_in_and_programs_that_they_are_strangers(tmp_path):
    (tmp_path / "token").write_text("c" * 64)
    ask, app = asker(tmp_path / "uploads", access="tokens", admin_token_file=tmp_path / "token")
    answer = ask("GET", "/visit/1/2?mask=true", headers=HTML, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/visit/1/2%3Fmask%3Dtrue")
    assert ask("GET", "/visit/1/2").status_code == 401
    assert ask("GET", "/live", headers=HTML).status_code == 401
    assert ask("GET", "/sign-in", headers=HTML).status_code == 200
    assert ask("GET", "/assets/app.css").status_code == 200
    assert ask("GET", "/assets/nothing.js").status_code == 404
    paths = {c.path for c in iter_route_contexts(app.routes)}
    assert set(PAGES) <= paths
    assert {("GET", p) for p in PAGES} <= set(RULES)
    assert ("GET", "/assets/{name}") in PUBLIC


def test_the_night_is_shown_in_a_terminal(database, capsys):
    run_top(database, "alerts", 1.0, once=True)
    assert "no visit came yet" in capsys.readouterr().out
    with database.session() as connection:
        connection.execute(
            'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt, "midpointMjdTai", '
            "\"errorCode\", \"errorText\", seconds) VALUES (7, 3, 'cam', '{}', '', 'failed', 3, 61000.6, 'no_psf', 'no star [bold]', "
            '\'{"difference": 2.5, "open": 0.5}\')'
        )
    assert nights(database) == [61000]
    assert night_of(database, 61000, newest=True).states["failed"] == 1
    run_top(database, "alerts", 1.0, once=True)
    shown = capsys.readouterr().out
    assert "night 2025-11-21 (61000)" in shown
    assert "no_psf: no star [bold]" in shown
    assert "83 %" in shown  # of the time is spent on the difference


class SlowViewer(Viewer):
    """Answers when it is allowed to, or says why it does not."""

    def __init__(self):
        super().__init__(load_settings(database_uri="postgresql://x@localhost/x"))
        self.allowed, self.asked, self.error = threading.Event(), [], None

    def ask(self, ledger, visit, detector, **question):
        self.asked.append(question)
        assert self.allowed.wait(20)
        if self.error is not None:
            raise self.error
        return {"of": question["what"]}


def answer_of(viewer, *questions, visit_number=1):
    answers = []

    def came():
        answers.append(viewer.soon(None, visit_number, 2, *questions))
        return answers[-1] is not None

    assert wait_until(came, 20, 0.005), "no answer came"
    return answers[-1]


def test_a_page_gets_what_is_made_for_it_later_and_is_made_once():
    viewer, questions = SlowViewer(), ({"what": "picture"}, {"what": "numbers"})
    assert [viewer.soon(None, 1, 2, *questions) for _ in range(3)] == [None] * 3
    viewer.allowed.set()
    assert answer_of(viewer, *questions) == {"of": "numbers"}
    assert answer_of(viewer, *questions) == {"of": "numbers"}
    assert viewer.asked == list(questions)


def test_a_place_alone_is_followed_through_the_newest_visit_whose_image_holds_it(database, tmp_path):
    ask, app = asker(tmp_path / "uploads", database_uri=database.uri)
    with database.session() as connection:
        connection.execute(
            'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, "midpointMjdTai", region) '
            "SELECT v, d, 'cam', '{}', '', 'done', 61000 + v, %s FROM generate_series(1, 2) v, generate_series(0, 1) d",
            ([int(htm_ids([150.0], [2.0], 6)[0])],),
        )
    asked = []

    class Images:
        holding: ClassVar = set()

        def soon(self, ledger, visit, detector, question):
            if question["what"] == "where":
                keys = [(i["visit"], i["detector"]) for i in question["images"]]
                images = [{"visit": v, "detector": d, "holds": (v, d) in self.holding} for v, d in keys]
                said = {str(v): f"the place lies between detectors 0 and 1 of visit {v}" for v, _ in keys}
                return {"images": images, "unread": [], "said": said}
            asked.append((visit, detector))
            step = {"name": "signal", "passed": False, "text": f"at {visit}", "values": {}}
            return {"steps": [step], "place": {"ra": 150.0, "dec": 2.0}, "pictures": {}, "noPictures": ""}

    app.state.viewer = Images()
    for holding, more, followed, said in (
        ({(1, 0), (2, 1)}, "", [(2, 1)], "at 2"),
        ({(1, 1)}, "", [(1, 1)], "at 1"),
        (set(), "", [], "between detectors 0 and 1 of visit 2"),
        ({(1, 1), (2, 0)}, "&visit=1", [(1, 1)], "Detector 1 is the one of this visit"),
        ({(1, 1), (2, 0)}, "&visit=1&detector=", [(1, 1)], "at 1"),
        ({(2, 0)}, "&visit=1", [], "between detectors 0 and 1 of visit 1"),
        ({(2, 0)}, "&visit=1&detector=0", [(1, 0)], "at 1"),
        ({(2, 0)}, "&visit=9", [], "visit 9 never came"),
    ):
        asked.clear()
        Images.holding = holding
        answer = ask("GET", f"/why/answer?place=150+2{more}", headers=HTML).text
        assert said in answer
        assert asked == followed
        listed = re.findall(r"<td><a class=\"nowrap\" href=\"/visit/(\d)/(\d)\"", answer)
        assert listed == [(str(v), str(d)) for v, d in sorted(holding, reverse=True)] or more == "&visit=9"


def test_objects_to_begin_with_are_each_shown_once_in_the_order_of_choice(database, tmp_path):
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    before = ask("GET", "/search?of=all", headers=HTML).text  # which is not kept for a minute
    assert "No object was detected yet" in before
    with database.session() as connection:
        ensure_months(connection, 61001.5)
        store_rows(connection)
        connection.execute('UPDATE "DiaObjectLast" SET "nDiaSources" = 45 WHERE "diaObjectId" = %s', (OBJECT,))
    counts = {}
    for address in ("/search", "/search?order=detections", "/search?order=time", "/search?of=all"):
        text = ask("GET", address, headers=HTML).text
        ids = re.findall(r'<td class="mono"><a href="/object/(\d+)"', text)
        assert len(ids) == len(set(ids)) > 0, address
        counts[address] = len(ids)
        assert str(OBJECT) in ids
    assert counts["/search?of=all"] == 25
    assert ids[0] == str(OBJECT)  # 45 detections, the others one
    assert "45" in text
    sky = ask("GET", "/sky?of=detections", headers=HTML).text  # the newest exposure is of MJD 61002.0
    assert "from 2025-10-23 to 2025-11-22, the 30 days before the newest exposure" in sky
    failed = ask("GET", "/visit/2005/2", headers=HTML).text
    assert "reprocess=replace" in failed
    assert "being fetched" not in failed
    assert "what to do: " in failed
    assert "docs/errors/fits_unreadable.md" not in failed
    night = " ".join(ask("GET", "/night/61000", headers=HTML).text.split())
    assert "MJD 61000" in night
    assert "1 never came" in " ".join(ask("GET", "/night/61001", headers=HTML).text.split())


def test_a_long_light_curve_is_counted_and_drawn_for_those_who_ask(database, tmp_path, monkeypatch):
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    with database.session() as connection:
        ensure_months(connection, 61001.5)
        store_rows(connection)
        which = 'SELECT "midpointMjdTai", visit, detector FROM "DiaSource" WHERE "diaObjectId" = %s'
        _, last, detector = max(connection.execute(which, (OBJECT,)).fetchall())

    def shown(address):
        text = ask("GET", address, headers=HTML).text
        assert "45 detections and 0 forced points" in text
        assert f"visit {last} · {detector}</a>" in text  # of which cutouts are shown
        return text.count('class="filled"'), f"/object/{OBJECT}?drawn=true" in text, "drawn as means" in text

    assert shown(f"/object/{OBJECT}") == (45, False, False)
    monkeypatch.setattr(object_page, "DRAWN", 44)
    with monkeypatch.context() as unread:
        unread.delattr(object_page, "points_of")
        assert shown(f"/object/{OBJECT}") == (0, True, False)
    points, _, means = shown(f"/object/{OBJECT}?drawn=true")
    assert 0 < points <= 45
    assert means


def test_a_page_is_told_why_nothing_is_made_and_others_when_too_much_is():
    viewer = SlowViewer()
    for visit_number in range(MOST_RENDERING):
        assert viewer.soon(None, visit_number, 2, {"what": "numbers"}) is None
    with pytest.raises(Busy, match="being looked at"):
        viewer.soon(None, 99, 0, {"what": "numbers"})
    viewer.error = CallerError("the image is gone")
    viewer.allowed.set()
    with pytest.raises(CallerError, match="the image is gone"):
        answer_of(viewer, {"what": "numbers"})
