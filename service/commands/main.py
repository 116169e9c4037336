"""The command line: ``alertprod``; ``alertprod --help`` lists the commands in groups."""

import atexit
import gc
import json
import logging
import os
import sys
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from service.commands.alerts import alerts_app
from service.commands.apdb import apdb_app
from service.commands.butler.bps import run_bps
from service.commands.butler.repository import butler_app
from service.commands.dead_letters import dead_letters_app
from service.commands.diff import diff
from service.commands.instrument import instrument_app
from service.commands.options import BadPixelMap, Detector, Json, Visit, open_database, read_settings
from service.commands.orbits import orbits_app
from service.commands.roles import add_roles
from service.commands.template import template_app
from service.commands.tokens import tokens_app
from service.commands.up import top, up
from service.commands.visits import visits_app
from service.failures import DEBUG, run_command
from service.terminal import print_table, say

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Alert production for time-domain surveys. Settings are environment variables: see 'alertprod config'.",
)
jointcal_app = typer.Typer(no_args_is_help=True, help="Joint calibration of many visits.")
FIRST, ROLES, LOOK, KEEP, IMAGES = "First steps", "Roles of the service", "What happened", "Stores", "Images alone"
app.command(rich_help_panel=FIRST)(up)
add_roles(app, ROLES)
app.add_typer(instrument_app, name="instrument", rich_help_panel=FIRST)
app.command(rich_help_panel=LOOK)(top)
app.add_typer(visits_app, name="visits", rich_help_panel=LOOK)
app.add_typer(dead_letters_app, name="dead-letters", rich_help_panel=LOOK)
app.add_typer(alerts_app, name="alerts", rich_help_panel=LOOK)
app.add_typer(apdb_app, name="apdb", rich_help_panel=KEEP)
app.add_typer(template_app, name="template", rich_help_panel=KEEP)
app.command(
    "bps",
    rich_help_panel=KEEP,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)(run_bps)
app.add_typer(butler_app, name="butler", rich_help_panel=KEEP)
app.add_typer(orbits_app, name="orbits", rich_help_panel=KEEP)
app.add_typer(tokens_app, name="tokens", rich_help_panel=KEEP)
app.add_typer(jointcal_app, name="jointcal", rich_help_panel=IMAGES)
app.command(rich_help_panel=IMAGES)(diff)

__all__ = ["app", "main"]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"alertprod {version('alertprod')}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and end")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar=DEBUG, help="show the traceback of what fails")] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


@app.command(rich_help_panel=LOOK)
def status(as_json: Json = False) -> None:
    """Show the ledger, the outbox and the time per step."""
    from apdb.queue.status import service_status

    numbers = service_status(open_database(), read_settings().alert_topic)
    if as_json:
        print(json.dumps(numbers))
        return
    counts = (
        "published_alerts",
        "unpublished_alerts",
        "unpublished_corrections",
        "held_alerts",
        "relay_leads",
        "discrepant_visits",
    )
    rows = [(f"visits {state}", count) for state, count in numbers["visits"].items()]
    rows += [(name.replace("_", " "), numbers[name]) for name in counts]
    rows.append(("dead letters waiting", numbers["dead_letters"]["waiting"]))
    rows += [
        (f"shutter to alerts, {name}", "-" if value is None else f"{value:.1f} s")
        for name, value in numbers["alert_latency_s"].items()
    ]
    rows += [(f"step {step}", f"{seconds:.3f} s") for step, seconds in numbers["seconds"].items()]
    print_table(("what", "value"), rows)


@app.command(rich_help_panel=LOOK)
def doctor(as_json: Json = False) -> None:
    """Look at database, broker, topics, registry, disks, templates, clock and rights; say what is wrong and what to do.

    States: ok, warning (it works), wrong (exit status 1), skipped. Nothing is changed.
    """
    from dataclasses import asdict

    from service.doctor.run import examine

    findings = list(examine(read_settings(), os.environ))
    if as_json:
        print(json.dumps([asdict(f) for f in findings]))
    else:
        rows = [(f.about, f.state, f.text, f.advice) for f in findings]
        print_table(("what", "state", "what was found", "what to do"), rows)
    raise typer.Exit(int(any(f.state == "wrong" for f in findings)))


@app.command(rich_help_panel=ROLES)
def config() -> None:
    """Print the effective settings, secrets masked."""
    print(json.dumps(read_settings().masked(), indent=1))


