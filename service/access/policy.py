"""Which scope each path of the API asks for. What is not listed here asks for ``admin``: nothing is open by oversight."""

import re
from dataclasses import dataclass
from functools import cache, lru_cache

from service.access.principals import SCOPES

__all__ = ["PAGES", "PUBLIC", "RULES", "Rule", "is_page", "is_public", "rule_of"]

# alive and ready: asked by what starts and stops the process, which has no token; where a person shows one, and the files
# that this page and all others load: style sheets and scripts, which say nothing of what is stored
PUBLIC = frozenset({("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/sign-in"), ("GET", "/assets/{name}")})
_READ, _SEE, _SUBMIT, _OPERATE, _ANY = ("read",), ("read", "submit"), ("submit",), ("operate",), SCOPES

# method, path as it is routed: any one of the scopes is enough
RULES: dict[tuple[str, str], tuple[str, ...]] = {
    ("POST", "/v1/visits"): _SUBMIT,
    ("POST", "/v1/visits/batch"): _SUBMIT,
    ("POST", "/v1/visits/{visit}/{detector}/cancel"): _OPERATE,
    ("POST", "/v1/visits/{visit}/{detector}/retry"): _OPERATE,
    ("GET", "/v1/visits/{visit}/{detector}"): _SEE,
    ("GET", "/v1/visits"): _SEE,
    ("GET", "/v1/visits/{visit}/{detector}/events"): _SEE,
    ("GET", "/v1/visits/{visit}/{detector}/sources"): _READ,
    ("GET", "/v1/visits/{visit}/{detector}/forced"): _READ,
    ("GET", "/v1/events"): _READ,
    ("POST", "/v1/next-visits"): _SUBMIT,
    ("GET", "/v1/next-visits"): _SEE,
    ("GET", "/v1/templates"): _READ,
    ("GET", "/v1/templates/{name}/coverage"): _READ,
    ("POST", "/v1/templates/{name}/versions/{version}/promote"): _OPERATE,
    ("POST", "/v1/templates/{name}/roll-back"): _OPERATE,
    ("GET", "/v1/dead-letters"): _OPERATE,
    ("GET", "/v1/dead-letters/{number}"): _OPERATE,
    ("POST", "/v1/dead-letters/{number}/requeue"): _OPERATE,
    ("POST", "/v1/dead-letters/{number}/discard"): _OPERATE,
    ("POST", "/v1/session"): _ANY,
    ("GET", "/v1/session"): _ANY,
    ("DELETE", "/v1/session"): _ANY,
    ("GET", "/v1/sessions"): _ANY,
    ("DELETE", "/v1/sessions/{session_id}"): _ANY,
    ("GET", "/v1/objects"): _READ,
    ("GET", "/v1/objects/{object_id}"): _READ,
    ("GET", "/v1/objects/{object_id}/versions"): _READ,
    ("GET", "/v1/objects/{object_id}/lightcurve"): _READ,
    ("GET", "/v1/nights"): _READ,
    ("GET", "/v1/scs"): _READ,
    ("GET", "/v1/footprint"): _READ,
    ("GET", "/v1/tap/sync"): _READ,
    ("POST", "/v1/tap/sync"): _READ,
    ("GET", "/v1/tap/async"): _READ,
    ("POST", "/v1/tap/async"): _READ,
    ("GET", "/v1/tap/async/{job}"): _READ,
    ("POST", "/v1/tap/async/{job}"): _READ,
    ("DELETE", "/v1/tap/async/{job}"): _READ,
    ("POST", "/v1/tap/async/{job}/phase"): _READ,
    ("POST", "/v1/tap/async/{job}/{part}"): _READ,
    ("GET", "/v1/tap/async/{job}/{part}"): _READ,
    ("GET", "/v1/tap/async/{job}/results/result"): _READ,
    ("GET", "/v1/datalink"): _READ,
    ("POST", "/v1/datalink"): _READ,
    ("GET", "/v1/soda/sync"): _READ,
    ("POST", "/v1/soda/sync"): _READ,
    ("GET", "/v1/images/{visit}/{detector}/difference.fits"): _READ,
    ("GET", "/v1/tap/availability"): _READ,
    ("GET", "/v1/tap/capabilities"): _READ,
    ("GET", "/v1/tap/tables"): _READ,
    ("GET", "/subjects"): _READ,
    ("GET", "/subjects/{subject}/versions"): _READ,
    ("GET", "/subjects/{subject}/versions/{version}"): _READ,
    ("GET", "/subjects/{subject}/versions/{version}/schema"): _READ,
    ("GET", "/schemas/ids/{number}"): _READ,
    ("GET", "/schemas/ids/{number}/versions"): _READ,
    ("GET", "/schemas/types"): _READ,
    ("GET", "/config"): _READ,
    ("GET", "/mode"): _READ,
    ("GET", "/metrics"): _READ,
    ("GET", "/live"): _READ,
    ("GET", "/v1/visits/{visit}/{detector}/images/{which}"): _READ,
    ("GET", "/v1/sources/{source_id}/stamps/{which}"): _READ,
    ("GET", "/v1/objects/{object_id}/curve"): _READ,
    ("GET", "/v1/objects/{object_id}/period"): _READ,
    ("GET", "/v1/sky/density"): _READ,
    ("POST", "/v1/sky/overlap"): _READ,
    ("GET", "/v1/labels"): _READ,
    ("PUT", "/v1/labels/{source_id}"): _OPERATE,
    ("DELETE", "/v1/labels/{source_id}"): _OPERATE,
    ("GET", "/docs"): _READ,
    ("GET", "/docs/{path:path}"): _READ,
    ("GET", "/openapi.json"): _READ,
}
_ENTERING = (("POST", "/v1/visits"), ("POST", "/v1/visits/batch"))

