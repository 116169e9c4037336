"""The command line of template sets: ``alertprod template build|list|show``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from service.commands.options import Json, read_settings
from service.terminal import print_table, say

__all__ = ["template_app"]

template_app = typer.Typer(no_args_is_help=True, help="Template sets.")


@template_app.command("build")
def template_build(
    frames: Annotated[list[Path], typer.Argument(help="FITS frames")],
    instrument: Annotated[str, typer.Option(help="instrument name or file")],
    name: Annotated[str, typer.Option(help="name of the set")] = "default",
    refcat: Annotated[Path | None, typer.Option(help="reference stars (Parquet: ra, dec, flux in nJy)")] = None,
    as_json: Json = False,
) -> None:
    """Coadd frames into a new version of a template set."""
    from calibration import ReferenceStars
    from service.processing.build_template import template_from_frames
    from service.processing.instruments import checked_instrument

    stars = None if refcat is None else ReferenceStars.read(refcat)
    stored = template_from_frames(
        read_settings().template_dir,
        name,
        frames,
        checked_instrument(instrument),
        stars,
        lambda step, done, total: say(f"{step} {done} of {total}"),
    )
    print(
        json.dumps(stored.manifest)
        if as_json
        else f"{stored.name} v{stored.version}: {len(stored.manifest['tiles'])} tiles"
    )


@template_app.command("list")
def template_list(as_json: Json = False) -> None:
    """List template sets."""
    from diffim import TemplateStore

    sets = TemplateStore(read_settings().template_dir).list()
    if as_json:
        print(json.dumps([s.manifest for s in sets]))
        return
    print_table(
        ("name", "version", "band", "tiles", "inputs"),
        [(s.name, s.version, s.manifest["band"], len(s.manifest["tiles"]), len(s.manifest["inputs"])) for s in sets],
    )


@template_app.command("show")
def template_show(name: str, version: Annotated[int | None, typer.Option()] = None) -> None:
    """Print the manifest of a template set."""
    from diffim import TemplateStore

    print(json.dumps(TemplateStore(read_settings().template_dir).get(name, version=version).manifest, indent=1))
