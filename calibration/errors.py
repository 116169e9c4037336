"""Errors of the calibration room."""

from typing import Any

from tasks.errors import AlgorithmError

__all__ = [
    "CalibrationError",
    "FitDiverged",
    "JointCalibrationError",
    "ModelInvalid",
    "SingularFit",
    "SummaryError",
    "TooCrowded",
    "TooFewStars",
    "TooLittleDrift",
    "ZeropointFailed",
]


class CalibrationError(AlgorithmError):
    """The image could not be calibrated."""

    code = "calibration"


class TooFewStars(CalibrationError):
    """Not enough stars for a PSF model."""

    code = "too_few_stars"


class TooCrowded(CalibrationError):
    """Too many sources touch each other to be told apart."""

    code = "too_crowded"


class TooLittleDrift(CalibrationError):
    """The sky stays on the same pixels over these frames: stars cannot be told from bad pixels."""

    code = "too_little_drift"


class ZeropointFailed(CalibrationError):
    """No zero point by the instrument's rule."""

    code = "zeropoint"


class JointCalibrationError(CalibrationError, RuntimeError):
    """A joint fit cannot be made of these inputs."""

    code = "joint_calibration"


class SingularFit(JointCalibrationError):
    """The data leave parameters of the model undetermined."""

    code = "singular_fit"


class ModelInvalid(JointCalibrationError, ValueError):
    """The fitted model makes no sense: more parameters than data, or a negative scale."""

    code = "model_invalid"


class FitDiverged(JointCalibrationError, FloatingPointError):
    """Chi2 grew where it must fall, or is no number."""

    code = "fit_diverged"


class SummaryError(CalibrationError, RuntimeError):
    """A visit summary cannot be updated from these inputs."""

    code = "visit_summary"
    partial: Any = None
