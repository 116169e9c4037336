"""Calibration: what a plain image lacks (`characterize`), and the multi-visit calibration tasks.

Imports: ``diffim``, ``forced``, ``exposure``, ``apdb``, ``tasks`` (never ``association``: same level).
"""

from calibration.characterize import Characterized, characterize
from calibration.errors import CalibrationError, TooFewStars
from calibration.refcat import ReferenceStars

__all__ = ["CalibrationError", "Characterized", "ReferenceStars", "TooFewStars", "characterize"]
