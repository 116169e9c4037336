"""Errors of the forced photometry room."""

from tasks.errors import CallerError

__all__ = ["BadPositions", "ForcedPhotometryError"]


class ForcedPhotometryError(CallerError):
    """The reference positions or the exposure cannot be used."""

    code = "forced_photometry"


class BadPositions(ForcedPhotometryError):
    """A table of positions cannot be used as it is; the message names the column and the rows."""

    code = "positions"
