"""The whole service on this machine: posting, states, errors, repeats, Kafka ingest, a broker that dies."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import fastavro
import httpx
import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from typer.testing import CliRunner

from alerts.consumer import AlertConsumer, CurrentSources
from alerts.packets.wire import schema
from apdb.operate.export import all_rows, latest_objects
from apdb.queue.status import service_status
from exposure import Exposure, load_instrument
from exposure.mask import plane_bits
from service.commands.main import app
from service.local.campaign import consume_alerts, post_visits, read_alerts, wait_finished, wait_published
from service.local.stack import Stack
from service.processing.explain import explain
from tests.support.survey import messages, science, survey_settings


@pytest.fixture(scope="module")
def running(survey):
    """A service with servers of its own: its broker is killed."""
    with Stack(survey_settings(survey)) as running:
        yield running


def test_a_posted_visit_becomes_alerts_that_equal_the_database(survey, running):
    posts = messages(science(survey))
    replies = post_visits(running, posts)
    assert {r["httpStatus"] for r in replies} == {202}
    assert all(r["new"] for r in replies)
    keys = [(m["visit"], m["detector"]) for m in posts]
    states = wait_finished(running, keys, 300)
    assert {s["state"] for s in states.values()} == {"done"}, running.log("worker")
    published = wait_published(running)
    alerts = consume_alerts(running.kafka.brokers, running.settings.alert_topic, published)
    sources = all_rows(running.database, "DiaSource").set_index("diaSourceId")
    assert published == len(alerts) == len(sources) > 20
    assert sorted(a["diaSourceId"] for a in alerts) == sorted(sources.index)
    objects = latest_objects(running.database).set_index("diaObjectId")
    for alert in alerts:
        assert fastavro.validate(alert, schema())
        row = sources.loc[alert["diaSourceId"]]
        for name, value in alert["diaSource"].items():
            if isinstance(value, float):
                assert value == pytest.approx(float(row[name]), rel=1e-6, nan_ok=True), name
        owner = alert["diaSource"]["diaObjectId"]
        assert (owner or 0) == row.diaObjectId
        if owner:
            assert owner in objects.index
            before = alert["prvDiaSources"] or []
            assert all(p["midpointMjdTai"] < alert["diaSource"]["midpointMjdTai"] for p in before)
            total = sources[(sources.diaObjectId == owner) & (sources.midpointMjdTai < row.midpointMjdTai)]
            assert len(before) == len(total)
            assert alert["diaObject"]["nDiaSources"] == len(before) + 1
    counts = sources[sources.diaObjectId != 0].groupby("diaObjectId").size()
    assert (objects.nDiaSources == counts.reindex(objects.index)).all()
    forced = all_rows(running.database, "DiaForcedSource")
    assert len(forced) > 10
    assert not forced.duplicated(["diaObjectId", "visit", "detector"]).any()


def test_explain_says_why_there_is_or_is_no_alert(survey, running):
    """At a stored source, at an empty place, off the image, where the truth has a transient below the threshold."""
    row = science(survey).iloc[0]
    visit, detector = int(row.visit), int(row.detector)
    sources = all_rows(running.database, "DiaSource")
    own = sources[(sources.visit == visit) & (sources.detector == detector)]
    wait_published(running)
    one = own.iloc[0]
    steps = explain(running.settings, visit, detector, one.ra, one.dec)
    assert [(s.name, s.passed) for s in steps] == [("visit", True), ("stored", True), ("alert", True)]
    assert steps[1].values["diaSourceId"] == one.diaSourceId
    assert "published at" in steps[2].text
    exposure = Exposure.read_fits(row.path, load_instrument("simcam"))
    rng = np.random.default_rng(3)
    reasons = set()
    for _ in range(3):
        x, y = rng.uniform(60, 380, 2)
        ra, dec = (float(v[0]) for v in exposure.wcs.pixel_to_sky(np.array([x]), np.array([y])))
        steps = explain(running.settings, visit, detector, ra, dec, 1.0)
        if steps[1].passed:  # a source by chance
            continue
        names = [s.name for s in steps]
        assert names[:5] == ["visit", "stored", "mask", "signal", "detected"]
        assert steps[2].values["x"] == pytest.approx(x, abs=0.1)
        failed = [s for s in steps[2:] if s.passed is False]
        assert failed, [s.text for s in steps]
        reasons.add(failed[-1].name)
        signal = steps[3]
        assert (signal.values["peakSignificance"] >= signal.values["threshold"]) == signal.passed
    assert "detected" in reasons
    far = explain(running.settings, visit, detector, (one.ra + 90) % 360, 0.0)
    assert (far[-1].name, far[-1].passed) == ("image", False)
    assert explain(running.settings, 424242, 0, 1.0, 1.0)[0].text.startswith("never came")
    before = len(sources)
    assert len(all_rows(running.database, "DiaSource")) == before  # nothing was written
    done = CliRunner().invoke(
        app, ["explain", str(visit), str(detector), str(one.ra), "--", str(one.dec)], env=running.settings.environment()
    )
    assert done.exit_code == 0, done.output
    assert "published" in done.stdout


def hidden(post, sources, where):
    """Return the message of a copy of an image on which some of its sources lie in pixels without data."""
    e = Exposure.read_fits(Path(post["science"]), load_instrument("simcam"))
    x, y = e.wcs.sky_to_pixel(sources.ra.to_numpy(), sources.dec.to_numpy())
    rows, columns = np.mgrid[: e.image.shape[0], : e.image.shape[1]]
    for x0, y0 in zip(x, y, strict=True):
        e.mask[np.hypot(columns - x0, rows - y0) < 16] |= plane_bits(["NO_DATA"])
    where.parent.mkdir(exist_ok=True)
    e.write_fits(where)
    return {**post, "science": str(where)}


def test_replaced_visits_and_their_readers(survey, running):
    """The last visit twice, a founding one, by the query as in the message, then with fewer detections and with none: alerts and
    corrections give what is stored."""
    posts = messages(science(survey))
    url, last, founding = f"{running.url}/v1/visits", posts[-1], posts[0]
    forced = all_rows(running.database, "DiaForcedSource")
    assert (forced.visit == last["visit"]).any()
    own = all_rows(running.database, "DiaSource")
    own = own[(own.visit == last["visit"]) & (own.detector == last["detector"])]
    fewer = hidden(last, own[::2], survey / "hidden" / "fewer.fits")
    detected = {}
    for name, release, post in (("again", 1, last), ("twice", 2, last), ("founding", 1, founding), ("fewer", 3, fewer),
                                ("none", 4, None), ("none", 5, None)):  # fmt: skip
        if post is None:  # once more, as a source at the threshold may be found where others are hidden
            stored = all_rows(running.database, "DiaSource")
            stored = stored[(stored.visit == last["visit"]) & (stored.detector == last["detector"])]
            post = hidden(last, stored, survey / "hidden" / f"{release}.fits")
        by_query = release == 2
        reply = (
            httpx.post(url, params={"reprocess": "replace"}, json=post)
            if by_query
            else httpx.post(url, json={**post, "reprocess": "replace"})
        )
        assert (reply.status_code, reply.json()["release"], reply.json()["new"]) == (202, release, True)
        key = (post["visit"], post["detector"])
        state = wait_finished(running, [key], 120)[key]
        assert state["state"] == "done", running.log("worker")
        assert state["counts"]["withdrawn"] > 0 or detected.get(name) == 0
        detected[name] = state["counts"]["diaSources"]
    assert detected["again"] == detected["twice"] == len(own) > detected["fewer"] > detected["none"] == 0
    assert httpx.post(url, params={"reprocess": "sometimes"}, json=last).status_code == 422
    wait_published(running)
    current = CurrentSources()
    sources = all_rows(running.database, "DiaSource")
    valid = sources[sources.timeWithdrawnMjdTai.isna()]
    wanted = valid[valid.diaObjectId != 0].groupby("diaObjectId").diaSourceId.agg(set).to_dict()
    deadline = time.monotonic() + 60
    reader = AlertConsumer(running.kafka.brokers, running.settings.alert_topic, "corrected", until_end=True)
    with reader.correcting(current.correct) as consumer:
        while current.objects() != wanted:
            assert time.monotonic() < deadline, running.log("relay")
            for alert in consumer:
                current.add(alert.packet)
    objects = latest_objects(running.database).set_index("diaObjectId")
    assert objects.nDiaSources.to_dict() == {owner: len(ids) for owner, ids in wanted.items()}


def test_a_visit_that_is_being_processed_is_not_replaced(survey, running):
    post = {**messages(science(survey))[0], "visit": 9900, "reprocess": "replace"}
    with running.database.connect() as c, c.transaction():
        c.execute(
            'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt) VALUES '
            "(9900, %s, 'simcam', '{}', 'x', 'running', 1)", (post["detector"],))  # fmt: skip
        c.execute(
            'INSERT INTO "VisitLease" (visit, detector, attempt, owner, until) VALUES (9900, %s, 1, \'x\', now() + \'1 h\')',
            (post["detector"],))  # fmt: skip
    for more in ({}, {"params": {"reprocess": "replace"}}):
        reply = httpx.post(f"{running.url}/v1/visits", json=post, **more)
        assert (reply.status_code, reply.json()["code"]) == (409, "visit_running"), reply.text
    with running.database.connect() as c:
        for table in ("VisitLease", "VisitLedger"):
            c.execute(f'DELETE FROM "{table}" WHERE visit = 9900')


def test_posting_twice_changes_nothing(survey, running):
    posts = messages(science(survey))[:2]
    first = post_visits(running, posts)
    wait_finished(running, [(m["visit"], m["detector"]) for m in posts], 300)
    wait_published(running)
    before = len(all_rows(running.database, "DiaSource")), wait_published(running)
    second = post_visits(running, posts)
    assert {r["httpStatus"] for r in first + second} == {202}
    assert not any(r["new"] for r in second)
    assert (len(all_rows(running.database, "DiaSource")), wait_published(running)) == before
    other = post_visits(running, [{**posts[0], "science": posts[1]["science"]}])[0]
    assert (other["httpStatus"], other["code"]) == (409, "visit_conflict")


def broken_files(survey):
    """Return (name, message, expected code) for images that cannot be processed."""
    good = Path(messages(science(survey))[0]["science"])
    data = good.read_bytes()
    folder = survey / "broken"
    folder.mkdir(exist_ok=True)
    (folder / "noise.fits").write_bytes(b"\x01" * 4000)
    (folder / "cut.fits").write_bytes(data[: len(data) // 2])
    years = {"future": 64_654.5, "year8600": 2_461_373.5}  # a clock ten years off, a Julian date for an MJD
    for name, change in (
        ("nowcs", "wcs"),
        ("allnan", "nan"),
        ("band", "band"),
        ("future", "time"),
        ("year8600", "time"),
    ):
        e = Exposure.read_fits(good)
        if change == "wcs":
            e.wcs = None
        elif change == "nan":
            e.image[:] = np.nan
        elif change == "time":
            e.visit_info = replace(e.visit_info, midpoint_mjd_tai=years[name])
        else:
            e.band = "g"
        e.write_fits(folder / f"{name}.fits")
    return [("noise", "fits_unreadable"), ("cut", "fits_unreadable"), ("nowcs", "wcs_missing"),
            ("allnan", "no_good_pixels"), ("band", "template_missing"), ("absent", "fits_unreadable"),
            ("future", "time_refused"), ("year8600", "bad_card")]  # fmt: skip


def test_broken_images_fail_with_a_typed_error_and_the_service_goes_on(survey, running):
    cases = broken_files(survey)
    posts = [
        {"instrument": "simcam", "science": str(survey / "broken" / f"{name}.fits"), "visit": 5000 + k, "detector": 0}
        for k, (name, _) in enumerate(cases)
    ]
    missing = {**messages(science(survey))[0], "visit": 5900, "templates": "nosuchset"}
    other_camera = {"instrument": "decam", "science": posts[0]["science"], "visit": 5901, "detector": 0}
    post_visits(running, [*posts, missing])
    states = wait_finished(running, [(5000 + k, 0) for k in range(len(cases))] + [(5900, missing["detector"])], 120)
    # sizes of ids are those of the first camera now
    post_visits(running, [other_camera])
    states |= wait_finished(running, [(5901, 0)], 120)
    assert states[(5901, 0)]["error"]["code"] == "id_layout"
    for k, (name, code) in enumerate(cases):
        found = states[(5000 + k, 0)]
        assert (found["state"], found["error"]["code"]) == ("failed", code), (name, found)
        assert f"visit {5000 + k}, detector 0" in found["error"]["message"]
    assert states[(5900, missing["detector"])]["error"]["code"] == "template_missing"
    assert httpx.get(f"{running.url}/healthz").text == "ok\n"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"science": "/etc/passwd"}, "forbidden_location"), ({"science": "http://127.0.0.1/x"}, "forbidden_location"),
        ({"science": "file://other/x"}, "forbidden_location"), ({"science": "x.fits"}, "forbidden_location"),
        ({"science": "http://169.254.169.254/latest"}, "forbidden_location"), ({"science": "https://[fe80::1]/x"}, "forbidden_location"),
        ({"science": "file:///etc/passwd"}, "forbidden_location"), ({"science": "file:///%2e%2e/etc/passwd"}, "forbidden_location"),
        ({"science": "/tmp/../etc/passwd"}, "forbidden_location"), ({"science": "s3://bucket/x"}, "forbidden_location"),
        ({"science": "FILE://127.0.0.1/etc/passwd"}, "forbidden_location"), ({"science": "/proc/self/environ"}, "forbidden_location"),
        ({"instrument": "nosuch"}, "instrument"), ({"instrument": "../x"}, "bad_message"), ({"visit": -1}, "bad_message"),
        ({"surprise": 1}, "bad_message"), ({"band": "H"}, "bad_message"), ({"version": 2}, "bad_message"),
        ({"midpointMjdTai": 2461373.5}, "bad_message"),
    ],
)  # fmt: skip
def test_bad_messages_are_refused_at_the_door(survey, running, change, code):
    reply = post_visits(running, [{**messages(science(survey))[0], **change}])[0]
    assert (reply["httpStatus"], reply["code"]) == (422, code)


def test_a_path_that_leaves_the_roots_by_a_link_is_refused(survey, running, tmp_path):
    (tmp_path / "x.fits").write_bytes(b"")
    link = survey / "link.fits"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "x.fits")
    reply = post_visits(running, [{**messages(science(survey))[0], "visit": 6000, "science": str(link)}])[0]
    assert reply["code"] == "forbidden_location"


def test_other_doors_of_the_api(survey, running):
    with httpx.Client(base_url=running.url, timeout=30) as client:
        assert client.get("/v1/visits/424242/0").status_code == 404
        assert client.get("/v1/visits/99999999999999999999/0").status_code == 404
        assert client.post("/v1/visits", content=b"{not json").json()["code"] == "bad_message"
        assert client.post("/v1/visits", content=b"[]").status_code == 422
        assert client.post("/v1/visits", content=b" " * (2 << 20)).status_code == 413
        assert client.get("/readyz").status_code == 200
        metrics = client.get("/metrics").text
        assert "alertprod_up 1.0" in metrics
        assert 'alertprod_visits{state="done"}' in metrics
        assert "/v1/visits" in client.get("/openapi.json").json()["paths"]
        path = Path(messages(science(survey))[0]["science"])
        body = {"instrument": "simcam", "science": "ignored", "visit": 7000, "detector": 0}
        reply = client.post("/v1/visits", data={"message": json.dumps(body)}, files={"science": path.read_bytes()})
        assert reply.status_code == 202, reply.text
        assert reply.headers["location"] == "/v1/visits/7000/0"
    assert wait_finished(running, [(7000, 0)], 120)[(7000, 0)]["state"] == "done"


def test_a_visit_is_followed_from_its_post_to_the_topic_by_one_key(survey, running):
    """The trace id of the request is in the lines of API, worker and relay, in the visit's state and in its alerts' headers."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    message = {**messages(science(survey))[0], "visit": 7500}
    key = (7500, message["detector"])
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    assert httpx.post(f"{running.url}/v1/visits", json=message, headers=headers, timeout=30).status_code == 202
    state = wait_finished(running, [key], 120)[key]
    assert (state["state"], state["traceId"]) == ("done", trace)
    published = wait_published(running)
    alerts = read_alerts(running.kafka.brokers, running.settings.alert_topic, published)
    own = [a for a in alerts if a.headers["visit"] == "7500"]
    assert len(own) == state["counts"]["alerts"] > 0
    assert all(trace in a.headers["traceparent"] for a in own)
    logs = {role: (running.scratch / f"{role}.log").read_text().splitlines() for role in ("serve", "worker", "relay")}
    lines = {role: [json.loads(line) for line in log] for role, log in logs.items()}  # every line is one object
    said = {role: [e["event"] for e in found if e.get("trace_id") == trace] for role, found in lines.items()}
    assert [e for e in said["serve"] if e != "act"] == [
        f"visit 7500, detector {key[1]}: entered",
        "POST /v1/visits 202",
    ]
    assert said["worker"] == ["attempt begins", f"visit 7500, detector {key[1]}: done"]
    assert said["relay"] == [f"visit 7500, detector {key[1]}: {len(own)} alerts are in the topic"]


