"""What the steps of a subtraction hand on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffim.matching.kernel_fit import KernelFit
from exposure import Exposure
from exposure.stars import Stars
from tasks.arrays import F32
from tasks.reprs import short_repr

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Differenced"]


@dataclass
class Differenced:
    """What a pair became; the names are those of the published task's result."""

    subtractedExposure: Exposure | None
    warpedExposure: Exposure
    selectSources: "pd.DataFrame | Stars"
    scoreExposure: Exposure | None = None
    matchedExposure: F32 | None = None
    subtractRes: KernelFit | None = None
    diaSources: "pd.DataFrame | None" = None
    spatiallySampledMetrics: "pd.DataFrame | None" = None

    __repr__ = short_repr
