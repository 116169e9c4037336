"""The command line of the joint fit: parse, read files, fit, write."""

import argparse
import logging
import multiprocessing
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lsst.pex.config as pexConfig
import numpy as np
import pandas as pd

from calibration.joint.config import JointcalConfig
from calibration.joint.io.files import read_headers, read_sources, read_summaries
from calibration.joint.io.outputs import write_outputs
from calibration.joint.io.references import read_catalogue
from calibration.joint.joint import JointFit
from calibration.joint.result import JointResult
from exposure import ExposureCatalog
from exposure.camera import Camera
from exposure.instrument import find_instrument
from tasks.command_line import CommandParser, add_id_and_config, apply_override, chosen_ids
from tasks.errors import AlertProdError, CallerError
from tasks.provenance import write_config, write_package_versions

__all__ = ["CommandResult", "joint_parser", "metric_table", "parse", "run_parsed"]

log = logging.getLogger("alertprod.jointcal")
_DRAWING_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class CommandResult:
    """What a run came to: ``exitStatus`` (0 or 1), what was fitted, its numbers, and the error that ended it."""

    exitStatus: int
    result: Any = None
    metrics: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None


def joint_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = CommandParser(
        prog="alertprod jointcal run", description="Joint astrometric and photometric calibration of many visits."
    )
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "type": Path}
    p.add_argument("--sources", required=True, metavar="TABLE", help="source tables (Parquet, FITS, CSV)", **many)
    p.add_argument("--summaries", metavar="FILE", help="visit summaries (FITS)", **many)
    p.add_argument("--headers", metavar="FILE", help="one FITS header per image", **many)
    p.add_argument("--camera", required=True, type=Path, metavar="FILE", help="camera file (YAML)")
    p.add_argument("--astrometry-refs", type=Path, metavar="FILE", help="reference catalogue of positions")
    p.add_argument("--photometry-refs", type=Path, metavar="FILE", help="reference catalogue of fluxes")
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the results")
    p.add_argument("--tract", type=int, help="number of the sky tract, for the record")
    add_id_and_config(p)
    p.add_argument("--clobber-versions", action="store_true", help="replace stored package versions that differ")
    p.add_argument("--no-versions", action="store_true", help="do not compare package versions")
    p.add_argument(
        "--pictures", action=argparse.BooleanOptionalAction, default=False, help="draw residuals, chi2, repeatability"
    )
    p.add_argument("--json", action="store_true", help="print the metrics as JSON")
    return p


def parse(
    args: "Sequence[str] | None",
    config: JointcalConfig | None = None,
    hook: "Callable[[JointcalConfig], None] | None" = None,
) -> tuple[argparse.ArgumentParser, Any]:
    """Parse the command line and make the config; nothing is read before both are known to be good.

    `hook` changes the config before the options of the command line do.

    Raises
    ------
    CallerError
        An unknown option, a field or value that the config refuses, or inputs that are missing.
    """
    parser = joint_parser()
    parsed = parser.parse_args(list(sys.argv[1:] if args is None else args))
    chosen = JointcalConfig() if config is None else config
    _camera_overrides(chosen, parsed.camera)
    if hook is not None:
        hook(chosen)
    for kind, value in parsed.overrides:
        apply_override(chosen, kind, value)
    try:
        chosen.validate()
    except (pexConfig.FieldValidationError, ValueError) as error:
        raise CallerError(f"config: {error}") from error
    parsed.task_config = chosen
    if bool(parsed.summaries) == bool(parsed.headers):
        raise CallerError("give either --summaries or --headers")
    for half, on in (("astrometry", chosen.doAstrometry), ("photometry", chosen.doPhotometry)):
        if on and getattr(parsed, f"{half}_refs") is None:
            raise CallerError(f"do{half.capitalize()} is on: give --{half}-refs, or -c do{half.capitalize()}=False")
    parsed.chosen = chosen_ids(parsed.id)
    tracts = set().union(*(group.pop("tract", set()) for group in parsed.chosen))
    if len(tracts | ({parsed.tract} - {None})) > 1:
        raise CallerError(f"--id tract={'^'.join(map(str, sorted(tracts)))}: one fit is of one tract")
    parsed.tract = next(iter(tracts), parsed.tract)
    logging.getLogger("alertprod.jointcal").setLevel(parsed.loglevel)
    return parser, parsed


def _camera_overrides(config: JointcalConfig, path: Path) -> None:
    """Change the config as the instrument file of the camera says under ``task_config: {JointcalTask: ...}``."""
    rules = find_instrument(Camera.read(path).name) if path.is_file() else None
    for name, value in ({} if rules is None else rules.task_config.get("JointcalTask") or {}).items():
        *parents, leaf = name.split(".")
        target: Any = config
        try:
            for parent in parents:
                target = getattr(target, parent)
            setattr(target, leaf, value)
        except (AttributeError, pexConfig.FieldValidationError, TypeError, ValueError) as error:
            raise CallerError(
                f"instrument file {rules.name if rules else ''}, JointcalTask: {name}: {error}"
            ) from error


