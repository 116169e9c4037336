"""Stored difference images for the Virtual Observatory: what there is of a ccdVisit (DataLink 1.0), cutouts (SODA 1.0), files."""

import re
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from xml.sax.saxutils import escape, quoteattr

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response

from apdb.errors import NotFound
from service.api.documentation.described import PROBLEM_KIND, form_of, parameters_of
from service.api.resources import Resources, Shared
from service.media import FITS, PNG, VOTABLE, kinds
from service.pages.viewer import viewer_of
from service.product_files import difference_path
from tasks.errors import AlertProdError

__all__ = ["stored_images"]

stored_images = APIRouter(prefix="/v1", tags=["reads"])

MOST_IDS = 100
_ID = re.compile(r"(?:ivo://alertprod/difference\?)?(\d{1,18})/(\d{1,5})")
_FIELDS = (
    ("ID", "meta.id;meta.main", 'datatype="char" arraysize="*"'), ("access_url", "meta.ref.url", 'datatype="char" arraysize="*"'),
    ("service_def", "meta.ref", 'datatype="char" arraysize="*"'), ("error_message", "meta.code.error", 'datatype="char" arraysize="*"'),
    ("description", "meta.note", 'datatype="char" arraysize="*"'), ("semantics", "meta.code", 'datatype="char" arraysize="*"'),
    ("content_type", "meta.code.mime", 'datatype="char" arraysize="*"'),
    ("content_length", "phys.size;meta.file", 'datatype="long" unit="byte"'),
)  # fmt: skip
_SODA = (
    '<RESOURCE type="meta" ID="soda" utype="adhoc:service"><PARAM name="standardID" datatype="char" arraysize="*" '
    'value="ivo://ivoa.net/std/SODA#sync-1.0"/><PARAM name="accessURL" datatype="char" arraysize="*" value={url}/>'
    '<GROUP name="inputParams"><PARAM name="ID" datatype="char" arraysize="*" value={id} ucd="meta.id;meta.dataset"/>'
    '<PARAM name="CIRCLE" datatype="double" arraysize="3" unit="deg" ucd="pos.outline;obs" xtype="circle" value=""/>'
    '<PARAM name="POLYGON" datatype="double" arraysize="*" unit="deg" ucd="pos.outline;obs" xtype="polygon" value=""/>'
    '<PARAM name="POS" datatype="char" arraysize="*" ucd="pos.outline;obs" value=""/></GROUP></RESOURCE>'
)
_NAME = {"type": "string", "description": "VISIT/DETECTOR", "example": "24020103652/3"}
_PART: dict[str, dict[str, Any]] = {
    "ID": {**_NAME, "required": True},
    "CIRCLE": {"type": "string", "description": "ra dec radius, ICRS degrees", "example": "150.1 2.2 0.01"},
    "POLYGON": {"type": "string", "description": "ra dec of three corners or more, ICRS degrees"},
    "POS": {"type": "string", "description": "CIRCLE, POLYGON or RANGE (ra from, to, dec from, to) and its numbers"},
}  # fmt: skip
_PARTS = (
    kinds(FITS) | {204: {"description": "Nothing of the image lies there"}}
    | kinds("text/plain", PROBLEM_KIND, status=400, words="No region, or several")
)  # fmt: skip
_SHAPES = {"CIRCLE": (3, 3), "RANGE": (4, 4), "POLYGON": (6, 200)}


async def _parameters(request: Request) -> list[tuple[str, str]]:
    """Parameters by upper-case name, of the address and of a form, each as often as it was given."""
    given = [(k.upper(), v) for k, v in request.query_params.multi_items()]
    if request.method == "POST":
        given += [(k.upper(), v) for k, v in (await request.form()).multi_items() if isinstance(v, str)]
    return given


Given = Annotated[list[tuple[str, str]], Depends(_parameters)]


@stored_images.get(
    "/datalink", response_class=Response, responses=kinds(VOTABLE), openapi_extra=parameters_of(ID=_NAME)
)
@stored_images.post("/datalink", response_class=Response, responses=kinds(VOTABLE), openapi_extra=form_of(ID=_NAME))
def links(request: Request, shared: Shared, given: Given) -> Response:
    """What there is of ccdVisits: the stored difference, a preview, its sources, and where cutouts are made (ID=VISIT/DETECTOR)."""
    base = str(request.base_url).rstrip("/")
    ids = [v for k, v in given if k == "ID"][:MOST_IDS]
    rows = [row for name in ids for row in _rows(shared, base, name)]
    fields = "".join(f'<FIELD name="{n}" ucd="{u}" {kind}/>' for n, u, kind in _FIELDS)
    body = "".join(f"<TR>{''.join(f'<TD>{escape(str(v))}</TD>' for v in row)}</TR>" for row in rows)
    soda = _SODA.format(url=quoteattr(f"{base}/v1/soda/sync"), id=quoteattr(ids[0] if len(ids) == 1 else ""))
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
        '<RESOURCE type="results"><INFO name="QUERY_STATUS" value="OK"/><INFO name="standardID" '
        f'value="ivo://ivoa.net/std/DataLink#links-1.0"/><TABLE>{fields}<DATA><TABLEDATA>{body}</TABLEDATA></DATA></TABLE>'
        f"</RESOURCE>{soda}</VOTABLE>\n"
    )
    return Response(text, media_type=f"{VOTABLE};content=datalink")


