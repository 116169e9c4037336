"""Visit messages that cannot be used are refused as such; what is not a message's fault is tried again."""

import json

import psycopg
import pytest

from service.errors import BadMessage
from service.intake.message import decode_message, parse_message
from service.intake.reasons import reason_of
from tasks.errors import TransientError

GOOD = {"instrument": "cam", "science": "/data/a.fits"}


@pytest.mark.parametrize(
    "more",
    [{"photoCalib": float("inf")}, {"photoCalib": float("nan")}, {"exposureTime": float("inf")}, {"exposureTime": -1.0},
     {"midpointMjdTai": 2_460_345.7}, {"traceparent": "a\0b"}, {"traceparent": "a b"}, {"visit": 2**53}, {"visit": -1},
     {"detector": "x"}, {"band": "R"}, {"surprise": 1}, {"science": "\ud800"}, {"instrument": "../cam"}],
)  # fmt: skip
def test_values_that_nothing_can_be_done_with(more):
    assert parse_message(GOOD).science == "/data/a.fits"
    with pytest.raises(BadMessage, match=next(iter(more))):
        parse_message({**GOOD, **more})


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
