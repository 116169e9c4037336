"""Announcements of next visits: entered over HTTP and by command, prepared once by each slot that has no visit."""

import numpy as np
import pytest
from typer.testing import CliRunner

from apdb.announcements import announced, prune_announcements
from apdb.sky.htm import HTM_LEVEL, htm_ids
from diffim import NoTemplate, TemplateStore
from service.commands.main import app
from service.errors import JobCrashed
from service.processing.prepare import prepare
from service.workers import announced as module
from service.workers.announced import Announced
from tests.integration.test_template_sets import DEC, RA, TILING, make
from tests.support.asking import asker

NEXT = {"ra": RA, "dec": DEC, "radiusDeg": 0.2, "band": "r", "templates": "deep"}


def test_they_are_entered_listed_and_expire(database, tmp_path):
    ask = asker(tmp_path / "up", database_uri=database.uri)[0]
    sent = ask("POST", "/v1/next-visits", json={**NEXT, "expiresS": 60})
    assert sent.status_code == 202
    assert {k: sent.json()[k] for k in NEXT} == NEXT
    env = {"ALERTPROD_DATABASE_URI": database.uri}
    done = CliRunner().invoke(app, ["visits", "announce", "10", "-5", "--radius", "0.1", "--band", "g"], env=env)
    assert done.exit_code == 0, done.output
    listed = ask("GET", "/v1/next-visits").json()["nextVisits"]
    assert [(n["ra"], n["dec"], n["band"]) for n in listed] == [(10, -5, "g"), (RA, DEC, "r")]
    for wrong in ({}, {**NEXT, "ra": 361}, {**NEXT, "dec": "x"}, {**NEXT, "more": 1}, {**NEXT, "radiusDeg": 0}, [NEXT]):
        assert ask("POST", "/v1/next-visits", json=wrong).json()["code"] == "bad_message", wrong
    with database.session() as connection:
        connection.execute('UPDATE "NextVisit" SET "expiresAt" = now() - interval \'2 days\' WHERE id = 1')
        assert len(announced(connection)) == 1
        assert prune_announcements(connection) == 1


class Job:
    """A job process that notes what it is to prepare."""

    def __init__(self, crashes=False):
        self.seen, self.crashes, self.killed = [], crashes, False

    def prepare(self, announcement, _timeout_s):
        self.seen.append(announcement["ra"])
        if self.crashes:
            raise JobCrashed("gone")
        return {}

    def kill(self):
        self.killed = True


def test_each_slot_prepares_each_of_them_once_the_newest_first(database, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    ask = asker(tmp_path / "up", database_uri=database.uri)[0]
    every, one, other = Announced(database), Job(), Job(crashes=True)
    assert not every.prepare(0, one)
    for ra in (1, 2):
        ask("POST", "/v1/next-visits", json={**NEXT, "ra": ra})
    assert [every.prepare(0, one) for _ in range(3)] == [True, True, False]
    ask("POST", "/v1/next-visits", json={**NEXT, "ra": 3})
    assert [every.prepare(0, one) for _ in range(2)] == [True, False]
    assert one.seen == [2, 1, 3]
    assert every.prepare(1, other)  # one that dies of it is ended, and not asked again
    assert (other.seen, other.killed) == ([3], True)


def test_tiles_nearest_to_the_place_are_read_and_its_objects_found(database, tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    places = [(RA, DEC), *zip(RA + rng.uniform(-0.5, 0.5, 300), DEC + rng.uniform(-0.5, 0.5, 300), strict=True)]
    make(tmp_path, 1, positions=places)
    read = []
    monkeypatch.setattr(TemplateStore, "_tile", lambda _self, path: read.append(path.stem))
    with database.session() as connection:
        for number, dec in ((1, DEC), (2, DEC + 0.1), (3, DEC + 5.0)):
            pixel = int(htm_ids(np.array([RA]), np.array([dec]), HTM_LEVEL)[0])
            connection.execute(
                'INSERT INTO "DiaObjectLast" ("diaObjectId", "validityStartMjdTai", ra, dec, "nDiaSources", "pixelId") '
                "VALUES (%s, 61000, %s, %s, 1, %s)",
                (number, RA, dec, pixel),
            )
    store = TemplateStore(tmp_path, max_tiles=10)
    found = prepare(NEXT, store, "other", database)
    assert found == {"tiles": 5, "objects": 2}
    (centre,) = TILING.overlapping(np.array([RA]), np.array([DEC]))
    assert read[0] == centre.name
    rings = [int(name.split("_")[1]) for name in read]
    assert max(abs(r - centre.ring) for r in rings) <= 1
    assert len(set(read)) == 5
    with pytest.raises(NoTemplate):
        prepare({**NEXT, "band": "z"}, store, "other", database)
