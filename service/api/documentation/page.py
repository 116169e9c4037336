"""What the API answers, as a page and as an OpenAPI document; nothing is fetched from elsewhere, and no script runs."""

import base64
import hashlib
from functools import cache
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from service.api.documentation.described import describe_access

__all__ = ["documentation"]

documentation = APIRouter(include_in_schema=False)

_STYLE = (
    "body{font:16px/1.4 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h3{font:1rem monospace;margin:1.5rem 0 .2rem}b{display:inline-block;min-width:4rem}"
    "table{border-collapse:collapse;margin:.5rem 0}td{padding:.1rem 1rem .1rem 0;vertical-align:top}"
    "td:first-child{font-family:monospace}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@documentation.get("/openapi.json")
def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    app: FastAPI = request.app
    return JSONResponse(describe_access(app))


@documentation.get("/docs")
def page(request: Request) -> Response:
    """The page."""
    app: FastAPI = request.app
    return HTMLResponse(_page(app), headers={"Content-Security-Policy": _POLICY})


@cache
def _page(app: FastAPI) -> str:
    document = describe_access(app)
    parts = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>alertprod</title><style>{_STYLE}</style></head>'
        f"<body><h1>alertprod {escape(document['info']['version'])}</h1><p>{escape(document['info']['description'])} "
        'For programs: <a href="openapi.json">openapi.json</a>.</p>'
    ]
    tag = None
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation.get("tags", [""])[0] != tag:
                tag = operation.get("tags", [""])[0]
                parts.append(f"<h2>{escape(tag)}</h2>")
            parts.append(_operation(method, path, operation))
    return "".join([*parts, "</body></html>"])


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    words = operation.get("description") or operation.get("summary", "")
    bodies = ", ".join(operation.get("requestBody", {}).get("content", {}))
    rows = [(p["name"], p["in"], p.get("description") or "") for p in operation.get("parameters", [])]
    rows += [("body", bodies, "")] if bodies else []
    rows += (
        [("token", "header", f"with the scope {' or '.join(operation['x-scopes'])}")] if "x-scopes" in operation else []
    )
    cells = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
    return f"<h3><b>{method.upper()}</b> {escape(path)}</h3><p>{escape(words)}</p><table>{cells}</table>"
