"""The command line: ``alertprod serve|worker|relay|reconcile|ingest|apdb|alerts|status|config|diff|template|jointcal|night|explain|orbits|demo``."""

import atexit
import gc
import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from service.alerts_cli import alerts_app
from service.apdb_cli import apdb_app
from service.diff_cli import diff
from service.options import Json, open_database, read_settings
from service.orbits_cli import orbits_app
from service.template_cli import template_app
from service.terminal import print_table, say
from tasks.errors import AlertProdError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Alert production for time-domain surveys.")
jointcal_app = typer.Typer(no_args_is_help=True, help="Joint calibration of many visits.")
app.add_typer(template_app, name="template")
app.add_typer(jointcal_app, name="jointcal")
app.add_typer(apdb_app, name="apdb")
app.add_typer(alerts_app, name="alerts")
app.add_typer(orbits_app, name="orbits")
app.command()(diff)

__all__ = ["app", "main"]


def _logging() -> None:
    import structlog

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer(),
        ],
        foreign_pre_chain=[
            structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.format_exc_info,
        ],
    )  # fmt: skip
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _on_stop(stop: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


@app.command()
def serve() -> None:
    """Run the HTTP API."""
    import uvicorn

    from service.app import create_app

    _logging()
    settings = read_settings()
    uvicorn.run(
        create_app(settings), host=settings.host, port=settings.port, log_config=None, timeout_graceful_shutdown=10,
        access_log=False,
    )  # fmt: skip


@app.command()
def worker(drain: Annotated[bool, typer.Option(help="end when the queue is empty")] = False) -> None:
    """Process visits."""
    from service.worker import Worker

    _logging()
    work = Worker(read_settings())
    _on_stop(work.stop)
    work.run(until_idle=drain)


@app.command()
def relay() -> None:
    """Publish alerts."""
    from service.publish import run_relay

    _logging()
    stop = threading.Event()
    _on_stop(stop.set)
    run_relay(read_settings(), stop)


@app.command()
def reconcile() -> None:
    """Count what the alert topic really holds, for the metrics."""
    from service.publish import run_reconciler

    _logging()
    stop = threading.Event()
    _on_stop(stop.set)
    run_reconciler(read_settings(), stop)


@app.command()
def ingest() -> None:
    """Read visit messages from Kafka."""
    from service.ingest import Ingest

    _logging()
    reader = Ingest(read_settings())
    _on_stop(reader.stop)
    reader.run()


@app.command()
def status(as_json: Json = False) -> None:
    """Show the ledger, the outbox and the time per step."""
    from apdb.status import service_status

    found = service_status(open_database(), read_settings().alert_topic)
    if as_json:
        print(json.dumps(found))
        return
    counts = ("published_alerts", "unpublished_alerts", "held_alerts", "relay_leads", "discrepant_visits")
    rows = [(f"visits {state}", count) for state, count in found["visits"].items()]
    rows += [(name.replace("_", " "), found[name]) for name in counts]
    rows += [(f"shutter to alerts, {name}", "-" if value is None else f"{value:.1f} s")
             for name, value in found["alert_latency_s"].items()]  # fmt: skip
    rows += [(f"step {step}", f"{seconds:.3f} s") for step, seconds in found["seconds"].items()]
    print_table(("what", "value"), rows)


@app.command()
def config() -> None:
    """Print the effective settings, secrets masked."""
    print(json.dumps(read_settings().masked(), indent=1))


@app.command()
def night(
    context: typer.Context,
    instrument: Annotated[str, typer.Option(help="instrument name or file")],
    out: Annotated[Path, typer.Option(help="directory of the results")],
    template_frames: Annotated[list[Path], typer.Option(help="frames of the template (repeat, or several after one)")],
    frames: Annotated[list[Path], typer.Option(help="frames to process")],
    positions: Annotated[Path | None, typer.Option(help="CSV (id, ra, dec) measured on every frame")] = None,
    keep: Annotated[bool, typer.Option(help="keep templates, differences and alert files")] = False,
    as_json: Json = False,
) -> None:
    """Process frames from disk through a whole service on this machine."""
    from service.night import NightPlan, run_night

    report = run_night(NightPlan(instrument, template_frames, frames, out, positions, keep), say)
    if as_json:
        print(json.dumps(report))
        return
    counts = ("diaSources", "newObjects", "alerts")
    print_table(
        ("visit", "detector", "state", "sources", "new", "alerts", "seconds"),
        [(v["visit"], v["detector"], v["state"], *(v["counts"][c] for c in counts), f"{sum(v['seconds'].values()):.1f}")
         for v in report["visits"]],
    )  # fmt: skip


@app.command(context_settings={"ignore_unknown_options": True})  # declinations may be negative
def explain(
    visit: int,
    detector: int,
    ra: Annotated[float, typer.Argument(help="ICRS degrees")],
    dec: Annotated[float, typer.Argument(help="ICRS degrees")],
    radius: Annotated[float, typer.Option(help="arcsec")] = 2.0,
    rerun: Annotated[bool, typer.Option(help="subtract again where nothing is stored")] = True,
    as_json: Json = False,
) -> None:
    """Say why there is, or is no, alert of a visit at a place."""
    from service.explain import explain as follow

    steps = follow(read_settings(), visit, detector, ra, dec, radius, rerun=rerun)
    if as_json:
        print(json.dumps([s.as_dict() for s in steps], default=str))
        return
    passed = {True: "yes", False: "no", None: ""}
    print_table(("step", "passed", "what was found"), [(s.name, passed[s.passed], s.text) for s in steps])


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="directory of the results")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="seed of the simulated sky")] = 1,
    as_json: Json = False,
) -> None:
    """Simulate a survey and run the whole service on it."""
    from service.demo import run_demo

    result = run_demo(out, seed, say)
    if as_json:
        print(json.dumps(result))


@jointcal_app.command(
    "run",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def jointcal_run(context: typer.Context) -> None:
    """Fit WCS and calibrations of all images of a field at once (``--help`` lists the options)."""
    from calibration.joint.command import metric_table, parse, run_parsed

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    _parser, parsed = parse(context.args)
    say("alertprod jointcal run " + " ".join(context.args))
    results = run_parsed(parsed, say=say)
    for result in results:
        if result.metrics:
            print(json.dumps(result.metrics, default=float) if parsed.json else metric_table(result.metrics))
    failed = sum(r.exitStatus for r in results)
    if failed and parsed.noExit:
        say(f"{failed} of {len(results)} fits failed (exit status 0 by --noExit)")
    sys.exit(0 if parsed.noExit else min(failed, 125))


def _spread_lists(arguments: list[str]) -> list[str]:
    """Let ``--frames a b c`` mean ``--frames a --frames b --frames c`` (shell globs give such lists)."""
    if arguments[:1] == ["jointcal"]:
        return arguments
    out: list[str] = []
    current = None
    for argument in arguments:
        if argument in ("--frames", "--template-frames"):
            current = argument
            continue
        if argument.startswith("--"):
            current = None
        if current is not None:
            out += [current, argument]
        else:
            out.append(argument)
    return out


def main() -> None:
    """Entry point: errors of ours are one line on standard error and exit status 1."""
    atexit.register(gc.freeze)  # else the interpreter looks through all modules once more when it ends: half a second
    try:
        app(args=_spread_lists(sys.argv[1:]))
    except AlertProdError as error:
        say(f"alertprod: {error.code}: {error}", error=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
