"""HTTP reads on a real server and database: cones, objects, light curves, visits, nights, formats, pages, limits."""

import io
import os
import subprocess
import sys
from types import SimpleNamespace

import hpgeom
import httpx
import numpy as np
import pandas as pd
import psycopg
import pyarrow.parquet as pq
import pytest
import pyvo
import requests
from astropy.io import fits
from astropy.io.votable import parse_single_table
from astropy.wcs import WCS
from lsst.sphgeom import Angle, Circle, LonLat, UnitVector3d
from pyvo.dal.adhoc import DatalinkResults

from apdb import PostgresApdb, columns_of
from apdb.adql import ADQL_TABLES
from apdb.copy.decode import stream_frames
from apdb.database import Database
from apdb.operate.readers import make_reader
from apdb.queries import cone
from apdb.schema.view_columns import VIEWS
from apdb.sky.htm import polygon
from apdb.sky.locks import lock_pixels
from migrations.run import migrate
from service.local.stack import wait_api
from service.product_files import difference_path
from tasks.local_server import free_port
from tests.support.apdb_rows import at, rows
from tests.support.exposures import make_exposure


@pytest.fixture(scope="module")
def site(postgres, tmp_path_factory):
    """A database with three visits of 300 objects around a place, and the API in front of it."""
    admin, name = postgres.uri.rsplit("/", 1)[0], "reads"
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
        c.execute(f"CREATE DATABASE {name}")
    uri = f"{admin}/{name}"
    migrate(uri)
    client = PostgresApdb(uri)
    o, _, _ = rows(300)
    o["ra"], o["dec"] = (o.ra - 150) * 60 % 360, 60 + (o.dec - 2) * 60  # a degree around (0, 60), across RA 0
    for k in range(3):
        _, s, f = rows(300, visit=k + 1, seed=k)
        s, f = (
            s.assign(diaObjectId=o.diaObjectId, ra=o.ra, dec=o.dec, ssObjectId=0),
            f.assign(diaObjectId=o.diaObjectId),
        )
        client.store(at(61001.0 + k), o.assign(nDiaSources=k + 1), s, f)
    client.close()
    port = free_port()
    folder = tmp_path_factory.mktemp("api")
    products = tmp_path_factory.mktemp("products")
    environment = {**os.environ, "ALERTPROD_DATABASE_URI": uri, "ALERTPROD_PORT": str(port), "ALERTPROD_HOST": "127.0.0.1",
                   "ALERTPROD_UPLOAD_DIR": str(folder), "ALERTPROD_PRODUCTS_DIR": str(products)}  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "service.commands.main", "serve"],
        env=environment,
        cwd=folder.parent,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    assert wait_api(url, process)
    with httpx.Client(base_url=url, timeout=30) as http:
        yield SimpleNamespace(http=http, url=url, uri=uri, objects=o, admin=admin, products=products)
    process.terminate()
    process.wait(20)
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
        c.execute(f"DROP DATABASE {name} WITH (FORCE)")


def inside(objects, ra, dec, radius_deg):
    region = Circle(UnitVector3d(LonLat.fromDegrees(ra, dec)), Angle.fromDegrees(radius_deg))
    points = zip(objects.ra, objects.dec, strict=True)
    return objects[[region.contains(UnitVector3d(LonLat.fromDegrees(float(a), float(d)))) for a, d in points]]


@pytest.mark.parametrize(
    ("ra", "dec", "radius"), [(0.0, 60.0, 0.7), (359.5, 60.3, 0.4), (360.0, 60.0, 3.0), (180.0, -60.0, 1.0)]
)
def test_a_cone_holds_exactly_what_is_in_the_circle(site, ra, dec, radius):
    answer = site.http.get("/v1/objects", params={"ra": ra, "dec": dec, "radius": radius * 3600}).json()
    found = pd.DataFrame(answer["rows"])
    want = inside(site.objects, ra, dec, radius)
    assert sorted(found.diaObjectId if len(found) else []) == sorted(want.diaObjectId)
    assert answer["count"] == len(want)
    assert answer["next"] is None
    assert [c["name"] for c in answer["columns"]] == [c.name for c in columns_of("DiaObject")]
    if len(found):
        assert (found.nDiaSources == 3).all()


