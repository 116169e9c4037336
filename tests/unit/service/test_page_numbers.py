"""Numbers of pages that are held against truth: distances, chances, sigma, times, counts of samples."""

import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import Angle, SkyCoord
from astropy.time import Time

from apdb.schema.partitions import ensure_months
from apdb.sky.htm import htm_ids
from service.pages import search, why
from service.pages.nights.facts import Night
from service.pages.objects import page as object_page
from service.pages.objects.periods import strongest_periods
from service.pages.positions import Position
from service.pages.survey import density
from service.pages.survey.trends import LEAST, scatter_of
from service.pages.words import mjd_utc
from tests.support.asking import asker
from tests.support.page_rows import store_rows

HTML = {"Accept": "text/html,application/xhtml+xml"}
_OBJECT = 'INSERT INTO "DiaObjectLast" ("diaObjectId", "validityStartMjdTai", ra, dec, "nDiaSources", "pixelId") VALUES (%s, 61001, %s, %s, 1, %s)'


def store_objects(connection, ra, dec):
    ids = range(1, len(ra) + 1)
    rows = list(zip(ids, ra, dec, htm_ids(ra, dec, 20).tolist(), strict=True))
    with connection.cursor() as cursor:
        cursor.executemany(_OBJECT, rows)


@pytest.mark.parametrize(("ra0", "dec0"), [(0.0003, 5.0), (359.9998, -60.0), (33.0, 89.9995)])
def test_the_nearest_are_found_at_0_h_and_at_the_pole_however_many_there_are(
    database, tmp_path, monkeypatch, ra0, dec0
):
    rng = np.random.default_rng(11)
    around = SkyCoord(ra0, dec0, unit="deg").directional_offset_by(
        Angle(rng.uniform(0, 360, 40), "deg"), Angle(rng.uniform(0.1, 9, 40), "arcsec")
    )
    ra, dec = around.ra.deg, around.dec.deg
    true = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(ra0, dec0, unit="deg")).arcsec
    _, app = asker(tmp_path / "uploads", database_uri=database.uri)
    with database.session() as connection:
        store_objects(connection, ra.tolist(), dec.tolist())
    monkeypatch.setattr(search, "MOST", 15)
    found = search._near(app.state.resources, Position(ra0, dec0), 10.0)
    order = np.argsort(true)
    assert [r["diaObjectId"] for r in found] == (order[:15] + 1).tolist()
    assert [r["away"] for r in found] == pytest.approx(true[order[:15]].tolist(), abs=1e-6)
    own = int(order[0])
    others = object_page._near(app.state.resources, own + 1, float(ra[own]), float(dec[own]))
    apart = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(ra[own], dec[own], unit="deg")).arcsec
    assert [r["away"] for r in others] == pytest.approx(np.sort(apart)[1:].tolist(), abs=1e-6)


def test_a_night_shows_the_seconds_of_its_own_alerts(database, tmp_path):
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    with database.session() as connection:
        ensure_months(connection, 61001.5)
        store_rows(connection)  # visits 2000 to 2005 are of night 61000
        connection.execute(
            'UPDATE "AlertOutbox" SET "secondsSinceShutterClose" = CASE WHEN visit < 2006 THEN 11 ELSE 90 END'
        )
    for night, shown in ((61000, "11 s"), (61001, "90 s")):
        text = ask("GET", f"/night/{night}", headers=HTML).text
        assert re.findall(r"shutter to last alert, median</dt><dd>([^<]*)</dd>", text) == [shown]
    assert Night(1).latency() == {"median": None, "p95": None}


def test_noise_that_a_detection_shares_with_its_forced_point_makes_no_period():
    chances = []
    for seed in range(21):
        rng = np.random.default_rng(seed)
        time, flux = np.sort(rng.uniform(0, 30, 40)), rng.normal(0, 100, 40)
        one = pd.DataFrame({
            "forced": False, "diaSourceId": np.arange(40), "visit": np.arange(40), "detector": 0, "band": "r", "midpointMjdTai": time,
            "psfFlux": flux, "psfFluxErr": 100.0, "scienceFlux": flux, "scienceFluxErr": 100.0, "snr": 5.0,
        })  # fmt: skip
        both = pd.concat([one, one.assign(forced=True, scienceFlux=flux + rng.normal(0, 5, 40))], ignore_index=True)
        found = strongest_periods(both.sort_values("midpointMjdTai", ignore_index=True), 0.3, 30.0)
        assert found["points"] == 40
        chances.append(found["falseAlarmProbability"])
    assert 0.2 < np.median(chances) < 0.9  # of noise it is 0.5 on average; with both points it was below 0.01


def rows_of(values):
    return [
        {
            "visit": k,
            "detector": 0,
            "mjd": 61000.0 + k,
            "band": "r",
            "counts": {},
            "seconds": {},
            "metrics": {"m": float(v)},
        }
        for k, v in enumerate(values)
    ]


