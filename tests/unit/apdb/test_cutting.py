"""Connections whose answer does not come in time are cut, others are left alone."""

import socket
from contextlib import ExitStack

import pytest

from apdb.cutting import cut_after
from tasks.waiting import wait_until


@pytest.fixture
def pairs():
    """Make connected sockets: ours stands for a connection, the other end for the server."""
    with ExitStack() as held:

        def make():
            ours, theirs = socket.socketpair()
            held.enter_context(ours)
            theirs.settimeout(0.0)
            return ours, held.enter_context(theirs)

        yield make


def is_cut(server):
    try:
        return server.recv(1) == b""
    except BlockingIOError:
        return False


def test_what_takes_too_long_is_cut_and_what_ended_before_is_not(pairs):
    quick, slow, later = pairs(), pairs(), pairs()
    with cut_after(quick[0], 0.05):
        pass
    with cut_after(later[0], 60.0), cut_after(slow[0], 0.1):
        assert wait_until(lambda: is_cut(slow[1]), 10.0, 0.01)
        assert not is_cut(quick[1])
        assert not is_cut(later[1])


def test_a_deadline_that_comes_before_those_that_are_waited_for_is_kept(pairs):
    ends = [pairs() for _ in range(20)]
    with ExitStack() as bodies:
        for k, (ours, _) in enumerate(ends):  # each before the last
            bodies.enter_context(cut_after(ours, 60.0 if k < 10 else 0.2 - 0.01 * k))
        assert wait_until(lambda: all(is_cut(end) for _, end in ends[10:]), 10.0, 0.01)
        assert not any(is_cut(end) for _, end in ends[:10])