def test_every_format_holds_the_same_rows(site):
    parameters = {
        "ra": 0,
        "dec": 60,
        "radius": 3600,
        "columns": "ra,dec,nDiaSources,g_psfFluxMean,firstDiaSourceMjdTai",
    }
    plain = pd.DataFrame(site.http.get("/v1/objects", params=parameters).json()["rows"])
    assert list(plain.columns) == ["diaObjectId", "ra", "dec", "nDiaSources", "g_psfFluxMean", "firstDiaSourceMjdTai"]
    got = {
        kind: site.http.get("/v1/objects", params={**parameters, "format": kind})
        for kind in ("csv", "parquet", "votable")
    }
    frames = {
        "csv": pd.read_csv(io.BytesIO(got["csv"].content)),
        "parquet": pq.read_table(io.BytesIO(got["parquet"].content)).to_pandas(),
        "votable": parse_single_table(io.BytesIO(got["votable"].content)).to_table().to_pandas(),
    }
    for kind, frame in frames.items():
        assert list(frame.columns) == list(plain.columns), kind
        assert frame.diaObjectId.astype("int64").tolist() == plain.diaObjectId.tolist(), kind  # ids beyond 2**53
        for name in plain.columns[1:]:
            np.testing.assert_allclose(
                frame[name].astype(float), plain[name].astype(float), rtol=1e-6, err_msg=f"{kind} {name}"
            )
    assert pq.read_schema(io.BytesIO(got["parquet"].content)).field("ra").metadata[b"unit"] == b"deg"
    accepted = site.http.get("/v1/objects", params=parameters, headers={"Accept": "text/csv"})
    assert accepted.content == got["csv"].content


def test_all_columns_and_nulls_survive_every_format(site):
    """All 103 columns of DiaSource, flags and text included."""
    want = site.http.get("/v1/visits/2/0/sources", params={"limit": 20}).json()["rows"]
    table = parse_single_table(
        io.BytesIO(site.http.get("/v1/visits/2/0/sources", params={"limit": 20, "format": "votable"}).content)
    )
    found = table.to_table()
    parquet = pq.read_table(
        io.BytesIO(site.http.get("/v1/visits/2/0/sources", params={"limit": 20, "format": "parquet"}).content)
    )
    assert len(found) == len(want) == parquet.num_rows == 20
    for c in columns_of("DiaSource"):
        column = [row[c.name] for row in want]
        assert parquet.column(c.name).null_count == sum(v is None for v in column), c.name
        for k, value in enumerate(column):
            read = found[c.name][k]
            if value is None:
                assert read is np.ma.masked or (isinstance(read, float | np.floating) and np.isnan(read)), c.name
            elif isinstance(value, float):
                assert float(read) == pytest.approx(value, rel=1e-6), c.name
            else:
                assert str(read) == str(value), c.name


def test_pages_meet_without_gap_or_overlap(site):
    ids, after = [], None
    while True:
        parameters = {"ra": 0, "dec": 60, "radius": 20000, "limit": 77, "columns": "ra"} | (
            {} if after is None else {"after": after}
        )
        page = site.http.get("/v1/objects", params=parameters).json()
        ids += [r["diaObjectId"] for r in page["rows"]]
        after = page["next"]
        if after is None:
            break
    assert ids == sorted(site.objects.diaObjectId)


