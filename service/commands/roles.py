"""The roles of the service on the command line: ``alertprod serve|worker|relay|reconcile|ingest``."""

import logging
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.options import read_settings
from service.terminal import say

if TYPE_CHECKING:
    from service.settings import Settings

__all__ = ["add_roles"]

# what records of the log may carry beside their text
_FACTS = ("principal", "action", "target", "status", "address", "request_id", "detail")


def add_roles(app: typer.Typer, panel: str) -> None:
    """Add the commands of the roles to an application, under one heading of its help."""
    for role in (serve, worker, relay, reconcile, ingest):
        app.command(rich_help_panel=panel)(role)


def _start(*, kafka: bool = False, folders: tuple[str, ...] = ()) -> "Settings":
    """Set up the log, and return the settings of a role that can start with them."""
    from service.ready import ready_role

    _logging()
    return ready_role(read_settings(), say, kafka=kafka, folders=folders)


def _logging() -> None:
    import structlog

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(allow=_FACTS),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
        ],
    )
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _on_stop(stop: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def serve() -> None:
    """Run the HTTP API."""
    from service.access.listening import check_listening
    from service.api.app import create_app
    from service.api.guard.server import run_server

    check_listening(read_settings())
    settings = _start(folders=("upload_dir",))
    run_server(create_app(settings), settings)


def worker(drain: Annotated[bool, typer.Option(help="end when the queue is empty")] = False) -> None:
    """Process visits."""
    from service.workers.supervisor import Worker

    work = Worker(_start(folders=("archive_dir", "products_dir")))
    _on_stop(work.stop)
    work.run(until_idle=drain)


def relay() -> None:
    """Publish alerts."""
    from service.delivery import run_relay

    settings = _start(kafka=True, folders=("archive_dir",))
    stop = threading.Event()
    _on_stop(stop.set)
    run_relay(settings, stop)


def reconcile() -> None:
    """Count what the alert topic really holds, for the metrics."""
    from service.delivery import run_reconciler

    settings = _start(kafka=True)
    stop = threading.Event()
    _on_stop(stop.set)
    run_reconciler(settings, stop)


def ingest() -> None:
    """Read visit messages from Kafka."""
    from service.intake.ingest import Ingest

    reader = Ingest(_start(kafka=True))
    _on_stop(reader.stop)
    reader.run()