def test_nothing_stands_out_of_a_few_nor_of_a_gaussian():
    rng = np.random.default_rng(2)
    few = [scatter_of(rows_of(rng.normal(size=5)), "m", "time") for _ in range(200)]
    assert sum(d.outlies for s in few for d in s.dots) == 0  # 7 in 100 did
    many = [scatter_of(rows_of(rng.normal(size=LEAST)), "m", "time") for _ in range(200)]
    assert sum(d.outlies for s in many for d in s.dots) < 0.005 * 200 * LEAST
    assert [d.visit for d in scatter_of(rows_of([*rng.normal(size=30), 40.0]), "m", "time").dots if d.outlies] == [30]


def test_trends_are_those_of_one_instrument(database, tmp_path):
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    with database.session() as connection:
        ensure_months(connection, 61001.5)
        store_rows(connection)
        connection.execute("UPDATE \"VisitLedger\" SET instrument = 'other' WHERE visit < 2003 AND state <> 'failed'")
    whole = " ".join(ask("GET", "/trends?metric=airmass", headers=HTML).text.split())
    other = " ".join(ask("GET", "/trends?metric=airmass&instrument=other", headers=HTML).text.split())
    assert "34 of 34 ccdVisits of simcam" in whole  # of 12 visits of 4 less one that is not there and one that failed
    assert "12 of 12 ccdVisits of other" in other


@pytest.mark.parametrize(
    "date",
    [
        "1980-06-01T12:00:00",
        "1998-12-31T23:59:59",
        "1999-01-01T00:00:00",
        "2012-07-01T00:00:00",
        "2016-12-31T23:59:58",
        "2026-01-01T00:00:01",
    ],
)
def test_utc_is_right_before_the_last_leap_seconds_too(date):
    tai = Time(date, scale="utc").tai.mjd + 1e-4 / 86400
    assert mjd_utc(tai) == date.replace("T", " ")
    assert datetime.fromisoformat(mjd_utc(tai)).replace(tzinfo=UTC).year == int(date[:4])


def test_a_sample_of_many_objects_is_even_and_its_counts_are_of_all(database, tmp_path, monkeypatch):
    _, app = asker(tmp_path / "uploads", database_uri=database.uri)
    with database.session() as connection:
        connection.execute(
            'INSERT INTO "DiaObjectLast" ("diaObjectId", "validityStartMjdTai", ra, dec, "nDiaSources", "pixelId") '
            "SELECT n, 61001, n * 0.018, 0.3 * sin(n), 1, n FROM generate_series(0, 19999) n"
        )
        connection.execute('ANALYZE "DiaObjectLast"')
    whole = density.density_of(app.state.resources, "objects", 0)
    monkeypatch.setattr(density, "MOST", 10_000)
    part = density.density_of(app.state.resources, "objects", 0)
    assert (whole.cut, whole.total, part.cut) == (False, 20_000, True)
    # pages of some 80 rows are taken or not, half of 250: sqrt(0.5 / 125) = 6 % of error, 13 % of a quarter of the sky
    assert part.total == pytest.approx(20_000, rel=0.25)
    assert part.counts.sum() == pytest.approx(part.total, abs=len(part.cells))
    around = np.isin(
        part.cells, [4, 5, 6, 7]
    )  # the cells of the equator: the first rows of the table lie in one of them
    assert part.counts[around].tolist() == pytest.approx(
        whole.counts[np.isin(whole.cells, [4, 5, 6, 7])].tolist(), rel=0.5
    )


def test_a_place_that_more_visits_surround_than_are_asked_is_said_to_be_asked_of_the_newest(
    database, tmp_path, monkeypatch
):
    ask, app = asker(tmp_path / "uploads", database_uri=database.uri)
    with database.session() as connection:
        connection.execute(
            'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, "midpointMjdTai", region) '
            "SELECT v, 0, 'cam', '{}', '', 'done', 61000 + v, %s FROM generate_series(1, 4) v",
            ([int(htm_ids([150.0], [2.0], 6)[0])],),
        )

    class Elsewhere:
        def soon(self, ledger, visit, detector, question):
            keys = [(i["visit"], i["detector"]) for i in question["images"]]
            images = [{"visit": v, "detector": d, "holds": False} for v, d in keys]
            return {"images": images, "unread": [], "said": {str(v): f"it lies off visit {v}" for v, _ in keys}}

    app.state.viewer = Elsewhere()
    for most, told in ((4, 0), (3, 1)):
        monkeypatch.setattr(why, "MOST", most)
        text = ask("GET", "/why/answer?ra=150&dec=2", headers=HTML).text
        assert "it lies off visit 4" in text
        assert text.count(f"None of the newest {most} ccdVisits") == told
