"""Detection on a difference that was made before, without the images that it was made of.

What is asked of them has no value then: their fluxes are NaN.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from exposure import Exposure

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["blank_columns", "stand_in"]

_COLUMNS = {
    "science": ("scienceInstFlux", "scienceInstFluxErr"),
    "template": ("templateInstFlux", "templateInstFluxErr"),
}


def stand_in(difference: Exposure) -> Exposure:
    """Return an image without light in the place of one that is not given: frame, noise and mask of the difference."""
    return replace(
        difference,
        image=np.zeros_like(difference.image),
        variance=difference.variance.copy(),
        mask=difference.mask.copy(),
        metadata={},
    )


def blank_columns(table: "pd.DataFrame", absent: list[str]) -> "pd.DataFrame":
    """Return a table of N sources whose fluxes (columns in counts) on absent images (``science``, ``template``) are NaN."""
    return table.assign(**{column: np.nan for image in absent for column in _COLUMNS[image] if column in table})