# pages of the dashboard: HTML, for people
PAGES = (
    "/",
    "/night/{night}",
    "/visit/{visit}/{detector}",
    "/visit/{visit}/{detector}/images",
    "/object/{object_id}",
    "/why",
    "/why/answer",
    "/streams",
    "/streams/readers",
    "/sky",
    "/trends",
    "/solar",
    "/scan",
    "/database",
    "/search",
    "/keys",
)
RULES |= dict.fromkeys((("GET", path) for path in PAGES), _READ)


@dataclass(frozen=True)
class Rule:
    """What a request is, and what it needs.

    Parameters
    ----------
    path
        As it is routed; as it was asked where there is no rule.
    scopes
        One of them is enough.
    submits
        Whether it enters visits.
    """

    path: str
    scopes: tuple[str, ...]
    submits: bool = False


@lru_cache(maxsize=4096)  # who waits for a visit asks for the same again and again
def is_public(method: str, path: str) -> bool:
    """Whether a request is answered whoever asks."""
    return any(listed == _as_asked(method) and pattern.fullmatch(path) for listed, pattern in _public())


def is_page(path: str) -> bool:
    """Whether a path is a page for people: who is not known is shown where to sign in."""
    return any(pattern.fullmatch(path) for pattern in _pages())


@lru_cache(maxsize=4096)
def rule_of(method: str, path: str) -> Rule:
    """Return the rule of a request."""
    for (listed, pattern), rule in _patterns():
        if listed == _as_asked(method) and pattern.fullmatch(path):
            return rule
    return Rule(path, ("admin",))


def _as_asked(method: str) -> str:
    return "GET" if method == "HEAD" else method


def _pattern(path: str) -> re.Pattern[str]:
    rest = re.sub(r"\\\{\w+:path\\\}", ".*", re.escape(path))
    return re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", rest))


@cache
def _public() -> list[tuple[str, re.Pattern[str]]]:
    return [(method, _pattern(path)) for method, path in PUBLIC]


@cache
def _pages() -> list[re.Pattern[str]]:
    return [_pattern(path) for path in PAGES]


@cache
def _patterns() -> list[tuple[tuple[str, re.Pattern[str]], Rule]]:
    return [
        (
            (method, _pattern(path)),
            Rule(path, scopes, (method, path) in _ENTERING),
        )
        for (method, path), scopes in RULES.items()
    ]
