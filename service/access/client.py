"""The command line as a client of an API elsewhere: address and token from the environment, the token also from a file.

The token is never an argument: arguments of processes are seen by every user of a machine.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from service.access.listening import is_of_this_machine
from service.errors import SettingsError
from service.settings import PREFIX
from tasks.errors import AlertProdError, CallerError, TransientError

__all__ = ["API_URL", "ask", "remote_api", "tell"]

API_URL, TOKEN, TOKEN_FILE = (f"{PREFIX}{name}" for name in ("API_URL", "TOKEN", "TOKEN_FILE"))
TIMEOUT_S = 90.0  # an answer may wait for a visit's end for a minute


def remote_api() -> str | None:
    """Return the address of the API that commands ask instead of the database, None where none is named.

    Raises
    ------
    SettingsError
        No http address; or a token would be sent in the clear over a network.
    """
    url = os.environ.get(API_URL, "").rstrip("/")
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise SettingsError(f"{API_URL}: expected http(s)://host:port, without user or password")
    if parts.scheme == "http" and not is_of_this_machine(parts.hostname) and _token() is not None:
        raise SettingsError(
            f"{API_URL}={url}: the token would be readable on the way: use https, or a tunnel to this machine"
        )
    return url


def _token() -> str | None:
    file = os.environ.get(TOKEN_FILE, "")
    if not file:
        return os.environ.get(TOKEN, "").strip() or None
    try:
        return Path(file).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{TOKEN_FILE}={file}: cannot be read: {getattr(error, 'strerror', 'it is no text')}"
        ) from error


def ask(url: str, path: str, **parameters: Any) -> Any:
    """Return the decoded JSON of a GET; what is None is not asked for.

    Raises
    ------
    CallerError, TransientError
        With the code and text of the problem document.
    """
    return _asked("GET", f"{url}{path}", params={k: v for k, v in parameters.items() if v is not None})


def tell(url: str, path: str, body: Any = None, **headers: str) -> Any:
    """Return the decoded JSON of the answer to a POST; names of headers have underscores for hyphens.

    Raises
    ------
    CallerError, TransientError
        As `ask`.
    """
    return _asked("POST", f"{url}{path}", json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


def _asked(method: str, address: str, *, headers: dict[str, str] | None = None, **more: Any) -> Any:
    import httpx

    token, given = _token(), dict(headers or {})
    if token is not None:
        given["Authorization"] = f"Bearer {token}"
    try:
        reply = httpx.request(method, address, headers=given, timeout=TIMEOUT_S, follow_redirects=False, **more)
        body = reply.json()
    except httpx.HTTPError as error:
        raise TransientError(
            f"{address} does not answer: {type(error).__name__}"
        ) from None  # its request holds the token
    except ValueError:
        raise TransientError(
            f"{address}: status {reply.status_code}, and no JSON: is it an API of alertprod?"
        ) from None
    if 200 <= reply.status_code < 300:
        return body
    kind: type[AlertProdError] = TransientError if reply.status_code >= 500 or reply.status_code == 429 else CallerError
    refusal = kind(str(body.get("detail", "")) if isinstance(body, dict) else "")
    refusal.code = str(body.get("code", kind.code)) if isinstance(body, dict) else kind.code
    raise refusal
