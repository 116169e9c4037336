"""Files of others: bombs, pipes and broken FITS end as typed errors, soon, in processes whose memory is bounded."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from exposure.errors import FitsUnreadable
from service.errors import JobCrashed
from service.intake.headers import HeaderReader
from service.settings import Settings
from service.subprocesses import limits
from service.subprocesses.answering import AnsweringProcess
from tasks.errors import AlertProdError
from tests.support.foreign_fits import bombs, broken, good_image, planes, tiled
from tests.support.http import asking

FILES = int(os.environ.get("ALERTPROD_FUZZ", "40"))
LONGEST_S = 5.0  # of processor time, with the start of the next child: the machine may have other work
REFUSALS = ("fits_unreadable", "bad_card", "instrument", "which_image")


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instruments")
    text = "name: anycam\npixel_scale: 0.36\ngain: {constant: 1.5}\nvariance: gain\nband: {constant: r}\nband_map: {r: r}\n"
    (folder / "anycam.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def reader(rules, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALERTPROD_INSTRUMENTS", str(rules))
        found = HeaderReader(Settings(database_uri="postgresql://u@127.0.0.1:1/d", upload_dir=folder), 1)
        yield found
        found.close()


def child_of(reader):
    child = reader._free.get_nowait()
    reader._free.put(child)
    return child


def peak_kb(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0])


def outcome(reader, path):
    """Return what was read, or the error."""
    try:
        return reader(path, "anycam", {}), None
    except AlertProdError as error:
        return None, error


def timed(reader, path):
    """Return what was read, the error, and the processor time of the children (s), with the start of another where one ended."""
    child, used = child_of(reader), cpu_s()
    before = 0.0 if child is None else cpu_of(child.process.pid)
    facts, error = outcome(reader, path)
    after = child_of(reader)
    now = 0.0 if after is None else cpu_of(after.process.pid)
    return facts, error, now - before + (0.0 if after is child else cpu_s() - used)


def put(path, content):
    """Put a file in the place of another, as whoever writes images should: nothing is written over."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def cpu_s():
    """Processor time of this process and of its children that ended."""
    return sum(os.times()[:4])


def test_a_good_image_is_read_in_a_child(reader, tmp_path):
    facts = reader(good_image(tmp_path / "a.fits"), "anycam", {})
    assert facts["detector"] == 0
    assert facts["midpointMjdTai"] == pytest.approx(60371.128, abs=1e-3)
    first = child_of(reader)
    assert reader(tmp_path / "a.fits", "anycam", {"visit": 5})["visit"] == 5
    assert child_of(reader) is first  # it is kept
    os.kill(first.process.pid, signal.SIGKILL)
    assert reader(tmp_path / "a.fits", "anycam", {})["detector"] == 0  # another takes its place


@pytest.fixture(scope="module")
def bomb_files(tmp_path_factory):
    return bombs(tmp_path_factory.mktemp("bombs"))


@pytest.mark.parametrize(
    "name",
    ["many axes", "long axes", "negative axes", "sip order", "gzip", "tiles", "no end", "nothing", "pipe"],
)
def test_bombs_are_refused_soon_and_in_bounded_memory(reader, bomb_files, name, record_property):
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    facts, error, spent = timed(reader, bomb_files[name])
    if error is None:
        assert name == "sip order"  # time and detector are read without a WCS
        assert facts["detector"] == 0
    else:
        assert (error.retriable, error.code in REFUSALS) == (False, True), error
        assert bomb_files[name].name in str(error)
    assert time.monotonic() - began < 4 * LONGEST_S
    record_property("seconds", f"{time.monotonic() - began:.2f}, of the processor {spent:.2f}")
    assert spent < LONGEST_S
    child = child_of(reader)
    if child is not None:  # it lives on
        record_property("peak memory", f"{peak_kb(child.process.pid) / 1e6:.2f} GB")
        assert peak_kb(child.process.pid) < 2.2e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own < 20_000


