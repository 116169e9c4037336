"""A whole service on this machine: embedded PostgreSQL and Kafka, API, workers, relay. For demo, night and tests."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from pydantic import SecretStr

from apdb import Database
from apdb.embedded import EmbeddedPostgres, free_port
from service.embedded_kafka import EmbeddedKafka
from service.migrate import migrate
from service.settings import Settings
from tasks.errors import TransientError

__all__ = ["Stack", "wait_api"]


class Stack:
    """Servers and processes below one scratch directory, all stopped on leaving the context.

    Parameters
    ----------
    overrides
        Further settings.
    roles
        Which processes to start: ``serve``, ``worker``, ``relay``, ``ingest``.
    say
        Told what happens.
    """

    def __init__(
        self, overrides: dict[str, Any] | None = None, roles: tuple[str, ...] = ("serve", "worker", "relay"),
        say: Callable[[str], None] = lambda text: None, scratch: Path | None = None,
    ) -> None:  # fmt: skip
        self._overrides, self._roles, self._say = overrides or {}, roles, say
        self._own = scratch is None
        self.scratch = scratch or Path(tempfile.mkdtemp(prefix="alertprod-"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Stack":
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        self.scratch.chmod(0o755)
        self._say("starting PostgreSQL")
        self.postgres = EmbeddedPostgres(self.scratch / "postgres")
        uri = self.postgres.start()
        self._say("starting Kafka")
        self.kafka = EmbeddedKafka(self.scratch / "kafka")
        brokers = self.kafka.start()
        values: dict[str, Any] = {
            "database_uri": SecretStr(uri), "kafka_brokers": brokers, "port": free_port(),
            "upload_dir": self.scratch / "uploads", "archive_dir": str(self.scratch / "alerts"),
            "template_dir": self.scratch / "templates", **self._overrides,
        }  # fmt: skip
        self.settings = Settings(**values)
        self.database = Database(uri)
        migrate(uri)
        for role in self._roles:
            self.start(role)
        if "serve" in self._roles:
            self._wait_api()

    def start(self, role: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start one role of the service as its own process (again, when it was stopped)."""
        self._say(f"starting {role}")
        log = (self.scratch / f"{role}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", role], env={**os.environ, **self.settings.environment(), **environment},
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        log.close()
        self.processes[role] = process
        return process

    def _wait_api(self) -> None:
        if not wait_api(self.url, self.processes["serve"]):
            raise TransientError(f"the API did not start: {self.log('serve')}")

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://{self.settings.host}:{self.settings.port}"

    def log(self, role: str) -> str:
        """Return the end of the log of a role."""
        path = self.scratch / f"{role}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def kill(self, role: str) -> None:
        """Kill a role's whole process group by SIGKILL."""
        process = self.processes.pop(role)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for role in list(self.processes):
            with suppress(subprocess.TimeoutExpired):
                self.processes[role].wait(timeout=20)
            self.kill(role)
        for server in (getattr(self, "kafka", None), getattr(self, "postgres", None)):
            if server is not None:
                server.stop()
        if self._own:
            shutil.rmtree(self.scratch, ignore_errors=True)


def wait_api(url: str, process: "subprocess.Popen[bytes]", seconds: float = 60.0) -> bool:
    """Wait until the API answers that it is ready; False when its process ends first, or the time runs out."""
    deadline = time.monotonic() + seconds
    while time.monotonic() <= deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return True
        time.sleep(0.1)
    return False
