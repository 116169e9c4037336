"""The footprint of the survey as a multi-order coverage map (IVOA MOC 2.0), for Aladin, mocpy and whoever compares it with a map."""

import io
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi import Query as Parameter

from apdb import queries
from service.api.parameters import Bands, Mjd
from service.api.resources import Shared
from service.media import FITS, kinds

__all__ = ["footprint", "moc_fits"]

footprint = APIRouter(tags=["reads"])
MANY = 50_000  # HTM pixels beyond which coarser cells say enough: 4000 square degrees


@footprint.get("/v1/footprint", response_class=Response, responses=kinds(FITS, "application/json"))
def coverage(
    shared: Shared,
    band: Bands = None,
    since: Mjd = None,
    until: Mjd = None,
    kind: Annotated[Literal["fits", "json"], Parameter(alias="format", description="of the MOC")] = "fits",
) -> Response:
    """Where processed visits lie, as a MOC: whole pixels of the ledger, so up to 0.4 degrees more than the images."""
    from apdb.sky.moc import MOC_ORDER, healpix_of_htm, moc_of_cells

    with shared.database.session() as connection:
        pixels = queries.footprint(connection, bands=band, since=since, until=until)
    order = MOC_ORDER if len(pixels) <= MANY else MOC_ORDER - 1
    moc = moc_of_cells(healpix_of_htm(pixels, order), order)
    if kind == "json":
        text = json.dumps({str(k): cells.tolist() for k, cells in moc.items()} or {str(order): []})
        return Response(text, media_type="application/json")
    name = {"Content-Disposition": 'attachment; filename="footprint.fits"'}
    return Response(moc_fits(moc, order), media_type=FITS, headers=name)


def moc_fits(moc: dict[int, Any], order: int) -> bytes:
    """Return a MOC as a FITS file: one column of unique numbers (MOC 2.0, section 4.3.1)."""
    from astropy.io import fits

    from apdb.sky.moc import nuniq

    table = fits.BinTableHDU.from_columns([fits.Column("UNIQ", "K", array=nuniq(moc))])
    for key, value in (("MOCVERS", "2.0"), ("MOCDIM", "SPACE"), ("ORDERING", "NUNIQ"), ("COORDSYS", "C"),
                       ("MOCORD_S", order), ("MOCORDER", order), ("MOCTOOL", "alertprod")):  # fmt: skip
        table.header[key] = value
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(out)
    return out.getvalue()
