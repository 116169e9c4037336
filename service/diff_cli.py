"""``alertprod diff``: the subtraction alone, from two FITS files to a difference, a table of its sources and pictures."""

import contextlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.options import BadPixelMap, Json, key_values
from service.startup import collector_off, fetched, load_numba, reuse_memory
from service.terminal import logs_to_stderr, say

if TYPE_CHECKING:
    from service.diff import Difference

__all__ = ["diff", "summary"]

MEMORY_AHEAD = 1 << 28  # bytes that are fetched while modules are loaded: four planes of 4k x 4k


@collector_off()
def diff(
    science: Annotated[Path, typer.Argument(help="FITS image")],
    template: Annotated[Path, typer.Argument(help="FITS image to subtract")],
    output: Annotated[Path, typer.Option("--output", "-o", help="difference (FITS; also .fits.fz, .fits.gz)")],
    instrument: Annotated[str, typer.Option(help="instrument name or file: which HDU holds which plane")] = "generic",
    bad_pixels: BadPixelMap = None,
    registered: Annotated[bool, typer.Option(help="the two are on one pixel grid; no WCS is needed")] = False,
    register: Annotated[bool, typer.Option(help="register the two by their stars; no WCS is needed")] = False,
    mode: Annotated[str, typer.Option(help="auto, convolveTemplate or convolveScience")] = "auto",
    sources: Annotated[
        Path | None,
        typer.Option(help="detect, measure, and write this table: .csv .ecsv .fits .parquet .vot or .reg (DS9)"),
    ] = None,
    score: Annotated[Path | None, typer.Option(help="write the significance of a point source at every pixel")] = None,
    plots: Annotated[Path | None, typer.Option(help="folder for pictures of the subtraction and its sources")] = None,
    config: Annotated[list[str] | None, typer.Option("--config", "-c", help="option=value (see docs)")] = None,
    as_json: Json = False,
) -> None:
    """Subtract one image from another: the algorithm alone."""
    options = key_values(config or [])
    _check(science, template, [p for p in (output, score, sources) if p is not None], sources, plots)
    reuse_memory(kept_mb=1024)
    with fetched(min(sum(p.stat().st_size for p in (science, template) if p.exists()), MEMORY_AHEAD)):
        import astropy.io.fits

        # not while an image is read: an error that a module keeps would keep the frame it was loaded in, and its pixels
        import astropy.wcs  # noqa: F401

        logs_to_stderr()
        load_numba()
        from service.diff import difference_files
        from service.instruments import checked_instrument

    with contextlib.redirect_stdout(sys.stderr):  # the words of libraries are no part of the answer
        made = difference_files(
            science, template, checked_instrument(instrument, bad_pixels), registered=registered, register=register, mode=mode,
            score=score is not None, sources=sources is not None or plots is not None, pictures=plots is not None,
            options=options,
        )  # fmt: skip
        _write(made, output, score, sources, plots)
    if as_json:
        print(json.dumps(_without_nan(made.report), allow_nan=False))
    else:
        print(summary(made.report))
    for warning in made.report["warnings"]:
        say(f"warning: {warning}", error=True)


def _check(science: Path, template: Path, files: list[Path], sources: Path | None, plots: Path | None) -> None:
    from service.outputs import check_format, check_outputs, file_of

    if sources is not None:
        check_format(sources)
    check_outputs((file_of(science), file_of(template)), files, [plots] if plots is not None else [])


def _write(made: "Difference", output: Path, score: Path | None, sources: Path | None, plots: Path | None) -> None:
    from exposure.fits_write import write_exposure
    from service.outputs import writing

    with writing(output):
        write_exposure(made.exposure, output, cards=made.cards, unit=made.unit)
    if score is not None and made.score is not None:
        with writing(score):
            write_exposure(made.score, score, cards=made.cards)
    if sources is not None:
        from service.source_files import write_sources

        with writing(sources):
            write_sources(made.table(), sources)
    if plots is not None:
        from diffim.pictures import draw_subtraction

        with writing(plots):
            made.report["plots"] = [str(p) for p in draw_subtraction(made.subject, plots)]


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
    from service.source_columns import RELIABLE  # with all that images need: not when a command line is read

    said = f"{n} source" + ("" if n == 1 else "s")
    return said if below is None else f"{said}, {below} of them below reliability {RELIABLE}"


def _without_nan(value: Any) -> Any:
    """Return a report as JSON can hold it: null for numbers that are none."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
