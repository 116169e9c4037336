"""What every answer carries, and what is refused by its head or its content alone."""

import asyncio
import re

import pytest
from fastapi import Request

from service.api.guard import admission as admission_module
from service.api.problems import problem
from tests.support.asking import asker

EVERY = {
    "x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer", "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'", "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    ask, app = asker(tmp_path_factory.mktemp("shield"))

    @app.get("/fault")
    def fault():
        raise ZeroDivisionError("secret of the inside")

    @app.post("/swallow")
    async def swallow(request: Request):
        try:
            return len(await request.body())
        except Exception:
            return problem(422, "bad_message", "what was wrong with the body is lost here")

    return ask


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/healthz", 200), ("GET", "/schemas/types", 200), ("GET", "/nowhere", 404), ("DELETE", "/v1/visits", 405), ("GET", "/fault", 500),
    ("GET", "/v1/objects", 422), ("GET", "/schemas/ids/7", 404), ("GET", "/healthz?x=%00", 400), ("POST", "/v1/visits", 422),
])  # fmt: skip
def test_every_answer_carries_what_browsers_obey(site, method, path, status):
    answer = site(method, path)
    assert answer.status_code == status
    assert {k: answer.headers.get(k) for k in EVERY} == EVERY
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert "strict-transport-security" not in answer.headers  # said over TLS alone
    assert "server" not in answer.headers
    assert "access-control-allow-origin" not in answer.headers


def test_compressed_bodies_are_refused(site):
    for coding, status in (("gzip", 415), ("br, identity", 415), ("identity", 422)):
        headers = {"Content-Type": "application/json", "Content-Encoding": coding}
        answer = site("POST", "/v1/visits", content=b"{}", headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_a_fault_of_the_program_says_nothing_of_the_inside(site, caplog):
    answer = site("GET", "/fault")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert any(getattr(r, "request_id", "") == answer.headers["x-request-id"] for r in caplog.records)


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "application/xml", "multipart/mixed", "", "application/jsonx"],
)
def test_other_kinds_of_content_are_refused(site, kind):
    answer = site("POST", "/v1/visits", content=b"{}", headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"])
def test_json_is_taken_however_it_is_written(site, kind):
    assert site("POST", "/v1/visits", content=b"{}", headers={"Content-Type": kind}).json()["code"] == "bad_message"


@pytest.mark.parametrize("body", [
    b'{"midpointMjdTai": NaN}', b'{"midpointMjdTai": Infinity}', b'{"midpointMjdTai": -Infinity}', b'{"midpointMjdTai": 1e999}',
    b'{"science": "/data/\\u0000.fits"}', b'{"\\u0000": 1}', b'{"x": ["\\u0000"]}', b"\x00", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000,
])  # fmt: skip
def test_messages_with_nul_infinity_or_no_json_are_refused(site, body):
    answer = site("POST", "/v1/visits", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_message")


def test_a_body_that_is_empty_is_said_to_be(site):
    assert site("POST", "/v1/visits").json()["detail"] == "the body is empty: a JSON object is wanted"


@pytest.mark.parametrize(
    "query",
    [
        "ra=nan&dec=1",
        "ra=inf&dec=1",
        "ra=1&dec=-Infinity",
        "ra=1&dec=1&radius=nan",
        "ra=1&dec=1&as_of=inf",
        "ra=1e999&dec=1",
    ],
)
def test_numbers_that_are_none_are_refused(site, query):
    answer = site("GET", f"/v1/objects?{query}")
    assert answer.status_code == 422
    assert answer.json()["code"] in ("bad_query", "bad_message")


@pytest.mark.parametrize("path", ["/v1/visits/%00/0", "/v1/visits?state=%00", "/subjects/x%00/versions"])
def test_addresses_with_nul_are_refused(site, path):
    answer = site("GET", path)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_message")


def test_what_a_handler_makes_of_a_body_that_it_did_not_get_is_not_the_answer(site):
    def pieces():
        yield b" " * (1 << 20)
        yield b" "

    async def slowly():
        for piece in pieces():
            yield piece

    answer = site("POST", "/swallow", content=slowly(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"


def test_who_may_be_anybody_is_not_told_where_the_database_is(site, tmp_path):
    assert "127.0.0.1:1/none" in site("GET", "/readyz").json()["detail"]
    ask, _ = asker(tmp_path, access="tokens")
    answer = ask("GET", "/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert "127.0.0.1" not in answer.text


def test_the_page_of_the_documentation_fetches_nothing_and_runs_nothing(site, tmp_path):
    page = site("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "script" not in page.text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page.text)
    assert not re.search(r"@import|url\(", page.text)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    paths = site("GET", "/openapi.json").json()["paths"]
    assert len(paths) > 15
    assert all(path in page.text for path in paths)
    for path in ("/fault", "/swallow"):  # those of this test
        del paths[path]
    for path, operations in paths.items():  # what every path may answer, and which scope it asks for
        for operation in operations.values():
            assert {"400", "401", "403", "413", "415", "422", "429", "500", "503"} <= set(operation["responses"])
            assert list(operation["responses"]["422"]["content"]) == ["application/problem+json"]
            assert ("security" in operation) == (path not in ("/healthz", "/readyz"))
    assert paths["/v1/visits"]["post"]["x-scopes"] == ["submit"]
    without, _ = asker(tmp_path, api_docs=False)
    assert [without("GET", p).status_code for p in ("/docs", "/openapi.json", "/redoc", "/docs/oauth2-redirect")] == [
        404
    ] * 4


def test_who_finds_no_place_to_submit_is_told_so_before_his_message_is_looked_at(tmp_path, monkeypatch):
    """Others are answered meanwhile, and one with an image is asked when the image is there."""
    monkeypatch.setattr(admission_module, "WAIT_S", 0.0)
    ask, app = asker(tmp_path)
    admission = app.state.resources.admission
    taken = [asyncio.run(admission.enter()) for _ in range(app.state.resources.settings.max_submits)]
    for path in ("/v1/visits", "/v1/visits/batch"):
        answer = ask("POST", path, content=b"no json")
        assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, "busy", "5")
        assert answer.headers["Cache-Control"] == "no-store"
    assert ask("POST", "/v1/visits", files={"other": b"no image"}).status_code == 422
    assert ask("GET", "/healthz").status_code == 200
    taken.pop().release()
    assert ask("POST", "/v1/visits", content=b"no json").status_code == 422