def run_parsed(
    parsed: Any, task_class: Any = JointFit, say: "Callable[[str], None] | None" = None
) -> list[CommandResult]:
    """Read, fit, write.

    Parameters
    ----------
    task_class
        What fits: `JointFit`, or `JointcalTask` with its metadata.

    Returns
    -------
    results
        One.
    """
    speak = say or (lambda text: print(text, file=sys.stderr))
    try:
        return [_run(parsed, task_class, speak)]
    except AlertProdError as error:
        if parsed.doraise:
            raise
        log.debug("%s", traceback.format_exc())
        speak(f"jointcal failed: {error.code}: {error}")
        return [CommandResult(1, error=error)]


def _run(parsed: Any, task_class: Any, speak: Callable[[str], None]) -> CommandResult:
    config = parsed.task_config
    summaries = read_headers(parsed.headers) if parsed.headers else read_summaries(parsed.summaries)
    tables = read_sources(parsed.sources)
    summaries, tables = _only(summaries, tables, parsed.chosen)
    speak(f"{len(tables)} source tables, {sum(len(s.table) for s in summaries)} images of {len(summaries)} visits")
    astrometry = read_catalogue(parsed.astrometry_refs) if config.doAstrometry else None
    same = parsed.photometry_refs == parsed.astrometry_refs and astrometry is not None
    photometry = astrometry if same else read_catalogue(parsed.photometry_refs) if config.doPhotometry else None
    task = task_class(config=config, astrometry_refs=astrometry, photometry_refs=photometry)
    parsed.out.mkdir(parents=True, exist_ok=True)
    backup = not parsed.no_backup_config
    write_config(parsed.out / "jointcal_config.py", config.saveToString(), clobber=parsed.clobber_config, backup=backup)
    if not parsed.no_versions:
        write_package_versions(parsed.out / "packages.json", clobber=parsed.clobber_versions, backup=backup)

    def progress(label: str, chi2: float, ndof: int) -> None:
        speak(f"{label:22s} chi2/ndof {chi2:14.2f} / {ndof} = {chi2 / max(ndof, 1):.4f}")

    result = task.run(tables, summaries, Camera.read(parsed.camera), parsed.tract, progress=progress)
    with _drawing(result, parsed.out / "pictures") if parsed.pictures else nullcontext():
        output_tables = {"stars": result.stars, "image_quality": result.image_quality}
        for name in ("reference_field", "photometry_reference_field"):
            if (table := getattr(result, name)) is not None:
                output_tables[name] = table
        write_outputs(
            parsed.out, result.images, result.outputWcs, result.outputPhotoCalib, output_tables, result.metrics
        )
    if hasattr(task, "writeMetadata"):
        task.writeMetadata(parsed.out)
    if not result.converged:
        speak("WARNING: the fit did not converge; metrics.json says converged=false")
    return CommandResult(0 if result.converged else 1, result, result.metrics)


@contextmanager
def _drawing(result: JointResult, folder: Path) -> Iterator[None]:
    """Draw the pictures on another core while the block runs; here, after it, where that cannot be or did not work.

    A child made by fork has the result without copying it. It runs no compiled threads and is given up after a while,
    as a fork may find a lock that nobody will open.
    """
    from calibration.joint.io.pictures import draw

    child = None
    if "fork" in multiprocessing.get_all_start_methods():
        child = multiprocessing.get_context("fork").Process(target=draw, args=(result, folder), daemon=True)
        child.start()
    try:
        yield
    except BaseException:
        if child is not None:
            child.kill()
            child.join()
        raise
    if child is not None:
        child.join(_DRAWING_TIMEOUT_S)
        if child.exitcode == 0:
            return
        child.kill()
        child.join()
    draw(result, folder)


def _only(
    summaries: list[ExposureCatalog], tables: list[pd.DataFrame], chosen: list[dict[str, set[int]]]
) -> tuple[list[ExposureCatalog], list[pd.DataFrame]]:
    """Return what is left of summaries and tables of the chosen visits and detectors (see `chosen_ids`)."""
    if not any(chosen):
        return summaries, tables

    def wanted(visit: Any, detector: Any) -> Any:
        columns = {"visit": np.asarray(visit), "detector": np.asarray(detector)}
        return np.any([_is_of(columns, group) for group in chosen], axis=0)

    left = [ExposureCatalog(s.table[wanted(s.table["visit"], s.table["id"])], s.records) for s in summaries]
    tables = [t[wanted(t.visit, t.detector)] for t in tables]
    return [s for s in left if len(s.table)], [t for t in tables if len(t)]


def _is_of(columns: dict[str, Any], group: dict[str, set[int]]) -> Any:
    inside = [np.isin(columns[name], list(numbers)) for name, numbers in group.items()]
    return np.logical_and.reduce([np.ones(len(columns["visit"]), bool), *inside])


def metric_table(metrics: "dict[str, Any]") -> str:
    """Return the metrics as aligned lines."""
    width = max((len(k) for k in metrics), default=0)
    return "\n".join(
        f"{k:{width}s}  {v:.6g}" if isinstance(v, float) else f"{k:{width}s}  {v}" for k, v in metrics.items()
    )
