"""From a template and its values to an answer: escaping, security headers, formats of numbers, pages of errors."""

import gzip
import json
import logging
import secrets
import zlib
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response, StreamingResponse
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
PACKED = 3  # how hard is tried
# Where a template says `flush`, what is above goes out before what is below is made. No text from elsewhere is like it.
_FLUSH = secrets.token_hex(16)
_log = logging.getLogger("alertprod.api")
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
        asset=asset_path, available=available, flush=_FLUSH, version=version("alertprod"), help_path=help_path, remedy=_remedies().get,
        unit=unit, meaning=meaning,
    )  # fmt: skip
    return environment


def page(request: Request, template: str, answer_status: int = 200, **values: Any) -> Response:
    """Return a page; one whose template says ``flush`` goes out in parts, each when it is made.

    What is refused is found out above the first ``flush``, for the status goes out with the first part; what fails below is told there.
    A page that renews itself is made whole: what fails has its own status, and what is on the screen stays.

    Parameters
    ----------
    template
        Name of a file below ``templates``.
    values
        What it shows, all text is escaped; or, for what is below a ``flush``, a function that the template calls there.
    """
    pieces = _environment().get_template(template).generate({**_common(request), **values})
    if "hx-request" in request.headers:
        pieces = iter(["".join(piece for piece in pieces if piece != _FLUSH)])
    text, ended = _until_flush(pieces)
    headers = {"Content-Security-Policy": POLICY, "Vary": "Accept-Encoding"}
    content = text.encode()
    packs = takes_gzip(request) and (len(content) > LEAST_PACKED or not ended)
    if packs:
        headers["Content-Encoding"] = "gzip"
    if ended:
        return HTMLResponse(gzip.compress(content, PACKED, mtime=0) if packs else content, answer_status, headers)
    return StreamingResponse(_in_parts(request, text, pieces, packs), answer_status, headers, "text/html")


def _common(request: Request) -> dict[str, Any]:
    """Return what every page shows."""
    principal: Principal | None = getattr(request.state, "principal", None)
    cookie = cookie_of(request.scope["headers"])
    by_cookie = principal is not None and principal.by_cookie
    return {
        "path": request.url.path,
        "address": _address(request),
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


def _address(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _until_flush(pieces: Iterator[str]) -> tuple[str, bool]:
    """Return the text as far as the next ``flush``, and whether it is the last."""
    text: list[str] = []
    for piece in pieces:
        if piece == _FLUSH:
            return "".join(text), False
        text.append(piece)
    return "".join(text), True


def _in_parts(request: Request, text: str, pieces: Iterator[str], packs: bool) -> Iterator[bytes]:
    """Yield a page whose first part is made; what fails ends it with the words that a page of errors has."""
    packer = zlib.compressobj(PACKED, wbits=31) if packs else None  # 31: as gzip
    ended = False
    while True:
        content = text.encode()
        if packer is not None:
            content = packer.compress(content) + packer.flush(zlib.Z_FINISH if ended else zlib.Z_SYNC_FLUSH)
        yield content
        if ended:
            return
        try:
            text, ended = _until_flush(pieces)
        except Exception as error:
            text, ended = _broken_off(request, error), True


def _broken_off(request: Request, error: Exception) -> str:
    refusal = _refusal(error)
    if refusal is None:
        _log.error("a page broke off", exc_info=error, extra={"request_id": request.scope["state"]["request_id"]})
        refusal = (
            500,
            "internal",
            "a fault of this program: the log of the service has more under the X-Request-ID of this answer",
        )
    parts: Any = _environment().get_template("parts.html").make_module({"docs": _common(request)["docs"]})
    return str(parts.trouble(*refusal, _address(request)))


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
            except RequestValidationError as error:
                text = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors()[:10])
                return _error_page(request, 422, "bad_query", text)
            except (AlertProdError, psycopg.DataError, psycopg.errors.QueryCanceled) as error:
                refusal = _refusal(error)
                if refusal is None:
                    raise
                return _error_page(request, *refusal)

        return answer


def _refusal(error: Exception) -> tuple[int, str, str] | None:
    """Return status, code and text of an error that is no fault of this program, None of any other."""
    if isinstance(error, AlertProdError):
        return 404 if isinstance(error, NotFound) else 503 if error.retriable else 422, error.code, str(error)
    if isinstance(error, psycopg.DataError):
        return 422, "bad_query", first_line(error)
    if isinstance(error, psycopg.errors.QueryCanceled):
        return 503, "busy", "the question took longer than a page may: ask for less"
    return None


def _error_page(request: Request, status: int, code: str, text: str) -> Response:
    titles = {404: "It is not there", 422: "The request makes no sense", 503: "Not now"}
    answer = page(
        request, "error.html", status, title=titles[status], code=code, text=text, help=help_path(code), status=status
    )
    if status == 503:
        answer.headers["Retry-After"] = "5"
    return answer
