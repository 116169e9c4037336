"""Pictures over HTTP: of a visit made again, and the cutouts of the alert of a source."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from apdb import Ledger
from apdb.errors import NotFound
from service.media import GIF, PNG, SVG, kinds
from service.pages.objects.compass import compass_svg
from service.pages.shared import Pages, Shared
from service.pages.viewer import viewer_of

if TYPE_CHECKING:
    from tasks.arrays import F32

__all__ = ["pictures"]

pictures = APIRouter(tags=["pages"])

KEEP = "private, max-age=600"  # another attempt has another picture, which may be seen ten minutes later
_STAMPS = {"science.png": "Science", "template.png": "Template", "difference.png": "Difference"}


@pictures.get("/v1/visits/{visit}/{detector}/images/{which}", response_class=Response, responses=kinds(PNG))
def image(
    visit: int,
    detector: int,
    which: Annotated[
        Literal[
            "science.png",
            "template.png",
            "difference.png",
            "score.png",
            "mask.png",
            "kernel.png",
            "psf.png",
            "stars.png",
        ],
        Path(description="which picture"),
    ],
    request: Request,
    shared: Pages,
    stretch: Annotated[Literal["asinh", "linear", "log"], Query(description="how grey follows the pixels")] = "asinh",
    span: Annotated[float, Query(gt=0, le=1e6, description="noise sigma that are white")] = 100.0,
    box: Annotated[str | None, Query(pattern=r"^-?\d+,-?\d+,\d+,\d+$", description="x0,y0,width,height, px")] = None,
) -> Response:
    """One picture of a ccdVisit that is subtracted again with the template of now, as PNG; nothing is stored."""
    part = None if box is None else [int(n) for n in box.split(",")]
    png = viewer_of(request).picture(
        Ledger(shared.database), visit, detector, which=which[:-4], stretch=stretch, span=span, box=part
    )
    return Response(png, media_type=PNG, headers={"Cache-Control": KEEP})


@pictures.get("/v1/sources/{source_id}/stamps/{which}", response_class=Response, responses=kinds(PNG, GIF, SVG))
def stamp(
    source_id: int,
    which: Annotated[
        Literal["science.png", "template.png", "difference.png", "blink.gif", "compass.svg"],
        Path(description="which picture"),
    ],
    shared: Pages,
) -> Response:
    """One cutout of the alert that a DiaSource made, as PNG, or all of them by turns as GIF.

    North is not up: the pixels are those of the detector. ``compass.svg`` lies over a cutout: a bar of arcsec, north and east.
    """
    import numpy as np

    from exposure.preview import blink_gif, grey_png

    packet = _packet(shared, source_id)
    if which == "blink.gif":
        stamps = {name: _cutout(packet, name) for name in _STAMPS.values()}
        images = [(pixels, name == "Difference") for name, pixels in stamps.items() if pixels is not None]
        if not images or len({pixels.shape for pixels, _ in images}) > 1:
            raise NotFound(f"the alert of DiaSource {source_id} has no cutouts of one size")
        headers = {"Cache-Control": KEEP, "Content-Disposition": f'inline; filename="blink_{source_id}.gif"'}
        return Response(blink_gif(images), media_type=GIF, headers=headers)
    if which == "compass.svg":
        return _compass(packet, source_id)
    name = _STAMPS[which]
    pixels = _cutout(packet, name)
    if pixels is None:
        raise NotFound(f"the alert of DiaSource {source_id} has no {name.lower()} cutout")
    png = grey_png(pixels, np.isfinite(pixels), signed=name == "Difference")
    return Response(png, media_type=PNG, headers={"Cache-Control": KEEP})


def _compass(packet: dict[str, Any], source_id: int) -> Response:
    from alerts.views import cutout

    found = cutout(packet, "Difference")
    if found is None or found.wcs is None:
        raise NotFound(f"the alert of DiaSource {source_id} has no cutout that says where north is")
    height, width = found.data.shape
    drawing = compass_svg((width, height), found.wcs.pixel_scale_matrix)
    return Response(drawing, media_type=SVG, headers={"Cache-Control": KEEP})


def _packet(shared: Shared, source_id: int) -> dict[str, Any]:
    """Return the alert of a DiaSource as it is in the archive.

    Raises
    ------
    NotFound
        There is none.
    """
    from alerts.archive.selection import AlertSelection
    from alerts.archive.store import AlertArchive
    from alerts.packets.wire import decode_body

    chosen = AlertSelection(source_id=source_id)
    rows = chosen.rows(shared.database)
    alert = next((a for row in rows for a in chosen.read(AlertArchive(shared.settings.archive_dir), row)), None)
    if alert is None:
        raise NotFound(
            f"no alert of DiaSource {source_id} is in the archive: it waits for a second detection, or is held"
        )
    return decode_body(alert.body, alert.schema_id)


def _cutout(packet: dict[str, Any], name: str) -> "F32 | None":
    """Return the pixels of a cutout of a packet, None where it has none."""
    import numpy as np

    from alerts.views import cutout

    stamp_of = cutout(packet, name)
    return None if stamp_of is None else np.asarray(stamp_of.data, np.float32)
