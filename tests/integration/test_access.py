"""Tokens in a real database: made, used, expired, revoked; what was done is on record; the command line sends them."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from apdb import Ledger
from apdb.access.record import recorded
from apdb.access.tokens import list_tokens, revoke_token
from service.access import tokens
from service.api.guard import gate
from service.api.uploads import sweep_uploads
from service.commands.main import app as commands
from service.local.stack import wait_api
from service.settings import load_settings
from service.subprocesses.children import program
from tasks.errors import AlertProdError, CallerError
from tasks.local_server import free_port
from tests.support.asking import asker
from tests.support.command_line import run
from tests.support.serving import serving

MESSAGE = {"instrument": "simcam", "science": "/data/x.fits", "visit": 7, "detector": 0}


@pytest.fixture
def guarded(database, tmp_path):
    return asker(tmp_path / "uploads", database_uri=database.uri, access="tokens", data_roots=[Path("/data")])[0]


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def made(database, *scopes, name="somebody", days=1.0):
    return tokens.make_token(database, name, list(scopes), days, "test")


def alertprod(uri, *arguments, **environment):
    done = CliRunner().invoke(commands, [*arguments], env={"ALERTPROD_DATABASE_URI": uri, **environment})
    if isinstance(done.exception, AlertProdError):
        return 1, done.stdout, f"{done.exception.code}: {done.exception}"
    return done.exit_code, done.stdout, done.stderr


def test_each_scope_opens_what_it_is_for(database, guarded):
    for scopes, read, submit, other in (
        (["read"], 200, 403, 403),
        (["submit"], 403, 202, 403),
        (["read", "submit"], 200, 202, 403),
        (["operate"], 403, 403, 403),
        (["admin"], 200, 202, 404),
    ):
        _, token = made(database, *scopes)
        answers = [
            guarded("GET", "/v1/nights", headers=bearer(token)),
            guarded("POST", "/v1/visits", json=MESSAGE, headers=bearer(token)),
            guarded("GET", "/nowhere", headers=bearer(token)),
        ]
        assert [a.status_code for a in answers] == [read, submit, other], scopes
        for answer in answers:
            if answer.status_code == 403:
                assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
            assert token not in answer.text
            assert "ratelimit" in answer.headers


def test_a_page_shows_dead_letters_and_statements_to_those_who_may_ask_for_them(database, guarded):
    with database.session() as connection:
        connection.execute(
            'INSERT INTO "DeadLetter" (topic, "partition", "offset", digest, headers, "errorCode", "errorText", state) '
            "VALUES ('visits', 0, 1, 'x', '[]', 'bad_message', 'no such file: /private/x.fits', 'waiting')"
        )
    page = {"Accept": "text/html"}
    for scopes, seen in ((["read"], False), (["read", "operate"], True)):
        answer = guarded("GET", "/streams", headers=bearer(made(database, *scopes)[1]) | page)
        assert answer.status_code == 200
        assert ("/private/x.fits" in answer.text, "the scope <code>operate</code> sees" in answer.text) == (
            seen,
            not seen,
        )


def test_only_the_hash_is_kept_and_the_use_is_noted(database, guarded):
    token_id, token = made(database, "read", name="broker@fink")
    assert len(token) == 47  # the prefix, and 32 bytes in base64
    assert guarded("GET", "/mode", headers=bearer(token)).status_code == 200
    with database.session() as connection:
        (stored,) = list_tokens(connection)
        everything = connection.execute('SELECT t::text FROM "AccessToken" t').fetchall()
    assert (stored.token_id, stored.name, stored.scopes, stored.state) == (token_id, "broker@fink", ["read"], "valid")
    assert stored.hash == tokens.digest(token)
    assert stored.last_used_at is not None
    assert token not in str(everything)


def test_expired_revoked_and_foreign_tokens_are_refused(database, guarded, monkeypatch):
    monkeypatch.setattr(tokens, "KEPT_S", 0.0)  # what was looked up is looked up again
    token_id, token = made(database, "read")
    assert guarded("GET", "/mode", headers=bearer(token)).status_code == 200
    with database.session() as connection:
        connection.execute("""UPDATE "AccessToken" SET "expiresAt" = now() - interval '1 second'""")
    assert "expired" in guarded("GET", "/mode", headers=bearer(token)).json()["detail"]
    token_id, token = made(database, "read")
    assert alertprod(database.uri, "tokens", "revoke", token_id)[0] == 0
    refused = guarded("GET", "/mode", headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    assert "revoked" in refused.json()["detail"]
    assert guarded("GET", "/mode", headers=bearer("alp_" + "A" * 43)).status_code == 401


def test_a_token_that_was_looked_up_is_good_for_some_seconds_at_most_until_it_expires(database, guarded):
    _, token = made(database, "read")
    assert guarded("GET", "/mode", headers=bearer(token)).status_code == 200
    with database.session() as connection:
        connection.execute('DELETE FROM "AccessToken"')
    assert guarded("GET", "/mode", headers=bearer(token)).status_code == 200
    assert tokens.KEPT_S <= 5.0


@pytest.mark.parametrize("path", ["/v1/events", "/live"])
def test_a_stream_ends_when_its_token_is_revoked(database, tmp_path, monkeypatch, path):
    monkeypatch.setattr(tokens, "KEPT_S", 0.0)
    monkeypatch.setattr(gate, "STREAM_AGAIN_S", 0.0)
    token_id, token = made(database, "read")
    with (
        serving(database, tmp_path, access="tokens") as client,
        client.stream("GET", path, headers=bearer(token)) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "retry: 2000"
        with database.session() as connection:
            revoke_token(connection, token_id, "test")
        Ledger(database).submit(MESSAGE, 7, 0)
        assert not any("visit" in line for line in lines)


@pytest.mark.parametrize(("name", "scopes", "days"), [
    ("file:admin", ["read"], 1), ("", ["read"], 1), ("x" * 65, ["read"], 1), ("a b", ["read"], 1), ("a", [], 1),
    ("a", ["root"], 1), ("a", ["read"], 0), ("a", ["read"], -1), ("a", ["read"], float("nan")), ("a", ["read"], 1e9),
])  # fmt: skip
def test_tokens_that_make_no_sense_are_not_made(database, name, scopes, days):
    with pytest.raises(CallerError):
        tokens.make_token(database, name, scopes, days, "test")


def test_what_was_done_and_refused_is_on_record(database, guarded):
    token_id, token = made(database, "submit", name="nightly")
    _, reader = made(database, "read", name="looker")
    answer = guarded("POST", "/v1/visits", json=MESSAGE, headers=bearer(token))
    guarded("GET", "/v1/nights", headers=bearer(reader))  # looking is not recorded
    guarded("POST", "/v1/visits", json=MESSAGE, headers=bearer(reader))
    guarded("POST", "/v1/visits", json=MESSAGE)  # nor who shows nothing: the log has it, anybody could fill the table
    guarded("POST", "/v1/visits", json=MESSAGE, headers=bearer("alp_" + "A" * 43))
    with database.session() as connection:
        acts = recorded(connection)[::-1]
        assert [a.principal for a in recorded(connection, principal="looker")] == ["looker"]
    assert [(a.principal, a.action, a.target, a.status) for a in acts] == [
        ("nightly", "POST /v1/visits", "/v1/visits/7/0", 202),
        ("looker", "POST /v1/visits", "/v1/visits", 403),
        ("unknown:nobody", "POST /v1/visits", "/v1/visits", 401),
    ]
    assert acts[0].detail == {"token": token_id}
    assert acts[0].request_id == answer.headers["x-request-id"]
    assert acts[0].address == "127.0.0.1"


def test_a_quota_holds_for_a_day_and_refused_visits_are_free(database, tmp_path):
    ask, _ = asker(tmp_path, database_uri=database.uri, access="tokens", data_roots=[Path("/data")], visits_per_day=2)
    one, other = made(database, "submit", name="one")[1], made(database, "submit", name="other")[1]

    def post(token, **change):
        return ask("POST", "/v1/visits", json={**MESSAGE, **change}, headers=bearer(token))

    assert post(one, band="H").status_code == 422
    assert [post(one, visit=k).status_code for k in (1, 2, 3)] == [202, 202, 429]
    refused = post(one, visit=3)
    assert refused.json()["code"] == "quota_exceeded"
    assert 0 < int(refused.headers["retry-after"]) <= 86400
    assert post(other, visit=4).status_code == 202
    with database.session() as connection:
        used = connection.execute('SELECT principal, visits FROM "AccessUsage" ORDER BY 1').fetchall()
    assert used == [("one", 2), ("other", 1)]


def test_without_a_database_nobody_is_let_in_and_told_to_come_back(tmp_path):
    ask, _ = asker(tmp_path, access="tokens")
    answer = ask("GET", "/v1/nights", headers=bearer("alp_" + "A" * 43))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_commands_make_list_and_revoke(database, tmp_path):
    code, out, _ = alertprod(
        database.uri, "tokens", "create", "nightly", "--scope", "read", "--scope", "submit", "--json"
    )
    first = json.loads(out)
    assert (code, first["scopes"]) == (0, ["read", "submit"])
    file = tmp_path / "token"
    code, out, err = alertprod(database.uri, "tokens", "create", "brokers", "--scope", "read", "--out", str(file))
    assert code == 0
    token = file.read_text().strip()
    assert token not in out + err
    assert file.stat().st_mode & 0o777 == 0o600
    assert (
        alertprod(database.uri, "tokens", "create", "x", "--scope", "read", "--out", str(file))[0] == 1
    )  # not overwritten
    assert file.read_text().strip() == token
    assert alertprod(database.uri, "tokens", "revoke", first["tokenId"])[0] == 0
    assert alertprod(database.uri, "tokens", "revoke", "nosuch")[2].startswith("not_found: no token nosuch")
    rows = json.loads(alertprod(database.uri, "tokens", "list", "--json")[1])
    assert [(r["name"], r["state"]) for r in rows] == [("brokers", "valid"), ("nightly", "revoked")]
    table = alertprod(database.uri, "tokens", "list")[1]
    assert first["token"] not in table
    assert token not in table
    acts = json.loads(alertprod(database.uri, "tokens", "record", "--json")[1])
    assert [a["action"] for a in acts] == ["tokens revoke", "tokens create", "tokens create"]
    assert all(a["principal"].startswith("command:") for a in acts)


@pytest.fixture
def served(database, tmp_path):
    """An API that asks for tokens: its address, and what it logs."""
    port, log = free_port(), tmp_path / "log"
    environment = {**os.environ, "ALERTPROD_DATABASE_URI": database.uri, "ALERTPROD_PORT": str(port), "ALERTPROD_ACCESS": "tokens",
                   "ALERTPROD_UPLOAD_DIR": str(tmp_path / "up"), "ALERTPROD_HOST": "0.0.0.0"}  # fmt: skip
    with log.open("wb") as stream:
        process = subprocess.Popen(
            program("service.commands.main", "serve"), env=environment, stderr=stream, stdout=stream
        )
    url = f"http://127.0.0.1:{port}"
    assert wait_api(url, process)
    yield url, log, process
    process.terminate()
    process.wait(20)


def test_the_command_line_sends_a_token_and_nobody_sees_it(database, served, tmp_path):
    url, log, process = served
    token = made(database, "read", "submit", name="nightly")[1]
    (tmp_path / "token").write_text(f"{token}\n")
    code, _, err = alertprod(database.uri, "visits", "list", ALERTPROD_API_URL=url)
    assert (code, err.split(":")[0]) == (1, "unauthenticated")
    good = {"ALERTPROD_API_URL": url, "ALERTPROD_TOKEN_FILE": str(tmp_path / "token")}
    assert json.loads(alertprod("postgresql://nobody@127.0.0.1:1/x", "visits", "list", "--json", **good)[1]) == []
    code, _, err = alertprod(database.uri, "visits", "show", "1", "0", **good)
    assert (code, err.split(":")[0]) == (1, "not_found")
    code, out, _ = alertprod(database.uri, "visits", "list", ALERTPROD_API_URL=url, ALERTPROD_TOKEN=token)
    assert code == 0
    assert token not in out + log.read_text()
    told = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert any(t["event"] == "act" and t["principal"] == "unknown:nobody" and t["status"] == 401 for t in told)
    httpx.post(f'{url}/x%0A{{"event": "forged"}}', headers={"User-Agent": "a\\nb"}, timeout=10)
    lines = [
        json.loads(line) for line in log.read_text().splitlines()
    ]  # each is one JSON object, whatever was asked for
    assert "forged" not in {line["event"] for line in lines}
    assert all(line["timestamp"].endswith("Z") for line in lines)
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
    assert token not in command
    assert database.uri not in command


def test_a_token_is_not_sent_in_the_clear_nor_to_another_address(database):
    for url in ("http://example.org", "ftp://x", "http://u:p@127.0.0.1", "127.0.0.1:80"):
        code, _, err = alertprod(database.uri, "visits", "list", ALERTPROD_API_URL=url, ALERTPROD_TOKEN="t" * 43)
        assert (code, err.split(":")[0]) == (1, "settings"), url
        assert "t" * 43 not in err


def test_serve_refuses_to_listen_elsewhere_for_everyone(database, tmp_path):
    place = {"ALERTPROD_DATABASE_URI": database.uri, "ALERTPROD_UPLOAD_DIR": str(tmp_path)}
    ((code, said),) = run("ALERTPROD_HOST=0.0.0.0 serve", **place)
    assert code == "2"
    assert "ALERTPROD_ACCESS=tokens" in said
    assert "ALERTPROD_ACCESS=open-to-everyone" in said


def test_uploads_are_kept_by_their_content_and_swept_when_nobody_needs_them(database, tmp_path):
    given = {"database_uri": database.uri, "upload_dir": tmp_path / "up", "upload_keep_days": 1.0}
    ask, _ = asker(tmp_path / "up", **{k: v for k, v in given.items() if k != "upload_dir"})
    settings = load_settings(**given)

    def post(visit, content, **change):
        message = {"instrument": "simcam", "science": "x", "visit": visit, "detector": 0, **change}
        return ask(
            "POST", "/v1/visits", data={"message": json.dumps(message)}, files={"science": ("../../evil", content)}
        )

    good = [b"SIMPLE  =                    T" + bytes([k]) for k in range(3)]
    assert [post(k, content).status_code for k, content in enumerate(good[:2])] == [202, 202]
    assert post(9, good[2], band="H").status_code == 422  # its message is refused after the file came
    for nothing in (b"", b"#!/bin/sh\n", b"<html>"):
        assert post(3, nothing).json()["code"] == "bad_message"
    (tmp_path / "up" / f".{'0' * 32}.part").write_bytes(b"a process was killed")
    (tmp_path / "up" / "somebody.fits").write_bytes(b"not ours")
    names = {f"{hashlib.sha256(content).hexdigest()}.fits" for content in good}
    assert {p.name for p in (tmp_path / "up").iterdir()} == names | {"somebody.fits", f".{'0' * 32}.part"}
    assert sweep_uploads(settings, database) == []  # all are young
    swept = sweep_uploads(settings, database, -1.0)
    assert {p.name for p in swept} == {f"{hashlib.sha256(good[2]).hexdigest()}.fits", f".{'0' * 32}.part"}
    with database.session() as connection:
        connection.execute(
            """UPDATE "VisitLedger" SET state = 'done', "finishedAt" = now() - interval '2 days' WHERE visit = 0"""
        )
        connection.execute("""UPDATE "VisitLedger" SET state = 'done', "finishedAt" = now() WHERE visit = 1""")
    assert sweep_uploads(load_settings(**{**given, "upload_keep_days": 0.0}), database, -1.0) == []
    assert {p.name for p in sweep_uploads(settings, database, -1.0)} == {f"{hashlib.sha256(good[0]).hexdigest()}.fits"}


def test_a_session_is_known_by_its_cookie_and_changes_nothing_without_its_word(database, guarded, monkeypatch):
    monkeypatch.setattr(tokens, "KEPT_S", 0.0)
    _token_id, token = made(database, "read", "submit", name="ann", days=0.1)
    begun = guarded("POST", "/v1/session", headers=bearer(token))
    assert (begun.status_code, begun.json()["principal"], begun.json()["seconds"]) == (201, "ann", 8639)
    cookie = begun.headers["set-cookie"]
    assert cookie.startswith("__Host-alertprod=als_")
    assert all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"))
    value = cookie.partition(";")[0]
    known, word = {"Cookie": f"a=b; {value}"}, {"X-CSRF-Token": begun.json()["csrf"]}
    looked = guarded("GET", "/v1/session", headers=known).json()
    assert looked == {"principal": "ann", "scopes": ["read", "submit"], "csrf": begun.json()["csrf"]}
    assert guarded("GET", "/v1/nights", headers=known).status_code == 200
    for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "0" * 64}):
        answer = guarded("POST", "/v1/visits", json=MESSAGE, headers={**known, **wrong})
        assert (answer.status_code, "X-CSRF-Token" in answer.json()["detail"]) == (403, True)
    assert guarded("POST", "/v1/visits", json=MESSAGE, headers={**known, **word}).status_code == 202
    assert guarded("POST", "/v1/session", headers={**known, **word}).status_code == 422  # it makes no other
    secret = value.partition("=")[2]
    assert guarded("GET", "/mode", headers=bearer(secret)).status_code == 401  # a cookie is no token
    assert (
        guarded("GET", "/mode", headers={"Cookie": f"__Host-alertprod={token}"}).status_code == 401
    )  # nor the reverse
    assert guarded("DELETE", "/v1/session", headers=known).status_code == 403
    ended = guarded("DELETE", "/v1/session", headers={**known, **word})
    assert (ended.status_code, ended.headers["clear-site-data"]) == (204, '"cookies", "storage"')
    assert guarded("GET", "/mode", headers=known).status_code == 401
    assert guarded("GET", "/mode", headers=bearer(token)).status_code == 200


def test_a_session_ends_with_the_token_that_it_was_made_from(database, guarded, monkeypatch):
    monkeypatch.setattr(tokens, "KEPT_S", 0.0)
    token_id, token = made(database, "read")
    cookie = {"Cookie": guarded("POST", "/v1/session", headers=bearer(token)).headers["set-cookie"].partition(";")[0]}
    assert guarded("GET", "/mode", headers=cookie).status_code == 200

    def listed(*more):
        return [
            (t["state"], t["createdBy"])
            for t in json.loads(alertprod(database.uri, "tokens", "list", "--json", *more)[1])
        ]

    assert listed() == [("valid", f"session of {token_id}"), ("valid", "test")]
    assert alertprod(database.uri, "tokens", "revoke", token_id)[0] == 0
    assert guarded("GET", "/mode", headers=cookie).status_code == 401
    assert listed() == [("revoked", "test")]
    assert listed("--ended") == [("revoked", f"session of {token_id}"), ("revoked", "test")]


def test_a_session_that_is_not_used_ends(database, guarded, monkeypatch):
    monkeypatch.setattr(tokens, "KEPT_S", 0.0)
    token = made(database, "read")[1]
    cookie = {"Cookie": guarded("POST", "/v1/session", headers=bearer(token)).headers["set-cookie"].partition(";")[0]}
    for minutes, status in ((59, 200), (61, 401)):
        with database.session() as connection:
            connection.execute(
                """UPDATE "AccessToken" SET "lastUsedAt" = now() - make_interval(mins => %s)""", (minutes,)
            )
        assert guarded("GET", "/mode", headers=cookie).status_code == status
    assert guarded("GET", "/mode", headers=bearer(token)).status_code == 200  # a token is good until it expires


def test_where_nobody_is_asked_there_is_no_session(database, tmp_path):
    ask, _ = asker(tmp_path, database_uri=database.uri)
    assert ask("POST", "/v1/session").status_code == 422
    assert ask("GET", "/v1/session").json()["principal"] == "local:anyone"


def test_one_sees_ones_own_sessions_and_ends_them_with_the_token(database, guarded, monkeypatch):
    monkeypatch.setattr(tokens, "KEPT_S", 0.0)
    _, ann = made(database, "read", name="ann")
    _, ben = made(database, "read", "admin", name="ben")
    here, there, other = (
        {"Cookie": guarded("POST", "/v1/session", headers=bearer(t)).headers["set-cookie"].partition(";")[0]}
        for t in (ann, ann, ben)
    )
    seen = guarded("GET", "/v1/sessions", headers=here).json()["sessions"]
    assert len(seen) == 2
    assert sorted(s["current"] for s in seen) == [False, True]
    assert set(seen[0]) == {"id", "createdAt", "lastUsedAt", "secondsLeft", "scopes", "current"}
    assert guarded("GET", "/v1/sessions", headers=bearer(ann)).json()["sessions"][0]["current"] is False
    word = {"X-CSRF-Token": guarded("GET", "/v1/session", headers=here).json()["csrf"]}
    left_open = next(s["id"] for s in seen if not s["current"])
    assert guarded("DELETE", f"/v1/sessions/{left_open}", headers={**here, **word}).status_code == 403
    assert guarded("DELETE", f"/v1/sessions/{left_open}", headers=bearer(ben)).status_code == 404  # none of his
    assert guarded("DELETE", f"/v1/sessions/{left_open}", headers=bearer(ann)).status_code == 204
    assert guarded("GET", "/mode", headers=there).status_code == 401
    assert guarded("GET", "/mode", headers=here).status_code == 200
    assert guarded("GET", "/mode", headers=other).status_code == 200


def test_what_is_old_is_forgotten_and_that_is_on_record(database, guarded):
    from service.access.retention import forget_old

    _, token = made(database, "submit", name="nightly")
    for visit in (1, 2, 3):
        guarded(
            "POST",
            "/v1/visits",
            json={**MESSAGE, "visit": visit},
            headers={**bearer(token), "Idempotency-Key": str(visit)},
        )
    with database.session() as connection:
        for table, column, limit in (
            ("AccessAudit", "at", "id = 1"), ("IdempotencyKey", '"createdAt"', "key = '2'"), ("VisitEvent", "at", "visit < 3"),
        ):  # fmt: skip
            connection.execute(f"UPDATE \"{table}\" SET {column[:]} = now() - interval '401 days' WHERE {limit}")
    assert forget_old(database, 0.0) == {"events": 2, "keys": 1}
    with database.session() as connection:
        assert len(recorded(connection)) == 3
    assert forget_old(database, 400.0) == {"events": 0, "keys": 0, "acts": 1, "tokens": 0, "usage": 0}
    with database.session() as connection:
        acts = recorded(connection)
    assert [a.principal for a in acts] == ["service:retention", "nightly", "nightly"]
    assert acts[0].detail == {"acts": 1, "tokens": 0, "days": 400.0}