def test_reads_as_of_an_earlier_time(site):
    cone_of = {"ra": 0, "dec": 60, "radius": 20000, "columns": "nDiaSources"}

    def counts(**when):
        return {r["nDiaSources"] for r in site.http.get("/v1/objects", params={**cone_of, **when}).json()["rows"]}

    assert counts() == {3}
    assert counts(as_of=61000.5) == set()
    assert counts(as_of=61001.5) == {1}
    assert counts(as_of=61002.5) == {2}
    assert counts(as_of=61002.0) == {1}  # just before
    assert counts(as_of_visit="3,0") == {2}  # what the association of visit 3 saw
    assert counts(as_of_visit="1,0") == set()
    one = int(site.objects.diaObjectId[0])
    assert site.http.get(f"/v1/objects/{one}", params={"as_of_visit": "2,0"}).json()["rows"][0]["nDiaSources"] == 1
    assert [v["nDiaSources"] for v in site.http.get(f"/v1/objects/{one}/versions").json()["rows"]] == [1, 2, 3]
    assert site.http.get("/v1/objects", params={**cone_of, "as_of_visit": "9,0"}).status_code == 404


def test_light_curve_of_an_object(site):
    one = int(site.objects.diaObjectId[5])
    full = pd.DataFrame(site.http.get(f"/v1/objects/{one}/lightcurve").json()["rows"])
    assert full.kind.tolist() == ["detection", "forced"] * 3
    assert full.midpointMjdTai.is_monotonic_increasing
    assert full.band.tolist() == ["r"] * 6
    forced = site.http.get(
        f"/v1/objects/{one}/lightcurve", params={"kind": "forced", "since": 61002.5, "until": 61003.5}
    ).json()
    assert [r["visit"] for r in forced["rows"]] == [3]
    assert site.http.get(f"/v1/objects/{one}/lightcurve", params={"band": "g"}).json()["count"] == 0
    assert site.http.get(f"/v1/objects/{one}/lightcurve", params={"kind": "bad"}).status_code == 422


def test_bad_questions_get_clear_answers(site):
    def code(path, **parameters):
        answer = site.http.get(path, params=parameters)
        return answer.status_code, answer.json().get("code"), answer.json().get("detail", "")

    assert code("/v1/objects", ra=400, dec=0)[:2] == (422, "bad_query")
    assert code("/v1/objects", ra="nan", dec=0)[:2] == (422, "bad_query")
    assert code("/v1/objects", ra=1, dec=0, radius=1e9)[:2] == (422, "bad_query")
    status, name, text = code("/v1/objects", ra=1, dec=0, columns="ra,colour")
    assert (status, name) == (422, "bad_query")
    assert "colour" in text
    assert code("/v1/objects", ra=1, dec=0, limit=10**9)[:2] == (422, "bad_query")
    assert code("/v1/objects/123")[:2] == (404, "not_found")
    assert code("/v1/objects/1/versions", columns="ra;DROP TABLE")[:2] == (422, "bad_query")


def test_simple_cone_search_by_pyvo(site):
    service = pyvo.dal.SCSService(f"{site.url}/v1/scs?")
    found = service.search(pos=(0.0, 60.0), radius=0.7)
    want = inside(site.objects, 0.0, 60.0, 0.7)
    assert sorted(int(r["diaObjectId"]) for r in found) == sorted(want.diaObjectId)
    assert found.fieldname_with_ucd("ID_MAIN") == "diaObjectId"
    assert found.fieldname_with_ucd("POS_EQ_RA_MAIN") == "ra"
    assert found.fieldname_with_ucd("POS_EQ_DEC_MAIN") == "dec"
    assert len(service.search(pos=(0.0, 60.0), radius=0.7, verbosity=3).fieldnames) == len(columns_of("DiaObject"))
    assert service.search(pos=(0.0, 60.0), radius=0.7, verbosity=1).fieldnames == ("diaObjectId", "ra", "dec")
    assert len(service.search(pos=(0.0, 60.0), radius=0.0)) == 0  # the description alone
    with pytest.raises(pyvo.dal.DALQueryError, match="radius"):
        service.search(pos=(0.0, 60.0), radius=50.0)
    missing = httpx.get(f"{site.url}/v1/scs", params={"ra": 1, "DEC": 2})
    assert 'name="Error"' in missing.text
    assert "SR" in missing.text


