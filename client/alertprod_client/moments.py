"""Times that people give, as Kafka has them: milliseconds of UTC since 1970."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Union

from alertprod_client.errors import AlertError

if TYPE_CHECKING:
    from astropy.time import Time

__all__ = ["Moment", "milliseconds"]

Moment = Union[str, float, datetime, "Time"]


def milliseconds(moment: Any) -> int:
    """Return a time as milliseconds since 1970-01-01 UTC.

    Parameters
    ----------
    moment
        ISO text (UTC where it names no other zone), a datetime (UTC where it has no zone), astropy's Time, or MJD (TAI).

    Raises
    ------
    AlertError
        It is none of these.
    """
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment.strip())
        except ValueError as error:
            raise AlertError(
                f"start {moment!r} is no time: earliest, latest, or such as 2026-11-28 or 2026-11-28T04:00"
            ) from error
    if isinstance(moment, datetime):
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    from astropy.time import Time

    if isinstance(moment, int | float):
        moment = Time(moment, format="mjd", scale="tai")
    if not isinstance(moment, Time) or not moment.isscalar:
        raise AlertError(f"start is a time: text, a datetime, astropy's Time or MJD; got {type(moment).__name__}")
    return round(float(moment.unix) * 1000)