@app.command(rich_help_panel=FIRST)
def night(
    context: typer.Context,
    instrument: Annotated[str, typer.Option(help="instrument name or file")],
    out: Annotated[Path, typer.Option(help="directory of the results")],
    template_frames: Annotated[list[Path], typer.Option(help="frames of the template (repeat, or several after one)")],
    frames: Annotated[list[Path], typer.Option(help="frames to process")],
    positions: Annotated[Path | None, typer.Option(help="table (id, ra, dec) measured on every frame")] = None,
    bad_pixels: BadPixelMap = None,
    keep: Annotated[bool, typer.Option(help="keep templates, differences and alert files")] = False,
    as_json: Json = False,
) -> None:
    """Process frames from disk through a whole service on this machine.

    Exit status 0: every frame was used; 1: one was refused or failed; 130, 143, 129: a signal ended it.
    """
    from service.local.night import NightPlan, run_night
    from service.local.night_table import print_night

    read_settings()  # what is wrong in the environment is said before servers start
    report = run_night(NightPlan(instrument, template_frames, frames, out, positions, bad_pixels, keep), say)
    try:
        print_night(report, as_json)
    except OSError:
        if not report["interrupted"]:  # the terminal was closed, which is what ended the night: nobody reads a table
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if report["error"] is not None:
        say(f"alertprod: {report['error']['code']}: {report['error']['message']}", error=True)
    raise typer.Exit(report["exitStatus"])


@app.command(context_settings={"ignore_unknown_options": True}, rich_help_panel=LOOK)  # declinations may be negative
def explain(
    visit: Visit,
    detector: Detector,
    ra: Annotated[float, typer.Argument(help="ICRS degrees")],
    dec: Annotated[float, typer.Argument(help="ICRS degrees")],
    radius: Annotated[float, typer.Option(help="arcsec")] = 2.0,
    rerun: Annotated[bool, typer.Option(help="subtract again where nothing is stored")] = True,
    as_json: Json = False,
) -> None:
    """Say why there is, or is no, alert of a visit at a place: the last step that was not passed is the reason.

    Where nothing is stored the visit is subtracted again (nothing is written; as long as a visit takes), if it has ended.
    """
    from service.processing.explain import explain as follow

    open_database()  # refuses one that is not of this program
    steps = follow(read_settings(), visit, detector, ra, dec, radius, rerun=rerun)
    if as_json:
        print(json.dumps([s.as_dict() for s in steps], default=str))
        return
    passed = {True: "yes", False: "no", None: ""}
    print_table(("step", "passed", "what was found"), [(s.name, passed[s.passed], s.text) for s in steps])


@app.command(rich_help_panel=FIRST)
def demo(
    out: Annotated[Path, typer.Option(help="directory of the results")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="seed of the simulated sky")] = 1,
    as_json: Json = False,
) -> None:
    """Simulate a survey and run the whole service on it."""
    from service.local.demo import run_demo

    read_settings()  # what is wrong in the environment is said before servers start
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
    say("alertprod jointcal run " + _shortened(context.args))
    results = run_parsed(parsed, say=say)
    for result in results:
        if result.metrics:
            print(json.dumps(result.metrics, default=float) if parsed.json else metric_table(result.metrics))
    failed = sum(r.exitStatus for r in results)
    if failed and parsed.noExit:
        say(f"{failed} of {len(results)} fits failed (exit status 0 by --noExit)")
    sys.exit(0 if parsed.noExit else min(failed, 125))


def _shortened(arguments: list[str]) -> str:
    """Return arguments as one line: of several files behind an option the first, and how many more there are."""
    out: list[str] = []
    for option, values in groupby(arguments, lambda argument: argument.startswith("-")):
        first, *others = values
        out += [first, *others] if option or len(others) < 3 else [first, f"(and {len(others)} more)"]
    return " ".join(out)


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
        if argument.startswith("-"):  # short options end a list too
            current = None
        if current is not None:
            out += [current, argument]
        else:
            out.append(argument)
    return out


def main() -> None:
    """Entry point: what fails is one line on standard error; see `service.failures`."""
    atexit.register(gc.freeze)  # else the interpreter looks through all modules once more when it ends: half a second
    run_command(lambda: app(args=_spread_lists(sys.argv[1:])))


if __name__ == "__main__":
    main()
