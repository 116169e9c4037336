"""Files that pages load: style sheet, scripts of ours and of others, from this folder alone, each named with its digest."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

__all__ = ["asset_path", "assets", "available", "takes_gzip"]

assets = APIRouter(include_in_schema=False)

_HERE = Path(__file__).parent
VENDOR = _HERE / "vendor"
_FILES = {
    "app.css": _HERE / "static" / "app.css",
    "app.js": _HERE / "static" / "app.js",
    "curve.js": _HERE / "static" / "curve.js",
    "visit.js": _HERE / "static" / "visit.js",
    "sky.js": _HERE / "static" / "sky.js",
    "scan.js": _HERE / "static" / "scan.js",
    "sign-in.js": _HERE / "static" / "sign-in.js",
    "icon.svg": _HERE / "static" / "icon.svg",
    "htmx.min.js": VENDOR / "htmx.min.js",
    "uplot.min.js": VENDOR / "uPlot.iife.min.js",
    "uplot.min.css": VENDOR / "uPlot.min.css",
    "inter.woff2": VENDOR / "inter.woff2",
    "jetbrains-mono.woff2": VENDOR / "jetbrains-mono.woff2",
}
_FONTS = {
    "Inter": "inter.woff2",
    "JetBrains Mono": "jetbrains-mono.woff2",
}  # letters of all machines; text is shown before they are there
_FACE = (
    '@font-face {{ font-family: "{0}"; src: url("{1}") format("woff2"); font-weight: 100 900; font-display: swap; }}\n'
)
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".woff2": "font/woff2"}


@dataclass(frozen=True)
class _Asset:
    content: bytes
    packed: bytes | None
    media: str
    tag: str


@cache
def _asset(name: str) -> _Asset | None:
    """Return a file by its name, None where set-up has not fetched it."""
    path = _FILES.get(name)
    if path is None or not path.is_file():
        return None
    content = path.read_bytes()
    if name == "app.css":
        faces = [_FACE.format(family, asset_path(font)) for family, font in _FONTS.items() if available(font)]
        content = "".join(faces).encode() + content
    packed = None if path.suffix == ".woff2" else gzip.compress(content, mtime=0)
    return _Asset(content, packed, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:12])


def available(name: str) -> bool:
    """Whether a file is there: what others wrote is fetched by set-up, which may have found no npm."""
    return _asset(name) is not None


def asset_path(name: str) -> str:
    """Return the address of a file; another content has another address."""
    asset = _asset(name)
    return f"/assets/{name}" if asset is None else f"/assets/{name}?{asset.tag}"


@assets.get("/assets/{name}")
async def give(name: str, request: Request) -> Response:
    """Give one file, for good where it is asked for with its digest."""
    asset = _asset(name)
    if asset is None:
        return PlainTextResponse(f"there is no asset {name[:80]}\n", 404)
    keep = "public, max-age=31536000, immutable" if request.url.query == asset.tag else "no-cache"
    headers = {"Cache-Control": keep, "ETag": f'"{asset.tag}"', "Vary": "Accept-Encoding"}
    if headers["ETag"] in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    if asset.packed is not None and takes_gzip(request):
        return Response(asset.packed, media_type=asset.media, headers={**headers, "Content-Encoding": "gzip"})
    return Response(asset.content, media_type=asset.media, headers=headers)


def takes_gzip(request: Request) -> bool:
    """Whether who asks can unpack what was packed with gzip."""
    words = request.headers.get("Accept-Encoding", "").replace(" ", "").split(",")
    return "gzip" in words or any(w.startswith("gzip;") and not w.endswith(("=0", "=0.0")) for w in words)
