"""A worker killed at each named point of a visit: the same rows and alerts as in a run that nothing disturbed."""

import os
import time

import pytest

from apdb import Ledger
from apdb.operate.export import all_rows
from service.local.campaign import consume_alerts, post_visits, wait_finished, wait_published
from tests.support.databases import copied_database
from tests.support.shared_stack import SharedStack
from tests.support.survey import messages, science, survey_settings

# the supervisor dies with the first, a job process with the others; the last one takes back what the one before stored
POINTS = ("claimed", "start", "opened", "differenced", "locked", "associated", "alerts_written", "before_commit",
          "after_commit", "taken_back")  # fmt: skip
COLUMNS = ["diaSourceId", "diaObjectId", "visit", "detector", "psfFlux", "psfFluxErr", "ra", "dec"]

pytestmark = pytest.mark.skipif("ALERTPROD_LONG_FAULTS" not in os.environ, reason="a part of 'make faults'")


def visits(survey):
    """One message for each point: the images by turns, each time as another visit; the last replaces the one before."""
    frames = messages(science(survey))
    posts = [{**frames[k % len(frames)], "visit": frames[k % len(frames)]["visit"] + 1000 * (k // len(frames))}
             for k in range(len(POINTS) - 1)]  # fmt: skip
    return [*posts, {**posts[-1], "reprocess": "replace"}]


def kill_at(stack, point):
    """Start a worker that dies, or whose job dies, at a point, and end it."""
    (stack.scratch / "worker.log").unlink(missing_ok=True)
    worker = stack.start("worker", ALERTPROD_CRASH_POINT=point, ALERTPROD_ATTEMPTS="99")
    deadline = time.monotonic() + 90
    while worker.poll() is None and "job_crashed" not in stack.log("worker"):
        assert time.monotonic() < deadline, (point, stack.log("worker"))
        time.sleep(0.05)
    stack.kill("worker")


def run(stack, posts, points):
    """Post one visit after the other; returns rows and ids of alerts."""
    for post, point in zip(posts, points, strict=True):
        post_visits(stack, [post])
        if point is not None:
            kill_at(stack, point)
            stack.start("worker", ALERTPROD_ATTEMPTS="99")
        states = wait_finished(stack, [(post["visit"], post["detector"])], 120)
        assert {s["state"] for s in states.values()} == {"done"}, (point, states)
        if point is not None:  # it has nothing to do; it may not even have come so far
            stack.kill("worker")
    published = wait_published(stack)
    alerts = consume_alerts(stack.settings.kafka_brokers, stack.settings.alert_topic, published)
    sources = all_rows(stack.database, "DiaSource")[COLUMNS].sort_values("diaSourceId").reset_index(drop=True)
    forced = len(all_rows(stack.database, "DiaForcedSource"))
    return sources, forced, sorted(a["diaSourceId"] for a in alerts)


@pytest.mark.timeout(900)
def test_a_worker_killed_at_each_point_leaves_what_an_undisturbed_one_does(
    survey, database, template_database, kafka, record_property
):
    servers = {"kafka_brokers": kafka.brokers, "order_wait_s": 0.0}
    posts = visits(survey)
    with copied_database(template_database) as other:
        calm = survey_settings(survey, database_uri=other, **servers)
        with SharedStack(calm) as stack:
            sources, forced, alerts = run(stack, posts, [None] * len(posts))
    hit = survey_settings(survey, database_uri=database.uri, **servers)
    with SharedStack(hit, roles=("serve", "relay")) as stack:
        killed = run(stack, posts, POINTS)
        attempts = [row["attempt"] for row in Ledger(stack.database).rows(limit=1000)]
    assert killed[0].equals(sources)
    assert killed[1] == forced
    assert killed[2] == alerts
    assert len(set(alerts)) == len(alerts) > 0
    record_property("points", len(POINTS))
    record_property("alerts", len(alerts))
    record_property("attempts", sum(attempts))
