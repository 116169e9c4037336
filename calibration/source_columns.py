"""The columns of the tables of sources of a frame: what a frame without one gives, too."""

from typing import Any

import numpy as np
import pandas as pd

__all__ = ["no_sources", "none_detected"]

_DETECTED: dict[str, Any] = {
    "x": float, "y": float, "apFlux": float, "snr": float, "peak": float, "elongation": float, "blended": bool,
    "flagged": bool, "size": float, "isolated": bool, "star": bool,
}  # fmt: skip
_CALIBRATED: dict[str, Any] = {"psfFlux": float, "psfFluxErr": float, "ra": float, "dec": float}


def none_detected() -> pd.DataFrame:
    """Return the table without a row that `calibration.sources.detect_sources` gives."""
    return pd.DataFrame({name: np.zeros(0, kind) for name, kind in _DETECTED.items()})


def no_sources() -> pd.DataFrame:
    """Return the table without a row that `calibration.characterize.characterize` gives."""
    return pd.DataFrame({name: np.zeros(0, kind) for name, kind in (_DETECTED | _CALIBRATED).items()})
