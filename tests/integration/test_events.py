"""Changes of state as they happen: all of them, each once, also after a break, whatever is slow."""

import threading
import time

import httpx
import numpy as np
import pytest

from apdb import Ledger, VisitState
from apdb.queue.changes import cancel_visit
from apdb.queue.events import EventReader, prune_events
from apdb.queue.ledger import Outcome, finish
from service.api.stream import events as module
from service.api.stream.feed import Feed, Follower
from tests.support.serving import events_of, serving


def submit(database, visit, detector=1, **more):
    message = {"instrument": "simcam", "science": "/data/x.fits", "visit": visit, "detector": detector, **more}
    return Ledger(database).submit(message, visit, detector)


def numbers(events):
    return [(e.visit, e.state) for e in events]


def test_a_visit_leaves_an_event_for_each_of_its_states_and_no_other(database):
    with database.session() as connection:
        reader = EventReader.from_now(connection)
        submit(database, 1, priority=5)
        submit(database, 1)  # again: nothing changes
        claim = Ledger(database).claim("w", 60.0, 0.0)
        Ledger(database).note_times(claim, 61000.0, "r", [1])
        Ledger(database).fail(claim, "sky_busy", "busy", retry_in_s=0.0)
        claim = Ledger(database).claim("w", 60.0, 0.0)
        finish(connection, 1, 1, claim.attempt, Outcome(VisitState.DONE, {}, {}))
        events = reader.read(connection)
        assert [(e.state, e.attempt, e.error_code) for e in events] == [
            ("queued", 0, None), ("running", 1, None), ("queued", 1, "sky_busy"), ("running", 2, "sky_busy"), ("done", 2, None),
        ]  # fmt: skip
        assert {e.priority for e in events} == {5}
        assert reader.read(connection) == []
        connection.execute("UPDATE \"VisitEvent\" SET at = at - interval '8 days' WHERE attempt < 2")
        assert prune_events(connection) == 3


def test_a_transaction_that_commits_late_is_given_and_nothing_is_given_twice(database):
    """Its number is below that of one that was given before."""
    with database.session() as connection, database.connect(autocommit=False) as late:
        reader = EventReader.from_now(connection)
        late.execute(
            'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state) '
            "VALUES (1, 1, 'simcam', '{}', '', 'queued')"
        )
        submit(database, 2)
        assert numbers(reader.read(connection)) == [(2, "queued")]
        position = reader.position
        assert reader.read(connection) == []
        late.commit()
        submit(database, 3)
        assert numbers(reader.read(connection)) == [(1, "queued"), (3, "queued")]
        assert reader.position > position
        # one that comes again with the place of the first page gets all that may have been behind it
        assert {v for v, _ in numbers(EventReader(position).read(connection))} >= {1, 3}


def test_pages_hold_everything_once(database):
    with database.session() as connection:
        reader = EventReader.from_now(connection)
        for visit in range(23):
            submit(database, visit)
        found = []
        while page := reader.read(connection, most=5):
            assert len(page) <= 5
            found += numbers(page)
    assert sorted(found) == [(v, "queued") for v in range(23)]


def test_writers_beside_each_other_lose_no_event(database):
    """Eight threads enter and cancel visits while a reader looks again and again."""
    rng = np.random.default_rng(3)
    delays = rng.uniform(0, 0.01, (8, 12))

    def work(k):
        for j, delay in enumerate(delays[k]):
            with database.connect(autocommit=False) as connection:
                connection.execute(
                    'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state) '
                    "VALUES (%s, 1, 'simcam', '{}', '', 'queued')",
                    (100 * k + j,),
                )
                time.sleep(delay)
                connection.commit()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    found = []
    with database.session() as connection:
        reader = EventReader.from_now(connection)
        for thread in threads:
            thread.start()
        while any(t.is_alive() for t in threads):
            found += reader.read(connection, most=7)
        while page := reader.read(connection):
            found += page
    assert sorted(e.visit for e in found) == sorted(100 * k + j for k in range(8) for j in range(12))
    assert len({e.number for e in found}) == 96


def take(stream, count):
    """The next events of a stream without its comments."""
    out = []
    while len(out) < count:
        event = next(stream)
        if event[0] is not None:
            out.append(event)
    return out


