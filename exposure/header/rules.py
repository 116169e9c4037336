"""Where an instrument file says that quantities come from: cards of the header, the file's name, constants."""

import re
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from exposure.errors import CardInvalid, InstrumentError
from exposure.header.cards import Cards, Source, as_number
from exposure.header.times import has_time, mjd_tai, scale_of, time_of_day

__all__ = ["ExposureTimeRule", "HeaderRule", "NotNegativeRule", "PositiveRule", "TimeRule"]

TIME_CARDS = ("TIME-OBS", "UTC-OBS", "UT-OBS", "UTSTART", "UT-START", "UTC-STRT", "UT", "UTC", "UTIME", "TIME")
_OF_TIMESYS = re.compile("(DATE|MJD|JD)")


class HeaderRule(BaseModel):
    """Where one quantity comes from: a header key (with regex, factor, offset) or a constant.

    The key ``FILENAME`` is the name of the file, where the header has no card of that name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    _wanted: ClassVar[str] = "a finite number"
    key: str | None = None
    constant: Any = None
    regex: str | None = None
    factor: float = 1.0
    offset: float = 0.0

    @field_validator("regex")
    @classmethod
    def _compiles(cls, regex: str | None) -> str | None:
        try:
            re.compile(regex or "")
        except re.error as error:
            raise ValueError(f"{regex!r} is no regular expression: {error}") from error
        return regex

    def text(self, header: Source) -> str:
        """Return the raw text of the card, cut out by the regex.

        Raises
        ------
        InstrumentError
            The card is missing or the regex does not match.
        CardInvalid
            The card cannot be read.
        """
        cards = Cards.of(header)
        if self.key is None or (self.key not in cards and self.constant is not None):
            return str(self.constant)
        if self.key not in cards:
            raise InstrumentError(f"{cards.name} has no {self.key} card: say in the instrument file which card has it")
        text = cards.text(self.key)
        if self.regex is None:
            return text
        match = re.search(self.regex, text)
        if match is None:
            raise InstrumentError(f"{cards.name}: {self.key}={text!r} does not match {self.regex!r}")
        return "".join(g for g in match.groups() if g is not None) if match.groups() else match.group(0)

    def number(self, header: Source) -> float:
        """Return the value as a number: text * factor + offset.

        Raises
        ------
        InstrumentError
            The card is missing.
        CardInvalid
            The card cannot be read, or its value is not what the quantity can be.
        """
        text = self.text(header)
        number = as_number(text)
        value = None if number is None else as_number(number * self.factor + self.offset)
        if value is None or not self._possible(value):
            said = f"{Cards.of(header).name}: {self.key}" if self.key else "the constant of the instrument file"
            raise CardInvalid(f"{said}={text!r} is no number that can be used: it must be {self._wanted}")
        return value

    def integer(self, header: Source) -> int:
        """Return the value as a whole number, to the last digit; errors as for `number`."""
        text = self.text(header).strip()
        if self.factor == 1.0 and self.offset == 0.0 and re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        number = self.number(header)
        if number != int(number):
            raise CardInvalid(f"{Cards.of(header).name}: {self.key}={text!r} is no whole number")
        return int(number)

    def _possible(self, number: float) -> bool:
        return True


class PositiveRule(HeaderRule):
    """A quantity above zero: gain, saturation."""

    _wanted: ClassVar[str] = "finite and above zero"

    def _possible(self, number: float) -> bool:
        return number > 0


class ExposureTimeRule(HeaderRule):
    """Seconds above zero, less than ten days: more is another unit."""

    _wanted: ClassVar[str] = "in seconds, above zero and at most 864000"

    def _possible(self, number: float) -> bool:
        return 0 < number <= 864000.0


class NotNegativeRule(HeaderRule):
    """A quantity of zero or above: read noise."""

    _wanted: ClassVar[str] = "finite and not negative"

    def _possible(self, number: float) -> bool:
        return number >= 0


class TimeRule(HeaderRule):
    """A time card: its format, time scale, and whether it is the start, the middle or the end of the exposure.

    A date without a time takes it from the card `time_key`, else from the first of `TIME_CARDS` that the header has.
    The time scale is `scale`, else TIMESYS for cards of the names DATE, MJD and JD, else UTC.
    """

    format: str = "isot"
    scale: Literal["utc", "tai", "tt", "tdb", "gps"] = "utc"
    at: Literal["start", "mid", "end"] = "start"
    time_key: str | None = None

    def mjd_tai(self, header: Source, exposure_time: float) -> float:
        """Return the mid-exposure as MJD TAI.

        Raises
        ------
        InstrumentError
            The card is missing.
        CardInvalid
            It holds no moment that can be, or TIMESYS contradicts the instrument file.
        """
        cards = Cards.of(header)
        text = self.text(cards).strip()
        said = f"{cards.name}: {self.key}={text!r}" if self.key else f"the constant {text!r} of the instrument file"
        time = "" if has_time(text, self.format) else self._time(cards, said)
        moment = mjd_tai(text, self.format, self._scale(cards, text), said, time)
        shift = {"start": 0.5, "mid": 0.0, "end": -0.5}[self.at]
        return moment + shift * exposure_time / 86400.0

    def _time(self, cards: Cards, said: str) -> str:
        """Return the time of the day that another card has for a date without one."""
        key = next((k for k in ((self.time_key,) if self.time_key else TIME_CARDS) if k in cards), None)
        if key is None:
            return ""
        text = cards.text(key)
        if not time_of_day(text):
            raise CardInvalid(f"{said} has no time, and {key}={text!r} is none: expected hh:mm:ss")
        return text

    def _scale(self, cards: Cards, text: str) -> str:
        own = self.scale if "scale" in self.model_fields_set else None
        timesys = None
        if self.key is not None and _OF_TIMESYS.match(self.key.upper()) and cards.word("TIMESYS"):
            timesys = scale_of(cards.word("TIMESYS"), cards.name)
        if own is not None and timesys is not None and own != timesys:
            raise CardInvalid(
                f"{cards.name}: TIMESYS={cards.text('TIMESYS')!r} contradicts the instrument file, whose midpoint has "
                f"scale {own}: correct the one that is wrong"
            )
        scale = own or timesys or "utc"
        if scale != "utc" and re.search(r"\d(Z|[+-]\d{2}:?\d{2})$", text) and ":" in text:
            raise CardInvalid(f"{cards.name}: {self.key}={text!r} is a time in UTC, but the time scale is {scale}")
        return scale
