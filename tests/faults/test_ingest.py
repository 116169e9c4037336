"""Nothing that the ingest reads is lost, and nothing that it reads stops it."""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from typer.testing import CliRunner

from alerts.errors import BrokerRefused
from apdb import Database, Ledger
from apdb.operate.embedded import EmbeddedPostgres
from apdb.queue import dead_letters
from migrations.run import migrate
from service.commands.main import app
from service.intake import ingest as module
from service.intake.dead_letters import dead_letter_topic
from service.subprocesses.children import child_environment, program
from tasks.waiting import wait_until
from tests.support.foreign_fits import good_image
from tests.support.http import asking
from tests.support.ingest import committed, ingesting, letters_in_topic, message, send, settings_for

MESSAGES = int(os.environ.get("ALERTPROD_MESSAGES", "120"))
DOWN_S = float(os.environ.get("ALERTPROD_DATABASE_DOWN_S", "2"))


@pytest.fixture(scope="module")
def own_postgres():
    """A server that tests may stop."""
    folder = Path(tempfile.mkdtemp(prefix="alertprod-faults-"))
    folder.chmod(0o755)
    with EmbeddedPostgres(folder / "postgres", keep=True) as server:
        migrate(server.uri)
        yield server


def visits_of(database):
    with database.session() as connection:
        return {v for (v,) in connection.execute('SELECT visit FROM "VisitLedger"').fetchall()}


def letters(database):
    """Rows of dead letters with their letters, the oldest first."""
    with database.session() as connection:
        return [dead_letters.get(connection, row["id"]) for row in dead_letters.listed(connection)][::-1]


def processes(server):
    postmaster = int((server.directory / "data" / "postmaster.pid").read_text().split()[0])
    children = subprocess.run(["pgrep", "-P", str(postmaster)], capture_output=True, text=True, check=False).stdout
    return [postmaster, *map(int, children.split())]


def down(server):
    server.stop(immediate=True)
    time.sleep(DOWN_S)
    server.start()


