"""Calibration: what a plain image lacks (`characterize`), and the multi-visit calibration tasks.

Imports: ``diffim``, ``forced``, ``exposure``, ``tasks`` (never ``association``: same level). Names are fetched when they are first
used: the joint fit needs no pixel code. `calibration.characterize.characterize` is asked
for by its full name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration.errors import CalibrationError, TooFewStars
    from calibration.joint.task import JointcalTask
    from calibration.refcat import ReferenceStars
    from calibration.summary.task import UpdateVisitSummaryTask

_HOMES = {
    "CalibrationError": "errors",
    "JointcalTask": "joint.task",
    "ReferenceStars": "refcat",
    "TooFewStars": "errors",
    "UpdateVisitSummaryTask": "summary.task",
}

__all__ = [
    "CalibrationError",
    "JointcalTask",
    "ReferenceStars",
    "TooFewStars",
    "UpdateVisitSummaryTask",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'calibration' has no attribute {name!r}")
    return getattr(import_module(f"calibration.{_HOMES[name]}"), name)
