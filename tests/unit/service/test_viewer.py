"""What is kept of pictures is bounded, and waiting for child processes leaves threads for others."""

import threading
import time

import pytest

from apdb.errors import Busy
from service.pages import live, streams, viewer
from service.pages.streams import _Lags
from service.pages.viewer import KEPT_BYTES, MOST_WAITING, Viewer
from service.settings import load_settings
from tests.support.asking import asker


@pytest.fixture
def looking():
    return Viewer(load_settings(database_uri="postgresql://x@localhost/x"))


@pytest.mark.parametrize("kind", ["png", "fits", "another"])
def test_no_kind_of_answer_is_kept_without_bound(looking, kind):
    megabyte = "x" * (1 << 20)
    for k in range(100):
        looking._keep(str(k), {kind: megabyte})
        looking._keep(str(k), {kind: megabyte})
    assert 10 << 20 < sum(len(answer[kind]) for answer in looking._kept.values()) <= KEPT_BYTES
    assert "99" in looking._kept


def test_small_answers_are_bounded_in_number(looking):
    for k in range(50_000):
        looking._keep(str(k), {})
    assert len(looking._kept) <= KEPT_BYTES // viewer.KEPT_LEAST


def test_who_comes_when_many_wait_for_the_child_is_told_to_try_again(looking, monkeypatch):
    free = threading.Event()
    monkeypatch.setattr(looking, "_asked_child", lambda question: free.wait(20))
    threads = [threading.Thread(target=looking._asked, args=({},)) for _ in range(MOST_WAITING)]
    for thread in threads:
        thread.start()
    try:
        with pytest.raises(Busy, match="try again"):
            looking._asked({})
    finally:
        free.set()
        for thread in threads:
            thread.join(20)
    looking._asked({})


def test_a_broker_that_does_not_answer_keeps_one_viewer_waiting(monkeypatch):
    lags, asked, answers = _Lags(), threading.Event(), threading.Event()

    def silent(shared):
        asked.set()
        assert answers.wait(20)
        return [{"lag": 1}], ""

    monkeypatch.setattr(streams, "FIRST_ANSWER_S", 0.05)
    monkeypatch.setattr(streams, "_ask_broker", silent)
    first = threading.Thread(target=lags.of, args=(None,))
    first.start()
    assert asked.wait(20)
    begin = time.monotonic()
    assert lags.of(None) == ([], streams.NOT_YET)
    assert time.monotonic() - begin < 5
    answers.set()
    first.join(20)
    assert lags.of(None) == ([{"lag": 1}], "")
    monkeypatch.setattr(lags, "_until", 0.0)
    asked.clear(), answers.clear()
    again = threading.Thread(target=lags.of, args=(None,))
    again.start()
    assert asked.wait(20)
    assert lags.of(None) == ([{"lag": 1}], "")  # what was told last, at once
    answers.set()
    again.join(20)


def test_no_more_viewers_follow_the_changes_than_a_process_has_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "MOST_VIEWERS", 0)
    ask, _ = asker(tmp_path / "uploads")
    answer = ask("GET", "/live")
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert "retry-after" in answer.headers
