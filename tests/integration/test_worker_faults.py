"""Workers that are killed, that work on the same sky at once, and that are stopped: services on shared servers."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from apdb.operate.export import all_rows, latest_objects
from service.local.campaign import consume_alerts, post_visits, wait_finished, wait_published
from tasks.sphere import unit_vectors
from tests.support.shared_stack import SharedStack
from tests.support.survey import messages, science, survey_settings

POINTS = ("associated", "before_commit", "after_commit")


@pytest.fixture
def stack(survey, database, kafka):
    """Make a service with its own database and topics."""

    def make(roles=("serve", "worker", "relay"), **more):
        servers = {"database_uri": database.uri, "kafka_brokers": kafka.brokers}
        return SharedStack(survey_settings(survey, **servers, **more), roles=roles)

    return make


def test_kill_9_of_the_worker_loses_and_doubles_nothing(survey, stack):
    """Jobs die by SIGKILL at each point in turn, then the whole worker is killed, and in the end started again."""
    keys = []
    with stack(roles=("serve", "relay")) as killed:
        for number, point in enumerate(POINTS):
            post = messages(science(survey))[number % 2]
            posts = [{**post, "visit": post["visit"] + 1000 * number}]
            keys += [(m["visit"], m["detector"]) for m in posts]
            post_visits(killed, posts)
            (killed.scratch / "worker.log").unlink(missing_ok=True)
            killed.start("worker", ALERTPROD_CRASH_POINT=point, ALERTPROD_ATTEMPTS="9")
            deadline = time.monotonic() + 120
            while "job_crashed" not in killed.log("worker"):
                assert time.monotonic() < deadline, killed.log("worker")
                time.sleep(0.1)
            killed.kill("worker")
        killed.start("worker")
        states = wait_finished(killed, keys, 180)
        assert {s["state"] for s in states.values()} == {"done"}, states
        published = wait_published(killed)
        ids = [
            a["diaSourceId"]
            for a in consume_alerts(killed.settings.kafka_brokers, killed.settings.alert_topic, published)
        ]
        sources = all_rows(killed.database, "DiaSource")
        assert sorted(ids) == sorted(sources.diaSourceId)
        assert len(set(ids)) == len(ids) > 0
        assert set(zip(sources.visit, sources.detector, strict=True)) == set(keys)


def test_two_workers_on_overlapping_detectors_make_no_star_twice(survey, stack):
    """The same sky is sent as two detectors of one visit, twice, to two workers at once."""
    rows = science(survey)
    rows = rows[rows.detector == 0].head(3)
    with stack(order_wait_s=0.0, workers=2) as twice:
        posts = []
        for r in rows.itertuples():
            for detector in (10, 11):
                posts.append({"instrument": "simcam", "science": r.path, "visit": int(r.visit), "detector": detector,
                              "midpointMjdTai": float(r.mjd) + detector * 1e-7})  # fmt: skip
        post_visits(twice, posts)
        wait_finished(twice, [(p["visit"], p["detector"]) for p in posts], 240)
        objects = latest_objects(twice.database)
        sources = all_rows(twice.database, "DiaSource")
    assert len(sources) > 8
    pairs = cKDTree(unit_vectors(objects.ra, objects.dec)).query_pairs(np.radians(0.7 / 3600))
    assert pairs == set()


def test_stopping_leaves_no_process_behind(stack):
    with stack() as short:
        pids = [p.pid for p in short.processes.values()]
        scratch = short.scratch
        short.processes["worker"].send_signal(signal.SIGTERM)
        assert short.processes["worker"].wait(timeout=30) == 0
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
    assert not scratch.exists()
    shutil.rmtree(scratch, ignore_errors=True)
