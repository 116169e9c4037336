"""The record of acts where the database is away: the log has them, and nobody waits in line for it."""

import logging
import time

import pytest

from apdb.access.record import Act
from apdb.errors import DatabaseUnavailable
from service.access.acts import Acts


class Away:
    """A database that takes its time to be away."""

    def __init__(self):
        self.asked = 0

    def connect(self):
        self.asked += 1
        raise DatabaseUnavailable("no answer")


def test_a_database_that_is_away_is_asked_once_and_the_log_has_everything(caplog):
    database = Away()
    acts = Acts(database)
    with caplog.at_level(logging.INFO, "alertprod.access"):
        for k in range(50):
            acts.write(Act("ann", "POST /v1/visits", f"/v1/visits/{k}/0", 202))
    told = [r for r in caplog.records if r.levelno == logging.INFO]
    lost = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [(r.principal, r.target, r.status) for r in told] == [("ann", f"/v1/visits/{k}/0", 202) for k in range(50)]
    assert len(lost) == 50
    assert all(r.target for r in lost)
    assert database.asked == 1
    with pytest.raises(DatabaseUnavailable):
        acts.count_visits("ann", 1)
    assert database.asked == 1


def test_it_is_asked_again_after_a_while(monkeypatch):
    database = Away()
    acts = Acts(database)
    acts.write(Act("ann", "x"))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    acts.write(Act("ann", "x"))
    assert database.asked == 2
