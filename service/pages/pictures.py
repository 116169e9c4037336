"""Pictures over HTTP: of a visit made again, and the cutouts of the alert of a source."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from apdb import Ledger
from apdb.errors import NotFound
from service.media import PNG, kinds
from service.pages.shared import Pages
from service.pages.viewer import viewer_of

__all__ = ["pictures"]

pictures = APIRouter(tags=["pages"])

KEEP = "private, max-age=600"  # another attempt has another picture, which may be seen ten minutes later
_STAMPS = {"science.png": "Science", "template.png": "Template", "difference.png": "Difference"}


@pictures.get("/v1/visits/{visit}/{detector}/images/{which}", response_class=Response, responses=kinds(PNG))
def image(
    visit: int,
    detector: int,
    which: Literal["science.png", "template.png", "difference.png", "score.png", "mask.png", "kernel.png", "psf.png"],
    request: Request,
    shared: Pages,
    stretch: Literal["asinh", "linear", "log"] = "asinh",
    span: Annotated[float, Query(gt=0, le=1e6, description="noise sigma that are white")] = 100.0,
    box: Annotated[str | None, Query(pattern=r"^-?\d+,-?\d+,\d+,\d+$", description="x0,y0,width,height, px")] = None,
) -> Response:
    """One picture of a ccdVisit that is subtracted again with the template of now, as PNG; nothing is stored."""
    part = None if box is None else [int(n) for n in box.split(",")]
    png = viewer_of(request).picture(
        Ledger(shared.database), visit, detector, which=which[:-4], stretch=stretch, span=span, box=part
    )
    return Response(png, media_type=PNG, headers={"Cache-Control": KEEP})


@pictures.get("/v1/sources/{source_id}/stamps/{which}", response_class=Response, responses=kinds(PNG))
def stamp(source_id: int, which: Literal["science.png", "template.png", "difference.png"], shared: Pages) -> Response:
    """One cutout of the alert that a DiaSource made, as PNG; north is not up: the pixels are those of the detector."""
    import numpy as np

    from alerts.archive.selection import AlertSelection
    from alerts.archive.store import AlertArchive
    from alerts.packets.wire import decode_body
    from alerts.views import cutout
    from exposure.preview import grey_png

    chosen = AlertSelection(source_id=source_id)
    rows = chosen.rows(shared.database)
    alert = next((a for row in rows for a in chosen.read(AlertArchive(shared.settings.archive_dir), row)), None)
    if alert is None:
        raise NotFound(
            f"no alert of DiaSource {source_id} is in the archive: it waits for a second detection, or is held"
        )
    name = _STAMPS[which]
    pixels_of_alert = cutout(decode_body(alert.body, alert.schema_id), name)
    if pixels_of_alert is None:
        raise NotFound(f"the alert of DiaSource {source_id} has no {name.lower()} cutout")
    pixels = np.asarray(pixels_of_alert.data, np.float32)
    png = grey_png(pixels, np.isfinite(pixels), signed=name == "Difference")
    return Response(png, media_type=PNG, headers={"Cache-Control": KEEP})
