"""A worker whose jobs are those of `tests.support.fault_job`: in this process, or as ``python -m tests.support.fault_worker``."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from service.settings import Settings
from service.subprocesses.answering import AnsweringProcess
from service.subprocesses.children import child_environment, program
from service.workers import job_process, supervisor

__all__ = ["FaultJob", "main", "start", "submit"]

ROOT = Path(__file__).parents[2]


class FaultJob(job_process.JobProcess):
    """A job process that does what its claims say."""

    def __init__(self, settings: Settings) -> None:
        AnsweringProcess.__init__(self, settings, "tests.support.fault_job")


def start(settings: Settings, **more: str) -> "subprocess.Popen[bytes]":
    """Start a worker as a process that leads a group of its own."""
    environment = child_environment(settings, PYTHONPATH=str(ROOT), **more)
    return subprocess.Popen(
        program(__name__), env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def submit(ledger, visit: int, what: str, **more) -> None:
    """Enter a visit of a detector of its own, to which `what` happens."""
    message = {"instrument": "none", "science": what, "visit": visit, "detector": visit % 1000, **more}
    ledger.submit(message, visit, visit % 1000)


def main() -> None:
    """Work until SIGTERM."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    supervisor.JobProcess = FaultJob
    worker = supervisor.Worker(Settings())
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run(until_idle=os.environ.get("DRAIN") == "1")


if __name__ == "__main__":
    main()
