"""Pages that go out in parts: the first before the rest is made, and what goes wrong then is told at its place."""

import asyncio
import gzip
import zlib

import psycopg
import pytest
from fastapi import Request

from apdb.errors import DatabaseUnavailable
from service.pages import stored
from service.pages.render import page
from tests.support.asking import asker

HTML = {"Accept": "text/html"}
MADE = {"tables": [], "findings": [], "partitions": [], "growth": [], "slow": []}


@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_the_first_part_of_a_page_is_out_before_the_rest_is_made(coding, tmp_path):
    _, app = asker(tmp_path / "uploads")
    scope = {"type": "http", "method": "GET", "path": "/database", "query_string": b"", "server": ("here", 80), "scheme": "http",
             "headers": [(b"accept-encoding", coding.encode())], "app": app, "state": {}}  # fmt: skip
    made = []
    answer = page(Request(scope), "database.html", rest=lambda: made.append(1) or MADE)

    async def parts():
        async for part in answer.body_iterator:
            yield part, len(made)

    async def all_parts():
        return [part async for part in parts()]

    (first, before), (second, after) = asyncio.run(all_parts())
    assert (before, after) == (0, 1)
    begin = zlib.decompressobj(wbits=31).decompress(first) if coding == "gzip" else first
    whole = gzip.decompress(first + second) if coding == "gzip" else first + second
    assert begin.strip().endswith(b"<h1>Database</h1>")
    assert whole.startswith(begin)
    assert whole.strip().endswith(b"</html>")


@pytest.mark.parametrize(("error", "code"), [
    (DatabaseUnavailable("it went away"), "database_unavailable"), (psycopg.errors.QueryCanceled(), "busy"), (KeyError("hidden"), "internal"),
])  # fmt: skip
def test_a_page_that_breaks_off_says_why_below_what_it_has_shown(error, code, database, tmp_path, monkeypatch, caplog):
    def break_off(_shared):
        raise error

    monkeypatch.setattr(stored, "_rest", break_off)
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    answer = ask("GET", "/database", headers=HTML)
    assert answer.status_code == 200
    shown, _, told = answer.text.partition("<h1>Database</h1>")
    assert "<nav" in shown
    assert f"code <code>{code}</code>" in told
    assert ("Try again" in told) == (code != "internal")
    assert "hidden" not in told
    assert [r.message for r in caplog.records if r.exc_info] == (["a page broke off"] if code == "internal" else [])


def test_a_page_that_renews_itself_has_the_status_of_what_fails_anywhere_in_it(database, tmp_path, monkeypatch):
    """A script takes an answer with status 200 for the page's new content: what is on the screen would be gone."""

    def break_off(_shared):
        raise psycopg.errors.QueryCanceled

    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    renewal = HTML | {"HX-Request": "true"}
    assert 'id="live"' in ask("GET", "/database", headers=renewal).text
    monkeypatch.setattr(stored, "_rest", break_off)
    answer = ask("GET", "/database", headers=renewal)
    assert answer.status_code == 503
    assert "code <code>busy</code>" in answer.text
