"""The visit message: the body of ``POST /v1/visits`` and the value on the visit topic. One schema, versioned."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.errors import BadMessage, ForbiddenLocation

if TYPE_CHECKING:
    from service.intake.headers import ReadsHeaders

# what reads files and times (astropy, numba) is loaded by the first message, not by the process that waits for it

__all__ = [
    "MESSAGE_VERSION",
    "SET_NAME",
    "VisitMessage",
    "decode_message",
    "image_facts",
    "local_path",
    "parse_message",
    "refuse_other_kinds",
    "resolve_message",
]

MESSAGE_VERSION = 1
SET_NAME = r"^[A-Za-z0-9_\-][A-Za-z0-9_.\-]*$"  # no directory above
_LONGEST_TEXT = 4000  # characters of what is wrong: names of fields may be as long as the message


def refuse_other_kinds(value: Any) -> Any:
    """Refuse what would be taken for a number: true is 1 to Python, and text is what it looks like.

    Raises
    ------
    ValueError
        A number is wanted.
    """
    if isinstance(value, bool | str):
        raise ValueError(f"a number is wanted, got {'text' if isinstance(value, str) else str(value).lower()}")
    return value


class VisitMessage(BaseModel):
    """One ccdVisit to be processed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"instrument": "mycam", "science": "/data/frame.fits", "visit": 24020103652, "detector": 3}]
        },
    )

    version: Literal[1] = Field(1, description="of the message's form")
    visit: int | None = Field(None, ge=0, lt=1 << 53, description="visit number; else by the instrument's rule")
    detector: int | None = Field(None, ge=0, lt=1 << 15, description="detector number; else from the header")
    instrument: str = Field(pattern=r"^[A-Za-z0-9_.\-]+$", max_length=64, description="instrument file")
    science: str = Field(max_length=4096, description="URI of the FITS image")
    psf: str | None = Field(None, max_length=4096, description="URI of a PSF cube")
    mask: str | None = Field(None, max_length=4096, description="URI of the mask plane")
    variance: str | None = Field(None, max_length=4096, description="URI of the variance plane")
    wcs: str | None = Field(None, max_length=4096, description="URI of a header with the WCS")
    photoCalib: float | None = Field(None, gt=0, allow_inf_nan=False, description="nJy per instrument unit")
    band: Literal["u", "g", "r", "i", "z", "y"] | None = Field(None, description="else from the header (`band_map`)")
    midpointMjdTai: float | None = Field(None, allow_inf_nan=False, description="mid-exposure, MJD TAI: 1890 to 2100")
    exposureTime: float | None = Field(None, gt=0, le=864000, allow_inf_nan=False, description="seconds")
    templates: str | None = Field(None, pattern=SET_NAME, max_length=128, description="template set")
    reprocess: Literal["never", "replace"] = Field(
        "never",
        description="a visit that came before: never refuses another message for it (visit_conflict), replace takes back what it stored",
    )
    priority: int = Field(
        0, ge=-100, le=100, description="above 0: a target of opportunity, which waits for one visit at most"
    )
    imageWaitS: float | None = Field(
        None,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds that its image may be late (ALERTPROD_IMAGE_WAIT_S)",
    )
    traceparent: str | None = Field(
        None, pattern=r"^[!-~]*$", max_length=128, description="W3C Trace Context of whoever sends it"
    )

    _numbers = field_validator(
        "version",
        "visit",
        "detector",
        "photoCalib",
        "midpointMjdTai",
        "exposureTime",
        "priority",
        "imageWaitS",
        mode="before",
    )(refuse_other_kinds)

    @field_validator("midpointMjdTai")
    @classmethod
    def _is_a_date(cls, value: float | None) -> float | None:
        if value is not None:
            from exposure.header.times import check_mjd

            check_mjd(value, f"midpointMjdTai={value}")
        return value

    def image_facts(self) -> dict[str, Any]:
        """Return what the message says of the image, so that no header card is needed for it."""
        return image_facts(self.model_dump())

    @field_validator("instrument")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        """Refuse the path of a file: what is read is for the operator to say (ALERTPROD_INSTRUMENTS)."""
        if name.lower().endswith((".yaml", ".yml")):
            raise ValueError("the name of an instrument is wanted, not the path of its file")
        return name

    @property
    def key(self) -> tuple[int, int]:
        """Visit and detector.

        Raises
        ------
        BadMessage
            One of them is missing: `resolve_message` reads them from the header.
        """
        if self.visit is None or self.detector is None:
            raise BadMessage("the message has no visit or no detector")
        return self.visit, self.detector

    def as_json(self) -> dict[str, Any]:
        """Return the message with defaults left out."""
        return self.model_dump(mode="json", exclude_none=True, exclude_defaults=False)


