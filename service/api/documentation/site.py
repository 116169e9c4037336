"""The built documentation (``make docs``) below ``/docs/``, where the settings name its folder; nothing comes from elsewhere."""

import base64
import hashlib
import mimetypes
import re
from pathlib import Path

from fastapi import APIRouter, Response

from apdb.errors import NotFound
from service.api.resources import Shared

__all__ = ["site"]

site = APIRouter(include_in_schema=False)
_INLINE = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


@site.get("/docs/{path:path}")
def page(path: str, shared: Shared) -> Response:
    """A file of the built documentation; a folder's is its ``index.html``."""
    folder = shared.settings.docs_dir
    file = None if folder is None else _file(folder, path)
    if file is None:
        raise NotFound(
            f"no page {path!r} of the documentation: 'make docs' builds it, ALERTPROD_DOCS_DIR names its folder"
        )
    data = file.read_bytes()
    media = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    headers = {"Content-Security-Policy": _policy(data.decode(errors="replace"))} if media == "text/html" else {}
    return Response(data, media_type=media, headers=headers)


def _file(folder: Path, path: str) -> Path | None:
    """Return the file of a path below the folder; None where there is none, or it leads out of it."""
    root = folder.resolve()
    wanted = (root / path).resolve()
    wanted = wanted / "index.html" if wanted.is_dir() else wanted
    return wanted if wanted.is_relative_to(root) and wanted.is_file() else None


def _policy(text: str) -> str:
    """Return the policy of a page: files of this host, and the scripts that stand in the page itself, by their hashes."""
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in _INLINE.findall(text)}
    scripts = " ".join(["'self'", *(f"'sha256-{d}'" for d in sorted(digests))])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
