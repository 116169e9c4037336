"""A pair whose kernel is known."""

import numpy as np
import pandas as pd

from exposure import Exposure, GaussianPsf, PhotoCalib, SkyWcs, VisitInfo

__all__ = ["ORIGINS", "Fixture", "clipped"]

ORIGINS = [(0, 0), (12345, 67890)]


class Fixture:
    """Stars of flux 500-1000 (times `bright`) with given PSF sigma and noise; variance noise^2, which is true."""

    def __init__(self, origin, size=256, n=20, bright=1.0, seed=3):
        self.origin, self.size = origin, size
        rng = np.random.default_rng(seed)
        self.x, self.y = rng.uniform(20, size - 20, (2, n))
        self.flux = bright * rng.uniform(500, 1000, n)

    def exposure(self, sigma, noise, seed, border=0, background=None, scale=1.0):
        g = np.arange(-border, self.size + border)
        ex = np.exp(-0.5 * ((g - self.x[:, None]) / sigma) ** 2)
        ey = np.exp(-0.5 * ((g - self.y[:, None]) / sigma) ** 2)
        image = np.einsum("n,nj,ni->ji", self.flux / (2 * np.pi * sigma**2), ey, ex)
        variance = np.full(image.shape, noise**2)
        dice = np.random.default_rng(seed).normal(0, noise, image.shape)
        image = image + dice - dice.mean()
        if background is not None:
            image = image + background
        ox, oy = self.origin
        e = Exposure(
            (scale * image).astype("f4"), (scale**2 * variance).astype("f4"), np.zeros(image.shape, np.int32),
            (ox - border, oy - border), self.wcs(), GaussianPsf(sigma, 31, (ox + self.size / 2, oy + self.size / 2)),
            PhotoCalib(1.0 / scale), VisitInfo(7, 3, 61000.0, 30.0), "r", "r_03",
        )  # fmt: skip
        smooth = np.einsum("n,nj,ni->ji", self.flux / (2 * np.pi * sigma**2), ey, ex)
        e.set_plane("DETECTED", smooth > 0.2 * noise)
        return e

    def wcs(self):
        return SkyWcs.tan(self.origin, (150.0, 2.0), [[-0.2 / 3600, 0], [0, 0.2 / 3600]])

    def sources(self, snr=50.0):
        t = pd.DataFrame({"x": self.x + self.origin[0], "y": self.y + self.origin[1], "psfFlux": self.flux, "snr": snr})
        t["star"], t["isolated"], t["flagged"] = True, True, False
        return t.sort_values("psfFlux", ascending=False, ignore_index=True)


def clipped(image, planes=None):
    """Mean and standard deviation, clipped at 3 sigma three times."""
    values = np.asarray(image, np.float64).ravel()
    values = values[np.isfinite(values)]
    for _ in range(3):
        values = values[np.abs(values - values.mean()) < 3 * values.std()]
    return values.mean(), values.std()