def _rows(shared: Resources, base: str, name: str) -> Iterator[tuple[Any, ...]]:
    try:
        visit, detector, path = _stored(shared, name)
    except AlertProdError as error:
        yield name, "", "", f"NotFoundFault: {error}", "", "#this", "", ""
        return
    of = f"{base}/v1/visits/{visit}/{detector}"
    file = f"{base}/v1/images/{visit}/{detector}/difference.fits"
    yield name, file, "", "", "the difference image", "#this", FITS, path.stat().st_size
    yield name, "", "soda", "", "cutouts of the difference image", "#cutout", FITS, ""
    yield name, f"{of}/images/difference.png", "", "", "a picture of it", "#preview", PNG, ""
    yield name, f"{of}/sources?format=votable", "", "", "its detections", "#derivation", VOTABLE, ""


def _stored(shared: Resources, name: str) -> tuple[int, int, Path]:
    """Return visit, detector and the file of an identifier.

    Raises
    ------
    NotFound
        Nothing is stored under it.
    """
    match = _ID.fullmatch(name.strip())
    if match is None:
        raise NotFound(f"{name[:100]!r} is no identifier: VISIT/DETECTOR is expected")
    visit, detector = int(match[1]), int(match[2])
    row = shared.ledger.get(visit, detector) if detector < 1 << 15 else None
    if row is None:
        raise NotFound(f"visit {visit}, detector {detector} never came")
    directory = shared.settings.products_dir
    path = None if directory is None else difference_path(directory, visit, detector, row["attempt"])
    if path is None or not path.is_file():
        raise NotFound(
            f"the difference image of visit {visit}, detector {detector} is not stored (ALERTPROD_PRODUCTS_DIR)"
        )
    return visit, detector, path


@stored_images.get("/images/{visit}/{detector}/difference.fits", response_class=Response, responses=kinds(FITS))
def whole(visit: int, detector: int, shared: Shared) -> Response:
    """The stored difference image of a ccdVisit: pixels, mask, variance, PSF, WCS."""
    path = _stored(shared, f"{visit}/{detector}")[2]
    return FileResponse(path, media_type=FITS, filename=path.name)


@stored_images.get("/soda/sync", response_class=Response, responses=_PARTS, openapi_extra=parameters_of(**_PART))
@stored_images.post("/soda/sync", response_class=Response, responses=_PARTS, openapi_extra=form_of(**_PART))
def cutout(request: Request, shared: Shared, given: Given) -> Response:
    """A part of a stored difference image as FITS: ID, and one of CIRCLE, POLYGON, POS (ICRS, degrees)."""
    ids = [v for k, v in given if k == "ID"]
    try:
        region = region_of([(k, v) for k, v in given if k in ("CIRCLE", "POLYGON", "POS")])
        if len(ids) != 1:
            raise ValueError(f"one ID is wanted, not {len(ids)}")
    except ValueError as error:
        return PlainTextResponse(f"UsageFault: {error}", 400)
    visit, detector, _ = _stored(shared, ids[0])
    answer = viewer_of(request).ask(shared.ledger, visit, detector, what="cutout", region=region)
    if answer["fits"] is None:
        return Response(status_code=204)
    name = f"difference_{visit}_{detector}_cutout.fits"
    return Response(
        b64decode(answer["fits"]), media_type=FITS, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


def region_of(given: list[tuple[str, str]]) -> list[float]:
    """Return the numbers of a region (`service.processing.looking.regions.box_of_region`).

    Raises
    ------
    ValueError
        None, several, or one that makes no sense; the text says why.
    """
    if len(given) != 1:
        raise ValueError("one of CIRCLE, POLYGON, POS is wanted, once")
    name, text = given[0]
    words = text.split()
    shape = name if name != "POS" else (words.pop(0).upper() if words else "")
    if shape not in _SHAPES:
        raise ValueError(f"POS begins with {', '.join(_SHAPES)}")
    least, most = _SHAPES[shape]
    try:
        numbers = [float(w) for w in words]
    except ValueError:
        raise ValueError(f"{shape} wants numbers, degrees") from None
    if not least <= len(numbers) <= most or (shape == "POLYGON" and len(numbers) % 2):
        raise ValueError(f"{shape} wants {least if least == most else 'three corners or more, two'} numbers")
    if not all(abs(n) <= 360 for n in numbers) or (shape == "CIRCLE" and not 0 < numbers[2] <= 10):
        raise ValueError(f"{shape} holds what is no place, or a radius that is not from 0 to 10 degrees")
    return numbers
