"""The command line: ``alertprod``; ``alertprod --help`` lists the commands in groups."""

import atexit
import gc
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from service.alerts_cli import alerts_app
from service.apdb_cli import apdb_app
from service.failures import DEBUG, run_command
from service.instrument_cli import instrument_app
from service.options import Json, key_values, open_database, read_settings
from service.orbits_cli import orbits_app
from service.roles_cli import add_roles
from service.startup import collector_off, fetched, load_numba, reuse_memory
from service.template_cli import template_app
from service.terminal import print_table, say
from service.up_cli import up
from service.visits_cli import visits_app

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False,
    help="Alert production for time-domain surveys. Settings are environment variables: see 'alertprod config'.",
)  # fmt: skip
jointcal_app = typer.Typer(no_args_is_help=True, help="Joint calibration of many visits.")
FIRST, ROLES, LOOK, KEEP, IMAGES = "First steps", "Roles of the service", "What happened", "Stores", "Images alone"
app.command(rich_help_panel=FIRST)(up)
add_roles(app, ROLES)
app.add_typer(instrument_app, name="instrument", rich_help_panel=FIRST)
app.add_typer(visits_app, name="visits", rich_help_panel=LOOK)
app.add_typer(alerts_app, name="alerts", rich_help_panel=LOOK)
app.add_typer(apdb_app, name="apdb", rich_help_panel=KEEP)
app.add_typer(template_app, name="template", rich_help_panel=KEEP)
app.add_typer(orbits_app, name="orbits", rich_help_panel=KEEP)
app.add_typer(jointcal_app, name="jointcal", rich_help_panel=IMAGES)
MEMORY_AHEAD = 1 << 28  # bytes that `diff` fetches while its modules are loaded: four planes of 4k x 4k

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


@app.command(rich_help_panel=ROLES)
def config() -> None:
    """Print the effective settings, secrets masked."""
    print(json.dumps(read_settings().masked(), indent=1))


@app.command(rich_help_panel=IMAGES)
@collector_off()
def diff(
    science: Annotated[Path, typer.Argument(help="FITS image")],
    template: Annotated[Path, typer.Argument(help="FITS image to subtract")],
    output: Annotated[Path, typer.Option("--output", "-o", help="difference: IMAGE, VARIANCE, MASK, PSF")],
    instrument: Annotated[str, typer.Option(help="instrument name or file: which HDU holds which plane")] = "generic",
    registered: Annotated[bool, typer.Option(help="the two are on one pixel grid; no WCS is needed")] = False,
    register: Annotated[bool, typer.Option(help="register the two by their stars; no WCS is needed")] = False,
    mode: Annotated[str, typer.Option(help="auto, convolveTemplate or convolveScience")] = "auto",
    sources: Annotated[Path | None, typer.Option(help="detect, measure, and write this Parquet table")] = None,
    score: Annotated[Path | None, typer.Option(help="write the significance of a point source at every pixel")] = None,
    plots: Annotated[Path | None, typer.Option(help="folder for pictures of the subtraction")] = None,
    config: Annotated[list[str] | None, typer.Option("--config", "-c", help="option=value (see docs)")] = None,
    as_json: Json = False,
) -> None:
    """Subtract one image from another: the algorithm alone."""
    reuse_memory(kept_mb=1024)
    with fetched(min(sum(p.stat().st_size for p in (science, template) if p.exists()), MEMORY_AHEAD)):
        import astropy.io.fits  # noqa: F401  first: it looks through all modules that there are

        load_numba()
        from exposure import load_instrument
        from service.diff import difference_files

    made = difference_files(
        science, template, load_instrument(instrument), registered=registered, register=register, mode=mode,
        score=score is not None, sources=sources is not None or plots is not None, pictures=plots is not None,
        options=key_values(config or []),
    )  # fmt: skip
    made.exposure.write_fits(output)
    if score is not None and made.score is not None:
        made.score.write_fits(score)
    if sources is not None and made.sources is not None:
        made.sources.to_parquet(sources)
    if plots is not None:
        from diffim.pictures import draw_subtraction

        made.report["plots"] = [str(p) for p in draw_subtraction(made.subject, plots)]
    if as_json:
        print(json.dumps(made.report))
        return
    r = made.report
    print(
        f"{r['convolved']}: "
        + (f"{r['nKernelUsed']} of {r['nKernelCandidates']} stars, residual/sigma {r['kernelResidualRms']:.2f}, "
           if "nKernelUsed" in r else "")
        + f"{sum(r['seconds'].values()):.1f} s" + (f", {r['nDiaSources']} sources" if "nDiaSources" in r else "")
    )  # fmt: skip


@app.command(rich_help_panel=FIRST)
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


@app.command(context_settings={"ignore_unknown_options": True}, rich_help_panel=LOOK)  # declinations may be negative
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
