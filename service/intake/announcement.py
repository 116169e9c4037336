"""The announcement of a next visit: where, in which band, with which templates."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.errors import BadMessage
from service.intake.message import SET_NAME, refuse_other_kinds

__all__ = ["Announcement", "describe_announcement", "parse_announcement"]


class Announcement(BaseModel):
    """Where the telescope will look next."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    ra: float = Field(ge=0, le=360, description="centre, ICRS degrees")
    dec: float = Field(ge=-90, le=90, description="centre, ICRS degrees")
    radiusDeg: float = Field(gt=0, le=3, description="of the circle that the image lies in")
    band: Literal["u", "g", "r", "i", "z", "y"] = Field(description="band of the visit")
    templates: str | None = Field(None, pattern=SET_NAME, max_length=128, description="template set")
    visit: int | None = Field(None, ge=0, lt=1 << 53, description="its number, where that is known: for people")
    expiresS: float = Field(900.0, gt=0, le=86_400, description="seconds after which it is of no use")

    _numbers = field_validator("ra", "dec", "radiusDeg", "visit", "expiresS", mode="before")(refuse_other_kinds)


def parse_announcement(data: Any) -> Announcement:
    """Return the announcement of decoded JSON.

    Raises
    ------
    BadMessage
        Every problem is listed.
    """
    try:
        return Announcement.model_validate(data)
    except ValidationError as error:
        text = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'announcement'}: {e['msg']}" for e in error.errors()[:10])
        raise BadMessage(text.encode("utf-8", "backslashreplace").decode()[:4000]) from error


def describe_announcement(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a client sees of one."""
    times = {name: row[name].isoformat() for name in ("createdAt", "expiresAt")}
    return {"id": row["id"], **times, **row["announcement"]}
