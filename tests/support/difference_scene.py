"""Two images of one star field with transients, and their subtraction by the task."""

import numpy as np
import pandas as pd

from diffim import ImageDifferenceTask
from exposure import Exposure, GaussianPsf, PhotoCalib, SkyWcs, VisitInfo
from tasks import make_task

__all__ = ["FWHM", "ORIGIN", "WCS", "scene", "subtract"]

FWHM = 2.3548200450309493


ORIGIN = (12345, 67890)


def scene(sigma, noise, seed, pad=0, size=256, n=60, scale=1.0, flux=(500, 3000), stars_seed=1, shift=(0.0, 0.0)):
    """Gaussian stars; variance = |signal| + noise^2."""
    rng = np.random.default_rng(stars_seed)
    x, y = rng.uniform(25, size - 25, (2, n))
    f = rng.uniform(*flux, n) * 20
    g = np.arange(-pad, size + pad)
    ex = np.exp(-0.5 * ((g - x[:, None] - shift[0]) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
    ey = np.exp(-0.5 * ((g - y[:, None] - shift[1]) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
    image = np.einsum("n,nj,ni->ji", f, ey, ex)
    variance = image + noise**2
    image = image + np.random.default_rng(seed).normal(size=image.shape) * np.sqrt(variance)
    e = Exposure(
        (scale * image).astype("f4"),
        (scale**2 * variance).astype("f4"),
        np.zeros(image.shape, np.int32),
        (ORIGIN[0] - pad, ORIGIN[1] - pad),
        WCS,
        GaussianPsf(sigma, 41, (ORIGIN[0] + 128, ORIGIN[1] + 128)),
        PhotoCalib(1.0 / scale),
        VisitInfo(1, 2, 61000.0, 30.0),
        "r",
    )
    s = pd.DataFrame({"x": x + ORIGIN[0], "y": y + ORIGIN[1], "psfFlux": f * scale, "snr": 100.0})
    s["star"], s["isolated"], s["flagged"] = True, True, False
    return e, s.sort_values("psfFlux", ascending=False, ignore_index=True)


WCS = SkyWcs.tan(ORIGIN, (150.0, 2.0), [[-0.2 / 3600, 0], [0, 0.2 / 3600]])


def subtract(science, template, sources, **config):
    task = make_task(ImageDifferenceTask, {"doFindCosmicRays": False, **config})
    return task, task.run(science.copy(), sources, template.copy())
