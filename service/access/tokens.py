"""Opaque tokens: 256 random bits, of which only the SHA-256 is kept (they cannot be guessed, so no slow hash is needed)."""

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path

from apdb import Database
from apdb.access.tokens import add_token, find_token
from service.access.principals import SCOPES, Principal
from service.errors import SettingsError, Unauthenticated
from tasks.errors import CallerError

__all__ = ["FILE_PRINCIPAL", "FileToken", "TokenBook", "digest", "make_token"]

PREFIX, SESSION_PREFIX = "alp_", "als_"  # let searches for leaked secrets find them
KEPT_S = 5.0  # how long a revoked token may still be taken: what was looked up is not looked up again for so long
KEPT = 4096  # tokens
FILE_PRINCIPAL = "file:admin"
_RANDOM = re.compile(r"[A-Za-z0-9_-]{43}")
_OF_FILE = re.compile(r"[A-Za-z0-9_.~+/=-]{43,512}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
MOST_DAYS = 3660.0
_log = logging.getLogger("alertprod.access")


def digest(token: str) -> bytes:
    """Return the SHA-256 of a token."""
    return hashlib.sha256(token.encode()).digest()


def make_token(database: Database, name: str, scopes: list[str], days: float, by: str) -> tuple[str, str]:
    """Make a token and enter its hash.

    Returns
    -------
    token_id, token
        The token is nowhere else, and cannot be shown again.

    Raises
    ------
    CallerError
        A name, scope or time that cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise CallerError(
            f"name {name!r}: expected up to 64 letters, digits and . _ @ - , beginning with a letter or digit"
        )
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise CallerError(f"scopes {', '.join(unknown) or 'none'}: expected some of {', '.join(SCOPES)}")
    if not 0 < days <= MOST_DAYS:
        raise CallerError(f"{days} days: expected more than 0 and at most {MOST_DAYS:.0f}")
    token_id, token = secrets.token_hex(4), PREFIX + secrets.token_urlsafe(32)
    with database.session() as connection:
        add_token(connection, token_id, name, digest(token), sorted(set(scopes), key=SCOPES.index), days, by)
    return token_id, token


class FileToken:
    """A token of all scopes in a file, such as a mounted secret; the file may be replaced while the service runs.

    Parameters
    ----------
    path
        One line: at least 43 letters, digits and ``_ . ~ + / = -`` (256 random bits, as ``openssl rand -hex 32`` gives).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._digest = b""
        self.current()

    def current(self) -> bytes:
        """Return the SHA-256 of what the file holds now.

        Raises
        ------
        SettingsError
            There is none, or it holds no token; nothing of what it holds is shown.
        """
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                token = self._path.read_text(encoding="utf-8").strip()
                if not _OF_FILE.fullmatch(token):
                    raise SettingsError(
                        f"ALERTPROD_ADMIN_TOKEN_FILE={self._path}: expected one line of at least 43 letters, digits and "
                        "_ . ~ + / = - (such as 'openssl rand -hex 32' prints)"
                    )
                self._digest, self._stamp = digest(token), stamp
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SettingsError(f"ALERTPROD_ADMIN_TOKEN_FILE={self._path}: cannot be read: {reason}") from error
        return self._digest


class TokenBook:
    """Tells whose a token is.

    Parameters
    ----------
    database
        Where the hashes are.
    file
        A further token that is good for everything.
    """

    def __init__(self, database: Database, file: FileToken | None = None) -> None:
        self._database, self._file = database, file
        self._principals: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._told = False

    def cached(self, token: str, *, by_cookie: bool = False) -> Principal | None:
        """Return whose a token is when that needs no look at the database."""
        hashed = digest(token)
        if not by_cookie and self._is_of_file(hashed):
            return Principal(FILE_PRINCIPAL, frozenset(SCOPES))
        with self._lock:
            entry = self._principals.get(hashed)
        good = entry is not None and time.monotonic() < entry[1] and entry[0].by_cookie == by_cookie
        return entry[0] if entry is not None and good else None

    def was_good(self, token: str) -> bool:
        """Whether a token was good at some time."""
        with self._lock:
            return digest(token) in self._principals

    def _is_of_file(self, hashed: bytes) -> bool:
        if self._file is None:
            return False
        try:
            return hmac.compare_digest(hashed, self._file.current())
        except SettingsError as error:  # it was there at the start: the other tokens are good as before
            if not self._told:
                self._told = True
                _log.error("%s", error)
            return False

    def principal(self, token: str, *, by_cookie: bool = False) -> Principal:
        """Return whose a token is; a session is good as a cookie alone, and a cookie is good for nothing else.

        Raises
        ------
        Unauthenticated
            It is unknown, expired or revoked.
        DatabaseUnavailable
        """
        hashed = digest(token)
        if not by_cookie and self._is_of_file(hashed):
            return Principal(FILE_PRINCIPAL, frozenset(SCOPES))
        prefix = SESSION_PREFIX if by_cookie else PREFIX
        if not (token.startswith(prefix) and _RANDOM.fullmatch(token.removeprefix(prefix))):
            raise Unauthenticated("the token is none of this service")
        with self._database.session() as connection:
            stored = find_token(connection, hashed)
        if stored is None or not hmac.compare_digest(stored.hash, hashed):
            raise Unauthenticated("the token is not known here")
        if stored.state != "valid":
            raise Unauthenticated(f"the token {stored.token_id} is {stored.state}: ask for a new one")
        scopes, left_s = frozenset(stored.scopes), stored.seconds_left
        principal = Principal(stored.name, scopes, stored.token_id, by_cookie, expires_in_s=left_s)
        with self._lock:
            self._principals[hashed] = (principal, time.monotonic() + min(KEPT_S, left_s))
            self._principals.move_to_end(hashed)
            if len(self._principals) > KEPT:
                self._principals.popitem(last=False)
        return principal
