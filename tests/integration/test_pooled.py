"""Connections that are kept: one that died is found out before it is used, or its question fails once, in a way that may pass."""

import psycopg
import pytest

from apdb import pooled
from apdb.errors import DatabaseUnavailable
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


def test_one_that_died_a_moment_ago_costs_one_answer(kept, monkeypatch):
    one, end = kept
    monkeypatch.setattr(pooled, "TRUST_S", 60.0)
    end()
    with pytest.raises(DatabaseUnavailable):
        ask(one)
    assert ask(one) == (1,)


def test_one_that_is_used_again_at_once_is_not_asked_whether_it_lives(kept, monkeypatch):
    one, _ = kept
    monkeypatch.setattr(pooled, "TRUST_S", 60.0)
    assert ask(one) == (1,)
    asked = []
    monkeypatch.setattr(pooled.ConnectionPool, "check_connection", lambda connection: asked.append(connection))
    assert ask(one) == (1,)
    assert asked == []