def test_a_long_answer_needs_the_memory_of_one_frame(site):
    """300 000 rows, 200 MB in memory at once: the stream holds a few of them."""
    import tracemalloc

    from psycopg import sql

    from apdb.queries import Query

    columns = columns_of("DiaSource")
    statement = sql.SQL('SELECT {} FROM "DiaSource" t, generate_series(1, 334)').format(
        sql.SQL(", ").join(sql.Identifier("t", c.name) for c in columns)
    )
    query = Query("many", columns, statement, (), 10**6)
    with Database(site.uri).connect() as connection:
        tracemalloc.start()
        count = sum(len(f) for f in stream_frames(connection, query.statement, query.columns))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 900 * 334
        assert peak < 40e6
        # a reader that goes away leaves a connection that works
        frames = stream_frames(connection, query.statement, query.columns)
        next(frames)
        frames.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
            bad = sql.SQL("SELECT 1 / (x - 500000)::bigint FROM generate_series(1, 1000000) x")
            list(stream_frames(connection, bad, columns_of("DiaSource")[:1]))
        assert connection.execute("SELECT 2").fetchone() == (2,)


def test_hot_queries_use_indices(site):
    """Plans as the planner makes them on a larger table, nothing switched off."""
    client = PostgresApdb(site.uri)
    rng = np.random.default_rng(8)
    o, _, _ = rows(40_000)
    o = o.assign(
        diaObjectId=2**61 + np.arange(40_000), ra=rng.uniform(0, 360, 40_000), dec=rng.uniform(-80, 30, 40_000)
    )
    client.store(at(61009.0), o)
    client.close()
    with psycopg.connect(site.uri, autocommit=True) as connection:
        connection.execute("ANALYZE")
        queries = [cone(100.0, 0.0, 0.1), cone(100.0, 0.0, 0.1, wanted=["ra"]), cone(100.0, 0.0, 0.1, as_of=61005.0)]
        for query in queries:
            cursor = psycopg.ClientCursor(connection)
            text = cursor.mogrify(query.statement, query.parameters)
            plan = "\n".join(r[0] for r in connection.execute("EXPLAIN " + text))
            for table in ('"DiaObjectLast"', '"DiaObject"'):
                assert f"Seq Scan on {table}" not in plan, plan


def test_the_reader_role_reads_views_and_nothing_else(site):
    with psycopg.connect(site.uri, autocommit=True) as connection:
        make_reader(connection, "grafana", "open sesame", timeout_s=1)
        make_reader(connection, "grafana", None, timeout_s=1)  # again is fine
    uri = site.uri.replace("alertprod@", "grafana:open%20sesame@")
    with psycopg.connect(uri, autocommit=True) as reader:
        for view in VIEWS:
            reader.execute(f"SELECT * FROM {view} LIMIT 1")
        one = int(site.objects.diaObjectId[0])
        assert len(reader.execute("SELECT * FROM object_light_curve(%s)", (one,)).fetchall()) == 6
        assert len(reader.execute("SELECT * FROM object_light_curve(%s, 2)", (one,)).fetchall()) == 2
        assert len(reader.execute("SELECT * FROM visit_sources(1, 0, 1000000)").fetchall()) == 300
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute('SELECT * FROM "VisitLedger"')
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            reader.execute("CREATE TABLE mine (x int)")
        reader.execute("SET default_transaction_read_only = off")  # a role may do that: its rights still hold
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute('DELETE FROM "DiaSource"')
        with pytest.raises(psycopg.errors.QueryCanceled):
            reader.execute("SELECT pg_sleep(10)")
    with psycopg.connect(site.uri, autocommit=True) as connection:
        connection.execute("DROP OWNED BY grafana")
        connection.execute("DROP ROLE grafana")


@pytest.fixture
def imaged(site):
    """Two visits with images at (40, -20) and (0.1, 60), one that failed elsewhere."""
    shapes = {(71, "r", "done"): (40.0, -20.0), (72, "g", "done"): (0.1, 60.0), (73, "g", "failed"): (200.0, 10.0)}
    with psycopg.connect(site.uri, autocommit=True) as c:
        for (visit, band, state), (ra, dec) in shapes.items():
            square = polygon(*corners(ra, dec))
            c.execute(
                'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt, band, '
                "\"midpointMjdTai\", region) VALUES (%s, 5, 'simcam', '{}', 'x', %s, 1, %s, %s, %s)",
                (visit, state, band, 61000.0 + visit, lock_pixels(square)),
            )
        yield list(shapes.values())
        c.execute('DELETE FROM "VisitLedger" WHERE detector = 5')