def stalled(server):
    """The server's processes stand still, sockets stay open: no answer, no refusal."""
    stopped = processes(server)
    try:
        for pid in stopped:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGSTOP)
        time.sleep(DOWN_S)
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", [down, stalled])
@pytest.mark.timeout(900)
def test_a_database_that_is_away_while_messages_flow_loses_none(own_postgres, kafka, tmp_path, fault, record_property):
    settings, database = settings_for(own_postgres.uri, kafka, tmp_path), Database(own_postgres.uri)
    first = 1000 if fault is down else 100_000
    wanted = set(range(first, first + MESSAGES))
    with ingesting(settings):
        flow = threading.Thread(target=lambda: [send(settings, message(tmp_path, v)) for v in sorted(wanted)])
        flow.start()
        assert wait_until(lambda: len(visits_of(database) & wanted) > MESSAGES // 6, 60.0)
        fault(own_postgres)
        flow.join()
        assert wait_until(lambda: visits_of(database) >= wanted, 60.0), wanted - visits_of(database)
    offsets, ends = committed(settings)
    assert offsets == ends
    assert sum(ends) == MESSAGES
    record_property("messages", MESSAGES)
    record_property("away", f"{DOWN_S:.0f} s")
    assert letters(database) == []


def test_offsets_are_not_stored_before_the_database_has_the_message(own_postgres, kafka, tmp_path):
    """An ingest that ends while the database is away leaves the message to the next one."""
    settings, database = settings_for(own_postgres.uri, kafka, tmp_path), Database(own_postgres.uri)
    with ingesting(settings) as reader:
        own_postgres.stop(immediate=True)
        send(settings, message(tmp_path, 500))
        assert wait_until(lambda: reader.tries > 1, 30.0)
    own_postgres.start()
    assert committed(settings)[0] == [0, 0]
    with ingesting(settings):
        assert wait_until(lambda: 500 in visits_of(database), 30.0)
    assert sum(committed(settings)[0]) == 1


def test_an_ingest_killed_before_it_stores_an_offset_reads_the_message_again(database, kafka, tmp_path):
    settings = settings_for(database.uri, kafka, tmp_path)
    with ingesting(settings):
        pass
    send(settings, message(tmp_path, 1), message(tmp_path, 2))
    environment = child_environment(settings, ALERTPROD_CRASH_POINT="entered")
    killed = subprocess.run(program("service.commands.main", "ingest"), env=environment, check=False, timeout=60,
                            stderr=subprocess.DEVNULL)  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert len(visits_of(database)) == 1
    assert committed(settings)[0] == [0, 0]
    with ingesting(settings):
        assert wait_until(lambda: visits_of(database) == {1, 2}, 60.0)
        assert wait_until(lambda: sum(committed(settings)[0]) == 2, 30.0)
    assert letters(database) == []


@pytest.mark.timeout(900)
def test_members_that_come_and_go_lose_none_of_messages_that_come_twice_and_in_no_order(
    database, kafka, tmp_path, record_property
):
    """Others join the group and leave it again while messages flow."""
    settings, wanted = settings_for(database.uri, kafka, tmp_path), set(range(MESSAGES))
    order = np.random.default_rng(8).permutation(np.repeat(sorted(wanted), 2)).tolist()
    joins = 0
    with ingesting(settings):
        flow = threading.Thread(target=lambda: [send(settings, message(tmp_path, v)) for v in order])
        flow.start()
        while flow.is_alive() or joins < 2:
            joins += 1
            seen = len(visits_of(database))
            with ingesting(settings, topics=False):
                wait_until(lambda seen=seen: len(visits_of(database)) > seen, 2.0)
        assert wait_until(lambda: visits_of(database) >= wanted, 60.0), wanted - visits_of(database)
        assert wait_until(lambda: sum(committed(settings)[0]) == len(order), 30.0)
    assert letters(database) == []
    with database.session() as connection:
        assert connection.execute('SELECT count(*) FROM "VisitEvent"').fetchone() == (MESSAGES,)
    offsets, ends = committed(settings)
    assert offsets == ends
    record_property("messages", len(order))
    record_property("joins", joins)


def awkward(folder):
    """Messages that can never be entered, with the code of each."""
    good = message(folder, 7)
    raw = good_image(folder / "broken.fits").read_bytes()
    at = raw.index(b"EXPTIME =")
    (folder / "broken.fits").write_bytes(raw[:at] + f"{'EXPTIME =                  1,5':80}".encode() + raw[at + 80 :])
    (folder / "anycam.yaml").write_text("name: anycam\npixel_scale: 0.36\ngain: {constant: 1.5}\n")
    os.mkfifo(folder / "pipe.fits")
    unknown = {"instrument": "anycam"}
    return [
        (b"{no json", "bad_message"), (None, "bad_message"), (b"\0\0\0\x04\x4d" + b"avro", "bad_message"),
        (b"[" * 200_000, "bad_message"), (b'{"instrument": "\xff"}', "bad_message"),
        (b'{"instrument": "simcam", "science": "\\ud800"}', "bad_message"), ({**good, "\ud800": 1}, "bad_message"),
        ({**good, "traceparent": "a\0b"}, "bad_message"), ({**good, "science": "/a\0b"}, "bad_message"),
        ({**good, "science": "/" + "a" * 4000}, "forbidden_location"), ({**good, "photoCalib": float("inf")}, "bad_message"),
        ({**good, "visit": float("nan")}, "bad_message"), (b'{"visit": 1' + b"0" * 5000 + b"}", "bad_message"),
        (b" " * 10_400_000, "bad_message"), ({**good, "version": 7}, "bad_message"),
        ({**unknown, "science": str(folder / "broken.fits")}, "bad_card"), ({**unknown, "science": str(folder / "pipe.fits")}, "fits_unreadable"),
        ({**unknown, "science": str(folder)}, "fits_unreadable"), ({**good, "instrument": "nosuch"}, "instrument"),
    ]  # fmt: skip


def test_whatever_is_wrong_with_a_message_is_a_dead_letter_and_the_next_one_is_read(
    database, kafka, tmp_path, monkeypatch
):
    monkeypatch.setenv("ALERTPROD_INSTRUMENTS", str(tmp_path))
    settings, cases = settings_for(database.uri, kafka, tmp_path), awkward(tmp_path)
    with ingesting(settings, topics=False):  # it makes them
        assert wait_until(lambda: settings.visit_topic in topics_at(kafka), 30.0)
        send(settings, *(value for value, _ in cases), headers=[("trace", b"\xff\0"), ("none", None)])
        send(settings, message(tmp_path, 8), message(tmp_path, 9))
        assert wait_until(lambda: visits_of(database) == {8, 9}, 60.0)
        assert wait_until(lambda: len(letters(database)) == len(cases), 30.0)
    rows = {letter.key: (row, letter) for row, letter in letters(database)}
    in_topic = letters_in_topic(settings, len(cases))
    for k, (value, code) in enumerate(cases):
        row, letter = rows[str(k).encode()]
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        assert (row["errorCode"], row["state"], row["topicError"]) == (code, "waiting", None), (k, row)
        assert (letter.value or b"") == (raw or b"")
        assert letter.headers == [("trace", b"\xff\0"), ("none", None)]
        sent = in_topic[letter.partition, letter.offset]
        assert ((sent.value() or b""), sent.key()) == ((raw or b""), letter.key)
        headers = dict(sent.headers())
        assert (headers["trace"], headers["source_topic"]) == (b"\xff\0", settings.visit_topic.encode())
        assert headers["error_code"] == code.encode()
    assert len(in_topic) == len(cases)
    offsets, ends = committed(settings)
    assert offsets == ends


def topics_at(kafka):
    return AdminClient({"bootstrap.servers": kafka.brokers}).list_topics(timeout=10).topics


def largest(kafka, topic, size):
    """Let a topic take messages of so many bytes."""
    resource = ConfigResource(
        ResourceType.TOPIC, topic,
        incremental_configs=[ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)],
    )  # fmt: skip
    admin = AdminClient({"bootstrap.servers": kafka.brokers})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(20)


