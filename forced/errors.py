"""Errors of the forced photometry room."""

from tasks.errors import CallerError

__all__ = ["ForcedPhotometryError"]


class ForcedPhotometryError(CallerError):
    """The reference positions or the exposure cannot be used."""

    code = "forced_photometry"
