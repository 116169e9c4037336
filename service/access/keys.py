"""From the head of a request to who is asking."""

import base64
import binascii
from collections.abc import Iterable

from apdb import Database
from service.access.oidc import Issuer
from service.access.principals import ANYONE, ANYONE_HERE, Principal
from service.access.sessions import COOKIE
from service.access.tokens import FileToken, TokenBook
from service.errors import Unauthenticated
from service.settings import Settings

__all__ = ["Keys", "cookie_of", "open_keys", "shown_token"]

Headers = Iterable[tuple[bytes, bytes]]
_LONGEST = 8192  # characters of the header


def shown_token(headers: Headers) -> str | None:
    """Return the token of a request, None where it shows none.

    ``Authorization: Bearer TOKEN``, or ``Basic`` with the token as the password (of any user), which is what clients of
    schema registries and of the Virtual Observatory can send. Never from the URL: URLs are logged.

    Raises
    ------
    Unauthenticated
        There is a header, and no token in it.
    """
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        return None
    if len(values) > 1 or len(values[0]) > _LONGEST:
        raise Unauthenticated("expected one header Authorization: Bearer TOKEN")
    kind, _, value = values[0].decode("latin-1").strip().partition(" ")
    token = value.strip()
    if kind.lower() == "basic":
        try:
            token = base64.b64decode(token, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            token = ""
    elif kind.lower() != "bearer":
        token = ""
    if not token or not token.isascii():
        raise Unauthenticated("expected the header Authorization: Bearer TOKEN")
    return token


def cookie_of(headers: Headers) -> str | None:
    """Return the session that a browser sends, None where it sends none."""
    for name, value in headers:
        if name == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, _, content = pair.strip().partition("=")
                if key == COOKIE and content.isascii():
                    return content
    return None


class Keys:
    """Everything by which somebody can be known.

    Parameters
    ----------
    open_to
        Who everybody is taken for; None asks for a token.
    book
        Tokens.
    issuer
        Of JSON Web Tokens, where they are good.
    local
        Everybody is on this machine.
    """

    def __init__(
        self, open_to: Principal | None, book: TokenBook, issuer: Issuer | None = None, *, local: bool = False
    ) -> None:
        self.open_to, self.local, self._book, self._issuer = open_to, local, book, issuer

    def at_once(self, headers: Headers) -> Principal | None:
        """Return who is asking where that needs no wait, None where it does (or nothing is shown).

        Raises
        ------
        Unauthenticated
            The header holds no token.
        """
        if self.open_to is not None:
            return self.open_to
        token, by_cookie = _shown(headers)
        return None if token is None else self._book.cached(token, by_cookie=by_cookie)

    def was_good(self, headers: Headers) -> bool:
        """Whether what is shown was good at some time."""
        token, _ = _shown(headers)
        return token is not None and self._book.was_good(token)

    def look_up(self, headers: Headers) -> Principal:
        """Return who is asking; the database may be asked.

        Raises
        ------
        Unauthenticated
            Nothing is shown, or what is shown is not good.
        DatabaseUnavailable, IssuerUnavailable
        """
        token, by_cookie = _shown(headers)
        if token is None:
            raise Unauthenticated(
                "who is asking? Send the header Authorization: Bearer TOKEN ('alertprod tokens create' makes one)"
            )
        if self._issuer is not None and not by_cookie and token.count(".") == 2:
            return self._issuer.principal(token)
        return self._book.principal(token, by_cookie=by_cookie)


def _shown(headers: Headers) -> tuple[str | None, bool]:
    """Return what is shown, and whether it is a cookie: the header is nearer."""
    headers = list(headers)
    token = shown_token(headers)
    if token is not None:
        return token, False
    cookie = cookie_of(headers)
    return cookie, cookie is not None


def open_keys(settings: Settings, database: Database) -> Keys:
    """Return what a service knows people by.

    Raises
    ------
    SettingsError
        The file of the token, or the issuer, cannot be used.
    """
    file = None if settings.admin_token_file is None else FileToken(settings.admin_token_file)
    issuer = None
    if settings.oidc_issuer:
        issuer = Issuer(settings.oidc_issuer, settings.oidc_audience, settings.oidc_keys_url)
    everybody = {"local": ANYONE_HERE, "open-to-everyone": ANYONE}.get(settings.access)
    return Keys(everybody, TokenBook(database, file), issuer, local=settings.access == "local")
