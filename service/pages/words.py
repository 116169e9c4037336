"""How numbers, times and states are written on pages."""

import math
from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

__all__ = ["FILTERS", "STATE_WORDS", "age", "mjd_utc", "night_date"]

NONE = "–"
MJD_UNIX, DAY_S = 40587.0, 86400.0
STATE_WORDS = {
    "queued": "queued", "running": "running", "done": "done", "no_work": "no work", "failed": "failed",
    "withdrawn": "withdrawn", "waiting": "waiting for its image", "cancelled": "cancelled", "absent": "never came",
}  # fmt: skip


def number(value: Any, digits: int = 0) -> str:
    """Return a number with thin groups of thousands, so many decimals and the sign that is as wide as a plus."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    return f"{value:,.{digits}f}".replace(",", " ").replace("-", "−")


def significant(value: Any, digits: int = 4) -> str:
    """Return a number with so many significant digits."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    return f"{value:.{digits}g}".replace("-", "−")


def seconds(value: Any) -> str:
    """Return seconds as a person would say them."""
    if value is None or not math.isfinite(float(value)):
        return NONE
    value = float(value)
    if value < 0.1:
        return f"{1e3 * value:.0f} ms"
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h" if value < 2 * DAY_S else f"{value / DAY_S:.1f} d"


def age(value: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago, or in how long, a time is."""
    if value is None:
        return NONE
    passed = ((now or datetime.now(UTC)) - value).total_seconds()
    return f"{seconds(passed)} ago" if passed >= 0 else f"in {seconds(-passed)}"


def mjd_utc(value: float | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return MJD (TAI) as UTC."""
    if value is None or not 0 < value < 200_000:
        return NONE
    return datetime.fromtimestamp((value - MJD_UNIX) * DAY_S - _tai_utc(value), UTC).strftime(form)


@cache
def _leap_seconds() -> tuple[list[float], list[float]]:
    """Return from which MJD (TAI) on TAI - UTC has which value (s), since 1972, as ERFA brings them with it."""
    from erfa import leap_seconds  # type: ignore[import-untyped]

    table = [row for row in leap_seconds.get() if row["year"] >= 1972]
    seconds = [float(row["tai_utc"]) for row in table]
    days = [(datetime(row["year"], row["month"], 1, tzinfo=UTC).timestamp()) / DAY_S + MJD_UNIX for row in table]
    return [day + s / DAY_S for day, s in zip(days, seconds, strict=True)], seconds


def _tai_utc(mjd: float) -> float:
    """Return TAI - UTC (s) at a MJD (TAI); before 1972 that of 1972."""
    since, seconds = _leap_seconds()
    return seconds[max(bisect_right(since, mjd) - 1, 0)]


def night_date(night: int | None) -> str:
    """Return the date on which a night began, for a number as in the view ``night_summary`` (integer part of MJD - 0.5)."""
    return NONE if night is None else datetime.fromtimestamp((night - MJD_UNIX) * DAY_S, UTC).strftime("%Y-%m-%d")


def size(value: Any) -> str:
    """Return bytes."""
    if value is None:
        return NONE
    value = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def utc(value: datetime | None) -> str:
    """Return a time, UTC."""
    return NONE if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def state_word(value: str) -> str:
    """Return a state of the ledger in words."""
    return STATE_WORDS.get(value, value)


FILTERS: dict[str, Callable[..., str]] = {
    "number": number, "significant": significant, "seconds": seconds, "age": age, "mjd_utc": mjd_utc,
    "night_date": night_date, "size": size, "utc": utc, "state_word": state_word,
}  # fmt: skip