def test_visit_messages_over_kafka(survey, running):
    brokers = running.kafka.brokers
    topics = [NewTopic("visits", 1, 1), NewTopic("visits.dlq", 1, 1)]
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.create_topics(topics).values():
        future.result(30)
    running.start("ingest")
    producer = Producer({"bootstrap.servers": brokers})
    good = {**messages(science(survey))[0], "visit": 8000}
    for value in (b"{not json", b"null", json.dumps({**good, "surprise": 1}).encode(), json.dumps(good).encode()):
        producer.produce("visits", value)
    assert producer.flush(30) == 0
    deadline = time.monotonic() + 60
    while httpx.get(f"{running.url}/v1/visits/8000/{good['detector']}").status_code == 404:
        assert time.monotonic() < deadline, running.log("ingest")
        time.sleep(0.1)
    assert wait_finished(running, [(8000, good["detector"])], 120)[(8000, good["detector"])]["state"] == "done"
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "test", "auto.offset.reset": "earliest"})
    consumer.subscribe(["visits.dlq"])
    dead = []
    while len(dead) < 3 and time.monotonic() < deadline:
        m = consumer.poll(0.5)
        if m is not None and m.error() is None:
            dead.append(dict(m.headers())["error_code"])
    consumer.close()
    assert dead == [b"bad_message"] * 3


