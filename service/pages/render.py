"""From a template and its values to an answer: escaping, security headers, formats of numbers, pages of errors."""

import gzip
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from apdb.database import first_line
from apdb.errors import NotFound
from service.access.keys import cookie_of
from service.access.principals import Principal
from service.access.sessions import csrf_word
from service.errors import help_path
from service.pages.assets import asset_path, available, takes_gzip
from service.pages.shared import resources_of
from service.pages.visits.meanings import meaning, unit
from service.pages.words import FILTERS
from tasks.errors import AlertProdError

__all__ = ["PageRoute", "page", "part"]

POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "img-src 'self' data:"
)
# Bytes. That the length of what is packed tells of the word of a session needs requests of other sites that carry the cookie:
# it is given to none of them (SameSite=Strict).
LEAST_PACKED = 2000
NAVIGATION = (
    ("/", "Night"),
    ("/why", "Why?"),
    ("/streams", "Streams"),
    ("/sky", "Sky"),
    ("/trends", "Trends"),
    ("/solar", "Solar system"),
    ("/scan", "Scanning"),
    ("/database", "Database"),
)


@cache
def _remedies() -> dict[str, str]:
    """What to do by the code of an error: `tools/remedies.py` takes it from the documentation."""
    found: dict[str, str] = json.loads((Path(__file__).parent / "remedies.json").read_text(encoding="utf-8"))
    return found


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(
        asset=asset_path, available=available, version=version("alertprod"), help_path=help_path, remedy=_remedies().get,
        unit=unit, meaning=meaning,
    )  # fmt: skip
    return environment


def page(request: Request, template: str, answer_status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page.

    Parameters
    ----------
    template
        Name of a file below ``templates``.
    values
        What it shows; all text is escaped.
    """
    principal: Principal | None = getattr(request.state, "principal", None)
    cookie = cookie_of(request.scope["headers"])
    by_cookie = principal is not None and principal.by_cookie
    common = {
        "path": request.url.path,
        "address": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "navigation": NAVIGATION,
        "principal": None if principal is None else principal.name,
        "may_operate": principal is not None and principal.may(("operate",)),
        "by_cookie": by_cookie,
        "csrf": csrf_word(cookie) if by_cookie and cookie else "",
        "now": datetime.now(UTC),
        "seen": "",
        "docs": resources_of(request).settings.docs_dir is not None,
        "theme": theme if (theme := request.cookies.get("theme")) in ("dark", "light") else "",
    }
    content = _environment().get_template(template).render({**common, **values}).encode()
    headers = {"Content-Security-Policy": POLICY, "Vary": "Accept-Encoding"}
    if takes_gzip(request) and len(content) > LEAST_PACKED:
        content, headers["Content-Encoding"] = gzip.compress(content, 3, mtime=0), "gzip"
    return HTMLResponse(content, answer_status, headers)


def part(request: Request, template: str, **values: Any) -> str:
    """Return a part of a page that is the same for everybody who may read it, escaped: its page shows it as it is."""
    docs = resources_of(request).settings.docs_dir is not None
    return _environment().get_template(template).render(docs=docs, **values)


class PageRoute(APIRoute):
    """A route whose errors are pages for people, with the same codes as the problem documents of the API."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that answers errors with pages."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except AlertProdError as error:
                status = 404 if isinstance(error, NotFound) else 503 if error.retriable else 422
                return _error_page(request, status, error.code, str(error))
            except psycopg.DataError as error:
                return _error_page(request, 422, "bad_query", first_line(error))
            except psycopg.errors.QueryCanceled:
                return _error_page(request, 503, "busy", "the question took longer than a page may: ask for less")
            except RequestValidationError as error:
                text = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors()[:10])
                return _error_page(request, 422, "bad_query", text)

        return answer


def _error_page(request: Request, status: int, code: str, text: str) -> Response:
    titles = {404: "It is not there", 422: "The request makes no sense", 503: "Not now"}
    answer = page(
        request, "error.html", status, title=titles[status], code=code, text=text, help=help_path(code), status=status
    )
    if status == 503:
        answer.headers["Retry-After"] = "5"
    return answer
