"""Connections that are kept: one that died is found out before it is used."""

from contextlib import ExitStack

import psycopg
import pytest

from apdb import pooled
from apdb.pooled import PooledDatabase


@pytest.fixture
def kept(database):
    """A database with one kept connection, and a function that ends it at the server."""
    one = PooledDatabase(database.uri, connections=1)

    def end():
        with one.session() as connection:
            pid = connection.info.backend_pid
        with psycopg.connect(database.uri, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    yield one, end
    one.close()


def ask(one):
    with one.session() as connection:
        return connection.execute("SELECT 1").fetchone()


def test_one_that_died_while_nobody_used_it_is_replaced(kept, monkeypatch):
    one, end = kept
    end()
    monkeypatch.setattr(pooled, "TRUST_S", 0.0)
    assert ask(one) == (1,)


def test_a_server_that_was_restarted_a_moment_ago_costs_no_answer(database, monkeypatch):
    """All of them are ended while they are trusted; whoever asks next gets his answer, however many do at once."""
    monkeypatch.setattr(pooled, "TRUST_S", 60.0)
    several = PooledDatabase(database.uri, connections=4)

    def used_at_once():
        with ExitStack() as all_of_them:
            open_now = [all_of_them.enter_context(several.session()) for _ in range(4)]
            return [c.execute("SELECT pg_backend_pid()").fetchone()[0] for c in open_now]

    before = used_at_once()
    with psycopg.connect(database.uri, autocommit=True) as other:
        assert other.execute(
            "SELECT bool_and(pg_terminate_backend(p, 5000)) FROM unnest(%s) p", (before,)
        ).fetchone() == (True,)
    assert not set(used_at_once()) & set(before)
    several.close()


def test_one_that_is_used_again_at_once_is_not_asked_whether_it_lives(kept, monkeypatch):
    one, _ = kept
    monkeypatch.setattr(pooled, "TRUST_S", 60.0)
    assert ask(one) == (1,)
    asked = []
    monkeypatch.setattr(pooled.ConnectionPool, "check_connection", lambda connection: asked.append(connection))
    assert ask(one) == (1,)
    assert asked == []
