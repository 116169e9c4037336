"""Times as headers write them, as MJD TAI: dates with and without a time, numbers, any time scale.

A date without a time is refused; so is a number that is no date of its kind (a JD where an MJD is due), and a date in
the future.
"""

import re
import time as clock
from datetime import UTC, date, datetime, timedelta
from typing import Any

from exposure.errors import CardInvalid
from exposure.header.cards import as_number

__all__ = ["EARLIEST_MJD", "LATEST_MJD", "check_mjd", "has_time", "mjd_tai", "scale_of", "time_of_day"]

EARLIEST_MJD = 11368.0  # 1890-01-01: the first plates
LATEST_MJD = 88069.0  # 2100-01-01
AHEAD_DAYS = 31.0  # clocks of cameras, and of the machine that reads, may be wrong; not by more
_UNIX_MJD = 40587.0
_MJD_ORDINAL = 678576
_FIRST_UTC = 36934.0  # 1960-01-01
_GPS_TO_TAI = 19.0 / 86400.0
_JD_OF_MJD = 2400000.5
_NUMERIC = ("mjd", "jd", "unix", "unix_tai", "gps", "jyear", "byear", "decimalyear", "cxcsec")
_TEXTS = ("isot", "iso", "fits", "date")
_DATE = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:(?:\s*T\s*|\s+)(\S.*))?")
_OLD_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{2})(?:(?:\s*T\s*|\s+)(\S.*))?")
_CLOCK = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?\s*(Z|UTC?|[+-]\d{2}:?\d{2})?", re.IGNORECASE)
_SCALES = {"UT": "utc", "GMT": "utc", "ZULU": "utc", "IAT": "tai", "TDT": "tt", "ET": "tt"} | {
    name.upper(): name for name in ("utc", "tai", "tt", "tdb", "gps")
}


def scale_of(text: str, said: str) -> str:
    """Return the time scale that a TIMESYS card names: utc, tai, tt, tdb or gps.

    Raises
    ------
    CardInvalid
        Another scale.
    """
    name = re.split(r"[\s(]", text.strip().upper())[0]  # UTC(NIST), UTC approximate
    if name not in _SCALES:
        raise CardInvalid(f"{said}: TIMESYS={text!r} is none of {', '.join(sorted(_SCALES))}")
    return _SCALES[name]


def has_time(text: str, form: str) -> bool:
    """Return whether a text in a format says more than the day."""
    if "%" in form:
        return re.search(r"%[HIcXTs]", form) is not None
    if form not in _TEXTS:
        return True
    match = _DATE.fullmatch(text) or _OLD_DATE.fullmatch(text)
    return match is None or match.group(4) is not None


def time_of_day(text: str) -> bool:
    """Return whether a text is a time of the day, hours with colons."""
    return _CLOCK.fullmatch(text.strip()) is not None


def mjd_tai(text: str, form: str, scale: str, said: str, time: str = "") -> float:
    """Return the moment of a card as MJD TAI.

    Parameters
    ----------
    text
        What the card holds.
    form
        ``isot`` (also for DD/MM/YY of the last century), a format of astropy, or one of `datetime.strptime`.
    scale
        utc, tai, tt, tdb or gps.
    said
        File and card, for messages.
    time
        Time of the day from a second card, for a date that has none.

    Raises
    ------
    CardInvalid
        The text is no moment in this format, or one that cannot be.
    """
    value = _value(text, form, said, time)
    if form in ("mjd", "jd") and not isinstance(value, str):
        mjd = value - (_JD_OF_MJD if form == "jd" else 0.0)
        _check(mjd, said)  # before astropy warns of years it does not know
        if scale == "utc" and mjd < _FIRST_UTC:
            scale = "tai"
        if (form, scale) == ("mjd", "tai"):
            return value
    elif isinstance(value, str) and form not in _NUMERIC and scale == "utc" and value < "1960":
        scale = "tai"  # of plates: there was no UTC yet, and its difference from TAI is taken as none
    from astropy.time import Time  # with the coordinates, a third of a second to load

    kind: dict[str, Any] = {} if "%" in form or form in _TEXTS else {"format": form}
    shift = _GPS_TO_TAI if scale == "gps" else 0.0
    try:
        mjd = float(Time(value, scale="tai" if scale == "gps" else scale, **kind).tai.mjd) + shift
    except (ValueError, OverflowError, TypeError) as error:
        raise CardInvalid(f"{said} is no time in format {form!r}") from error
    _check(mjd, said)
    return mjd


def _check(mjd: float, said: str) -> None:
    """Refuse what is no date of an image, and dates in the future."""
    check_mjd(mjd, said)
    if mjd > _UNIX_MJD + clock.time() / 86400.0 + AHEAD_DAYS:
        raise CardInvalid(f"{said} lies in the future: set the clock of the camera, or correct the card")