def test_a_stream_tells_what_happens_and_goes_on_where_it_was_left(database, tmp_path):
    submit(database, 1)
    with serving(database, tmp_path) as client:
        with client.stream("GET", "/v1/events") as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            assert reply.headers["cache-control"] == "no-store"
            stream = events_of(reply)
            assert take(stream, 1)[0][1:] == ("begin", {})
            submit(database, 2)
            cancel_visit(database, 1, 1)
            got = take(stream, 2)
            assert [(e["visit"], e["state"]) for _, _, e in got] == [(2, "queued"), (1, "cancelled")]
            assert {name for _, name, _ in got} == {"visit"}
        submit(database, 3)  # nobody listens
        submit(database, 4)
        with client.stream("GET", "/v1/events", headers={"Last-Event-ID": got[-1][0]}) as reply:
            stream = events_of(reply)
            again = {e["number"]: e["visit"] for _, name, e in take(stream, 3) if name == "visit"}
            seen = {e["number"] for _, _, e in got}
            while len(set(again) - seen) < 2:
                again |= {e["number"]: e["visit"] for _, _, e in take(stream, 1)}
            assert [v for n, v in sorted(again.items()) if n not in seen] == [3, 4]
            submit(database, 5)  # and on, live
            assert take(stream, 1)[0][2]["visit"] == 5
        with client.stream("GET", "/v1/visits/3/1/events", params={"after": got[-1][0]}) as reply:
            stream = events_of(reply)
            assert [e.get("visit") for _, _, e in take(stream, 2)] == [None, 3]
            submit(database, 6)
            cancel_visit(database, 3, 1)
            assert take(stream, 1)[0][2]["state"] == "cancelled"
        for headers in ({"Last-Event-ID": "x"}, {"Last-Event-ID": "9" * 30}):
            assert client.get("/v1/events", headers=headers).status_code == 422


def test_streams_keep_alive_end_in_time_are_so_many_and_end_with_the_server(database, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ALIVE_S", 0.1)
    with serving(database, tmp_path, max_viewers=2) as client:
        with client.stream("GET", "/v1/events") as one, client.stream("GET", "/v1/events") as two:
            first, second = events_of(one), events_of(two)
            assert [next(s)[1] for s in (first, second)] == ["begin", "begin"]
            refused = client.get("/v1/events")
            assert (refused.status_code, refused.json()["code"]) == (503, "busy")
            assert int(refused.headers["retry-after"]) > 0
            assert next(first) == (None, None, ": alive")
            monkeypatch.setattr(module, "LONGEST_S", 0.0)
            assert [e for e in second if e[0] is not None] == []
        monkeypatch.setattr(module, "LONGEST_S", 900.0)
        deadline = time.monotonic() + 10
        while True:  # a place is free again when the server has seen that the others are gone
            with client.stream("GET", "/v1/events") as reply:
                if reply.status_code == 200:
                    break
            assert time.monotonic() < deadline
        open_to_the_end = httpx.Client(base_url=client.base_url)
        stream = open_to_the_end.send(open_to_the_end.build_request("GET", "/v1/events"), stream=True)
        began = time.monotonic()
    assert time.monotonic() - began < 8.0  # uvicorn would wait for ten seconds
    stream.close()
    open_to_the_end.close()


def test_one_who_cannot_follow_is_let_go_and_holds_nobody_up():
    event = type("Event", (), {"visit": 1, "detector": 1})
    slow, quick, other = Follower(None, 2), Follower(None, 10), Follower((2, 1), 2)
    for k in range(3):
        for follower in (slow, quick, other):
            follower.give(k, event)
    assert (slow.behind, slow.events.qsize()) == (True, 2)
    assert (quick.behind, quick.events.qsize()) == (False, 3)
    assert (other.behind, other.events.qsize()) == (False, 0)


def test_nobody_follows_a_process_that_is_to_end(database):
    from apdb.errors import Busy

    feed = Feed(database, 5)
    feed.close()
    with pytest.raises(Busy), feed.following():
        pass


def test_an_answer_waits_for_the_end_of_its_visit(database, tmp_path):
    with serving(database, tmp_path) as client:
        submit(database, 1)
        began = time.monotonic()
        assert client.get("/v1/visits/1/1", params={"wait": 0.3}).json()["state"] == "queued"
        assert 0.3 <= time.monotonic() - began < 3.0
        timer = threading.Timer(0.3, cancel_visit, (database, 1, 1))
        timer.start()
        began = time.monotonic()
        assert client.get("/v1/visits/1/1", params={"wait": 20}).json()["state"] == "cancelled"
        assert time.monotonic() - began < 5.0
        began = time.monotonic()
        assert client.get("/v1/visits/1/1", params={"wait": 20}).json()["state"] == "cancelled"  # it has ended
        assert client.get("/v1/visits/9/9", params={"wait": 20}).status_code == 404
        assert time.monotonic() - began < 2.0
        for wait in ("-1", "61", "nan", "x"):
            assert client.get("/v1/visits/1/1", params={"wait": wait}).status_code == 422
