"""Background layers in the forms that they come in."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from calibration.errors import SummaryError
from exposure import Background
from tasks.arrays import F32

__all__ = ["BackgroundLayer", "layers_of"]


@dataclass(frozen=True)
class BackgroundLayer:
    """One layer: a coarse image of statistics, and the full image if there is one.

    Parameters
    ----------
    statistics
        (ny, nx) sky values of cells, NaN where a cell has none.
    image
        Full-size background; None: interpolated from the statistics (bilinear between cell centres).
    """

    statistics: F32
    image: F32 | None = None

    def image_for(self, shape: tuple[int, ...]) -> F32:
        """Return the background on an image of this shape.

        Raises
        ------
        SummaryError
            The layer's own image has another shape.
        """
        if self.image is not None:
            if self.image.shape != tuple(shape):
                raise SummaryError(f"a background layer has shape {self.image.shape}, its image {tuple(shape)}")
            return self.image
        values = np.asarray(self.statistics, np.float32)
        filled = np.where(np.isfinite(values), values, np.float32(np.nanmedian(values)))
        return np.asarray(cv2.resize(filled, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def layers_of(background: Any) -> list[BackgroundLayer]:
    """Return the layers of a background list, a single layer, our `Background`, a plain array, or a list of these."""
    if background is None:
        return []
    if isinstance(background, BackgroundLayer):
        return [background]
    if isinstance(background, Background):
        return [BackgroundLayer(background.level, background.level)]
    if isinstance(background, np.ndarray):
        return [BackgroundLayer(np.asarray(background, np.float32))]
    if isinstance(background, Iterable):
        return [layer for part in background for layer in layers_of(part)]
    raise SummaryError(f"a background must be layers or arrays, got {type(background).__name__}")
