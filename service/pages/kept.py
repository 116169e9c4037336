"""Parts of pages that are the same for everybody: made once for all who ask while nothing has changed."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from fastapi import Request

from service.pages.live import look, words_of
from service.pages.shared import resources_of

__all__ = ["COUNTED_S", "Kept", "kept"]

KEPT_S = 2.0  # at most: ages on a page go on where nothing changes
AGELESS_S = 60.0  # at most, of a part on which no age goes on
COUNTED_S = 60.0  # what is counted over the whole survey, which changes slowly and takes long
MOST = 16  # parts


class Kept:
    """Parts by what was asked for, the last used last; each with what the database was like, and since when it is there."""

    def __init__(self, keep_s: float = KEPT_S) -> None:
        self._keep_s, self._lock = keep_s, threading.Lock()
        self._parts: OrderedDict[Hashable, _Part] = OrderedDict()

    def of(self, key: Hashable, state: Hashable, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the part of a key as it is in this state; one who asks makes it, others who ask meanwhile wait for that.

        `state` is that of before: what `make` reads is as new, or newer. A part that says of itself that it shows no age
        (``ages`` is False) is kept for longer.
        """
        with self._lock:
            part = self._parts.setdefault(key, _Part())
            self._parts.move_to_end(key)
            while len(self._parts) > MOST:
                self._parts.popitem(last=False)
        with part.lock:
            if part.values is None or part.state != state or time.monotonic() > part.until:
                part.values, part.state = make(), state
                part.until = time.monotonic() + (self._keep_s if part.values.get("ages", True) else AGELESS_S)
            return part.values


class _Part:
    """One part."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: dict[str, Any] | None = None
        self.state: Hashable = None
        self.until = 0.0


def kept(request: Request) -> tuple[str, Callable[[Hashable, Callable[[], dict[str, Any]]], dict[str, Any]]]:
    """Return in a word which state the database is in, which a page tells, and what gives the values of a key.

    These are as the function beside the key makes them, or made them a moment ago and nothing has changed since.
    """
    state = look(resources_of(request).database)
    if "database" in state:  # away: who reads it says so in its own words
        return "", lambda _key, make: make()
    parts: Kept = request.app.state.kept
    return words_of(state), lambda key, make: parts.of(key, tuple(state.items()), make)
