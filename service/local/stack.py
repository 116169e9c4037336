"""A whole service on this machine: embedded PostgreSQL and Kafka, API, workers, relay. For demo, night and tests."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from pydantic import SecretStr

from apdb import Database
from apdb.operate.embedded import EmbeddedPostgres
from migrations.run import migrate
from service.local.embedded_kafka import EmbeddedKafka
from service.settings import load_settings
from service.subprocesses.children import child_environment, program, without_secrets
from service.subprocesses.scratch import Scratch, sweep
from tasks.errors import TransientError
from tasks.local_server import free_port, is_free

__all__ = ["STAY_HERE", "Stack", "wait_api"]

# an embedded service is for this machine alone and asks nobody who he is, whatever the environment says for another one
STAY_HERE: dict[str, Any] = {
    "host": "127.0.0.1",
    "access": "local",
    "admin_token_file": None,
    "oidc_issuer": "",
    "tls_certificate": None,
    "tls_key": None,
}


class Stack:
    """Servers and processes below one scratch directory, all stopped on leaving the context.

    When this process is killed, the warden of the scratch directory stops them; what a killed warden left is swept when
    the next stack starts.

    Parameters
    ----------
    overrides
        Further settings.
    roles
        Which processes to start: ``serve``, ``worker``, ``relay``, ``ingest``.
    say
        Told what happens.
    scratch
        The directory, kept in the end; or a scratch directory of the caller's, who closes it. Without one: a temporary one.
    environment
        Further environment variables of the processes.
    check
        Called while servers start; what it raises ends the start (and stops what runs).
    keep_data
        Leave what the servers hold in the directory, and go on with what is there, on the same ports where they are free.
    """

    def __init__(
        self,
        overrides: dict[str, Any] | None = None,
        roles: tuple[str, ...] = ("serve", "worker", "relay"),
        say: Callable[[str], None] = lambda text: None,
        scratch: Path | Scratch | None = None,
        environment: dict[str, str] | None = None,
        check: Callable[[], None] = lambda: None,
        keep_data: bool = False,
    ) -> None:
        self._overrides, self._roles, self._say = overrides or {}, roles, say
        self._environment, self._check = environment or {}, check
        self._given, self._keep = scratch, keep_data
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Stack":
        self.owned = self._given if isinstance(self._given, Scratch) else self._own(self._given)
        self.scratch = self.owned.path
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _own(self, path: Path | None) -> Scratch:
        return Scratch(path, load_settings(**self._overrides).crash_point)

    def _start(self) -> None:
        sweep()
        self.scratch.chmod(0o755)
        values: dict[str, Any] = {
            **self.start_servers(),
            **STAY_HERE,
            "port": free_port(),
            "upload_dir": self.scratch / "uploads",
            "archive_dir": str(self.scratch / "alerts"),
            "template_dir": self.scratch / "templates",
            **self._overrides,
        }
        self.settings = load_settings(**values)
        self.database = Database(self.settings.database())
        for role in self._roles:
            self.start(role)
        if "serve" in self._roles:
            self._wait_api()

    def start_servers(self) -> dict[str, Any]:
        """Start PostgreSQL, with our tables, and Kafka; returns the settings that name them."""
        self._check()
        self._say("starting PostgreSQL")
        self.postgres = EmbeddedPostgres(self.scratch / "postgres", keep=self._keep, port=self._port("postgres"))
        uri = self.postgres.start()
        self._check()
        self._say("starting Kafka")
        self.kafka = EmbeddedKafka(
            self.scratch / "kafka", keep=self._keep, port=self._port("kafka"), launch=partial(self.owned.start, "kafka")
        )
        brokers = self.kafka.start()
        migrate(uri)
        return {"database_uri": SecretStr(uri), "kafka_brokers": brokers}

    def _port(self, server: str) -> int:
        """Return the port of a server whose data are kept: that of the last time where it is free."""
        note = self.scratch / f"{server}.port"
        last = int(note.read_text()) if self._keep and note.exists() else 0
        port = last if last and is_free(last) else free_port()
        if self._keep:
            note.write_text(str(port))
        return port

    def start(self, role: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start one role of the service as its own process (again, when it was stopped)."""
        self._check()
        self._say(f"starting {role}")
        variables = child_environment(self.settings, **self._environment, **environment)
        with (self.scratch / f"{role}.log").open("ab") as log:
            self.processes[role] = self.owned.start(role, program("service.commands.main", role), log, variables)
        return self.processes[role]

    def _wait_api(self) -> None:
        if not wait_api(self.url, self.processes["serve"], check=self._check):
            raise TransientError(f"the API did not start: {self.log('serve')}")

    def require_alive(self) -> None:
        """Check that every role still runs.

        Raises
        ------
        TransientError
            One has ended; the message holds the end of its log.
        """
        for role, process in self.processes.items():
            if process.poll() is not None:
                raise TransientError(f"{role} ended with status {process.returncode}: {self.log(role)}")

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://{self.settings.host}:{self.settings.port}"

    def log(self, role: str) -> str:
        """Return the end of the log of a role, secrets masked."""
        path = self.scratch / f"{role}.log"
        text = path.read_text(errors="replace")[-3000:] if path.exists() else ""
        return without_secrets(text, self.settings)

    def kill(self, role: str) -> None:
        """Kill a role's whole process group by SIGKILL."""
        process = self.processes.pop(role)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as last_first:  # whatever cannot be stopped, the others are
            if self.owned is not self._given:
                last_first.callback(self.owned.close)
            for server in (getattr(self, "postgres", None), getattr(self, "kafka", None)):
                if server is not None:
                    last_first.callback(server.stop)
            last_first.callback(self._stop_roles, in_haste=error is not None)

    def _stop_roles(self, in_haste: bool) -> None:
        """Stop the roles: they may finish what they do, unless it is thrown away with the servers anyway."""
        in_haste = in_haste and self.owned.temporary
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for role in list(self.processes):
            with suppress(subprocess.TimeoutExpired):
                self.processes[role].wait(timeout=0.1 if in_haste else 20)
            self.kill(role)


def wait_api(
    url: str, process: "subprocess.Popen[bytes]", seconds: float = 60.0, check: Callable[[], None] = lambda: None
) -> bool:
    """Wait until the API answers that it is ready; False when its process ends first, or the time runs out.

    What `check` raises ends the wait.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() <= deadline and process.poll() is None:
        check()
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return True
        time.sleep(0.1)
    return False
