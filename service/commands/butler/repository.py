"""The command line of a Butler's repository: ``alertprod butler create|ingest|ingest-templates|ingest-refcat|camera``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.options import Json, read_settings
from service.terminal import say

if TYPE_CHECKING:
    from middleware.repository import Ingested

__all__ = ["butler_app"]

butler_app = typer.Typer(no_args_is_help=True, help="A Butler's repository, for pipetask and bps.")
Repo = Annotated[str, typer.Argument(help="folder of the repository")]
Camera = Annotated[str, typer.Argument(help="name of an instrument file")]


def _tell(done: "Ingested", as_json: bool, left_out: int = 0) -> None:
    if as_json:
        print(json.dumps({"collection": done.collection, "new": done.new, "known": done.present, "leftOut": left_out}))
    else:
        print(
            f"{done.collection}: {done.new} new, {done.present} there already"
            + f", {left_out} left out" * bool(left_out)
        )
    if left_out:
        raise typer.Exit(1)


@butler_app.command("create")
def create(repo: Repo, instruments: Annotated[list[str], typer.Argument(help="names of instrument files")]) -> None:
    """Make a repository with SQLite as its registry, and enter cameras."""
    from middleware.repository import Repository

    Repository.create(repo, *instruments)
    print(f"{repo}: {', '.join(instruments)}")


@butler_app.command("ingest")
def ingest(
    repo: Repo,
    instrument: Camera,
    frames: Annotated[list[Path], typer.Argument(help="FITS frames")],
    keep_going: Annotated[bool, typer.Option("--keep-going", help="leave out frames that cannot be used")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="files that changed, or are elsewhere now")] = False,
    as_json: Json = False,
) -> None:
    """Enter frames and their visits; the files stay where they lie.

    One frame that cannot be used is an error, and none is entered; with --keep-going it is left out, and the status is 1.
    """
    from middleware.repository import Repository

    left: list[Path] = []

    def bad_frame(path: Path, error: Exception) -> None:
        left.append(path)
        say(f"left out: {error}", error=True)

    done = Repository.open(repo).ingest_frames(instrument, frames, bad_frame if keep_going else None, replace=replace)
    _tell(done, as_json, len(left))


@butler_app.command("ingest-templates")
def ingest_templates(
    repo: Repo,
    name: Annotated[str, typer.Argument(help="name of the template set")] = "default",
    version: Annotated[int | None, typer.Option(help="the newest, where it is not given")] = None,
    band: Annotated[str | None, typer.Option(help="newest version of this band")] = None,
    as_json: Json = False,
) -> None:
    """Enter a template set of ALERTPROD_TEMPLATE_DIR as sky map, tracts and patches."""
    from diffim import TemplateStore
    from middleware.repository import Repository

    chosen = TemplateStore(read_settings().template_dir).get(name, band, version)
    _tell(Repository.open(repo).ingest_templates(chosen), as_json)


@butler_app.command("ingest-refcat")
def ingest_refcat(
    repo: Repo,
    catalogue: Annotated[Path, typer.Argument(help="Parquet, CSV, FITS: coord_ra, coord_dec (rad), ...")],
    label: Annotated[str, typer.Option(help="name of the collection below refcats/")] = "default",
    as_json: Json = False,
) -> None:
    """Enter a reference catalogue of the joint fit."""
    from calibration.joint.io.references import read_catalogue
    from middleware.repository import Repository

    _tell(Repository.open(repo).ingest_references(read_catalogue(catalogue), label), as_json)


@butler_app.command("camera")
def camera(
    repo: Repo,
    instrument: Camera,
    file: Annotated[Path, typer.Argument(help="camera file (YAML)")],
    as_json: Json = False,
) -> None:
    """Enter where the detectors of a camera sit."""
    from exposure.camera import Camera as CameraFile
    from middleware.repository import Repository

    _tell(Repository.open(repo).put_camera(instrument, CameraFile.read(file)), as_json)
