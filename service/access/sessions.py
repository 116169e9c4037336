"""Sessions of browsers: a token of its own in a cookie, made from another token, and a second word against forged requests.

The cookie is 256 random bits of which the database has the hash, as of every token: it cannot be forged, and it ends when
it is ended here. Pages of other sites can make a browser send it, and cannot read the word that goes with it.
"""

import hashlib
import hmac
import secrets

from apdb import Database
from apdb.access.tokens import StoredToken, add_token, revoke_token, sessions_of
from apdb.errors import NotFound
from service.access.principals import SCOPES, Principal
from service.access.tokens import SESSION_PREFIX, digest

__all__ = [
    "COOKIE",
    "LONGEST_S",
    "begin_session",
    "csrf_word",
    "end_own_session",
    "end_session",
    "is_csrf_word",
    "own_sessions",
]

COOKIE = "__Host-alertprod"  # browsers take it over TLS (or from this machine) alone, for this host, whole
LONGEST_S = 8 * 3600.0


def begin_session(database: Database, principal: Principal) -> tuple[str, float]:
    """Make a session that may what its maker may, and ends with the token that it was made from.

    Returns
    -------
    token, seconds
        What goes into the cookie, and how long it is good.
    """
    seconds = min(LONGEST_S, principal.expires_in_s)
    token, parent = SESSION_PREFIX + secrets.token_urlsafe(32), principal.token_id or principal.name
    scopes = sorted(principal.scopes, key=SCOPES.index)
    with database.session() as connection:
        days, by = seconds / 86400.0, f"session of {parent}"
        add_token(connection, secrets.token_hex(4), principal.name, digest(token), scopes, days, by)
    return token, seconds


def end_session(database: Database, principal: Principal) -> None:
    """End the session by which somebody is known."""
    if principal.token_id is not None:
        with database.session() as connection:
            revoke_token(connection, principal.token_id, principal.name)


def own_sessions(database: Database, principal: Principal) -> list[StoredToken]:
    """Return the sessions of somebody that have not ended, whichever of his tokens they were made from."""
    with database.session() as connection:
        return sessions_of(connection, principal.name)


def end_own_session(database: Database, principal: Principal, session_id: str) -> None:
    """End one of somebody's sessions.

    Raises
    ------
    NotFound
        He has none of that id.
    """
    with database.session() as connection:
        if session_id not in {s.token_id for s in sessions_of(connection, principal.name)}:
            raise NotFound(f"{principal.name} has no session {session_id}")
        revoke_token(connection, session_id, principal.name)


def csrf_word(token: str) -> str:
    """Return the word that must come with every change that a session asks for, in the header ``X-CSRF-Token``."""
    return hmac.new(token.encode(), b"alertprod csrf", hashlib.sha256).hexdigest()


def is_csrf_word(word: str | None, token: str) -> bool:
    """Whether a word is that of a session."""
    return word is not None and hmac.compare_digest(word.encode(), csrf_word(token).encode())
