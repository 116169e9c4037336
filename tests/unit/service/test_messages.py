"""Visit messages that cannot be used are refused as such; what is not a message's fault is tried again."""

import json

import psycopg
import pytest

from service.errors import BadMessage
from service.intake.announcement import parse_announcement
from service.intake.message import decode_message, parse_message
from service.intake.reasons import reason_of
from tasks.errors import TransientError

GOOD = {"instrument": "cam", "science": "/data/a.fits"}


@pytest.mark.parametrize(
    "more",
    [{"photoCalib": float("inf")}, {"photoCalib": float("nan")}, {"exposureTime": float("inf")}, {"exposureTime": -1.0},
     {"midpointMjdTai": 2_460_345.7}, {"traceparent": "a\0b"}, {"traceparent": "a b"}, {"visit": 2**53}, {"visit": -1},
     {"detector": "x"}, {"band": "R"}, {"surprise": 1}, {"science": "\ud800"}, {"instrument": "../cam"},
     {"visit": True}, {"visit": "7"}, {"detector": False}, {"photoCalib": True}, {"photoCalib": "2.5"}, {"exposureTime": "30"},
     {"priority": True}, {"imageWaitS": True}, {"midpointMjdTai": "60000"}, {"version": True}, {"templates": ".."},
     {"templates": ".hidden"}],
)  # fmt: skip
def test_values_that_nothing_can_be_done_with(more):
    assert parse_message(GOOD).science == "/data/a.fits"
    with pytest.raises(BadMessage, match=next(iter(more))):
        parse_message({**GOOD, **more})


def test_whole_numbers_are_taken_however_they_are_written():
    assert parse_message({**GOOD, **decode_message(b'{"visit": 7.0, "detector": 1e1}')}).key == (7, 10)


def test_a_name_that_is_there_twice_is_refused_at_any_depth():
    for text in (b'{"visit": 1, "visit": 1}', b'{"visits": [{"band": "r", "b\\u0061nd": "g"}]}'):
        with pytest.raises(BadMessage, match="is there twice"):
            decode_message(text)


@pytest.mark.timeout(30)
def test_of_many_names_the_one_that_is_there_twice_is_found_at_once():
    """A message of a megabyte: every name compared with every other would take minutes."""
    names = ", ".join(f'"n{k}": 0' for k in range(60_000))
    with pytest.raises(BadMessage, match="'n59999' is there twice"):
        decode_message(f'{{{names}, "n59999": 1}}'.encode())


@pytest.mark.parametrize(
    "more", [{"ra": True}, {"dec": "2"}, {"radiusDeg": True}, {"visit": "7"}, {"expiresS": True}, {"templates": ".."}]
)
def test_announcements_take_numbers_as_numbers_too(more):
    good = {"ra": 1, "dec": 2.0, "radiusDeg": 0.1, "band": "r"}
    assert parse_announcement(good).ra == 1.0
    with pytest.raises(BadMessage, match=next(iter(more))):
        parse_announcement({**good, **more})


@pytest.mark.parametrize("value", [b"{no json", b"\xff\xfe", b"[" * 100_000, b""])
def test_bytes_that_are_no_json(value):
    with pytest.raises(BadMessage):
        parse_message(decode_message(value))
    assert decode_message(json.dumps(GOOD).encode()) == GOOD


def test_the_database_tells_whose_fault_it_is():
    refused = reason_of(psycopg.errors.UntranslatableCharacter("unsupported Unicode escape sequence"))
    assert isinstance(refused, BadMessage)
    for error in (
        psycopg.OperationalError("gone"),
        psycopg.errors.UndefinedTable("no table"),
        OSError(5, "Input/output"),
    ):
        with pytest.raises(TransientError):  # the next messages would end like this one: none is buried
            reason_of(error)
