"""The command line of instrument files: ``alertprod instrument bad-pixels``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from service.options import Json
from service.terminal import print_table, say

__all__ = ["instrument_app"]

instrument_app = typer.Typer(no_args_is_help=True, help="Instrument files: what they say, what they lack.")


@instrument_app.callback()
def _group() -> None:
    """Keep the name of a command even where there is one alone."""


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
    from service.bad_pixels import learn_bad_pixels

    made = learn_bad_pixels(load_instrument(instrument), frames, output, threshold, say)
    if report is not None:
        report.write_text(json.dumps(made, indent=1), encoding="utf-8")
    if as_json:
        print(json.dumps(made))
        return
    shown = ("nFramesUsed", "driftX", "driftY", "nHot", "nCold", "nUnstable", "nLine")
    print_table(
        ("detector", "frames", "drift x", "drift y", "hot", "cold", "unstable", "in lines", "bad"),
        [(d, *(f"{r[n]:.0f}" for n in shown), f"{100 * r['maskedFraction']:.2f} %") for d, r in made["detectors"].items()],
    )  # fmt: skip
    say(f"in the instrument file: bad_pixels: {output.name}")
