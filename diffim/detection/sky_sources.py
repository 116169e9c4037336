"""Blank positions of a difference: what is measured there tells the noise."""

import numpy as np

from exposure import Exposure
from exposure.mask import plane_bits
from exposure.stamps import gather
from tasks.arrays import I64

__all__ = ["sky_positions"]

SKY_RADIUS = 8
SKY_TRIALS = 5


def sky_positions(difference: Exposure, n: int) -> tuple[I64, I64]:
    """Return up to `n` positions (x, y), array px, whose discs of radius 8 px hold no detection and no bad pixel.

    They come from a Halton sequence seeded by visit and detector; at most five times `n` are tried.
    """
    from scipy.stats import qmc  # a second of import that only this needs

    bits = plane_bits(["DETECTED", "DETECTED_NEGATIVE", "BAD", "NO_DATA", "EDGE", "SAT"])
    seed = np.random.default_rng([*difference.key, 8])
    trial = qmc.Halton(2, scramble=True, seed=seed).random(SKY_TRIALS * n)
    margin = SKY_RADIUS
    x = (margin + trial[:, 0] * (difference.width - 2 * margin)).astype(np.int64)
    y = (margin + trial[:, 1] * (difference.height - 2 * margin)).astype(np.int64)
    g = np.arange(-SKY_RADIUS, SKY_RADIUS + 1)
    disc = np.hypot(g[:, None], g[None, :]) <= SKY_RADIUS
    around = gather(difference.mask, x, y, 2 * SKY_RADIUS + 1, bits)[:, disc]
    free = np.flatnonzero(((around & bits) == 0).all(axis=1))[:n]
    return x[free], y[free]