def test_a_bomb_is_refused_over_http_and_the_api_reads_no_file_itself(rules, bomb_files, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a file was opened here")

    monkeypatch.setenv("ALERTPROD_INSTRUMENTS", str(rules))
    monkeypatch.setattr("exposure.io.opening._regular", never)
    folder = bomb_files["pipe"].parent
    settings = Settings(database_uri="postgresql://u@127.0.0.1:1/d", upload_dir=tmp_path, data_roots=[folder])
    ask = asking(settings)
    for name in ("pipe", "many axes", "nothing"):
        answer = ask("POST", "/v1/visits", json={"instrument": "anycam", "science": str(bomb_files[name])})
        assert (answer.status_code, answer.json()["code"]) == (422, "fits_unreadable"), (name, answer.text)
    assert ask("GET", "/healthz").status_code == 200


@pytest.mark.timeout(3000)
def test_files_broken_at_random_are_read_or_refused(reader, tmp_path, record_property):
    rng, raw, path = np.random.default_rng(3), good_image(tmp_path / "good.fits").read_bytes(), tmp_path / "broken.fits"
    codes: dict[str, int] = {}
    slowest = most = 0.0
    for _ in range(FILES):
        put(path, broken(raw, rng))
        began = time.monotonic()
        _, error, spent = timed(reader, path)
        most = max(most, spent)
        assert error is None or not error.retriable, error
        code = "read" if error is None else error.code
        slowest = max(slowest, time.monotonic() - began)
        codes[code] = codes.get(code, 0) + 1
    record_property("files", FILES)
    record_property("slowest", f"{slowest:.2f} s, with {most:.2f} s of processor time at most")
    record_property("codes", codes)
    assert "internal" not in codes
    assert len(codes) > 1
    assert most < LONGEST_S


_OPEN = """
import json, sys, time
from pathlib import Path
from exposure import load_instrument
from service.processing.faults import opening
from service.processing.images import open_science
from service.subprocesses.limits import contain
from tasks.errors import AlertProdError
contain(4 << 30, 1 << 20, with_parent=False)
rules, roots = load_instrument("anycam"), [Path("/")]
began = time.process_time()
open_science({"science": sys.argv[1]}, rules, roots)
print(json.dumps({"first": time.process_time() - began}), flush=True)
for line in sys.stdin:
    message = {"science": line.strip()}
    try:
        with opening(message, roots):
            open_science(message, rules, roots)
        print(json.dumps({"code": "read"}), flush=True)
    except AlertProdError as error:
        print(json.dumps(error.as_dict()), flush=True)
    except BaseException as error:
        print(json.dumps({"code": f"{type(error).__name__}: {error}"}), flush=True)
"""


@pytest.fixture
def opener(rules, tmp_path):
    """A process that opens science images as a job does, with its limits."""
    environment = {**os.environ, "ALERTPROD_INSTRUMENTS": str(rules)}
    good = str(good_image(tmp_path / "first.fits"))
    process = subprocess.Popen(
        [sys.executable, "-c", _OPEN, good], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )

    def ask(path):
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        return json.loads(line) if line else {"code": f"died: {process.wait()}"}

    with process:
        first = json.loads(process.stdout.readline())["first"]
        assert first < 0.75 * limits.CPU_BASE_S  # what is compiled or loaded then needs no more than is allowed
        yield ask, process
        process.stdin.close()


@pytest.mark.timeout(3000)
def test_pixels_of_foreign_files_are_opened_or_refused(opener, bomb_files, tmp_path, record_property):
    """A job opens them after the first message said so: nothing of it is a fault of the program."""
    ask, process = opener
    spent: dict[str, float] = {}
    for name, path in bomb_files.items():
        began = cpu_of(process.pid)
        answer = ask(path)
        assert answer["code"] in REFUSALS, (name, answer)
        spent[name] = cpu_of(process.pid) - began
        assert spent[name] < LONGEST_S, name
    rng, path = np.random.default_rng(4), tmp_path / "broken.fits"
    plain = good_image(tmp_path / "good.fits")
    kinds = [plain.read_bytes(), gzip.compress(plain.read_bytes()), tiled(plain), planes(tmp_path / "planes.fits")]
    codes: dict[str, int] = {}
    for k in range(FILES):
        put(path, broken(kinds[k % len(kinds)], rng))
        code = ask(path)["code"]
        codes[code] = codes.get(code, 0) + 1
    record_property("files", FILES)
    record_property("bomb", f"{max(spent.values()):.2f} s of processor time at most")
    record_property("peak memory", f"{peak_kb(process.pid) / 1e6:.2f} GB")
    record_property("codes", codes)
    assert set(codes) <= {"read", *typed_codes()}, codes
    assert peak_kb(process.pid) < 4.2e6


def cpu_of(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def typed_codes():
    pages = Path(__file__).parents[2] / "docs" / "errors"
    return {p.stem for p in pages.glob("*.md")} - {"internal", "README"}


def test_processor_time_is_by_size_and_ends_what_takes_more(tmp_path):
    (tmp_path / "a").write_bytes(bytes(4_000_000))
    assert limits.cpu_allowance_s([tmp_path / "a", tmp_path / "none"]) == limits.CPU_BASE_S + 1.0
    with pytest.raises(limits.OutOfTime), limits.cpu_limited(0.1):
        while True:
            pass
    with limits.cpu_limited(0.2):
        pass
    deadline = time.process_time() + 0.3
    while time.process_time() < deadline:  # the limit is gone with its body
        pass


@pytest.mark.parametrize("said", ["no json", "[1]", '{"half": '])
def test_a_process_that_answers_with_rubbish_or_half_a_line_is_killed(tmp_path, monkeypatch, said):
    (tmp_path / "rubbish.py").write_text(
        f"import time\nprint({said!r}, end='' if 'half' in {said!r} else None, flush=True)\ntime.sleep(60)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("service.subprocesses.answering.START_S", 1.5)
    with pytest.raises(JobCrashed):
        AnsweringProcess(Settings(upload_dir=tmp_path), "rubbish")


def test_a_pipe_is_refused_without_waiting(tmp_path):
    from exposure.io.native import open_fits

    os.mkfifo(tmp_path / "pipe.fits")
    with pytest.raises(FitsUnreadable, match="no regular file"), open_fits(tmp_path / "pipe.fits"):
        pass