def test_visits_go_on_without_a_broker_and_alerts_follow(survey, running):
    """The broker is killed, and stays away for `ALERTPROD_BROKER_DOWN_S`; visits are done meanwhile."""
    wait_published(running)
    posts = [{**m, "visit": 7000 + k} for k, m in enumerate(messages(science(survey))[:3])]
    keys = [(m["visit"], m["detector"]) for m in posts]
    running.kafka.stop(now=True)
    began = time.monotonic()
    try:
        post_visits(running, posts)
        states = wait_finished(running, keys, 120)
        assert {s["state"] for s in states.values()} == {"done"}
        waiting = service_status(running.database)["unpublished_alerts"]
        metrics = dict(
            line.rsplit(" ", 1) for line in httpx.get(f"{running.url}/metrics").text.splitlines() if line[0] != "#"
        )
        assert float(metrics["alertprod_outbox_unpublished"]) == waiting > 0
        time.sleep(max(0.0, began + float(os.environ.get("ALERTPROD_BROKER_DOWN_S", "3")) - time.monotonic()))
    finally:
        running.kafka.start()
    published = wait_published(running, 120)
    alerts = read_alerts(running.kafka.brokers, running.settings.alert_topic, published)
    ids = [a.packet["diaSourceId"] for a in alerts]
    assert len(ids) == len(set(ids)) == published
    sources = all_rows(running.database, "DiaSource")
    assert sorted(i for i, a in zip(ids, alerts, strict=True) if a.headers["visit"].startswith("700")) == sorted(
        sources.diaSourceId[sources.visit.between(7000, 7002)]
    )


