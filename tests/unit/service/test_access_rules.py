"""Who may do what: every route has a rule, what has none is closed, and limits and hosts are judged as they are said to be."""

import pytest
from fastapi.routing import iter_route_contexts

from service.access import limits
from service.access.limits import Buckets
from service.access.listening import check_listening, is_safe_host
from service.access.policy import PUBLIC, RULES, rule_of
from service.access.principals import SCOPES, Principal
from service.errors import SettingsError
from service.settings import load_settings
from tests.support.asking import asker

TOKEN = "a" * 64


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(f"{TOKEN}\n")
    return asker(folder / "uploads", access="tokens", admin_token_file=folder / "token")


def routes(app):
    """Every method and path that the application answers, whatever made the route."""
    return {
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        for method in (context.methods or {"GET"})
        if method not in ("HEAD", "OPTIONS")
    }


def test_every_route_has_a_rule_and_every_rule_a_route(guarded):
    assert routes(guarded[1]) == set(RULES) | PUBLIC
    assert all(scopes and set(scopes) <= set(SCOPES) for scopes in RULES.values())


def test_every_route_asks_who_comes_but_for_the_two_of_the_supervisor(guarded):
    ask, app = guarded
    answers = {}
    for method, path in routes(app):
        address = path.replace(":path", "").format_map(
            dict.fromkeys(("visit", "detector", "object_id", "number", "version", "subject", "night", "source_id"), 1)
            | {
                "job": 1,
                "part": "phase",
                "what": "sources",
                "which": "science.png",
                "name": "app.css",
                "path": "index.html",
                "session_id": 1,
            }
        )
        answers[method, path] = ask(method, address)
    assert {r: a.status_code for r, a in answers.items() if r not in PUBLIC} == dict.fromkeys(set(RULES), 401)
    for route, answer in answers.items():
        if route not in PUBLIC:
            assert answer.headers["www-authenticate"] == 'Bearer realm="alertprod"'
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == "unauthenticated"
    assert answers["GET", "/healthz"].status_code == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("DELETE", "/v1/visits"), ("OPTIONS", "/v1/objects"),
                                              ("GET", "/v1/visits/"), ("GET", "//v1/visits"), ("TRACE", "/healthz"), ("POST", "/readyz")])  # fmt: skip
def test_what_is_not_listed_is_closed(guarded, method, path):
    assert rule_of(method, path).scopes == ("admin",)
    assert guarded[0](method, path).status_code == 401


@pytest.mark.parametrize("header", [
    "", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"bearer x {TOKEN}", f"Token {TOKEN}", f"Digest {TOKEN}",
    "Basic", "Basic %%%", "Basic OnRva2Vu", "Bearer \xff\xfe", "Bearer " + "x" * 9000, "Bearer ' OR 1=1 --", TOKEN,
])  # fmt: skip
def test_what_is_no_good_token_is_refused_as_a_problem(guarded, header):
    answer = guarded[0]("GET", "/schemas/types", headers=[(b"authorization", header.encode("latin-1"))])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="alertprod", error="invalid_token"'
    assert TOKEN not in answer.text


def test_two_tokens_at_once_and_one_in_the_address_are_refused(guarded):
    twice = [("Authorization", f"Bearer {TOKEN}")] * 2
    assert guarded[0]("GET", "/schemas/types", headers=twice).status_code == 401
    assert guarded[0]("GET", f"/schemas/types?access_token={TOKEN}&token={TOKEN}").status_code == 401