def test_a_topic_that_refuses_dead_letters_holds_up_nothing_and_gets_them_later(database, kafka, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LETTERS_AGAIN_S", 0.5)
    settings = settings_for(database.uri, kafka, tmp_path)
    dlq = dead_letter_topic(settings.visit_topic)
    with ingesting(settings):
        largest(kafka, dlq, 60)
        send(settings, b"{no json" * 100, message(tmp_path, 1))
        assert wait_until(lambda: visits_of(database) == {1}, 40.0)
        assert wait_until(lambda: [r["topicError"] is not None for r, _ in letters(database)] == [True], 40.0)
        largest(kafka, dlq, 100_000)
        assert wait_until(lambda: [r["publishedAt"] is not None for r, _ in letters(database)] == [True], 40.0)
    assert [m.value() for m in letters_in_topic(settings, 1).values()] == [b"{no json" * 100]


def test_a_topic_of_dead_letters_that_is_missing_holds_up_nothing_and_gets_them_when_it_is_made(
    database, kafka, tmp_path, monkeypatch
):
    """Somebody else has to make it: this user may not."""
    making, allowed = module.ensure_topics, threading.Event()

    def refuse(target, *arguments, **more):
        if target.topic.endswith(".dlq") and not allowed.is_set():
            raise BrokerRefused("topic authorization failed")
        making(target, *arguments, **more)

    monkeypatch.setattr(module, "ensure_topics", refuse)
    monkeypatch.setattr(module, "TOPICS_AGAIN_S", 0.5)
    monkeypatch.setattr(module, "LETTERS_AGAIN_S", 0.5)
    settings = settings_for(database.uri, kafka, tmp_path)
    with ingesting(settings, topics=False):
        assert wait_until(lambda: settings.visit_topic in topics_at(kafka), 30.0)
        send(settings, b"{no json", message(tmp_path, 1))
        assert wait_until(lambda: visits_of(database) == {1}, 40.0)
        assert wait_until(lambda: [r["topicError"] is not None for r, _ in letters(database)] == [True], 40.0)
        allowed.set()
        assert wait_until(lambda: [r["publishedAt"] is not None for r, _ in letters(database)] == [True], 60.0)
    assert [m.value() for m in letters_in_topic(settings, 1).values()] == [b"{no json"]


def test_a_message_that_fails_for_ever_in_a_way_that_may_pass_is_a_dead_letter_in_the_end(
    database, kafka, tmp_path, monkeypatch
):
    from service.errors import StorageUnavailable

    def unreadable(*_):
        raise StorageUnavailable("x.fits: Input/output error")

    monkeypatch.setattr(module, "MOST_TRIES", 3)
    monkeypatch.setattr(module, "PAUSE_S", 0.1)
    monkeypatch.setattr(module.HeaderReader, "__call__", unreadable)
    settings = settings_for(database.uri, kafka, tmp_path)
    with ingesting(settings):
        send(settings, {"instrument": "simcam", "science": str(tmp_path / "x.fits")}, message(tmp_path, 4))
        assert wait_until(lambda: visits_of(database) == {4}, 30.0)
        assert wait_until(lambda: [r["errorCode"] for r, _ in letters(database)] == ["storage_unavailable"], 30.0)


def kept(database, *letters_):
    with database.session() as connection:
        return [dead_letters.add(connection, letter)[0] for letter in letters_]


def letter(offset, value, **more):
    values = {"topic": "visits", "partition": 0, "offset": offset, "key": b"\xff", "value": value, "headers": [("h", b"1")],
              "sent_at": None, "code": "bad_message", "text": "half \ud800 and \0", **more}  # fmt: skip
    return dead_letters.DeadLetter(**values)


def test_dead_letters_are_listed_shown_requeued_and_discarded_over_http(database, tmp_path):
    good = json.dumps(message(tmp_path, 11)).encode()
    numbers = kept(database, letter(1, b"\xff\0"), letter(2, good), letter(3, b"{"))
    assert kept(database, letter(2, good)) == numbers[1:2]  # the same message again
    assert kept(database, letter(2, b"another, of a topic made anew")) != numbers[1:2]
    settings = settings_for(database.uri, type("Broker", (), {"brokers": "127.0.0.1:1"}), tmp_path)
    ask = asking(settings)
    listed = ask("GET", "/v1/dead-letters", params={"limit": 2}).json()
    assert [d["id"] for d in listed["deadLetters"]] == [numbers[-1] + 2, numbers[-1]]
    after = ask("GET", "/v1/dead-letters", params={"limit": 2, "before": listed["next"]}).json()
    assert [d["id"] for d in after["deadLetters"]] == numbers[1::-1]
    shown = ask("GET", f"/v1/dead-letters/{numbers[0]}").json()
    assert (shown["key"], shown["value"]) == ({"base64": "/w=="}, {"base64": "/wA="})
    assert shown["headers"] == [{"name": "h", "value": {"text": "1"}}]
    assert shown["error"]["message"] == "half \\ud800 and \\x00"
    requeued = ask("POST", f"/v1/dead-letters/{numbers[1]}/requeue")
    assert (requeued.status_code, requeued.headers["location"]) == (202, "/v1/visits/11/1")
    assert Ledger(database).get(11, 1)["state"] == "queued"
    assert ask("POST", f"/v1/dead-letters/{numbers[1]}/requeue").status_code == 404
    still = ask("POST", f"/v1/dead-letters/{numbers[2]}/requeue")
    assert (still.status_code, still.json()["code"]) == (422, "bad_message")
    assert ask("POST", f"/v1/dead-letters/{numbers[2]}/discard").json()["state"] == "discarded"
    for path in ("/v1/dead-letters/999999", f"/v1/dead-letters/{2**70}", "/v1/dead-letters/0"):
        assert ask("GET", path).status_code in (404, 422)
    assert ask("GET", "/v1/dead-letters", params={"state": "lost"}).status_code == 422
    with database.session() as connection:
        assert dead_letters.counts(connection) == {"waiting": 2, "requeued": 1, "discarded": 1}


def test_dead_letters_on_the_command_line(database, tmp_path):
    numbers = kept(database, letter(1, json.dumps(message(tmp_path, 12)).encode()), letter(2, b"{"))
    settings = settings_for(database.uri, type("Broker", (), {"brokers": "127.0.0.1:1"}), tmp_path)

    def run(*arguments):
        return CliRunner().invoke(app, ["dead-letters", *map(str, arguments)], env=settings.environment())

    assert [d["id"] for d in json.loads(run("list", "--json").stdout)] == numbers[::-1]
    assert "visits[0]@2" in run("list", "--state", "waiting").stdout
    assert "bad_message: half" in run("show", numbers[1]).stdout
    done = run("requeue", *numbers, "--json")
    assert done.exit_code == 1
    results = json.loads(done.stdout)
    assert results[0] == {"id": numbers[0], "visit": 12, "detector": 1}
    assert results[1]["error"]["code"] == "bad_message"
    assert run("discard", numbers[1]).exit_code == 0
    assert run("discard", numbers[1]).exit_code == 1


def test_a_name_that_is_no_text_is_refused_over_http_as_any_other(database, tmp_path):
    settings = settings_for(database.uri, type("Broker", (), {"brokers": "127.0.0.1:1"}), tmp_path)
    ask = asking(settings)
    for body in (b'{"\\ud800": 1}', b'{"visit": NaN}', b'{"visit": Infinity}', b"[" * 100_000, b"\xff", b""):
        answer = ask("POST", "/v1/visits", content=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_message"), (body[:20], answer.text)