def test_a_late_frame_of_an_archived_month(survey, running, tmp_path):
    """A month that is archived and dropped while the service runs, a frame of it, the archive again, all of it restored."""

    def apdb(*words):
        done = CliRunner().invoke(app, ["apdb", *words, "--json"], env=running.settings.environment())
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def process(visit, mjd):
        post = {**messages(science(survey))[0], "visit": visit, "midpointMjdTai": mjd}
        post_visits(running, [post])
        state = wait_finished(running, [(visit, post["detector"])], 120)[(visit, post["detector"])]
        assert state["state"] == "done", state
        return state["counts"]["diaSources"]

    def seen():
        sources = all_rows(running.database, "DiaSource")
        return sources[sources.visit.isin((9100, 9101))].groupby("visit").size().to_dict()

    archive = ("archive", "--to", str(tmp_path), "--keep-months", "13", "--drop")
    month, found = "DiaSource_2025m01", {9100: process(9100, 60_680.0)}
    assert {"partition": month, "action": "dropped", "rows": found[9100]} in apdb(*archive)
    assert seen() == {}
    found[9101] = process(9101, 60_681.0)
    assert seen() == {9101: found[9101]}  # late, and read at once
    assert month not in {p["name"] for p in apdb("partitions", "list")}
    assert {"partition": month, "action": "dropped", "rows": found[9101]} in apdb(*archive)
    assert seen() == {}
    apdb("restore", month)
    assert seen() == found
    assert min(found.values()) > 0
