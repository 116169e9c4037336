"""The command line of orbits: ``alertprod orbits prepare|near``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from service.commands.options import Json, read_settings
from service.terminal import print_table, progress

__all__ = ["orbits_app"]

orbits_app = typer.Typer(no_args_is_help=True, help="Orbits of solar-system bodies.")

Observatory = Annotated[
    str | None, typer.Option(help="code of the Minor Planet Center; that of the settings by default")
]


@orbits_app.command()
def prepare(
    catalogues: Annotated[list[Path], typer.Argument(help="MPCORB.DAT[.gz], CometEls.txt or a prepared file")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Parquet file to write")],
    mjd: Annotated[
        float | None, typer.Option(help="MJD (TDB) to bring all bodies to; the next midnight UTC if left out")
    ] = None,
) -> None:
    """Bring an orbit catalogue to one night, so that workers start without integrating it."""
    from astropy.time import Time

    from association.orbits import OrbitCatalog

    catalog = OrbitCatalog.read(*catalogues)
    with progress("orbits", len(catalog), quiet=not sys.stderr.isatty()) as step:
        night = float(round(Time.now().mjd + 0.5)) if mjd is None else mjd
        catalog.prepare(night, step)
    catalog.save(output)
    print(f"{len(catalog)} bodies at MJD {night} in {output}")


@orbits_app.command(context_settings={"ignore_unknown_options": True})  # declinations may be negative
def near(
    ra: Annotated[float, typer.Argument(help="right ascension, deg")],
    dec: Annotated[float, typer.Argument(help="declination, deg")],
    mjd: Annotated[float, typer.Option(help="MJD (TAI)")],
    radius: Annotated[float, typer.Option(help="degrees")] = 0.5,
    catalogues: Annotated[
        list[Path] | None, typer.Option("--orbits", help="catalogues; those of the settings if left out")
    ] = None,
    observatory: Observatory = None,
    as_json: Json = False,
) -> None:
    """List the bodies near a place at a time."""
    from association.orbits import OrbitCatalog, OrbitError

    settings = read_settings()
    named = catalogues or settings.orbits
    if not named:
        raise OrbitError("no orbits: name a catalogue with --orbits or in ALERTPROD_ORBITS")
    bodies = OrbitCatalog.read(*named, observatory=observatory or settings.observatory).around(mjd, ra, dec, radius)
    shown = bodies[["ssObjectId", "designation", "ephRa", "ephDec", "ephVmag"]].sort_values("ephVmag")
    if as_json:
        print(shown.to_json(orient="records"))
        return
    rows = [
        (r["ssObjectId"], r["designation"], f"{r['ephRa']:.6f}", f"{r['ephDec']:+.6f}", f"{r['ephVmag']:.1f}")
        for r in shown.to_dict("records")
    ]
    print_table(("ssObjectId", "designation", "RA (deg)", "Dec (deg)", "V (mag)"), rows)
