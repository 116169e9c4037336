"""The page of the sky, the counts that it draws, and the comparison with a map of others."""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi.responses import Response

from apdb.errors import BadQuery
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, need_answer
from service.pages.survey.density import DAYS, KINDS, MOST, Density, DensityCache
from service.pages.survey.overlap import overlap

__all__ = ["sky_counts", "sky_pages"]

sky_pages = APIRouter(include_in_schema=False, route_class=PageRoute)
sky_counts = APIRouter(tags=["pages"])

DENSEST = 20
MOST_BYTES = 64 << 20  # of a map
_CACHE = DensityCache()
Kind = Literal["objects", "detections", "visits"]
Order = Annotated[int | None, Query(ge=0, le=14, description="of the HEALPix cells; by default what suits the counts")]


@sky_pages.get("/sky")
def sky(request: Request, shared: Pages, of: Kind = "objects") -> Response:
    """What is where."""
    need_answer(shared.database)
    return page(request, "sky.html", of=of, kinds=KINDS, days=DAYS, most=MOST, rest=lambda: _rest(shared, of))


def _rest(shared: Pages, of: Kind) -> dict[str, Any]:
    density = _CACHE.of(shared, of, None)
    return {"density": density, "densest": _densest(density), "side": _side(density.order)}


def _side(order: int) -> float:
    """Side of a cell, arcsec."""
    return float(3600 * np.degrees(np.sqrt(np.pi / 3)) / 2**order)


def _densest(density: Density) -> list[dict[str, Any]]:
    import hpgeom

    best = np.argsort(-density.counts, kind="stable")[:DENSEST]
    if not best.size:
        return []
    ra, dec = hpgeom.pixel_to_angle(1 << density.order, density.cells[best], nest=True, lonlat=True)
    return [
        {"cell": int(c), "count": int(n), "ra": float(a), "dec": float(d)}
        for c, n, a, d in zip(density.cells[best], density.counts[best], ra, dec, strict=True)
    ]


@sky_counts.get("/v1/sky/density")
def counts(
    shared: Pages, of: Annotated[Kind, Query(description="what is counted")] = "objects", order: Order = None
) -> dict[str, Any]:
    """Objects, valid detections of the 30 days before the newest exposure or finished ccdVisits on HEALPix cells (nested, ICRS), with the cells' corners."""
    return _CACHE.of(shared, of, order).as_dict()


@sky_counts.post("/v1/sky/overlap")
def compare(
    shared: Pages,
    map_file: Annotated[
        UploadFile, File(alias="map", description="FITS or JSON file, 64 MiB at most; nothing of it is kept")
    ],
) -> dict[str, Any]:
    """How much of a map (a MOC as FITS or JSON, a multi-order sky map) processed visits cover; nothing is stored."""
    content = map_file.file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise BadQuery(f"the map is larger than {MOST_BYTES >> 20} MB: make it coarser")
    return overlap(shared.database, content)
