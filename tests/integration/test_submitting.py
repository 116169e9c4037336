"""Submitting: keys, batches, late images, cancel and retry, the priority lane; over HTTP and by commands."""

import json
import threading

import pytest
from typer.testing import CliRunner

from apdb import Ledger, VisitState
from apdb.errors import LeaseLost, VisitEnded, VisitRunning
from apdb.queue.changes import cancel_visit, look_for_images, retry_visit
from apdb.queue.keys import RequestKey, known_answer, prune_keys
from apdb.queue.ledger import Outcome, finish
from service.commands.main import app
from service.errors import StorageUnavailable
from service.intake.submit import image_is_there
from tests.support.asking import asker
from tests.support.serving import serving


def message(folder, visit, detector=1, **more):
    return {"instrument": "simcam", "science": str(folder / "x.fits"), "visit": visit, "detector": detector, **more}


@pytest.fixture
def ask(database, tmp_path):
    return asker(tmp_path / "uploads", database_uri=database.uri, data_roots=[tmp_path])[0]


def states(database):
    return {(r["visit"], r["detector"]): r["state"] for r in Ledger(database).rows()}


def test_a_key_gets_its_answer_again_whatever_happened_since(database, tmp_path, ask):
    key = {"Idempotency-Key": "night-1"}
    first = ask("POST", "/v1/visits", json=message(tmp_path, 1), headers=key)
    assert (first.status_code, first.json()["new"]) == (202, True)
    cancel_visit(database, 1, 1)
    again = ask("POST", "/v1/visits", json=message(tmp_path, 1), headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"] == "/v1/visits/1/1"
    assert "idempotency-replayed" not in first.headers
    without = ask("POST", "/v1/visits", json=message(tmp_path, 1))
    assert (without.json()["new"], without.json()["state"]) == (False, "cancelled")
    other = ask("POST", "/v1/visits", json=message(tmp_path, 2), headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")
    changed = ask("POST", "/v1/visits", json=message(tmp_path, 1), params={"reprocess": "replace"}, headers=key)
    assert changed.json()["code"] == "key_reused"
    assert states(database) == {(1, 1): "cancelled"}
    for bad in ("", "a" * 256, "a b"):
        assert ask("POST", "/v1/visits", json=message(tmp_path, 3), headers={"Idempotency-Key": bad}).status_code == 422


def test_what_is_refused_leaves_its_key_free(database, tmp_path, ask):
    ask("POST", "/v1/visits", json=message(tmp_path, 1))
    key = {"Idempotency-Key": "k"}
    conflict = message(tmp_path, 1, band="r")
    assert ask("POST", "/v1/visits", json=conflict, headers=key).status_code == 409
    assert ask("POST", "/v1/visits", json={**conflict, "reprocess": "replace"}, headers=key).status_code == 202
    with database.session() as connection:
        assert connection.execute('SELECT count(*) FROM "IdempotencyKey"').fetchone() == (1,)
        connection.execute('UPDATE "IdempotencyKey" SET "createdAt" = now() - interval \'4 days\'')
        assert prune_keys(connection) == 1


def test_keys_are_those_of_a_principal(database, tmp_path):
    from service.access import tokens

    ask = asker(tmp_path / "uploads", database_uri=database.uri, data_roots=[tmp_path], access="tokens")[0]
    for visit, name in enumerate(("ann", "ben")):
        _, token = tokens.make_token(database, name, ["submit"], 1.0, "test")
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "mine"}
        assert ask("POST", "/v1/visits", json=message(tmp_path, visit), headers=headers).status_code == 202
    with database.session() as connection:
        rows = connection.execute('SELECT principal, key FROM "IdempotencyKey" ORDER BY 1').fetchall()
    assert rows == [("ann", "mine"), ("ben", "mine")]


def test_twenty_at_once_with_one_key_are_one_submission(database, tmp_path):
    """On a server: each answer is the same, one of them made it."""
    answers = []
    with serving(database, tmp_path) as client:

        def post():
            body = {"visits": [message(tmp_path, v) for v in range(5)]}
            answers.append(client.post("/v1/visits/batch", json=body, headers={"Idempotency-Key": "one"}))

        threads = [threading.Thread(target=post) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {a.status_code for a in answers} == {202}
    assert len({a.text for a in answers}) == 1
    assert [a.headers.get("idempotency-replayed") for a in answers].count(None) == 1
    with database.session() as connection:
        assert connection.execute('SELECT count(*) FROM "VisitEvent"').fetchone() == (5,)


def test_a_batch_tells_of_each_what_became_of_it(database, tmp_path, ask):
    ask("POST", "/v1/visits", json=message(tmp_path, 1))
    good, again, other = message(tmp_path, 2), message(tmp_path, 1), message(tmp_path, 1, band="r")
    bad, outside = {**good, "surprise": 1}, {**good, "visit": 3, "science": "/etc/passwd"}
    reply = ask("POST", "/v1/visits/batch", json={"visits": [good, again, other, bad, outside, good, "x"]})
    assert reply.status_code == 207
    body = reply.json()
    assert (body["accepted"], body["refused"]) == (3, 4)
    told = [r["error"]["code"] if "error" in r else (r["visit"], r["state"], r["new"]) for r in body["results"]]
    assert told == [
        (2, "queued", True), (1, "queued", False), "visit_conflict", "bad_message", "forbidden_location", (2, "queued", False),
        "bad_message",
    ]  # fmt: skip
    assert body["results"][2]["error"]["help"] == "docs/errors/visit_conflict.md"
    assert states(database) == {(1, 1): "queued", (2, 1): "queued"}
    assert ask("POST", "/v1/visits/batch", json={"visits": [good]}).status_code == 202
    for wrong in ({}, {"visits": []}, {"visits": {}}, {"visits": [good], "more": 1}, {"visits": [good] * 2001}, [good]):
        assert ask("POST", "/v1/visits/batch", json=wrong).json()["code"] == "bad_message"


def test_a_batch_that_fails_in_a_way_that_may_pass_enters_nothing(database, tmp_path, monkeypatch):
    from service.intake.headers import HeaderReader

    def unreadable(*_):
        raise StorageUnavailable("x.fits: Input/output error")

    monkeypatch.setattr(HeaderReader, "__call__", unreadable)
    ask = asker(tmp_path / "uploads", database_uri=database.uri, data_roots=[tmp_path])[0]
    unnumbered = {"instrument": "simcam", "science": str(tmp_path / "x.fits")}
    reply = ask("POST", "/v1/visits/batch", json={"visits": [message(tmp_path, 1), unnumbered]})
    assert (reply.status_code, reply.json()["code"]) == (503, "storage_unavailable")
    assert int(reply.headers["retry-after"]) > 0
    assert states(database) == {}


def test_a_batch_counts_for_the_quota_by_what_it_enters(database, tmp_path):
    from service.access import tokens

    ask = asker(
        tmp_path / "uploads", database_uri=database.uri, data_roots=[tmp_path], access="tokens", visits_per_day=5
    )[0]
    _, token = tokens.make_token(database, "ann", ["submit"], 1.0, "test")

    def post(*visits):
        body = {"visits": [message(tmp_path, v) for v in visits]}
        return ask("POST", "/v1/visits/batch", json=body, headers={"Authorization": f"Bearer {token}"})

    assert post(1, 2, 3).status_code == 202
    refused = post(4, 5, 6)
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert post(4, 5).status_code == 202
    assert post(6).status_code == 429
    assert len(states(database)) == 5


def test_cancel_and_retry_by_the_state_of_the_visit(database, tmp_path, ask):
    ledger = Ledger(database)
    assert ask("POST", "/v1/visits/1/1/cancel").status_code == 404
    for visit in (1, 2, 3):
        ask("POST", "/v1/visits", json=message(tmp_path, visit))
    cancelled = ask("POST", "/v1/visits/1/1/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert ask("POST", "/v1/visits/1/1/cancel").status_code == 200  # again: as it is
    claim = ledger.claim("w", 60.0, 0.0)
    assert claim.visit == 2
    running = ask("POST", "/v1/visits/2/1/retry")
    assert (running.status_code, running.json()["code"]) == (409, "visit_running")
    assert ask("POST", "/v1/visits/2/1/cancel").json()["state"] == "cancelled"
    with pytest.raises(LeaseLost):  # its worker hears it with the next heartbeat, and can store nothing
        ledger.renew(claim, 60.0)
    with database.session() as connection, pytest.raises(LeaseLost):
        finish(connection, 2, 1, claim.attempt, Outcome(VisitState.DONE, {}, {}))
    ledger.fail(claim, "internal", "too late", retry_in_s=0.0)
    assert ledger.get(2, 1)["state"] == "cancelled"
    again = ask("POST", "/v1/visits/2/1/retry").json()
    assert (again["state"], again["error"]) == ("queued", None)
    claim = ledger.claim("w", 60.0, 0.0)
    assert (claim.visit, claim.attempt) == (2, 2)
    ledger.fail(claim, "no_psf", "none", retry_in_s=None)
    assert ask("POST", "/v1/visits/2/1/cancel").json()["code"] == "visit_ended"
    assert ask("POST", "/v1/visits/2/1/retry").json()["state"] == "queued"
    claim = ledger.claim("w", 60.0, 0.0)
    ledger.fail(claim, "sky_busy", "busy", retry_in_s=500.0)
    assert ledger.get(2, 1)["failures"] == 1
    assert ask("POST", "/v1/visits/2/1/retry").json()["error"] is None  # its pause is over
    claim = ledger.claim("w", 60.0, 0.0)
    assert (claim.visit, claim.failures) == (2, 0)
    with database.session() as connection:
        finish(connection, 2, 1, claim.attempt, Outcome(VisitState.DONE, {}, {}))
    for change in ("cancel", "retry"):
        reply = ask("POST", f"/v1/visits/2/1/{change}")
        assert (reply.status_code, reply.json()["code"]) == (409, "visit_ended")
    for path in (f"/v1/visits/{2**60}/1/cancel", "/v1/visits/1/99999/retry", "/v1/visits/-1/0/cancel"):
        assert ask("POST", path).status_code == 404


def test_a_cancel_and_a_commit_at_once_agree(database, tmp_path):
    """Whoever comes first wins: the visit is done with its rows, or cancelled without."""
    ledger = Ledger(database)
    for visit in range(12):
        ledger.submit(message(tmp_path, visit), visit, 1)
        claim = ledger.claim("w", 60.0, 0.0)
        ends = []

        def commit(claim=claim, ends=ends):
            with database.session() as connection:
                try:
                    with connection.transaction():
                        finish(connection, claim.visit, 1, claim.attempt, Outcome(VisitState.DONE, {}, {}))
                    ends.append("done")
                except LeaseLost:
                    pass

        def cancel(visit=visit, ends=ends):
            try:
                cancel_visit(database, visit, 1)
                ends.append("cancelled")
            except VisitEnded:
                pass

        threads = [threading.Thread(target=f) for f in ((commit, cancel) if visit % 2 else (cancel, commit))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ends == [ledger.get(visit, 1)["state"]]


def test_an_image_may_be_late_until_its_deadline(database, tmp_path, ask):
    late, never = message(tmp_path, 1, imageWaitS=600), message(tmp_path, 2, imageWaitS=600)
    never["science"] = str(tmp_path / "never.fits")
    reply = ask("POST", "/v1/visits", json=late).json()
    assert reply["state"] == "waiting"
    assert reply["waitUntil"] > reply["createdAt"]
    ask("POST", "/v1/visits", json=never)
    unnumbered = {k: v for k, v in late.items() if k != "visit"}
    assert ask("POST", "/v1/visits", json=unnumbered).json()["code"] == "bad_message"
    ledger, roots = Ledger(database), [tmp_path]

    def look():
        with database.session() as connection:
            connection.execute('UPDATE "VisitLedger" SET "nextAt" = now()')
        return look_for_images(database, lambda uri: image_is_there(uri, roots))

    assert look() == 0
    assert ledger.claim("w", 60.0, 0.0) is None
    (tmp_path / "x.fits").touch()
    assert look() == 0  # somebody writes it just now
    (tmp_path / "x.fits").write_bytes(b"SIMPLE")
    assert look() == 1
    assert ledger.claim("w", 60.0, 0.0).visit == 1
    with database.session() as connection:
        connection.execute('UPDATE "VisitLedger" SET "waitUntil" = now() WHERE visit = 2')
    assert look() == 1
    failed = ledger.get(2, 1)
    assert (failed["state"], failed["errorCode"]) == ("failed", "image_late")
    assert "visit 2, detector 1" in failed["errorText"]
    assert failed["finishedAt"] is not None
    assert retry_visit(database, 2, 1)["state"] == "queued"
    # sent again when it has come: at once
    third = message(tmp_path, 3, imageWaitS=600, science=str(tmp_path / "third.fits"))
    assert ask("POST", "/v1/visits", json=third).json()["state"] == "waiting"
    (tmp_path / "third.fits").write_bytes(b"SIMPLE")
    assert ask("POST", "/v1/visits", json=third).json()["state"] == "queued"
    # where it is there from the beginning, or nothing is waited for
    for visit, more in ((4, {"imageWaitS": 600}), (5, {"imageWaitS": 0, "science": str(tmp_path / "no.fits")})):
        assert ask("POST", "/v1/visits", json=message(tmp_path, visit, **more)).json()["state"] == "queued"


def test_two_that_look_for_images_take_each_visit_once(database, tmp_path):
    from apdb.queue.entries import Entry

    for visit in range(30):
        Ledger(database).enter(Entry(message(tmp_path, visit), visit, 1, wait_s=60.0))
    asked = []
    threads = [
        threading.Thread(target=look_for_images, args=(database, lambda uri: bool(asked.append(uri)) or True))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 30
    assert Ledger(database).counts()["queued"] == 30


def test_a_target_of_opportunity_waits_for_one_visit_at_most(database, tmp_path):
    """Twenty earlier visits of its patch stand before it, and others come; one worker, then two."""
    ledger = Ledger(database)
    for visit in range(20):
        ledger.submit(message(tmp_path, visit, midpointMjdTai=61000.0 + visit), visit, 1)
    first = ledger.claim("a", 60.0, 120.0)
    assert first.visit == 0
    ledger.submit(message(tmp_path, 100, midpointMjdTai=61100.0, priority=50), 100, 1)
    assert (
        ledger.claim("b", 60.0, 120.0) is None
    )  # neither it nor another of the patch begins beside the one that goes on
    with database.session() as connection:
        finish(connection, 0, 1, first.attempt, Outcome(VisitState.DONE, {}, {}))
    urgent = ledger.claim("b", 60.0, 120.0)
    assert urgent.visit == 100
    # those that are earlier go on beside it as before; the next one of its kind waits for those of its kind alone
    assert ledger.claim("a", 60.0, 120.0).visit == 1
    ledger.fail(urgent, "sky_busy", "busy", retry_in_s=300.0, counts=False)
    ledger.submit(message(tmp_path, 101, midpointMjdTai=61101.0, priority=90), 101, 2)
    assert ledger.claim("b", 60.0, 120.0).visit == 101


def test_visits_of_low_priority_wait_for_all_others(database, tmp_path):
    ledger = Ledger(database)
    for visit, priority in ((1, -10), (2, 0), (3, 10), (4, 20)):
        ledger.submit(message(tmp_path, visit, detector=visit, priority=priority), visit, visit)
    assert [ledger.claim("w", 60.0, 0.0).visit for _ in range(4)] == [4, 3, 2, 1]


def test_pages_of_visits_go_on_in_the_middle_of_a_visit_and_filters_hold(database, tmp_path, ask):
    ledger = Ledger(database)
    for visit in range(4):
        for detector in range(3):
            more = {"midpointMjdTai": 61000.0 + visit, "band": "gr"[visit % 2]}
            ledger.submit(message(tmp_path, visit, detector, **more), visit, detector)
    failed = ledger.claim("w", 60.0, 0.0)
    ledger.fail(failed, "no_psf", "none", retry_in_s=None)
    every = sorted((v, d) for v in range(4) for d in range(3))
    for order, wanted in (("visit", every), ("newest", sorted(every, reverse=True))):
        found, after = [], None
        while True:
            given = {"limit": 5, "order": order} | ({} if after is None else {"after": after})
            page = ask("GET", "/v1/visits", params=given).json()
            found += [(r["visit"], r["detector"]) for r in page["rows"]]
            if (after := page["next"]) is None:
                break
        if order == "visit":
            assert found == wanted
        else:  # in order of time, and within one transaction by number
            assert found == wanted
    counts = {
        ("state", "failed"): 1, ("state", "queued"): 11, ("error", "no_psf"): 1, ("visit", 2): 3, ("detector", 1): 4, ("band", "g"): 6,
        ("night", 61000): 3, ("since", 61002.0): 6, ("until", 61001.0): 3, ("instrument", "simcam"): 12, ("instrument", "x"): 0,
        ("after", "2"): 3,
    }  # fmt: skip
    for (name, value), count in counts.items():
        page = ask("GET", "/v1/visits", params={name: value})
        assert (page.status_code, page.json()["count"]) == (200, count), (name, value)
    for wrong in (
        {"state": "lost"},
        {"after": "x"},
        {"order": "newest", "after": "3"},
        {"since": "nan"},
        {"order": "x"},
    ):
        assert ask("GET", "/v1/visits", params=wrong).status_code == 422


def run(settings, *arguments, stdin=None):
    return CliRunner().invoke(app, [str(a) for a in arguments], env=settings, input=stdin)


@pytest.mark.parametrize("over_http", [False, True])
def test_the_commands(database, tmp_path, over_http):
    messages = [message(tmp_path, v) for v in range(3)]
    (tmp_path / "list.json").write_text(json.dumps(messages))
    lines = "\n".join(json.dumps(m) for m in [*messages, {**messages[0], "surprise": 1}])
    with serving(database, tmp_path) as client:
        own = {"ALERTPROD_DATABASE_URI": database.uri, "ALERTPROD_DATA_ROOTS": json.dumps([str(tmp_path)])}
        own["ALERTPROD_UPLOAD_DIR"] = str(tmp_path / "up")
        env = {"ALERTPROD_API_URL": str(client.base_url).rstrip("/")} if over_http else own
        done = run(env, "visits", "submit", tmp_path / "list.json", "--key", "k", "--json")
        assert done.exit_code == 0, done.output
        assert [r["new"] for r in json.loads(done.stdout)] == [True] * 3
        again = run(env, "visits", "submit", tmp_path / "list.json", "--key", "k", "--json")
        assert json.loads(again.stdout) == json.loads(done.stdout)
        partly = run(env, "visits", "submit", "-", stdin=lines)
        assert partly.exit_code == 1
        assert "bad_message" in partly.stdout
        assert partly.stdout.count("came before") == 3
        assert run(env, "visits", "cancel", 1, 1).stdout == "visit 1, detector 1: cancelled\n"
        assert json.loads(run(env, "visits", "retry", 1, 1, "--json").stdout)["state"] == "queued"
        run(env, "visits", "cancel", 2, 1)
        listed = json.loads(run(env, "visits", "list", "--state", "cancelled", "--json").stdout)
        assert [(v["visit"], v["state"]) for v in listed] == [(2, "cancelled")]
        newest = json.loads(run(env, "visits", "list", "--json", "-n", 2).stdout)
        assert [v["visit"] for v in newest] == [2, 1]
    with database.session() as connection:
        key = RequestKey("x", "k", "d")
        assert known_answer(connection, key) is None


def test_a_running_visit_is_not_tried_again(database, tmp_path):
    Ledger(database).submit(message(tmp_path, 1), 1, 1)
    Ledger(database).claim("w", 60.0, 0.0)
    with pytest.raises(VisitRunning):
        retry_visit(database, 1, 1)
