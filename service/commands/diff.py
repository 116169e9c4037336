"""``alertprod diff``: the subtraction alone, from two FITS files to a difference, a table of its sources and pictures."""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.options import BadPixelMap, Json, key_values
from service.pairs.diff_outputs import DiffOutputs, check_all
from service.pairs.output_checks import file_of
from service.startup import collector_off, fetched, load_numba, reuse_memory
from service.terminal import quiet, say

if TYPE_CHECKING:
    from exposure import Instrument
    from service.pairs.difference import Difference

__all__ = ["diff", "summary"]

MEMORY_AHEAD = 1 << 28  # bytes that are fetched while modules are loaded: four planes of 4k x 4k


@collector_off()
def diff(
    science: Annotated[Path, typer.Argument(help="FITS image")],
    template: Annotated[Path, typer.Argument(help="FITS image to subtract")],
    output: Annotated[Path, typer.Option("--output", "-o", help="difference (FITS; also .fits.fz, .fits.gz)")],
    instrument: Annotated[str, typer.Option(help="instrument name or file: which HDU holds which plane")] = "generic",
    bad_pixels: BadPixelMap = None,
    registered: Annotated[bool, typer.Option(help="on one pixel grid, of one shape; not with --register")] = False,
    register: Annotated[bool, typer.Option(help="match by stars; no WCS is needed; shapes may differ")] = False,
    mode: Annotated[str, typer.Option(help="auto, convolveTemplate or convolveScience")] = "auto",
    sources: Annotated[
        Path | None,
        typer.Option(help="detect, measure, and write this table: .csv .ecsv .fits .parquet .vot or .reg (DS9)"),
    ] = None,
    score: Annotated[Path | None, typer.Option(help="write the significance of a point source at every pixel")] = None,
    plots: Annotated[Path | None, typer.Option(help="folder for pictures of the subtraction and its sources")] = None,
    config: Annotated[list[str] | None, typer.Option("--config", "-c", help="option=value (see docs)")] = None,
    all_images: Annotated[
        bool, typer.Option(help="subtract every image of the file from that of the same name; outputs get its name")
    ] = False,
    as_json: Json = False,
) -> None:
    """Subtract one image from another: the algorithm alone.

    Outputs are looked at before anything is computed; one that is an input is refused (output). With --all-images the exit status is 1
    where one image failed, and the others are done.
    """
    chosen = key_values(config or [])
    outputs = DiffOutputs(output, sources, score, plots)
    check_all((file_of(science), file_of(template)), [outputs] if not all_images else [])
    reuse_memory(kept_mb=1024)
    with quiet(), fetched(min(sum(p.stat().st_size for p in (science, template) if p.exists()), MEMORY_AHEAD)):
        import astropy.io.fits

        # not while an image is read: an error that a module keeps would keep the frame it was loaded in, and its pixels
        import astropy.wcs  # noqa: F401

        load_numba()
        from service.pairs.difference import PairOptions, difference_files
        from service.processing.instruments import checked_instrument

        rules = checked_instrument(instrument, bad_pixels)
    options = PairOptions(
        registered=registered,
        register=register,
        mode=mode,
        score=score is not None,
        sources=sources is not None or plots is not None,
        pictures=plots is not None,
        options=chosen,
    )
    subtract = partial(difference_files, rules=rules, options=options)
    if all_images:
        _all(science, template, rules, subtract, outputs, as_json)
        return
    with quiet():
        difference = subtract(science, template)
        outputs.write(difference)
    print(_json(difference.report) if as_json else summary(difference.report))
    _warn(difference.report)


def _all(
    science: Path,
    template: Path,
    rules: "Instrument",
    subtract: "Callable[..., Difference]",
    outputs: DiffOutputs,
    as_json: bool,
) -> None:
    """Subtract all images of a file and say of each how it went.

    Raises
    ------
    typer.Exit
        Status 1: one of them failed.
    """
    from service.pairs.all_images import subtract_all

    reports = []
    for report in subtract_all(science, template, rules, subtract, outputs):
        reports.append(report)
        error = report.get("error")
        if error is not None:
            say(f"alertprod: {report['image']}: {error['code']}: {error['message']}", error=True)
            continue
        if not as_json:
            print(f"{report['image']}: {summary(report)}", flush=True)
        _warn(report, f"{report['image']}: ")
    if as_json:
        print(_json({"images": reports}))
    failed = sum("error" in r for r in reports)
    if failed:
        say(f"{failed} of {len(reports)} images failed", error=True)
        raise typer.Exit(1)


def _warn(report: Mapping[str, Any], which: str = "") -> None:
    for warning in report["warnings"]:
        say(f"warning: {which}{warning}", error=True)


def summary(report: Mapping[str, Any]) -> str:
    """Return the one line that says how a subtraction went."""
    parts = [str(report["convolved"])]
    if "nKernelUsed" in report:
        parts[0] += (
            f": {report['nKernelUsed']} of {report['nKernelCandidates']} stars, residual/sigma "
            f"{report['kernelResidualRms']:.2f}, kernel sum {report['spatialKernelSum']:.4g}"
        )
    sizes = report.get("seeing") or {of: report[f"{of}PsfSize"] for of in ("science", "template")}
    unit = "arcsec" if "seeing" in report else "px"
    parts.append(f"seeing {sizes['science']:.2f} {unit} (image), {sizes['template']:.2f} {unit} (template)")
    if "nDiaSources" in report:
        parts.append(_count(report["nDiaSources"], report.get("nBelowReliability")))
    return "; ".join([*parts, f"{sum(report['seconds'].values()):.1f} s"])


def _count(n: int, below: int | None) -> str:
    from service.pairs.source_columns import RELIABLE  # with all that images need: not when a command line is read

    said = f"{n} source" + ("" if n == 1 else "s")
    return said if below is None else f"{said}, {below} of them below reliability {RELIABLE}"


def _json(report: Mapping[str, Any]) -> str:
    return json.dumps(_without_nan(report), allow_nan=False)


def _without_nan(value: Any) -> Any:
    """Return a report as JSON can hold it: null for numbers that are none."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
