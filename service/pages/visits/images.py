"""The images of a ccdVisit as a part of its page: the page is there at once, they follow when they are made."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from apdb import Ledger
from apdb.queue.states import FINAL_STATES
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading
from service.pages.viewer import viewer_of
from service.pages.visits.page import CLASSES, LookOfImages, metrics_of, row_of, sources_of
from tasks.errors import AlertProdError

__all__ = ["visit_images"]

visit_images = APIRouter(include_in_schema=False, route_class=PageRoute)

SPANS = (10, 30, 100, 300, 1000)


@visit_images.get("/visit/{visit}/{detector}/images")
def images(
    visit: int,
    detector: int,
    request: Request,
    shared: Pages,
    look: LookOfImages,
    again: Annotated[bool, Query(description="subtract again where a difference is stored")] = False,
) -> HTMLResponse:
    """Science, template and difference: the stored one where it is kept; made by another process, never by this request."""
    row = row_of(shared, visit, detector)
    numbers, why = None, ""
    if row["state"] not in FINAL_STATES:
        why = "They are shown when the visit has ended."
    else:
        try:
            numbers = viewer_of(request).soon(
                Ledger(shared.database), visit, detector, *_questions(look.stretch, look.span, look.mask, again)
            )
        except AlertProdError as error:
            why = f"They cannot be shown. {error.code}: {error}"
    with reading(shared.database) as cursor:
        sources = sources_of(cursor, visit, detector, metrics_of(cursor, visit, detector))
    return page(
        request, "images.html", row=row, numbers=None if numbers is None else numbers["numbers"], why=why, sources=sources,
        classes=CLASSES, class_words=dict(CLASSES), stretch=look.stretch, span=look.span, mask=look.mask, spans=SPANS, again=again,
        again_address=f"{request.url.path}?stretch={look.stretch}&span={look.span:g}&mask={str(look.mask).lower()}&again=true",
    )  # fmt: skip


def _questions(stretch: str, span: float, mask: bool, again: bool) -> list[dict[str, Any]]:
    """What is made before the page shows it: every picture on it, then the size of the image."""
    plates = [("science", span), ("template", span), ("difference", span / 10)]
    asked = [{"what": "picture", "which": w, "stretch": stretch, "span": s, "box": None} for w, s in plates]
    if mask:
        asked.append({"what": "picture", "which": "mask", "stretch": "asinh", "span": 100.0, "box": None})
    if again:
        others = (("kernel", 100.0), ("psf", 100.0), ("stars", 100.0), ("score", 10.0))
        asked += [{"what": "picture", "which": w, "stretch": "asinh", "span": s, "box": None} for w, s in others]
    return [*asked, {"what": "numbers"}]
