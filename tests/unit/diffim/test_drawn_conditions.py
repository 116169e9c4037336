"""Pairs under conditions drawn at random: what goes wrong must say so."""

import os

from tests.support.drawn_conditions import drawn, outcome

N = int(os.environ.get("ALERTPROD_CONDITIONS", "5"))


def test_no_subtraction_collapses_without_a_word():
    """`make conditions-test` draws 300; the limits of a collapse are in `Outcome.silent_collapse`."""
    silent, raised = [], 0
    for seed in range(N):
        conditions = drawn(seed)
        found = outcome(conditions)
        raised += bool(found.error)
        if N > 10:
            print(conditions, found, flush=True)
        if found.silent_collapse:
            silent.append(f"{conditions}: {found}")
    assert not silent, "\n".join(silent)
    assert raised < 0.7 * N, "most of the conditions can be subtracted"