def image_facts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a message says of its image, by the names of `exposure.io.plain.read_plain`."""
    names = {
        "visit": "visit",
        "detector": "detector",
        "band": "band",
        "midpointMjdTai": "midpoint_mjd_tai",
        "exposureTime": "exposure_time",
    }
    return {ours: message[theirs] for theirs, ours in names.items() if message.get(theirs) is not None}


def decode_message(value: bytes | None) -> Any:
    """Return what the JSON of a message says.

    Raises
    ------
    BadMessage
        It is none.
    """
    try:
        message = json.loads(value or b"null", parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once)
        nul = _holds_nul(message)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"the message is no JSON: {error}") from error
    if nul:
        raise BadMessage("the message holds a NUL character, which no database takes")
    return message


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose names are each there once: of two values readers take either (RFC 8259, section 4)."""
    whole = dict(pairs)
    if len(whole) < len(pairs):
        twice = next(name for name, number in Counter(name for name, _ in pairs).items() if number > 1)
        raise ValueError(f"the name {twice[:40]!r} is there twice")
    return whole


def _holds_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_nul(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(map(_holds_nul, value))
    return isinstance(value, str) and "\0" in value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number (RFC 8259)")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond the range of a double")
    return value


def parse_message(data: Any) -> VisitMessage:
    """Return the message of decoded JSON.

    Raises
    ------
    BadMessage
        Every problem is listed.
    """
    try:
        return VisitMessage.model_validate(data)
    except ValidationError as error:
        text = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}" for e in error.errors()[:10])
        text = text.encode("utf-8", "backslashreplace").decode()  # names may hold half of a surrogate pair
        raise BadMessage(text[:_LONGEST_TEXT]) from error


def local_path(uri: str, roots: list[Path]) -> Path:
    """Return the path of a ``file:`` URI or plain path below one of the allowed directories; ``[EXT]`` behind it stays there.

    Raises
    ------
    ForbiddenLocation
        Another scheme, a remote host, or a path that (after following links) lies outside.
    """
    from exposure.io.opening import split_choice

    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise ForbiddenLocation(f"only local files are read, got scheme {parts.scheme!r} host {parts.netloc!r}")
    text = unquote(parts.path) if parts.scheme else uri
    if "\0" in text:
        raise ForbiddenLocation("the path holds a NUL character")
    file, choice = split_choice(text)  # links are followed for the file that is opened
    if not file.is_absolute():
        raise ForbiddenLocation("the path must be absolute")
    try:
        resolved = file.resolve()
        inside = any(resolved.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, no name that a system has
        raise ForbiddenLocation(f"the path cannot be followed: {type(error).__name__}") from error
    if not inside:
        raise ForbiddenLocation("the path is not below any of the allowed directories (ALERTPROD_DATA_ROOTS)")
    return resolved if choice is None else Path(f"{resolved}[{choice}]")


def resolve_message(message: VisitMessage, roots: list[Path], headers: "ReadsHeaders") -> VisitMessage:
    """Check every URI and fill in visit, detector and time from the header where the message lacks the former two.

    Parameters
    ----------
    headers
        Reads them: `service.intake.headers.HeaderReader` in a service.

    Raises
    ------
    ForbiddenLocation, FitsUnreadable, InstrumentError
        With what to do.
    """
    from exposure.instrument import load_instrument

    for uri in (message.science, message.psf, message.mask, message.variance, message.wcs):
        if uri is not None:
            local_path(uri, roots)
    load_instrument(message.instrument)
    if message.visit is not None and message.detector is not None:
        return message
    header_facts = headers(local_path(message.science, roots), message.instrument, message.image_facts())
    return message.model_copy(update=header_facts)
