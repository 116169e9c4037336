"""Who is asking: a name, and what it may do."""

import math
from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["ANYONE", "ANYONE_HERE", "SCOPES", "Principal"]

# read: what is stored. submit: enter visits, and see what became of them. operate: change what happens to visits and
# alerts. admin: everything.
SCOPES = ("read", "submit", "operate", "admin")


@dataclass(frozen=True)
class Principal:
    """Somebody who asks.

    Parameters
    ----------
    name
        Under which it is recorded and counted. Names that a token was made for hold no colon, ours do.
    scopes
        What it may do.
    token_id
        Of the token that it showed, where that has one.
    by_cookie
        It was known by a cookie, which a browser sends whoever made the page: what changes something needs more.
    limited
        Whether its requests are counted.
    expires_in_s
        Seconds for which it is known, when it was looked up.
    """

    name: str
    scopes: frozenset[str]
    token_id: str | None = None
    by_cookie: bool = False
    limited: bool = True
    expires_in_s: float = math.inf

    def may(self, needed: Collection[str]) -> bool:
        """Whether one of the scopes is enough; ``admin`` always is."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(needed)


ANYONE = Principal("open:anyone", frozenset(SCOPES))
ANYONE_HERE = Principal("local:anyone", frozenset(SCOPES), limited=False)
