"""Orbit catalogues, their propagation, and the sources of ephemerides."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlparse

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.polynomial import chebyshev

from association.orbits import (
    FirstThatAnswers,
    MpSky,
    OrbitCatalog,
    OrbitError,
    PositionTable,
    read_comets,
    read_mpcorb,
)
from association.orbits.catalog import TAI_TO_TDB
from association.orbits.dynamics import Planets, propagate
from association.orbits.elements import GM_SUN, heliocentric_states
from association.orbits.observatory import geocentric
from association.orbits.sources import SourceUnavailable
from association.solar_system import bodies_on_image, match_solar_system, ss_object_id
from exposure import Exposure
from tests.support.exposures import make_exposure

MJD = 61000.0
CERES = (
    "00001    3.34  0.15 K239D  60.07881   73.42179   80.25496   10.58688  0.0789126  0.21406048   2.7671817  "
    "0 E2023-F87  7283 123 1801-2023 0.65 M-v 30k MPCLINUX   4000      (1) Ceres              20230321"
)
ATLAS = (
    "    CK25N010  2025 10 29.4800  1.356400  6.139400  128.0100  322.1570  175.1130  20250702  12.0  4.0  "
    "C/2025 N1 (ATLAS)                                        MPEC 2025-N12"
)


def orbits(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a, e = rng.uniform(2.1, 3.3, n), rng.uniform(0, 0.3, n)
    return pd.DataFrame({
        "packed": [f"K26S{k:02d}A" for k in range(n)], "designation": [f"2026 SA{k}" for k in range(n)], "epoch_mjd": MJD,
        "q": a * (1 - e), "e": e, "i": rng.uniform(0, 20, n), "node": rng.uniform(0, 360, n),
        "argperi": rng.uniform(0, 360, n), "peri_time": MJD + rng.uniform(-500, 500, n), "h": 15.0, "g": 0.15,
    })  # fmt: skip


@pytest.fixture(scope="module")
def planets() -> Planets:
    return Planets()


def test_lines_of_the_minor_planet_center_are_read(tmp_path: Path) -> None:
    file = tmp_path / "MPCORB.DAT"
    file.write_text(f"MINOR PLANET CENTER ORBIT DATABASE\n{'-' * 160}\n{CERES}\n\n{CERES[:30]}\n", "ascii")
    (row,) = read_mpcorb(file).to_dict("records")
    assert (row["packed"], row["designation"], row["epoch_mjd"]) == ("00001", "(1) Ceres", 60200.0)
    assert (row["i"], row["node"], row["argperi"], row["e"]) == (10.58688, 80.25496, 73.42179, 0.0789126)
    assert row["q"] == pytest.approx(2.7671817 * (1 - 0.0789126)) and (row["h"], row["g"]) == (3.34, 0.15)
    assert row["peri_time"] == pytest.approx(60200.0 - 60.07881 / 0.21406048)
    comets = tmp_path / "CometEls.txt"
    comets.write_text(ATLAS + "\n", "ascii")
    (row,) = read_comets(comets).to_dict("records")
    assert row["designation"] == "C/2025 N1" and row["epoch_mjd"] == 60858.0 and row["e"] == 6.1394
    assert row["peri_time"] == pytest.approx(60977.48) and row["q"] == 1.3564
    (tmp_path / "empty").touch()
    with pytest.raises(OrbitError, match="no orbit"):
        read_mpcorb(tmp_path / "empty")
    with pytest.raises(OrbitError, match="cannot read"):
        read_mpcorb(tmp_path / "missing")


@pytest.mark.parametrize("e", [0.0, 0.3, 0.97, 0.999999, 1.0, 1.000001, 3.0])
def test_states_of_every_conic_have_its_energy_turn_and_time(e: float) -> None:
    days = np.array([-4000.0, -30.0, 0.0, 1e-3, 250.0])
    table = orbits(days.size).assign(e=e, q=1.3, peri_time=MJD - days)
    s = heliocentric_states(table)
    r, v = np.linalg.norm(s[:, :3], axis=1), np.linalg.norm(s[:, 3:], axis=1)
    assert 0.5 * v**2 - GM_SUN / r == pytest.approx(np.full(days.size, -GM_SUN * (1 - e) / 2.6), abs=1e-16)
    turn = np.linalg.norm(np.cross(s[:, :3], s[:, 3:]), axis=1)
    assert turn == pytest.approx(np.full(days.size, np.sqrt(GM_SUN * 1.3 * (1 + e))), rel=1e-11)
    assert r[2] == pytest.approx(1.3, rel=1e-12)
    later = heliocentric_states(table.assign(peri_time=MJD - days - 1e-3))
    assert (later[:, :3] - s[:, :3]) / 1e-3 == pytest.approx(0.5 * (later[:, 3:] + s[:, 3:]), abs=1e-9)


def test_propagation_returns_and_does_not_depend_on_company(planets: Planets) -> None:
    start = heliocentric_states(orbits(300)) + planets.state("sun", MJD)
    there = propagate(start, MJD, MJD + 200, planets)
    back = propagate(there, MJD + 200, MJD, planets)
    assert np.abs(back[:, :3] - start[:, :3]).max() < 1e-11  # au: metres
    alone = propagate(start[:1], MJD, MJD + 200, planets)
    assert np.abs(alone - there[:1]).max() < 1e-11


def test_catalogue_finds_bodies_where_two_body_motion_with_light_time_puts_them(planets: Planets) -> None:
    table = orbits(2000)
    catalog = OrbitCatalog(table, "X05", planets)
    observer = planets.state("earth", MJD) + geocentric("X05", MJD - TAI_TO_TDB)
    s = heliocentric_states(table) + planets.state("sun", MJD)
    topo = s[:, :3] - observer[:3]
    topo -= s[:, 3:] * (np.linalg.norm(topo, axis=1) / 173.14463267424034)[:, None]
    ra = np.degrees(np.arctan2(topo[:, 1], topo[:, 0])) % 360
    dec = np.degrees(np.arcsin(topo[:, 2] / np.linalg.norm(topo, axis=1)))
    for centre in ((ra[0], dec[0]), (0.0, 0.0), (359.99, -5.0)):
        found = catalog.around(MJD - TAI_TO_TDB, *centre, 6.0).set_index("designation")
        away = np.hypot(((ra - centre[0] + 180) % 360 - 180) * np.cos(np.radians(dec)), dec - centre[1])
        assert set(table.designation[away < 5.9]) <= set(found.index) <= set(table.designation[away < 6.1])
        rows = table.index[table.designation.isin(found.index)]
        assert found.ephRa.to_numpy() == pytest.approx(ra[rows], abs=2e-6)
        assert found.ephDec.to_numpy() == pytest.approx(dec[rows], abs=2e-6)
    assert {"MPCORB_q", "MPCORB_epoch_mjd", "topo_vz", "helio_x", "ephVmag"} <= set(found.columns)
    assert (found.ephVmag > 15).all() and (found.ephVmag < 23).all()


def test_coarse_look_loses_nobody_that_integration_puts_into_the_field(planets: Planets) -> None:
    # orbits that cross the Earth's, half a day from the time of the states: the hardest for straight lines
    table = orbits(400, seed=5)
    table = table.assign(q=0.95, e=0.5, peri_time=MJD + np.linspace(-60, 60, 400))
    catalog = OrbitCatalog(table, "X05", planets)
    whole = catalog.around(MJD + 0.49, 0.0, 0.0, 180.0)
    assert len(whole) == 400
    for row in whole.iloc[::40].itertuples():
        assert row.designation in set(catalog.around(MJD + 0.49, row.ephRa, row.ephDec, 0.01).designation)


def test_bodies_of_different_epochs_come_to_one_time_and_prepared_files_are_taken_up(
    planets: Planets, tmp_path: Path
) -> None:
    table = orbits(30)
    moved = heliocentric_states(table.iloc[:1]) + planets.state("sun", MJD)
    early = propagate(moved, MJD, MJD - 300, planets) - planets.state("sun", MJD - 300)
    odd = _elements_of(early[0], MJD - 300, table.iloc[:1])
    catalog = OrbitCatalog(pd.concat([table.iloc[1:], odd], ignore_index=True), "X05", planets)
    whole = OrbitCatalog(table, "X05", planets)
    a = catalog.around(MJD + 20.2, 0, 0, 180.0).set_index("designation")
    b = whole.around(MJD + 20.2, 0, 0, 180.0).set_index("designation").loc[a.index]
    assert np.abs(a.ephRa - b.ephRa).max() * 3600 < 1e-3 and np.abs(a.ephDec - b.ephDec).max() * 3600 < 1e-3
    whole.save(tmp_path / "night.parquet")
    again = OrbitCatalog.read(tmp_path / "night.parquet", observatory="X05", planets=planets)
    pd.testing.assert_frame_equal(again.around(MJD + 20.2, 10, 0, 90.0), whole.around(MJD + 20.2, 10, 0, 90.0))
    with pytest.raises(OrbitError, match="no observatory 'QQQ'"):
        OrbitCatalog(table, "QQQ", planets)
    with pytest.raises(OrbitError, match="no fixed place"):
        OrbitCatalog(table, "250", planets)  # the Hubble Space Telescope


def test_answers_do_not_depend_on_what_was_asked_before(planets: Planets) -> None:
    times = [MJD + 12.3, MJD + 1.7, MJD + 12.6, MJD - 3.2]
    one, other = (OrbitCatalog(orbits(50), "X05", planets) for _ in range(2))
    first = {t: one.around(t, 0, 0, 180.0) for t in times}
    for t in reversed(times):
        pd.testing.assert_frame_equal(other.around(t, 0, 0, 180.0), first[t], check_exact=True)


def test_a_body_that_falls_into_the_sun_takes_no_other_with_it(planets: Planets) -> None:
    states = heliocentric_states(orbits(9)) + planets.state("sun", MJD)
    states[4, :3] = planets.state("sun", MJD)[:3] + np.array([0.05, 0, 0])
    states[4, 3:] = planets.state("sun", MJD)[3:]
    there = propagate(states, MJD, MJD + 30, planets)
    assert np.isnan(there[4]).all() and np.isfinite(np.delete(there, 4, axis=0)).all()
    assert np.isnan(propagate(there, MJD + 30, MJD + 31, planets)[4]).all()


def test_comets_fade_as_their_slope_says(planets: Planets) -> None:
    table = orbits(3).assign(slope=[np.nan, 4.0, 10.0], h=10.0, g=np.nan)
    found = OrbitCatalog(table, "X05", planets).around(MJD, 0, 0, 180.0).set_index("designation")
    r = np.linalg.norm(found[["helio_x", "helio_y", "helio_z"]], axis=1)
    delta = np.linalg.norm(found[["topo_x", "topo_y", "topo_z"]], axis=1)
    assert found.ephVmag.iloc[1:].to_numpy() == pytest.approx(
        (10 + 5 * np.log10(delta) + 2.5 * np.array([0, 4, 10]) * np.log10(r))[1:]
    )
    assert "MPCORB_slope" not in found


def test_prepared_orbits_are_not_mixed_with_others(planets: Planets, tmp_path: Path) -> None:
    OrbitCatalog(orbits(3), "X05", planets).save(tmp_path / "one.parquet")
    orbits(3, seed=1).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(OrbitError, match="prepare them together"):
        OrbitCatalog.read(tmp_path / "one.parquet", tmp_path / "other.parquet", planets=planets)


def _elements_of(state: np.ndarray, mjd: float, like: pd.DataFrame) -> pd.DataFrame:
    """Osculating elements of a heliocentric state, by inverting `heliocentric_states` numerically."""
    from scipy.optimize import least_squares

    names = ["q", "e", "i", "node", "argperi", "peri_time"]

    def misses(p: np.ndarray) -> np.ndarray:
        return (heliocentric_states(like.assign(epoch_mjd=mjd, **dict(zip(names, p, strict=True))))[0] - state) * 1e6

    start = like[names].to_numpy(float)[0]
    found = least_squares(
        misses, start, x_scale=[1e-4, 1e-4, 1e-3, 1e-2, 1e-2, 1e-1], xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    assert np.abs(found.fun).max() < 1e-4  # 1e-10 au
    return like.assign(epoch_mjd=mjd, **dict(zip(names, found.x, strict=True)))


def _samples(catalog: OrbitCatalog, times: np.ndarray) -> pd.DataFrame:
    return pd.concat([catalog.around(t, 0, 0, 180.0).assign(mjd=t) for t in times])


def test_position_table_gives_what_lies_between_its_samples(planets: Planets) -> None:
    catalog = OrbitCatalog(orbits(40), "X05", planets)
    table = _samples(catalog, np.array([MJD, MJD + 0.1, MJD + 0.2])).drop(columns=["ssObjectId", "ephRa", "ephDec"])
    lost = table.designation == "2026 SA7"
    source = PositionTable(table[~lost | (table.mjd < MJD + 0.15)])
    got, true = (s.around(MJD + 0.16, 0, 0, 180.0).set_index("designation") for s in (source, catalog))
    assert set(true.index) - set(got.index) == {"2026 SA7"}
    assert np.abs(got.ephRa - true.ephRa.loc[got.index]).max() * 3600 < 0.02
    assert (got.ssObjectId == true.ssObjectId.loc[got.index]).sum() > 0
    assert len(source.around(MJD + 0.2, 0, 0, 180.0)) == 39 and source.around(MJD + 0.21, 0, 0, 180.0).empty
    one = got.iloc[3]
    assert len(source.around(MJD + 0.16, one.ephRa, one.ephDec, 0.001)) == 1


class _Service(BaseHTTPRequestHandler):
    """Answers in the form of MPSky with the series of a catalogue (a stand-in: the real one is not reachable)."""

    content = b""
    asked: ClassVar[dict[str, list[str]]] = {}

    def do_GET(self) -> None:
        type(self).asked = parse_qs(urlparse(self.path).query)
        self.send_response(200 if self.content else 503)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/ephemerides/"
    server.shutdown()
    server.server_close()


def _answer(catalog: OrbitCatalog) -> bytes:
    """Series of half a day from MJD on."""
    times = MJD + np.linspace(0, 0.5, 9)
    samples = _samples(catalog, times)
    names = samples.designation.unique()
    cube = np.stack([samples.pivot(index="mjd", columns="designation", values=f"helio_{c}")[names] for c in "xyz"], 1)
    topo = np.stack([samples.pivot(index="mjd", columns="designation", values=f"topo_{c}")[names] for c in "xyz"], 1)
    since = times - MJD
    series = chebyshev.chebfit(since, cube.reshape(9, -1), 5).reshape(6, 3, -1)
    observer = chebyshev.chebfit(since, (cube - topo)[:, :, 0], 7)
    rows = pa.table({
        "name": names, "tmin": np.full(names.size, MJD), "tmax": np.full(names.size, MJD + 0.5),
        "Vmag": np.full(names.size, 20.5), "MPCORB_e": np.full(names.size, 0.1),
    })  # fmt: skip
    out = pa.BufferOutputStream()
    for tensor in (series, observer):
        pa.ipc.write_tensor(pa.Tensor.from_numpy(np.ascontiguousarray(tensor)), out)
    with pa.ipc.new_stream(out, rows.schema) as stream:
        stream.write_table(rows)
    return bytes(out.getvalue())


def test_ephemeris_service_is_asked_and_read(service: str, planets: Planets) -> None:
    catalog = OrbitCatalog(orbits(20), "X05", planets)
    _Service.content = _answer(catalog)
    got = MpSky(service).around(MJD + 0.3, 10.0, -5.0, 0.7).set_index("ssObjectId")
    true = catalog.around(MJD + 0.3, 0, 0, 180.0).set_index("designation")
    assert _Service.asked == {
        "t": [str(MJD + 0.3)],
        "ra": ["10.0"],
        "dec": ["-5.0"],
        "radius": ["0.7"],
        "return_elements": ["extended"],
    }
    true.index = [ss_object_id(d) for d in true.index]
    assert np.abs(got.ephRa - true.ephRa.loc[got.index]).max() * 3600 < 0.01
    assert np.abs(got.topo_vx - true.topo_vx.loc[got.index]).max() < 1e-5
    assert (got.ephVmag == 20.5).all() and (got.MPCORB_e == 0.1).all() and got.designation.str.startswith("2026 ").all()
    assert MpSky(service).around(MJD + 0.6, 10.0, -5.0, 0.7).empty  # beyond the series


def test_service_that_fails_gives_way_to_the_next_source(
    service: str, planets: Planets, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = OrbitCatalog(orbits(20), "X05", planets)
    for content, said in ((b"", "503"), (b"what?", "not understood")):
        _Service.content = content
        with pytest.raises(SourceUnavailable, match=said):
            MpSky(service).around(MJD, 0, 0, 1)
    assert len(FirstThatAnswers(MpSky(service), catalog).around(MJD, 0, 0, 180.0)) == 20
    dead = MpSky("http://127.0.0.1:9/", timeout_s=0.5)
    assert FirstThatAnswers(dead).around(MJD, 0, 0, 1).empty
    assert "does not answer" in caplog.text


def test_only_bodies_in_the_box_count() -> None:
    image: Exposure = make_exposure()
    x0, y0 = image.origin
    x = x0 + np.array([-1.0, 0.0, 10.0, image.width - 0.6, image.width + 3.0])
    ra, dec = image.require_wcs().pixel_to_sky(x, np.full(5, y0 + 20.0))
    bodies = pd.DataFrame({"ssObjectId": np.arange(5), "ephRa": ra, "ephDec": dec})
    far = pd.DataFrame({"ssObjectId": [7, 8], "ephRa": (ra[:2] + 180) % 360, "ephDec": -dec[:2]})
    assert bodies_on_image(pd.concat([bodies, far]), image).ssObjectId.tolist() == [1, 2, 3]


def test_rates_and_residuals_along_the_motion(planets: Planets) -> None:
    catalog = OrbitCatalog(orbits(40), "500", planets)  # the Earth's centre: no parallax of its rotation
    step = 0.002
    early, now, late = (catalog.around(MJD + k * step, 0, 0, 180.0) for k in (-1, 0, 1))
    cosine = np.cos(np.radians(now.ephDec))
    rate_ra = ((late.ephRa - early.ephRa + 180) % 360 - 180) * cosine / (2 * step)
    rate_dec = (late.ephDec - early.ephDec) / (2 * step)
    rate = np.hypot(rate_ra, rate_dec)
    off = 0.3 / 3600  # every source lies 0.3" ahead and 0.1" to the left of the motion (seen from inside the sphere)
    along = off * np.stack([rate_ra, rate_dec]) / rate.to_numpy()
    across = np.stack([-along[1], along[0]]) / 3
    sources = pd.DataFrame({"diaSourceId": np.arange(40), "diaObjectId": 0, "ssObjectId": 0})
    sources["ra"] = (now.ephRa + (along[0] + across[0]) / cosine) % 360
    sources["dec"] = now.ephDec + along[1] + across[1]
    rows = match_solar_system(sources, now).associatedSsSources
    assert len(rows) == 40 and (rows.diaDistanceRank == 1).all()
    assert rows.ephRateRa.to_numpy() == pytest.approx(rate_ra, abs=3e-4 * rate.max())  # light's way changes meanwhile
    assert rows.ephRateDec.to_numpy() == pytest.approx(rate_dec, abs=3e-4 * rate.max())
    assert rows.ephOffsetAlongTrack.to_numpy() == pytest.approx(np.full(40, 0.3), abs=2e-3)
    assert np.abs(rows.ephOffsetCrossTrack).to_numpy() == pytest.approx(np.full(40, 0.1), abs=2e-3)
    assert np.sign(rows.ephOffsetCrossTrack).nunique() == 1
    speed = np.gradient(
        np.stack([np.linalg.norm(t[["topo_x", "topo_y", "topo_z"]], axis=1) for t in (early, now, late)]), step, axis=0
    )[1]
    assert rows.topoRangeRate.to_numpy() == pytest.approx(speed * 1731.45683670139, abs=0.02)  # km/s