def corners(ra, dec, half=0.12):
    grow = half / np.cos(np.radians(dec))
    return np.array([ra - grow, ra + grow, ra + grow, ra - grow]) % 360, np.array(
        [dec - half, dec - half, dec + half, dec + half]
    )


def cells_of(answer):
    """Order and cell of each row, by the rule of the standard: 4 * 4**order + cell."""
    with fits.open(io.BytesIO(answer.content)) as hdus:
        hdus.verify("exception")
        head, numbers = hdus[1].header, np.asarray(hdus[1].data["UNIQ"])
    assert (head["MOCVERS"], head["MOCDIM"], head["ORDERING"], head["COORDSYS"]) == ("2.0", "SPACE", "NUNIQ", "C")
    assert (np.diff(numbers) > 0).all()
    order = np.floor(np.log2(numbers / 4) / 2).astype(int)
    assert order.max(initial=0) <= head["MOCORD_S"]
    return {(int(o), int(n - 4 * 4**o)) for o, n in zip(order, numbers, strict=True)}


def share_inside(cells, ra, dec):
    orders = {o for o, _ in cells}
    hits = [
        [(o, int(p)) in cells for p in hpgeom.angle_to_pixel(1 << o, ra, dec, nest=True, lonlat=True)] for o in orders
    ]
    return float(np.any(hits, axis=0).mean())


def test_the_footprint_holds_the_images_and_little_else(site, imaged):
    answer = site.http.get("/v1/footprint")
    assert answer.headers["content-type"] == "application/fits"
    cells = cells_of(answer)
    rng = np.random.default_rng(8)
    near, far, failed = imaged
    for ra, dec in (near, far):
        (low, high, _, _), _ = corners(ra, dec)
        width = (high - low) % 360
        inside_ra, inside_dec = (low + width * rng.random(500)) % 360, dec + rng.uniform(-0.12, 0.12, 500)
        assert share_inside(cells, inside_ra, inside_dec) > 0.995  # slivers of cells at the border may be missing
        assert share_inside(cells, np.array([ra, ra]), np.array([dec - 1.2, dec + 1.2])) == 0
    assert share_inside(cells, np.array([failed[0]]), np.array([failed[1]])) == 0
    area = sum(41252.96 / (12 * 4**o) for o, _ in cells)
    assert area < 8 * 0.08 * 2  # at most eight pixels of level 8, with the cells at their borders
    red = site.http.get("/v1/footprint", params={"format": "json", "band": "r", "until": 61100}).json()
    listed = {(int(o), c) for o, cells_at in red.items() for c in cells_at}
    assert listed < cells
    assert share_inside(listed, np.array([40.0, 0.1]), np.array([-20.0, 60.0])) == 0.5
    nothing = site.http.get("/v1/footprint", params={"since": 70000})
    assert cells_of(nothing) == set()


