"""service/observe/log.py and traces.py: one form of line, whoever speaks; one key through everything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.observe.log import json_line, text_of
from service.observe.traces import current_traceparent, new_traceparent, trace_id, tracing

ROOT = Path(__file__).parents[3]
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
# a logger of ours, one of a library, a warning, librdkafka without a broker, a thread that fails, the end of the process
SPEAKERS = f"""
import logging, threading, time, warnings
from service.observe.log import about, about_visit, hide, set_up_log
set_up_log("worker")
hide(["s3cret-value"])
with about_visit(7, 3, 2, {{"traceparent": "{PARENT}"}}), about(principal="survey"):
    logging.getLogger("alertprod.worker").info("begins\\nhere, by s3cret-value")
    logging.getLogger("numba.core").warning("a library", extra={{"code": "x", "unknown": 1}})
warnings.warn("careful", UserWarning, stacklevel=1)
from confluent_kafka import Consumer
from alerts.delivery.target import KAFKA_LOG
heard = []
KAFKA_LOG.addFilter(lambda record: heard.append(record) or True)
consumer, deadline = Consumer({{"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "logger": KAFKA_LOG}}), time.monotonic() + 10
while not heard and time.monotonic() < deadline:
    consumer.poll(0.05)
consumer.close()
thread = threading.Thread(target=lambda: 1 / 0, name="beat")
thread.start()
thread.join()
raise ValueError("the end, by s3cret-value")
"""


@pytest.fixture(scope="module")
def lines():
    done = subprocess.run(
        [sys.executable, "-c", SPEAKERS], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "s3cret-value" not in done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def line_of(lines, logger):
    return next(line for line in lines if line["logger"] == logger)


def test_every_line_has_the_same_form(lines):
    for line in lines:
        assert line.keys() >= {"timestamp", "level", "logger", "event", "role", "pid"}, line
        assert line["role"] == "worker"


def test_a_line_says_which_visit_attempt_trace_and_principal_it_is_about(lines):
    mine, library = line_of(lines, "alertprod.worker"), line_of(lines, "numba.core")
    for line in (mine, library):
        about = {k: line[k] for k in ("visit", "detector", "attempt", "trace_id", "principal")}
        assert about == {"visit": 7, "detector": 3, "attempt": 2, "trace_id": TRACE, "principal": "survey"}
    assert mine["event"] == "begins\nhere, by ********"
    assert (library["code"], library.get("unknown")) == ("x", None)
    assert "visit" not in line_of(lines, "py.warnings")


def test_warnings_kafka_threads_and_the_end_come_as_lines(lines):
    assert "careful" in line_of(lines, "py.warnings")["event"]
    assert "127.0.0.1:1" in line_of(lines, "alertprod.kafka")["event"]
    thread = next(line for line in lines if line["event"].startswith("beat ended"))
    assert "ZeroDivisionError" in thread["exception"]
    assert (lines[-1]["level"], lines[-1]["event"]) == ("critical", "ValueError: the end, by ********")


def test_what_no_logger_wrote_becomes_a_line_and_can_be_read_back():
    line = json_line("malloc(): corrupted\tsize", "service.workers.job.output", child=12)
    assert json.loads(line)["child"] == 12
    assert text_of(line) == "malloc(): corrupted\tsize"
    assert text_of('{"event": "failed", "exception": "Traceback"}') == "failed\nTraceback"
    assert [text_of(t) for t in ("plain", "[1]", '{"no": "event"}')] == [None] * 3


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (PARENT, TRACE), (f"01-{TRACE}-b7ad6b7169203331-01-later", TRACE), (None, None), ("", None), (f"ff{PARENT[2:]}", None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None), (f"00-{TRACE}-{'0' * 16}-01", None), (PARENT.upper(), None), ("00-1-2-3", None),
    ],
)  # fmt: skip
def test_trace_ids_are_those_of_the_w3c_form(given, want):
    assert trace_id(given) == want


def test_a_given_trace_is_kept_and_another_one_is_new():
    with tracing(PARENT) as kept:
        assert current_traceparent() == kept == PARENT
    with tracing("nonsense") as made:
        assert trace_id(made) not in (None, TRACE)
    assert current_traceparent() != current_traceparent()
    assert trace_id(new_traceparent())
