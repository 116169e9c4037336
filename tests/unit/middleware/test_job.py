"""Jobs of a batch that are forks of a process which has loaded everything."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from middleware.batch.job import address

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="servers are started on Linux alone")

SERVER = """
import os, signal, socket, sys
from middleware.batch.job_server import serve
job = serve(socket.socket(fileno=int(sys.argv[1])), 3.0)
if job is not None:
    job.enter()
    what, *more = sys.argv[1:]
    print(os.getppid(), os.getcwd(), os.environ["NIGHT"], oct(os.umask(0)), *more, flush=True)
    if what == "wait":
        signal.pause()
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(int(what))
"""
CLIENT = """
import sys
from middleware.batch.job import hand_over
_, name, *server = sys.argv[:4]
print(hand_over(sys.argv[4:], b"\\0" + name.encode(), server))
"""


@pytest.fixture
def batch(tmp_path):
    """What starts a job, and what its server is."""
    (tmp_path / "server.py").write_text(SERVER)
    name = f"alertprod-test-{os.getpid()}-{tmp_path.name}"

    def start(*arguments: str, server: str = str(tmp_path / "server.py"), night: str = "one") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CLIENT, name, sys.executable, server, *arguments],
            env=os.environ | {"NIGHT": night}, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline, f"process {process} is there still"
        time.sleep(0.02)


def test_jobs_of_a_batch_are_forks_of_one_server_and_end_as_programs_do(batch, tmp_path):
    before = os.umask(0o027)
    try:
        jobs = [batch("0", "a b"), batch("7", night="two"), batch("die")]
    finally:
        os.umask(before)
    said = [job.communicate(timeout=60)[0].split("\n") for job in jobs]
    server = int(said[0][0].split()[0])
    assert said[0] == [f"{server} {tmp_path} one 0o27 a b", "0", ""]
    assert said[1] == [f"{server} {tmp_path} two 0o27", "7", ""]
    assert said[2] == [f"{server} {tmp_path} one 0o27", "-9", ""]
    wait_until_gone(server)  # nobody asks any more


def test_a_job_ends_with_the_program_that_asked_for_it(batch):
    job = batch("wait")
    server = int(job.stdout.readline().split()[0])
    (child,) = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    job.send_signal(signal.SIGKILL)
    job.communicate(timeout=60)
    wait_until_gone(int(child))


def test_without_a_server_a_job_is_the_program_itself(batch, tmp_path):
    assert batch("0", server="/nowhere.py").communicate(timeout=60)[0].endswith("None\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pipetask").write_text('#!/bin/sh\necho "$@"; exit 5\n')
    (tmp_path / "bin" / "pipetask").chmod(0o755)
    code = f"import sys; from middleware.batch.job import main; sys.prefix = {str(tmp_path)!r}; main()"
    for here in ({"_CONDOR_SCRATCH_DIR": "/scratch"}, {"ALERTPROD_JOB_SERVER_S": "0"}):
        done = subprocess.run(
            [sys.executable, "-c", code, "run-qbb", "x.qg"], env=os.environ | here, capture_output=True, text=True
        )
        assert (done.stdout, done.returncode) == ("run-qbb x.qg\n", 5), done.stderr


def test_a_server_is_of_one_batch_and_of_what_decides_how_its_modules_are_loaded():
    run = ["run-qbb", "repo", "/s/one.qg", "--qgraph-node-id", "1"]
    one = address(run, {"OMP_NUM_THREADS": "1", "PARSL_WORKER_RANK": "0"})
    assert one == address([*run[:-1], "2"], {"OMP_NUM_THREADS": "1", "PARSL_WORKER_RANK": "1"})
    assert one.startswith(b"\0") and len(one) < 108  # Linux's longest name
    others = address(["run-qbb", "repo", "/s/two.qg"], {"OMP_NUM_THREADS": "1"}), address(run, {"OMP_NUM_THREADS": "2"})
    assert len({one, *others}) == 3
