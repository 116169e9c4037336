"""The command line of instrument files: ``alertprod instrument check|list|show|bad-pixels``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from service.commands.options import BadPixelMap, Json
from service.terminal import print_table, say

__all__ = ["instrument_app"]

instrument_app = typer.Typer(no_args_is_help=True, help="Instrument files: what they say, what they lack.")


@instrument_app.command("check")
def check(
    instrument: Annotated[str, typer.Argument(help="instrument name or file")],
    frame: Annotated[Path, typer.Argument(help="FITS image")],
    bad_pixels: BadPixelMap = None,
    as_json: Json = False,
) -> None:
    """Print what is understood of a frame, and what to write into the file where something is missing (then status 1)."""
    from exposure import load_instrument
    from service.frames.check import check_frame
    from service.frames.given_map import with_bad_pixels

    findings = check_frame(frame, with_bad_pixels(load_instrument(instrument), bad_pixels))
    if as_json:
        print(json.dumps(findings.as_dict(), default=str))
    else:
        print_table(
            ("what", "value", "from", ""), [(i.what, _shown(i.value), i.source, i.state) for i in findings.items]
        )
        for item in findings.items:
            if item.state:
                print(
                    f"{item.state}: {item.what}: {item.note}" + (f"\n    write: {item.advice}" if item.advice else "")
                )
        print("the frame can be used" if findings.usable else "the frame cannot be used like this")
    if not findings.usable:
        raise typer.Exit(1)


def _shown(value: object) -> object:
    return "-" if value is None else value


@instrument_app.command("list")
def list_instruments(as_json: Json = False) -> None:
    """List the instrument files that a name finds, those of ALERTPROD_INSTRUMENTS first."""
    from exposure.instrument import instrument_files

    files = instrument_files()
    if as_json:
        print(json.dumps({name: str(path) for name, path in files.items()}))
        return
    print_table(("name", "file"), [(name, path) for name, path in files.items()])


@instrument_app.command("show")
def show(instrument: Annotated[str, typer.Argument(help="instrument name or file")], as_json: Json = False) -> None:
    """Print an instrument with all its defaults, as YAML."""
    import yaml

    from exposure import load_instrument

    values = load_instrument(instrument).model_dump(mode="json")
    print(json.dumps(values) if as_json else yaml.safe_dump(values, sort_keys=False), end="" if not as_json else "\n")


@instrument_app.command("bad-pixels")
def bad_pixels(
    instrument: Annotated[str, typer.Option(help="instrument name or file")],
    frames: Annotated[list[Path], typer.Option(help="frames of a night that drifts (repeat, or several after one)")],
    output: Annotated[Path, typer.Option("--output", "-o", help="FITS map")],
    threshold: Annotated[float, typer.Option(min=1.0, help="offset of a hot or cold pixel, sigma of the sky")] = 2.5,
    report: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
    as_json: Json = False,
) -> None:
    """Learn which pixels of a detector are bad from frames over which the stars drift."""
    from exposure import load_instrument
    from service.frames.bad_pixels import learn_bad_pixels

    learned = learn_bad_pixels(load_instrument(instrument), frames, output, threshold, say)
    if report is not None:
        report.write_text(json.dumps(learned, indent=1), encoding="utf-8")
    if as_json:
        print(json.dumps(learned))
        return
    shown = ("nFramesUsed", "driftX", "driftY", "nHot", "nCold", "nUnstable", "nLine")
    print_table(
        ("detector", "frames", "drift x", "drift y", "hot", "cold", "unstable", "in lines", "bad"),
        [
            (d, *(f"{r[n]:.0f}" for n in shown), f"{100 * r['maskedFraction']:.2f} %")
            for d, r in learned["detectors"].items()
        ],
    )
    say(f"in the instrument file: bad_pixels: {output.name}")
