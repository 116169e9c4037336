"""What the HTTP framework refuses by itself has the form of all other errors (RFC 9457)."""

import asyncio

import httpx
import pytest

from service.api.app import create_app
from service.settings import load_settings


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """An API whose database is never asked."""
    uploads = tmp_path_factory.mktemp("uploads")
    settings = load_settings(database_uri="postgresql://nobody@127.0.0.1:1/none", upload_dir=uploads)
    transport = httpx.ASGITransport(app=create_app(settings))

    def ask(method, path, **more):
        async def answer():
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as asking:
                return await asking.request(method, path, **more)

        return asyncio.run(answer())

    return ask


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "words"),
    [
        ("GET", "/nowhere", 404, "not_found", ["/nowhere", "/docs"]),
        ("GET", "/v1/objects/", 404, "not_found", ["/v1/objects/"]),
        ("GET", "/v1/visit", 404, "not_found", ["/v1/visit"]),
        ("POST", "/v1/a%20b", 404, "not_found", ["/v1/a b"]),
        ("DELETE", "/v1/visits", 405, "method_not_allowed", ["POST", "DELETE", "/v1/visits"]),
        ("POST", "/v1/visits/1/0", 405, "method_not_allowed", ["GET", "POST"]),
        ("PUT", "/healthz", 405, "method_not_allowed", ["GET", "PUT"]),
    ],
)
def test_unknown_paths_and_methods_are_problems(client, method, path, status, code, words):
    answer = client(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert {k: v for k, v in body.items() if k != "detail"} == {
        "type": "about:blank",
        "title": code,
        "status": status,
        "code": code,
        "help": f"docs/errors/{code}.md",
    }
    assert all(word in body["detail"] for word in words)
    assert ("allow" in answer.headers) == (status == 405)


def test_a_body_that_is_no_form_is_a_problem(client):
    answer = client("POST", "/v1/visits", content=b"--", headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "bad_message"
    assert "boundary" in answer.json()["detail"]