def test_pyvo_asks_the_tables_in_adql(site):
    service = pyvo.dal.TAPService(f"{site.url}/v1/tap")
    assert service.maxrec == 10_000  # of its capabilities
    assert {t.name for t in service.tables} == set(ADQL_TABLES)
    assert {c.name: c.unit for c in service.tables["dia_object_latest"].columns}["ra"] == "deg"
    circle = "CONTAINS(POINT('ICRS', ra, dec), CIRCLE('ICRS', 359.9, 60.1, 0.7)) = 1"
    found = service.search(
        f"SELECT diaObjectId, ra, nDiaSources FROM dia_object_latest WHERE {circle} ORDER BY ra DESC"
    ).to_table()
    want = inside(site.objects, 359.9, 60.1, 0.7)
    assert 10 < len(want) < 290
    assert sorted(found["diaObjectId"].tolist()) == sorted(want.diaObjectId)
    assert (np.diff(found["ra"]) <= 0).all()
    assert str(found["ra"].unit) == "deg"
    assert set(found["nDiaSources"]) == {3}
    outside = service.search(f"SELECT COUNT(*) AS n FROM dia_object_latest WHERE NOT {circle}").to_table()
    total = service.search("SELECT COUNT(*) AS n FROM dia_object_latest").to_table()
    assert outside["n"][0] == total["n"][0] - len(want)
    asked = "SELECT visit, COUNT(*) AS n, AVG(psfFlux) AS mean FROM dia_source s WHERE (s.snr > 10 OR s.snr IS NULL) AND band IN ('g', 'r') GROUP BY visit ORDER BY visit"
    means = service.search(asked).to_table()
    with psycopg.connect(site.uri) as c:
        truth = c.execute(
            'SELECT visit, count(*), avg("psfFlux"::float8) FROM "DiaSource" WHERE (snr > 10 OR snr IS NULL) AND band IN '
            "('g', 'r') GROUP BY visit ORDER BY visit"
        ).fetchall()
    assert [(int(r["visit"]), int(r["n"])) for r in means] == [row[:2] for row in truth]
    np.testing.assert_allclose(means["mean"], [row[2] for row in truth], rtol=1e-5)
    near = service.search(
        "SELECT TOP 3 diaObjectId FROM dia_object_latest ORDER BY DISTANCE(POINT(ra, dec), POINT(0, 60))"
    ).to_table()
    distance = np.hypot((site.objects.ra + 180) % 360 - 180, (site.objects.dec - 60) / 0.5)
    assert len(near) == 3
    assert near["diaObjectId"][0] == site.objects.diaObjectId[distance.argmin()]


def test_what_tap_cannot_answer_is_an_error_of_the_protocol(site, imaged):
    service = pyvo.dal.TAPService(f"{site.url}/v1/tap")
    for asked, says in (
        ("SELECT ra FROM pg_user", "no table"),
        ("SELECT ra FROM dia_source WHERE ra = 'x'", "invalid input"),
        ("SELECT ra, COUNT(*) FROM dia_source", "GROUP BY"),
    ):
        with pytest.raises(pyvo.DALQueryError, match=says):
            service.search(asked)
    cut = service.search("SELECT diaObjectId FROM dia_object_latest", maxrec=7)
    assert len(cut) == 7
    assert "OVERFLOW" in [i.value for i in cut.votable.resources[0].infos]
    whole = service.search("SELECT TOP 7 diaObjectId FROM dia_object_latest")
    assert "OVERFLOW" not in [i.value for i in whole.votable.resources[0].infos]
    assert (
        len(
            service.search("SELECT visit AS \"a%sb\" FROM visit_summary WHERE instrument LIKE 'sim%' AND night > 61000")
        )
        == 3
    )
    plain = site.http.get(
        "/v1/tap/sync", params={"query": "SELECT TOP 2 ra FROM dia_source", "LANG": "ADQL", "responseformat": "csv"}
    )
    assert plain.text.splitlines()[0] == "ra"
    assert len(plain.text.splitlines()) == 3
    refused = site.http.post("/v1/tap/sync", json={"QUERY": "SELECT ra FROM dia_source"})
    assert refused.status_code == 415


@pytest.fixture
def session():
    """A session of HTTP whose connections are closed in the end."""
    with requests.Session() as one:
        yield one


