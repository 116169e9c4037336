"""How often somebody may ask: a bucket of tokens for each name, in the memory of one process."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Allowance", "Buckets"]

WINDOW_S = 60.0


@dataclass(frozen=True)
class Allowance:
    """What is left to a name after a request.

    Parameters
    ----------
    allowed
        Whether the request may be answered.
    limit
        Requests per minute.
    remaining
        Requests that could follow at once.
    full_s
        Seconds until all of them could.
    retry_s
        Seconds after which one more is allowed; 0 where it is now.
    """

    allowed: bool
    limit: int
    remaining: int
    full_s: int
    retry_s: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the fields ``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers-10)."""
        return [
            (b"ratelimit-policy", f'"default";q={self.limit};w={WINDOW_S:.0f}'.encode()),
            (b"ratelimit", f'"default";r={self.remaining};t={self.full_s}'.encode()),
        ]


class Buckets:
    """One bucket for each name: it holds `per_minute` requests and is filled again at that rate.

    Parameters
    ----------
    per_minute
        Requests; 0 is no limit.
    kept
        Names that are remembered; those that asked longest ago are forgotten first, and begin with a full bucket.
    clock
        Seconds.
    """

    def __init__(self, per_minute: int, kept: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._kept, self._clock = per_minute, kept, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> Allowance:
        """Count a request of a name; one that is refused costs nothing."""
        level = self.level(name)
        allowed = level >= 1 or self._limit == 0
        left = level - 1 if allowed and self._limit else level
        self._levels[name] = left, self._clock()
        self._levels.move_to_end(name)
        if len(self._levels) > self._kept:
            self._levels.popitem(last=False)
        rate = self._limit / WINDOW_S
        if not rate:
            return Allowance(True, 0, 0, 0, 0)
        retry = 0 if left >= 1 else max(1, math.ceil((1 - left) / rate))
        return Allowance(allowed, self._limit, int(left), math.ceil((self._limit - left) / rate), retry)

    def level(self, name: str) -> float:
        """Return how many requests of a name would be allowed now."""
        level, since = self._levels.get(name, (float(self._limit), self._clock()))
        return min(self._limit, level + (self._clock() - since) * self._limit / WINDOW_S)
