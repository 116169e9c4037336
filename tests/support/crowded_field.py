"""Fields in which stars overlap."""

import numpy as np

__all__ = ["GAIN", "NOISE", "SKY", "TRANSIENT", "crowded"]

SKY, GAIN, NOISE = 800.0, 1.5, 3.0


TRANSIENT = 2e4


def crowded(side, density, fwhm, transients, seed):
    """Stars of a power law, `density` per 100 x 100 px, with the wings of a Moffat profile."""
    field = np.random.default_rng(seed)
    n = int(density * side**2 / 1e4)
    x, y = field.uniform(-5, side + 5, (2, n))
    flux = 10 ** np.minimum(0.35 * field.pareto(1.2, n) + 2.2, 5.5)
    x, y, flux = np.r_[x, transients[0]], np.r_[y, transients[1]], np.r_[flux, np.full(len(transients[0]), TRANSIENT)]
    alpha, g, reach = fwhm / 1.1774, np.arange(side), int(3 * fwhm) + 3
    light = np.full((side, side), SKY)
    for k in range(x.size):
        box = [slice(max(round(v) - reach, 0), max(round(v) + reach + 1, 0)) for v in (y[k], x[k])]
        r2 = (g[box[0], None] - y[k]) ** 2 + (g[None, box[1]] - x[k]) ** 2
        light[box[0], box[1]] += flux[k] * 1.5 / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -2.5
    rng = np.random.default_rng(int(1000 * fwhm) + seed)
    return (rng.poisson(light * GAIN) / GAIN + rng.normal(0, NOISE, light.shape)).astype(np.float32)
