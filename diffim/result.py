"""The result of one pair."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffim.matching.kernel_fit import KernelFit
from exposure import Exposure
from exposure.stars import Stars
from tasks.reprs import short_repr

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Differenced"]


@dataclass(frozen=True)
class Differenced:
    """What a pair became; the names are those of the published task's result.

    Parameters
    ----------
    subtractedExposure
        The difference with mask, PSF and calibrations; None where there was none to make.
    warpedExposure
        The template on the image's pixels.
    selectSources
        The sources that the kernel stars were taken from.
    scoreExposure
        Significance of a point source at each pixel, sigma.
    matchedExposure
        The template as it was subtracted, in counts of the image and with its calibrations.
    subtractRes
        The fit of the kernel.
    diaSources
        Raw measurements, one row a source (`diffim.measurement.measure.measure`).
    spatiallySampledMetrics
        Numbers of quality at places of the image (`diffim.quality.sample_metrics`).
    """

    subtractedExposure: Exposure | None
    warpedExposure: Exposure
    selectSources: "pd.DataFrame | Stars"
    scoreExposure: Exposure | None = None
    matchedExposure: Exposure | None = None
    subtractRes: KernelFit | None = None
    diaSources: "pd.DataFrame | None" = None
    spatiallySampledMetrics: "pd.DataFrame | None" = None

    __repr__ = short_repr
