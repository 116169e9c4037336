"""Errors of the calibration room."""

from tasks.errors import AlgorithmError

__all__ = ["CalibrationError", "TooFewStars", "ZeropointFailed"]


class CalibrationError(AlgorithmError):
    """The image could not be calibrated."""

    code = "calibration"


class TooFewStars(CalibrationError):
    """Not enough stars for a PSF model."""

    code = "too_few_stars"


class ZeropointFailed(CalibrationError):
    """No zero point by the instrument's rule."""

    code = "zeropoint"
