"""The images of a ccdVisit as a part of its page: the page is there at once, they follow when they are made."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from apdb import Ledger
from apdb.queue.states import FINAL_STATES
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading
from service.pages.viewer import viewer_of
from service.pages.visits.classes import CLASS_WORDS, CLASSES
from service.pages.visits.page import Look, LookOfImages, metrics_of, row_of, sources_of
from tasks.errors import AlertProdError

__all__ = ["visit_images"]

visit_images = APIRouter(include_in_schema=False, route_class=PageRoute)

SPANS = (10, 30, 100, 300, 1000)
WHOLE = 1024  # px: larger images are reduced to that (`service.processing.looking.looks`), and shown in parts of it


@visit_images.get("/visit/{visit}/{detector}/images")
def images(
    visit: int,
    detector: int,
    request: Request,
    shared: Pages,
    look: LookOfImages,
    again: Annotated[bool, Query(description="subtract again where a difference is stored")] = False,
) -> Response:
    """Science, template and difference: the stored one where it is kept; made by another process, never by this request."""
    row = row_of(shared, visit, detector)
    numbers, why = None, ""
    if row["state"] not in FINAL_STATES:
        why = "They are shown when the visit has ended."
    else:
        try:
            numbers = viewer_of(request).soon(Ledger(shared.database), visit, detector, *_questions(look, again))
        except AlertProdError as error:
            why = f"They cannot be shown. {error.code}: {error}"
    found = None if numbers is None else numbers["numbers"]
    with reading(shared.database) as cursor:
        metrics = metrics_of(cursor, visit, detector)
        sources = sources_of(cursor, visit, detector, metrics)
    return page(
        request, "images.html", row=row, numbers=found, why=why, sources=sources,
        classes=CLASSES, class_words=CLASS_WORDS, stretch=look.stretch, span=look.span, mask=look.mask, spans=SPANS, again=again, part=look.part, fwhm=(found or {}).get("scienceFwhm") or metrics.get("psfFwhm"), shown=found and _shown(found, look.part), parts=found and _parts(found),
        again_address=f"{request.url.path}?stretch={look.stretch}&span={look.span:g}&mask={str(look.mask).lower()}{f'&part={look.part}' if look.part else ''}&again=true",
    )  # fmt: skip


def _shown(numbers: dict[str, Any], part: str | None) -> dict[str, int]:
    """Return what of the image is shown: the part, moved and made smaller so that it lies on the image (as its pictures are)."""
    whole = {k: int(numbers[k]) for k in ("x0", "y0", "width", "height")}
    if part is None:
        return whole
    x0, y0, width, height = (int(n) for n in part.split(","))
    width, height = min(max(width, 1), whole["width"]), min(max(height, 1), whole["height"])
    return {
        "x0": min(max(x0, whole["x0"]), whole["x0"] + whole["width"] - width),
        "y0": min(max(y0, whole["y0"]), whole["y0"] + whole["height"] - height),
        "width": width, "height": height,
    }  # fmt: skip


def _parts(numbers: dict[str, Any]) -> list[list[tuple[int, int, int, int]]]:
    """Return (x0, y0, width, height) of the parts of an image by rows, the highest first; none where the whole has full resolution."""
    x0, y0, width, height = (int(numbers[k]) for k in ("x0", "y0", "width", "height"))
    if max(width, height) <= WHOLE:
        return []
    return [
        [(x0 + x, y0 + y, min(WHOLE, width - x), min(WHOLE, height - y)) for x in range(0, width, WHOLE)]
        for y in reversed(range(0, height, WHOLE))
    ]


def _questions(look: Look, again: bool) -> list[dict[str, Any]]:
    """What is made before the page shows it: every picture on it, then the size of the image."""
    box = None if look.part is None else [int(n) for n in look.part.split(",")]
    plates = [("science", look.span), ("template", look.span), ("difference", look.span / 10)]
    asked = [{"what": "picture", "which": w, "stretch": look.stretch, "span": s, "box": box} for w, s in plates]
    if look.mask:
        asked.append({"what": "picture", "which": "mask", "stretch": "asinh", "span": 100.0, "box": box})
    if again:
        others = (("kernel", 100.0), ("psf", 100.0), ("stars", 100.0), ("score", 10.0))
        asked += [{"what": "picture", "which": w, "stretch": "asinh", "span": s, "box": None} for w, s in others]
    return [*asked, {"what": "numbers"}]
