"""Tokens of an OpenID Connect issuer: JSON Web Tokens, by fixed algorithms, for this service, by keys that are fetched rarely.

What a token may do is in its claim ``scope`` (or ``scp``): ``alertprod:read``, ``alertprod:submit`` and so on.
"""

import base64
import json
import math
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from service.access.listening import is_of_this_machine
from service.access.principals import SCOPES, Principal
from service.errors import IssuerUnavailable, SettingsError, Unauthenticated

if TYPE_CHECKING:
    import httpx
    from joserfc.jwk import KeySet

__all__ = ["Issuer"]

ALGORITHMS = ["RS256", "PS256", "ES256"]  # asymmetric ones alone: a public key must never be taken for a shared secret
KEY_KINDS = ("RSA", "EC")
LEEWAY_S = 30.0  # clocks differ
KEPT_S = 3600.0  # keys are fetched again after so long
PAUSE_S = 30.0  # and no oftener than that, whatever tokens come
TIMEOUT_S = 5.0
LARGEST = 256 << 10  # bytes of an answer
_PREFIX = "alertprod:"


class Issuer:
    """One issuer whose tokens are good here.

    Parameters
    ----------
    address
        As it stands in the claim ``iss``.
    audience
        This service, as it stands in the claim ``aud``.
    keys_url
        Where its keys are; found by OpenID Connect Discovery 1.0 where it is empty.
    transport
        Of the HTTP client (for tests).

    Raises
    ------
    SettingsError
        An address that is not https (but for one of this machine), or no audience.
    """

    def __init__(
        self, address: str, audience: str, keys_url: str = "", transport: "httpx.BaseTransport | None" = None
    ) -> None:
        for url in (address, keys_url or address):
            parts = urlsplit(url)
            if parts.scheme != "https" and not (parts.scheme == "http" and is_of_this_machine(parts.hostname or "")):
                raise SettingsError(
                    f"ALERTPROD_OIDC_ISSUER, ALERTPROD_OIDC_KEYS_URL: expected https addresses, got {url}"
                )
        if not audience:
            raise SettingsError("ALERTPROD_OIDC_AUDIENCE is not set: tokens for other services would be good here")
        self._address, self._audience, self._keys_url, self._transport = address, audience, keys_url, transport
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._fetched = self._tried = -math.inf

    def principal(self, token: str) -> Principal:
        """Return whose a token is.

        Raises
        ------
        Unauthenticated
            It is not signed by the issuer, not for this service, expired, or not yet good.
        IssuerUnavailable
        """
        from joserfc import jwt
        from joserfc.errors import JoseError

        header = _header_of(token)
        if header.get("alg") not in ALGORITHMS or not isinstance(header.get("kid"), str):
            raise Unauthenticated(f"the token must be signed by one of {', '.join(ALGORITHMS)}, and name its key")
        keys = self._keys_with(header["kid"])
        try:
            claims = jwt.decode(token, keys, algorithms=ALGORITHMS).claims
        except (JoseError, ValueError) as error:
            raise Unauthenticated(f"the token is not signed by its issuer: {type(error).__name__}") from error
        self._check(claims)
        given = claims.get("scope", claims.get("scp", ""))
        names = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
        scopes = frozenset(s for s in SCOPES if f"{_PREFIX}{s}" in names)
        return Principal(f"oidc:{claims['sub']}"[:200], scopes)

    def _check(self, claims: dict[str, Any]) -> None:
        now, audience = time.time(), claims.get("aud")
        if claims.get("iss") != self._address:
            raise Unauthenticated("the token is of another issuer")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise Unauthenticated("the token is for another service (aud)")
        if not isinstance(claims.get("sub"), str) or not claims["sub"].isprintable():
            raise Unauthenticated("the token does not say whose it is (sub)")
        for name, needed in (("exp", True), ("nbf", False)):
            value = claims.get(name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if (value is not None and not number) or (value is None and needed):
                raise Unauthenticated(f"the token has no good time {name}")
        if not now < claims["exp"] + LEEWAY_S:
            raise Unauthenticated("the token is expired: ask for a new one")
        if claims.get("nbf") is not None and not now > claims["nbf"] - LEEWAY_S:
            raise Unauthenticated("the token is not good yet")

    def _keys_with(self, kid: str) -> "KeySet":
        """Return the keys; they are fetched when they are old or lack this one, but not at every token that says so."""
        with self._lock:
            now = time.monotonic()
            has_key = self._keys is not None and any(key.kid == kid for key in self._keys.keys)
            if (not has_key or now - self._fetched > KEPT_S) and now - self._tried > PAUSE_S:
                self._tried = now
                try:
                    self._keys, self._fetched = self._fetch(), now
                except IssuerUnavailable:
                    if not has_key:
                        raise
            if self._keys is None:
                raise IssuerUnavailable(f"the keys of {self._address} could not be had: try again")
            if not any(key.kid == kid for key in self._keys.keys):
                raise Unauthenticated("the token is signed by a key that the issuer does not have")
            return self._keys

    def _fetch(self) -> "KeySet":
        import httpx
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        try:
            with httpx.Client(transport=self._transport, timeout=TIMEOUT_S, follow_redirects=False) as client:
                url = self._keys_url or self._discovered(client)
                key_set = _json_of(client, url)
            keys = [key for key in key_set["keys"] if key.get("kty") in KEY_KINDS and key.get("use", "sig") == "sig"]
            return KeySet.import_key_set({"keys": keys})
        except (httpx.HTTPError, JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise IssuerUnavailable(f"the keys of {self._address} could not be had: {type(error).__name__}") from error

    def _discovered(self, client: "httpx.Client") -> str:
        document = _json_of(client, f"{self._address.rstrip('/')}/.well-known/openid-configuration")
        url = str(document["jwks_uri"])
        if document.get("issuer") != self._address or urlsplit(url).scheme != urlsplit(self._address).scheme:
            raise ValueError("the document of another issuer")
        return url


def _header_of(token: str) -> dict[str, Any]:
    """Return the head of a token, of which nothing is believed yet."""
    part = token.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError) as error:
        raise Unauthenticated("the token is no JSON Web Token") from error
    if not isinstance(header, dict):
        raise Unauthenticated("the token is no JSON Web Token")
    return header


def _json_of(client: "httpx.Client", url: str) -> Any:
    """Return the JSON at an address, no longer than `LARGEST`."""
    with client.stream("GET", url) as reply:
        if reply.status_code != 200:
            raise ValueError(f"status {reply.status_code}")
        body = b""
        for chunk in reply.iter_bytes():
            body += chunk
            if len(body) > LARGEST:
                raise ValueError("the answer is too long")
    return json.loads(body)