def test_pyvo_submits_a_query_and_fetches_its_answer_later(site, session):
    service = pyvo.dal.TAPService(f"{site.url}/v1/tap", session=session)
    ids = site.objects.diaObjectId  # other tests store other objects
    query = f"SELECT diaObjectId, ra FROM dia_object_latest WHERE diaObjectId BETWEEN {ids.min()} AND {ids.max()}"
    job = service.submit_job(query, maxrec=1000)
    assert job.phase == "PENDING"
    job.run().wait(timeout=30)
    job.raise_if_error()
    assert job.phase == "COMPLETED"
    assert job.query == query
    found = job.fetch_result().to_table()
    assert sorted(found["diaObjectId"].tolist()) == sorted(ids)
    assert job.job_id in {j.jobid for j in service.get_job_list()}
    wrong = service.submit_job("SELECT ra FROM pg_user")
    wrong.run().wait(phases=["ERROR"], timeout=30)
    with pytest.raises(pyvo.DALQueryError, match="no table"):
        wrong.raise_if_error()
    given_up = service.submit_job("SELECT ra FROM dia_source")
    given_up.abort()
    assert given_up.phase == "ABORTED"
    for one in (job, wrong, given_up):
        one.delete()
    assert site.http.get(f"/v1/tap/async/{job.job_id}").status_code == 404


def test_of_a_query_that_comes_with_more_its_own_parameters_are_kept(site):
    made = site.http.post("/v1/tap/async", data={"QUERY": "SELECT 1", "runId": "mine", "nobody\0's": "x\0"})
    assert made.status_code == 303, made.text
    kept = site.http.get(f"{made.headers['location']}/parameters").text
    assert ["mine" in kept, "SELECT 1" in kept, "nobody" in kept.lower()] == [True, True, False]


@pytest.fixture
def stored(site):
    """A visit whose difference image is stored; its exposure."""
    exposure = make_exposure((0, 0))
    with psycopg.connect(site.uri, autocommit=True) as c:
        c.execute(
            'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt) VALUES '
            "(80, 5, 'simcam', '{}', 'x', 'done', 1), (81, 5, 'simcam', '{}', 'x', 'done', 1)"
        )
    path = difference_path(site.products, 80, 5, 1)
    exposure.write_fits(path)
    yield exposure
    path.unlink()
    with psycopg.connect(site.uri, autocommit=True) as c:
        c.execute('DELETE FROM "VisitLedger" WHERE detector = 5')


def test_pyvo_follows_the_links_of_a_stored_image_to_a_cutout(site, stored, session):
    found = DatalinkResults.from_result_url(f"{site.url}/v1/datalink?ID=80/5", session=session)
    assert {row.semantics for row in found} == {"#this", "#cutout", "#preview", "#derivation"}
    this = next(row for row in found if row.semantics == "#this")
    assert this.content_type == "application/fits"
    assert len(site.http.get(this.access_url).content) == this.content_length
    ra, dec = (float(v[0]) for v in stored.wcs.pixel_to_sky(np.array([30.0]), np.array([20.0])))
    cut = found.get_first_proc().process(circle=(ra, dec, 5 * 0.2 / 3600))
    with fits.open(io.BytesIO(cut.read())) as hdus:
        image = next(h for h in hdus if h.data is not None and h.data.ndim == 2)
        # the scale of this WCS is sqrt(1.01) times 0.2 arcsec: the radius is 4.98 px
        rows, columns = slice(20 - 5, 20 + 6), slice(30 - 5, 30 + 6)
        np.testing.assert_array_equal(image.data, stored.image[rows, columns])
        x, y = (float(v[0]) for v in WCS(image.header).all_world2pix([ra], [dec], 0))
        assert (x, y) == pytest.approx((5.0, 5.0), abs=0.01)
    assert site.http.get("/v1/soda/sync", params={"ID": "80/5", "CIRCLE": "10 10 0.1"}).status_code == 204
    for given in (
        {"ID": "80/5"},
        {"ID": "80/5", "CIRCLE": "1 2"},
        {"ID": "80/5", "POS": "SQUARE 1 2 3"},
        {"CIRCLE": "1 2 3"},
    ):
        answer = site.http.get("/v1/soda/sync", params=given)
        assert (answer.status_code, answer.text.split(":")[0]) == (400, "UsageFault")
    assert site.http.get("/v1/soda/sync", params={"ID": "81/5", "CIRCLE": "10 10 0.1"}).status_code == 404
    faults = DatalinkResults.from_result_url(f"{site.url}/v1/datalink?ID=81/5&ID=nothing", session=session)
    assert [row["error_message"].split(":")[0] for row in faults] == ["NotFoundFault", "NotFoundFault"]