def test_the_token_of_the_file_is_good_for_everything_also_as_a_password(guarded):
    ask, _ = guarded
    assert ask("GET", "/schemas/types", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert ask("GET", "/schemas/types", auth=("anybody", TOKEN)).status_code == 200
    assert ask("GET", "/nowhere", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 404


def test_a_file_with_another_token_is_followed_and_one_that_goes_away_closes(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    ask, _ = asker(tmp_path / "u", access="tokens", admin_token_file=file)

    def status(token):
        return ask("GET", "/schemas/types", headers={"Authorization": f"Bearer {token}"}).status_code

    assert status(TOKEN) == 200
    file.write_text("b" * 65)
    assert (status(TOKEN), status("b" * 65)) == (401, 200)
    file.unlink()
    assert status("b" * 65) == 401


@pytest.mark.parametrize("content", ["short", "", "x" * 42, "with a blank " + "x" * 40, "x" * 600])
def test_a_file_that_holds_no_token_is_refused_and_not_shown(tmp_path, content):
    (tmp_path / "token").write_text(content)
    with pytest.raises(SettingsError, match="ALERTPROD_ADMIN_TOKEN_FILE") as caught:
        asker(tmp_path / "u", access="tokens", admin_token_file=tmp_path / "token")
    assert not content or content not in str(caught.value)


def test_pages_of_other_sites_and_foreign_names_reach_no_service_of_this_machine(tmp_path):
    ask, _ = asker(tmp_path)
    assert ask("GET", "/schemas/types").status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example:8080", "x.localhost.evil.org"):
        assert ask("GET", "/schemas/types", headers={"Host": host}).status_code == 403, host
    for host in ("127.0.0.1:8080", "localhost:1", "[::1]:80", "api", "a.localhost"):
        assert is_safe_host(host)
        assert ask("GET", "/schemas/types", headers={"Host": host}).status_code == 200, host
    for header in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "api"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = ask("POST", "/v1/visits", json={}, headers=header)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), header
    assert ask("POST", "/v1/visits", json={}, headers={"Origin": "http://api"}).status_code == 422


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", ""])
def test_nothing_listens_elsewhere_without_being_told_so(host):
    with pytest.raises(SettingsError, match="ALERTPROD_ACCESS=open-to-everyone"):
        check_listening(load_settings().model_copy(update={"host": host}))
    for access in ("tokens", "open-to-everyone"):
        check_listening(load_settings(access=access).model_copy(update={"host": host}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_this_machine_needs_no_token(host):
    check_listening(load_settings(host=host))


def test_scopes_grant_themselves_and_admin_everything():
    for scope in SCOPES:
        somebody = Principal("x", frozenset({scope}))
        assert {s for s in SCOPES if somebody.may((s,))} == (set(SCOPES) if scope == "admin" else {scope})


def test_a_bucket_gives_what_it_holds_and_is_filled_at_its_rate():
    now = [0.0]
    buckets = Buckets(60, kept=2, clock=lambda: now[0])
    taken = [buckets.take("a") for _ in range(61)]
    assert [a.allowed for a in taken] == [True] * 60 + [False]
    assert [a.remaining for a in taken[:3]] == [59, 58, 57]
    assert (taken[-1].retry_s, taken[-1].full_s) == (1, 60)
    assert buckets.take("b").remaining == 59  # nobody pays for another
    now[0] = 10.0
    assert [buckets.take("a").allowed for _ in range(11)] == [True] * 10 + [False]
    now[0] = 1000.0
    assert buckets.take("a").remaining == 59  # never more than it holds
    buckets.take("c")
    assert buckets.level("b") == 60  # forgotten
    assert Buckets(0).take("x").allowed


def test_who_asks_too_often_is_told_when_to_come_back(guarded, tmp_path):
    ask, _ = asker(tmp_path, access="open-to-everyone", rate_limit=3)
    answers = [ask("GET", "/schemas/types") for _ in range(4)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert [a.headers["ratelimit"].split(";")[1] for a in answers] == ["r=2", "r=1", "r=0", "r=0"]
    assert answers[0].headers["ratelimit-policy"] == '"default";q=3;w=60'
    assert answers[-1].json()["code"] == "too_many_requests"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert ask("GET", "/healthz").status_code == 200


def test_guessing_ends_soon_for_the_guesser_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "WINDOW_S", 1e6)  # nothing is allowed anew meanwhile, however long the test takes
    (tmp_path / "token").write_text(TOKEN)
    ask, app = asker(tmp_path / "u", access="tokens", admin_token_file=tmp_path / "token", address="10.0.0.1")
    guesses = [ask("GET", "/mode", headers={"Authorization": "Bearer x"}).status_code for _ in range(61)]
    assert guesses == [401] * 60 + [429]
    assert ask("GET", "/mode", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    other, _ = asker(tmp_path / "u", app=app, address="10.0.0.2")
    assert other("GET", "/mode", headers={"Authorization": "Bearer x"}).status_code == 401
