"""The roles of the service on the command line: ``alertprod serve|worker|relay|reconcile|ingest``."""

import signal
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.options import read_settings

if TYPE_CHECKING:
    from service.settings import Settings

__all__ = ["add_roles"]


def add_roles(app: typer.Typer, panel: str) -> None:
    """Add the commands of the roles to an application, under one heading of its help."""
    for role in (serve, worker, relay, reconcile, ingest):
        app.command(rich_help_panel=panel)(role)


def _start(role: str, *, kafka: bool = False, folders: tuple[str, ...] = ()) -> "Settings":
    """Set up log, watch and metrics, and return the settings of a role that can start with them."""
    import logging

    from service.observe.log import hide, set_up_log
    from service.observe.role import open_port
    from service.observe.spans import open_spans
    from service.ready import ready_role

    settings = read_settings()
    set_up_log(role)
    hide(settings.secrets())
    ready_role(settings, logging.getLogger("alertprod").warning, kafka=kafka, folders=folders)
    open_spans(role, settings.otlp_endpoint)
    open_port(role, settings)
    return settings


def _on_stop(stop: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def serve() -> None:
    """Run the HTTP API."""
    from service.access.listening import check_listening
    from service.api.app import create_app
    from service.api.guard.server import run_server

    check_listening(read_settings())
    settings = _start("serve", folders=("upload_dir",))
    run_server(create_app(settings), settings)


def worker(drain: Annotated[bool, typer.Option(help="end when the queue is empty")] = False) -> None:
    """Process visits, one in each of ALERTPROD_WORKERS job processes, until SIGTERM: see ALERTPROD_DRAIN_S."""
    from service.workers.supervisor import Worker

    work = Worker(_start("worker", folders=("archive_dir", "products_dir")))
    _on_stop(work.stop)
    work.run(until_idle=drain)


def relay() -> None:
    """Publish alerts: one relay leads, others stand by."""
    from service.delivery import run_relay

    settings = _start("relay", kafka=True, folders=("archive_dir",))
    stop = threading.Event()
    _on_stop(stop.set)
    run_relay(settings, stop)


def reconcile() -> None:
    """Count what the alert topic really holds, for the metrics."""
    from service.delivery import run_reconciler

    settings = _start("reconcile", kafka=True)
    stop = threading.Event()
    _on_stop(stop.set)
    run_reconciler(settings, stop)


def ingest() -> None:
    """Read visit messages from Kafka."""
    from service.intake.ingest import Ingest

    reader = Ingest(_start("ingest", kafka=True))
    _on_stop(reader.stop)
    reader.run()
