"""``alertprod up``: all roles until a signal, a second start on the same data, and a message that nobody can read."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psycopg
import pytest
from astropy.io import fits
from confluent_kafka import Consumer, Producer, TopicPartition

from apdb import Database, Ledger
from service.errors import PortInUse
from service.local.up import run_up
from tasks.errors import CallerError
from tests.support.command_line import hear_signals

SECONDS = 90.0
CARD = b"EXPTIME =                 30,0"  # no number, and no text in quotes


@pytest.fixture
def place(server_dir):
    return server_dir / "kept here"


@pytest.fixture
def started():
    """Processes that end with the test, whatever becomes of it."""
    processes = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=SECONDS)
        process.stdout.close()


def wait_for(condition, process=None, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    return found


def start(place, images, started):
    (place / "environment.sh").unlink(missing_ok=True)
    program = [sys.executable, "-P", "-m", "service.commands.main", "up", "--data", str(place), "--root", str(images)]
    process = subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=images,
        env={**os.environ, "COLUMNS": "200", "ALERTPROD_WORKERS": "1"},
        preexec_fn=hear_signals,
    )
    started.append(process)
    lines = wait_for(lambda: (place / "environment.sh").exists() and (place / "environment.sh").read_text(), process)
    words = [shlex.split(line)[1] for line in lines.splitlines()]
    return process, dict(word.split("=", 1) for word in words)


def stop(process, number):
    process.send_signal(number)
    said = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 0, said
    return said


def images_of(folder):
    """Two frames; a card of the first cannot be parsed."""
    folder.mkdir()
    header = fits.Header({"DATE-OBS": "2024-02-01T01:00:00", "EXPTIME": 30.0, "FILTER": "r"})
    for name in ("broken", "good"):
        fits.writeto(folder / f"{name}.fits", np.ones((8, 8), np.float32), header)
    data = (folder / "broken.fits").read_bytes()
    at = data.index(b"EXPTIME =")
    (folder / "broken.fits").write_bytes(data[:at] + CARD.ljust(80) + data[at + 80 :])
    (folder / "cam.yaml").write_text("name: cam\npixel_scale: 0.4\nvariance: empirical\nzeropoint: relative\n")
    return folder


def test_up_and_up_again_on_its_data(place, started, tmp_path, monkeypatch):
    images = images_of(tmp_path / "images")
    monkeypatch.setenv("ALERTPROD_INSTRUMENTS", str(images))
    process, first = start(place, images, started)
    brokers, uri = first["ALERTPROD_KAFKA_BROKERS"], first["ALERTPROD_DATABASE_URI"]
    assert httpx.get(f"http://127.0.0.1:{first['ALERTPROD_PORT']}/readyz", timeout=10).status_code == 200
    producer = Producer({"bootstrap.servers": brokers})
    for name in ("broken", "good"):
        message = {"instrument": "cam", "science": str(images / f"{name}.fits")}
        producer.produce("visits", json.dumps(message), partition=0, key=b"\xff\xfe", headers=[("ts", b"\x9a\xf6")])
    assert producer.flush(20) == 0
    ledger = Ledger(Database(uri))
    (row,) = wait_for(ledger.rows, process)  # the one that can be read, though it comes after the other
    assert row["message"]["science"].endswith("good.fits")
    dead = read_one(brokers, "visits.dlq")
    headers = dict(dead.headers())
    assert headers["error_code"] == b"bad_card", headers
    assert b"EXPTIME" in headers["error_text"]
    assert json.loads(dead.value())["science"].endswith("broken.fits")
    assert dead.key() == b"\xff\xfe"
    said = stop(process, signal.SIGINT)
    assert f"export ALERTPROD_DATABASE_URI={uri}" in said
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(uri, connect_timeout=5)

    process, second = start(place, images, started)
    assert {k: v for k, v in second.items() if k != "ALERTPROD_PORT"} == {
        k: v for k, v in first.items() if k != "ALERTPROD_PORT"
    }
    answer = httpx.get(
        f"http://127.0.0.1:{second['ALERTPROD_PORT']}/v1/visits/{row['visit']}/{row['detector']}", timeout=10
    )
    assert answer.json()["instrument"] == "cam"
    assert read_one(brokers, "visits.dlq").value() == dead.value()
    with pytest.raises(CallerError) as other:  # two at a time would spoil each other's files
        run_up(place, None, [images], print)
    assert other.value.code == "directory_in_use"
    stop(process, signal.SIGTERM)


def read_one(brokers, topic):
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": f"test-{time.time_ns()}", "enable.auto.commit": False}
    )
    partitions = consumer.list_topics(topic, 20).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    try:
        return wait_for(lambda: next((m for m in [consumer.poll(0.2)] if m is not None and m.error() is None), None))
    finally:
        consumer.close()


def test_what_stands_in_the_way_is_named(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUse, match="--port"):
            run_up(None, taken.getsockname()[1], [], print)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CallerError, match="other files are in it"):
        run_up(tmp_path, None, [], print)
    with pytest.raises(CallerError, match="a file is there"):
        run_up(tmp_path / "thesis.txt", None, [], print)
    with pytest.raises(CallerError, match="no such directory"):
        run_up(None, None, [Path("not here")], print)
