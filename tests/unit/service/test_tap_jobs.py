"""Queries of the Virtual Observatory that run while nobody waits: what is given up ends, and what waits is not lost."""

import pytest
from psycopg import sql

from apdb.queries import Query
from apdb.schema.columns import Column
from apdb.tap_jobs import session_name
from service.api.vo import uws
from tasks.waiting import wait_until
from tests.support.asking import asker

SLOW = sql.SQL("SELECT 1::bigint AS n FROM pg_sleep(100)")


@pytest.fixture
def jobs(database, tmp_path, monkeypatch):
    """What runs queries that take long, what asks about them from elsewhere, and a way to enter one."""
    monkeypatch.setattr(
        uws, "asked", lambda given: (Query("result", (Column("n", "long", False),), SLOW, (), 10), "csv")
    )
    _, runs = asker(tmp_path / "runs", database_uri=database.uri)
    ask, _ = asker(tmp_path / "asks", database_uri=database.uri)
    shared = runs.state.resources

    def enter():
        made = ask("POST", "/v1/tap/async", data={"QUERY": "SELECT 1"})
        assert made.status_code == 303, made.text
        return made.headers["location"].rpartition("/")[2]

    yield shared, ask, enter
    uws.stop_jobs(shared)
    shared.close()


def running(database, number):
    with database.session() as connection:
        where = "application_name = %s AND state = 'active' AND query LIKE '%%pg_sleep%%'"
        return bool(
            connection.execute(f"SELECT 1 FROM pg_stat_activity WHERE {where}", (session_name(number),)).fetchall()
        )


def phase_of(ask, number):
    answer = ask("GET", f"/v1/tap/async/{number}/phase")
    return answer.text if answer.status_code == 200 else str(answer.status_code)


@pytest.mark.parametrize(
    ("method", "path", "data", "phase"),
    [("POST", "/phase", {"PHASE": "ABORT"}, "ABORTED"), ("DELETE", "", None, "404")],
)
def test_what_is_given_up_runs_no_longer(database, jobs, method, path, data, phase):
    shared, ask, enter = jobs
    number = enter()
    uws._start(shared, number, {})
    assert wait_until(lambda: running(database, number), 20, 0.05), "it never ran"
    assert ask(method, f"/v1/tap/async/{number}{path}", data=data).status_code == 303
    assert wait_until(lambda: not running(database, number), 5, 0.05), "its statement runs on"
    assert wait_until(lambda: number not in uws._JOBS, 5, 0.05), "its thread is held"
    assert phase_of(ask, number) == phase


def test_of_what_waits_nothing_is_given_up_and_a_service_that_stops_waits_for_none(database, jobs):
    shared, ask, enter = jobs
    numbers = [enter() for _ in range(uws.QUERY_THREADS + 1)]
    with database.session() as connection:
        connection.execute('UPDATE "TapJob" SET "createdAt" = now() - interval \'50 minutes\'')
    for number in numbers:
        uws._start(shared, number, {})
    ran, waits = numbers[:-1], numbers[-1]
    assert wait_until(lambda: all(running(database, n) for n in ran), 20, 0.05), "they never ran"
    assert [phase_of(ask, n) for n in numbers] == [*["EXECUTING"] * len(ran), "QUEUED"]
    assert 'startTime xsi:nil="true"' in ask("GET", f"/v1/tap/async/{waits}").text
    with database.session() as connection:  # one whose process is gone says nothing of it
        connection.execute(
            'UPDATE "TapJob" SET "startedAt" = now() - interval \'20 minutes\' WHERE "jobId" = %s', (waits,)
        )
    assert phase_of(ask, waits) == "ERROR"
    uws.stop_jobs(shared)
    assert wait_until(lambda: not any(running(database, n) for n in ran), 5, 0.05), "a statement runs on"
    assert [phase_of(ask, n) for n in ran] == ["ERROR"] * len(ran)
    assert "start it again" in ask("GET", f"/v1/tap/async/{ran[0]}/error").text


def test_the_list_is_restricted_and_a_query_changed_as_the_standard_says(database, jobs):
    _, ask, enter = jobs
    first, second, third = enter(), enter(), enter()
    ask("POST", f"/v1/tap/async/{second}/phase", data={"PHASE": "ABORT"})
    with database.session() as connection:
        connection.execute('UPDATE "TapJob" SET "createdAt" = \'2026-01-01T00:00:00Z\' WHERE "jobId" = %s', (first,))

    def listed(query):
        text = ask("GET", f"/v1/tap/async{query}").text
        return {n for n in (first, second, third) if n in text}

    assert listed("") == {first, second, third}
    assert listed("?PHASE=ABORTED") == {second}
    assert listed("?PHASE=ABORTED&PHASE=PENDING") == {first, second, third}
    assert listed("?AFTER=2026-01-01T00:00:01Z") == {second, third}
    assert listed("?LAST=1&PHASE=PENDING") == {third}
    changed = ask("POST", f"/v1/tap/async/{third}/parameters", data={"MAXREC": "7", "nothing": "x"})
    assert changed.status_code == 303, changed.text
    text = ask("GET", f"/v1/tap/async/{third}/parameters").text
    assert '<uws:parameter id="MAXREC">7</uws:parameter>' in text
    assert "nothing" not in text
    assert ask("POST", f"/v1/tap/async/{second}/parameters", data={"MAXREC": "7"}).status_code == 422
    for given, want in (
        ("2026-01-03T00:00:00Z", "2026-01-03T00:00:00.000Z"),
        ("2027-01-01T00:00:00Z", "2026-01-08T00:00:00.000Z"),
    ):
        assert ask("POST", f"/v1/tap/async/{first}/destruction", data={"DESTRUCTION": given}).status_code == 303
        assert ask("GET", f"/v1/tap/async/{first}/destruction").text == want
    assert ask("POST", f"/v1/tap/async/{first}/destruction", data={"DESTRUCTION": "soon"}).status_code == 422
    assert ask("POST", f"/v1/tap/async/{first}/executionduration", data={"EXECUTIONDURATION": "5"}).status_code == 303
    assert ask("GET", f"/v1/tap/async/{first}/executionduration").text == "600"
