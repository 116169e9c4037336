"""Stars of a crowded field, each without the light of the others: what a PSF is measured on in a second round.

Where pixels near neighbours are left out, the wings of those neighbours remain, and stars are chosen where the field is
emptier than in the ring around them: the level that is taken for the local sky is too high, and a PSF from few stars
comes out too narrow. With a first PSF, all sources near the stars are fitted and subtracted (Stetson 1987, section
III.C), and the level is fitted beside each star's flux, close to it.
"""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from calibration.psf.stamps import Stamps, clipped_mean, known_pixels
from exposure import Exposure, Psf
from exposure.stamps import add_stamps, gather, sided
from tasks.arrays import F32, I64, nearest_pixels

__all__ = ["Crowd", "is_crowded"]

CROWDED = 0.7  # sources in an area as large as a stamp: more, and the ring around a star is no sky
ROUNDS = 4
LEVEL_WITHIN = 2.5  # FWHM of a star
CORE = 0.75  # FWHM around a subtracted source that are left out: what its fit misses is there


def is_crowded(exposure: Exposure, sources: pd.DataFrame, side: int) -> bool:
    """Return whether stamps of a side hold other sources, in the mean."""
    return len(sources) * side**2 > CROWDED * exposure.width * exposure.height


class Crowd:
    """The sources around PSF stars, whose light can be taken off.

    Parameters
    ----------
    stars
        (M,) rows of `sources` (x, y, frame px) that are the PSF stars, in the order of their stamps.
    side, fwhm
        Of a stamp and of a star, px.
    """

    def __init__(self, exposure: Exposure, sources: pd.DataFrame, stars: I64, side: int, fwhm: float) -> None:
        positions = sources[["x", "y"]].to_numpy(np.float64)
        distance, _ = cKDTree(positions[stars]).query(positions)
        near = np.flatnonzero(distance < 1.5 * side)
        self.stars = np.searchsorted(near, stars)
        self.positions, self.fwhm, self.origin = positions, fwhm, exposure.origin
        self.image = known_pixels(exposure)
        x, y = positions[near].T.copy()
        cx, cy = (nearest_pixels(v) for v in (x, y))
        empty = np.zeros((near.size, *[min(side, int(4 * fwhm) | 1)] * 2), np.float32)
        self.all = Stamps(empty, empty, x, y, cx, cy, np.zeros(near.size))

    def take_off(self, data: Stamps, model: Psf) -> None:
        """Put stamps without the light of the other sources, as a PSF model has it, into `data`."""
        every = self.all
        pixels = every.cx - self.origin[0], every.cy - self.origin[1]
        for _ in range(ROUNDS):
            models, rest = self._models(model, pixels)
            left = gather(rest, *pixels, every.raw.shape[-1], np.nan)
            level = np.nan_to_num(clipped_mean(left.reshape(len(left), -1))).astype(np.float32)
            every.raw = left + sided(models, left.shape[-1]) - level[:, None, None]
            every.refine(model)
        models, rest = self._models(model, pixels)
        raw = (
            gather(rest, pixels[0][self.stars], pixels[1][self.stars], data.raw.shape[-1], np.nan) + models[self.stars]
        )
        data.take(raw, self.positions, CORE * self.fwhm)
        data.level_with(model, LEVEL_WITHIN * self.fwhm)

    def _models(self, model: Psf, pixels: tuple[I64, I64]) -> tuple[F32, F32]:
        """Return the model of each source (N, S, S), and the image without all of them.

        `pixels` are their middles (x, y).
        """
        models = model.image_at(self.all.x, self.all.y) * self.all.flux[:, None, None].astype(np.float32)
        rest = self.image.copy()
        add_stamps(rest, models, *pixels, np.full(len(models), -1.0))
        return models, rest