def check_mjd(mjd: float, said: str) -> None:
    """Refuse what is no date of an image.

    Raises
    ------
    CardInvalid
        A JD, a number of another kind, or a clock that was never set.
    """
    if EARLIEST_MJD <= mjd <= LATEST_MJD and int(mjd) != _UNIX_MJD:
        return
    if int(mjd) == _UNIX_MJD:
        hint = "the clock of the camera was not set (1970-01-01)"
    elif EARLIEST_MJD <= mjd - _JD_OF_MJD <= LATEST_MJD:
        hint = "it looks like a JD: use format jd, or correct the card"
    elif EARLIEST_MJD <= mjd + _JD_OF_MJD <= LATEST_MJD:
        hint = "it looks like an MJD: use format mjd, or correct the card"
    else:
        hint = f"dates from 1890 to 2100 are taken (MJD {EARLIEST_MJD:.0f} to {LATEST_MJD:.0f})"
    raise CardInvalid(f"{said} is no date of an image: {hint}")


def _value(text: str, form: str, said: str, time: str) -> str | float:
    """Return what astropy is to read: a number, or a text."""
    if form in _NUMERIC:
        number = as_number(text)
        if number is None:
            raise CardInvalid(f"{said} is no number, as format {form!r} has it")
        return number
    if "%" in form:
        return _by_pattern(text, form, said, time)
    if form not in _TEXTS:
        return text
    new, old = _DATE.fullmatch(text), _OLD_DATE.fullmatch(text)
    if new is not None:
        year, month, day, own = new.groups()
    elif old is None:
        raise CardInvalid(f"{said} is no time in format {form!r}: expected YYYY-MM-DDThh:mm:ss")
    else:
        day, month, year, own = old.groups()
        year = f"19{year}"  # by the standard; since 1999 years have four digits
    return _iso(int(year), int(month), int(day), own or time, said)


def _iso(year: int, month: int, day: int, time: str, said: str) -> str:
    """Return the ISO text: 24:00:00 is the next midnight, an offset from UTC is taken off."""
    if not time:
        raise CardInvalid(
            f"{said} is a date without a time, and no card has the time (see time_key in docs/instruments.md)"
        )
    match = _CLOCK.fullmatch(time.strip())
    if match is None:
        raise CardInvalid(f"{said}: {time!r} is no time of the day hh:mm:ss")
    hour, minute, second, zone = int(match[1]), int(match[2]), match[3] or "00", (match[4] or "").upper()
    try:
        if minute > 59 or float(second) >= (61.0 if (hour, minute) == (23, 59) and _leaps(year, month, day) else 60.0):
            raise CardInvalid(f"{said}: {time!r} is no time of the day hh:mm:ss")
        _check(date(year, month, day).toordinal() - _MJD_ORDINAL, said)
        if hour == 24 and minute == 0 and float(second) == 0.0:
            next_day = date(year, month, day) + timedelta(days=1)
            year, month, day, hour = next_day.year, next_day.month, next_day.day, 0
        if zone[:1] in ("+", "-"):
            away = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
            moment = datetime(year, month, day, hour, minute, tzinfo=UTC) - (away if zone[0] == "+" else -away)
            year, month, day, hour, minute = moment.year, moment.month, moment.day, moment.hour, moment.minute
    except CardInvalid:
        raise
    except ValueError as error:
        raise CardInvalid(f"{said} is no date: {error}") from error
    whole_second, _, part = second.partition(".")
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{int(whole_second):02d}.{part or '0'}"


def _leaps(year: int, month: int, day: int) -> bool:
    """Return whether a day ends in a leap second."""
    from erfa import leap_seconds  # type: ignore[import-untyped]

    table = leap_seconds.get()
    after = date(year, month, day) + timedelta(days=1)
    return after.day == 1 and bool(((table["year"] == after.year) & (table["month"] == after.month)).any())


def _by_pattern(text: str, form: str, said: str, time: str) -> str:
    try:
        micro = datetime.strptime(text, form).microsecond if "%f" in form else 0
        parts = (
            datetime.strptime(text, form).timetuple() if "%f" in form else clock.strptime(text, form)
        )  # has 23:59:60
    except ValueError as error:
        raise CardInvalid(f"{said} is no time in format {form!r}") from error
    own = "" if not has_time(text, form) else (f"{parts.tm_hour:02d}:{parts.tm_min:02d}:{parts.tm_sec:02d}.{micro:06d}")
    return _iso(parts.tm_year, parts.tm_mon, parts.tm_mday, own or time, said)
