"""All of the service on this machine until it is told to stop: embedded servers, API, worker, relay and ingest."""

import os
import shlex
import time
import webbrowser
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from service.errors import PortInUse, SettingsError
from service.local.simulated import feed, simulated_settings
from service.local.stack import Stack
from service.settings import PREFIX
from service.subprocesses.interrupt import Interrupted, Signals
from service.subprocesses.scratch import is_owners
from tasks.errors import CallerError
from tasks.local_server import free_port, is_free

__all__ = ["exports", "run_up"]

PORT = 8080
ROLES = ("serve", "worker", "relay", "ingest")
POLL_S = 0.5
MOST_RESTARTS = 3  # of one role
ENVIRONMENT_FILE = "environment.sh"
SURVEY, PRODUCTS = "survey", "products"  # the latter: difference images, which the dashboard shows
_EXPORTED = ("database_uri", "kafka_brokers", "data_roots", "upload_dir", "archive_dir", "template_dir", "port")


def run_up(
    data: Path | None,
    port: int | None,
    roots: list[Path],
    say: Callable[[str], None],
    *,
    simulate: bool = False,
    show: bool = False,
) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP, then stop everything.

    Parameters
    ----------
    data
        Directory that is kept; a second run goes on with what is in it. None is a scratch directory.
    port
        Of the API. None is 8080, or a free one where that is taken.
    roots
        Directories of images that visit messages may name; the working directory by default.
    simulate
        Feed a simulated survey, so that there is something to see.
    show
        Open the dashboard in a browser.

    Raises
    ------
    PortInUse
        Another program listens on `port`.
    CallerError
        `data` holds something else.
    TransientError
        A role ended by itself, or was killed too often; the message holds the end of its log.
    """
    overrides: dict[str, Any] = {"port": _port(port), "host": "127.0.0.1"}
    if roots or not os.environ.get(f"{PREFIX}DATA_ROOTS"):
        overrides["data_roots"] = [_existing(r) for r in roots or [Path.cwd()]]
    if data is not None:
        _check_place(data)
    with ExitStack() as ended, Signals() as signals:
        survey = _survey_folder(data, ended) if simulate or _was_simulated(data) else None
        roles = ROLES if survey is None else tuple(r for r in ROLES if r != "worker")
        overrides |= {} if survey is None else simulated_settings(survey)
        kept = data.resolve() if data is not None else survey
        if kept is not None and not os.environ.get(f"{PREFIX}PRODUCTS_DIR"):
            overrides["products_dir"] = kept / PRODUCTS
        try:
            with Stack(overrides, roles, say, scratch=data, keep_data=data is not None, check=signals.check) as stack:
                if show:
                    webbrowser.open(stack.url)
                if survey is not None:
                    feed(stack, survey, say)
                    stack.start("worker")
                _tell(stack, data, say)
                restarts: Counter[str] = Counter()
                while True:
                    _start_again(stack, restarts, say)
                    stack.require_alive()
                    signals.check()
                    time.sleep(POLL_S)
        except Interrupted as reason:
            say(f"{reason}; everything is stopped")


def _start_again(stack: Stack, restarts: Counter[str], say: Callable[[str], None]) -> None:
    """Start roles again that a signal ended, as whoever runs them elsewhere would: a fault of compiled code, no memory."""
    for role, process in list(stack.processes.items()):
        status = process.poll()
        if status is not None and status < 0 and restarts[role] < MOST_RESTARTS:
            restarts[role] += 1
            say(
                f"{role} was ended by signal {-status}, and is started again: {stack.log(role)[-300:] or 'it said nothing'}"
            )
            stack.kill(role)
            stack.start(role)


def _survey_folder(data: Path | None, ended: ExitStack) -> Path:
    """Return where the images of the simulated survey lie: with what is kept, else in a directory that goes in the end."""
    if data is not None:
        return data.resolve() / SURVEY
    return Path(ended.enter_context(TemporaryDirectory(prefix="alertprod-survey-")))


def _was_simulated(data: Path | None) -> bool:
    """Whether a simulated survey is kept there: its images and templates are found again without being asked for."""
    return data is not None and (data / SURVEY / "index.parquet").exists()


def _port(wanted: int | None) -> int:
    """Return the port of the API.

    Raises
    ------
    PortInUse
        The one that was asked for is taken.
    """
    try:
        if is_free(wanted or PORT):
            return wanted or PORT
    except PermissionError:
        raise PortInUse(f"port {wanted} is for the administrator alone: choose one above 1023 with --port") from None
    if wanted is not None:
        raise PortInUse(f"another program listens on port {wanted}: choose another with --port")
    return free_port()


def _existing(root: Path) -> Path:
    if not root.is_dir():
        raise SettingsError(f"--root {root}: no such directory")
    return root.resolve()


def _check_place(data: Path) -> None:
    """Refuse a directory that holds something else: its rights are changed, and servers write into it.

    What a start that was killed has left, the owner's file and the port of a server, is nothing else.
    """
    if data.exists() and not data.is_dir():
        raise CallerError(f"--data {data}: a file is there: name a directory")
    if data.is_dir() and not (data / "postgres").is_dir() and not all(map(_is_of_a_start, data.iterdir())):
        raise CallerError(f"--data {data}: other files are in it: name an empty or a new directory")


def _is_of_a_start(path: Path) -> bool:
    return is_owners(path) or path.name == "postgres.port"


def exports(stack: Stack) -> str:
    """Return the lines that let another shell work with a stack. The URI of the embedded database holds no secret."""
    values = stack.settings.environment()
    names = [f"{PREFIX}{name.upper()}" for name in _EXPORTED]
    return "".join(f"export {name}={shlex.quote(values[name])}\n" for name in names)


def _tell(stack: Stack, data: Path | None, say: Callable[[str], None]) -> None:
    lines, path = exports(stack), stack.scratch / ENVIRONMENT_FILE
    path.write_text(lines, encoding="utf-8")
    kept = "kept" if data is not None else "deleted in the end: --data DIR keeps everything"
    s = stack.settings
    print(
        f"Dashboard   {stack.url}\n"
        f"API         {stack.url}/v1   ({stack.url}/docs: what it answers)\n"
        f"PostgreSQL  {s.database()}   (no password: it listens on this machine alone)\n"
        f"Kafka       {s.kafka_brokers}   (topics {s.visit_topic}, {s.visit_topic}.dlq, {s.alert_topic})\n"
        f"data, logs  {stack.scratch}   ({kept})\n"
        f"images      {', '.join(map(str, s.data_roots))}\n\n"
        f"In another shell (or: source {shlex.quote(str(path))}):\n\n{lines}",
        flush=True,
    )
    say("ready; Ctrl-C stops everything")
