"""The command line of template sets: ``alertprod template build|list|show|coverage|promote|roll-back``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.options import Json, operator, read_settings
from service.terminal import print_table, say

if TYPE_CHECKING:
    from diffim import TemplateStore

__all__ = ["template_app"]

Name = Annotated[str, typer.Argument(help="name of the set")]
Version = Annotated[int | None, typer.Option(help="number of the version; else that which is used")]
template_app = typer.Typer(no_args_is_help=True, help="Template sets.")


@template_app.command("build")
def template_build(
    frames: Annotated[list[Path], typer.Argument(help="FITS frames")],
    instrument: Annotated[str, typer.Option(help="instrument name or file")],
    name: Annotated[str, typer.Option(help="name of the set")] = "default",
    refcat: Annotated[Path | None, typer.Option(help="reference stars (Parquet: ra, dec, flux in nJy)")] = None,
    as_json: Json = False,
) -> None:
    """Coadd frames of one band into a new version of a template set.

    A frame that cannot be used is an error, and nothing is built: leave it out (`alertprod night` leaves such frames out by itself).
    """
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
    """List template sets; * is the version that is used."""
    from service.access.client import ask, remote_api
    from service.template_sets import described_sets

    sets = ask(url, "/v1/templates")["templates"] if (url := remote_api()) else described_sets(_store())
    if as_json:
        print(json.dumps(sets))
        return
    print_table(
        ("name", "version", "band", "tiles", "inputs", "square degrees", "used"),
        [
            (s["name"], s["version"], s["band"], s["tiles"], s["inputs"], f"{s['areaSqDeg']:.3f}", "*" * s["used"])
            for s in sets
        ],
    )


@template_app.command("coverage")
def template_coverage(
    name: Name,
    band: Annotated[str | None, typer.Option(help="the version that is used for this band")] = None,
    version: Version = None,
    as_json: Json = False,
) -> None:
    """Show what a template set covers: the inner areas of its tiles in degrees."""
    from service.access.client import ask, remote_api
    from service.template_sets import coverage

    url = remote_api()
    summary = (
        ask(url, f"/v1/templates/{name}/coverage", band=band, version=version)
        if url
        else coverage(_store(), name, band, version)
    )
    if as_json:
        print(json.dumps(summary))
        return
    title = (
        f"{summary['name']} v{summary['version']}, band {summary['band']}: {summary['areaSqDeg']:.3f} square degrees"
    )
    names = ("raMin", "raMax", "decMin", "decMax")
    rows = [(tile["name"], *(f"{tile[n]:.4f}" for n in names)) for tile in summary["coverage"]]
    print_table(("tile", "ra from", "to", "dec from", "to"), rows, title=title)


@template_app.command("promote")
def template_promote(
    name: Name, version: Annotated[int, typer.Argument(help="number of the version that is used from now on")]
) -> None:
    """Let a version be used for its band from now on, whatever newer ones are built."""
    from service.access.client import remote_api, tell

    if (url := remote_api()) is not None:
        band = tell(url, f"/v1/templates/{name}/versions/{version}/promote")["band"]
    else:
        band = _store().promote(name, version, operator()).manifest["band"]
    print(f"{name} v{version} is used for band {band}")


@template_app.command("roll-back")
def template_roll_back(name: Name, band: Annotated[str, typer.Option(help="one of u g r i z y")]) -> None:
    """Let the version be used again that was used before the last promotion; where none was promoted: status 1 (template_missing)."""
    from service.access.client import remote_api, tell

    if (url := remote_api()) is not None:
        version = tell(url, f"/v1/templates/{name}/roll-back?band={band}")["version"]
    else:
        version = _store().roll_back(name, band, operator()).version
    print(f"{name} v{version} is used for band {band}")


@template_app.command("show")
def template_show(name: Name, version: Version = None) -> None:
    """Print the manifest of a template set."""
    print(json.dumps(_store().get(name, version=version).manifest, indent=1))


def _store() -> "TemplateStore":
    from diffim import TemplateStore

    return TemplateStore(read_settings().template_dir)
