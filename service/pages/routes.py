"""Every page in one place: what the application adds to the API."""

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import Response

from service.pages.assets import assets
from service.pages.kept import COUNTED_S, Kept
from service.pages.live import live
from service.pages.nights.page import night_pages
from service.pages.objects.curve import curves
from service.pages.objects.page import object_pages
from service.pages.pictures import pictures
from service.pages.render import PageRoute, page
from service.pages.scanning.labels import labels
from service.pages.scanning.page import scanning_pages
from service.pages.search import search_pages
from service.pages.stored import database_pages
from service.pages.streams import stream_pages
from service.pages.survey.sky import sky_counts, sky_pages
from service.pages.survey.solar import solar_pages
from service.pages.survey.trends import trend_pages
from service.pages.visits.images import visit_images
from service.pages.visits.page import visit_pages
from service.pages.why import why_pages

__all__ = ["add_pages"]

_others = APIRouter(include_in_schema=False, route_class=PageRoute)


def add_pages(app: FastAPI, problems: dict[int | str, dict[str, Any]]) -> None:
    """Let an application answer with the pages of the dashboard; `problems` describes what every path may answer."""
    app.state.kept, app.state.counted = Kept(), Kept(COUNTED_S)
    for router in (
        night_pages,
        visit_pages,
        visit_images,
        object_pages,
        why_pages,
        stream_pages,
        database_pages,
        search_pages,
        sky_pages,
        sky_counts,
        trend_pages,
        solar_pages,
        scanning_pages,
        labels,
        pictures,
        curves,
        live,
        assets,
        _others,
    ):
        app.include_router(router, responses=problems)


@_others.get("/sign-in")
def sign_in(request: Request, following: Annotated[str, Query(alias="next", max_length=2000)] = "/") -> Response:
    """Where a person shows a token, for which a session begins."""
    return page(request, "sign-in.html", following=following)


@_others.get("/keys")
def keys(request: Request) -> Response:
    """Which keys do what."""
    return page(request, "keys.html")
