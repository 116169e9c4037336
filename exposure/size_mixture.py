"""The sizes of sources as a mixture: stars in a narrow peak, extended sources above it, and a little of anything.

As Sevilla-Noarbe et al. 2018 (MNRAS 481, 5451, section 3) describe the plane of size and brightness, with the density
of extended sources taken from themselves: it is smooth, it ends at the size of stars, and it differs between classes of
signal to noise. Sizes are logarithms throughout.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from exposure.quantiles import SIGMA_PER_MAD, median
from tasks.arrays import F64, I64, Flags

__all__ = [
    "BIN",
    "CLASSES",
    "KEEP",
    "NOISE",
    "TABLE",
    "Mixture",
    "Sizes",
    "densities",
    "profile",
    "shape",
    "unstructured",
]

NOISE = (
    2.2  # error of ln size times S/N: 2 for a Gaussian (Bernstein & Jarvis 2002: a fit of its size), more with wings
)
LEAST_SCATTER, MOST_SCATTER = 0.025, 0.3
CLASSES = (40.0, 120.0)  # S/N between which extended sources are of different sizes
BROAD = 0.12  # ln size over which the sizes of extended sources are smooth
LEAST_EXCESS, SOFT = 0.06, 0.05  # ln size above stars where their density ends, and over which it does
ANYTHING = 0.4  # density of what is neither, per ln size
LEAST_ODD = 0.002  # share of that
ROUNDS = 5
KEEP = 3.5  # sigma
BIN = 0.05  # of ln size, of tables
TABLE = np.arange(-4.0, 6.0, BIN)  # ln size above the level at which the density of extended sources is kept


@dataclass(frozen=True)
class Mixture:
    """Of each class of S/N: shares of stars, extended sources and anything (C, 3), and the density of extended ones
    over `TABLE` above the level (C, T); the scatter of stars.
    """

    shares: F64
    density: F64
    scatter: float


@dataclass(frozen=True)
class Sizes:
    """Sources: positions (px), ln sizes with their errors, and classes of S/N, each (N,)."""

    x: F64
    y: F64
    size: F64
    noise: F64
    kind: I64

    def take(self, which: I64 | Flags) -> "Sizes":
        """Return some of them."""
        return Sizes(self.x[which], self.y[which], self.size[which], self.noise[which], self.kind[which])


def _density(counts: F64) -> F64:
    """Return densities (..., T) per ln size, of sum 1, from counts in steps of `BIN`, smoothed by a Gaussian."""
    out = counts @ _smoothing(counts.shape[-1]) + 1e-3
    return np.asarray(out / (out.sum(-1, keepdims=True) * BIN))


@lru_cache(maxsize=8)
def _smoothing(n: int) -> F64:
    g = np.arange(n) * BIN
    return np.asarray(np.exp(-0.5 * ((g[:, None] - g[None, :]) / BROAD) ** 2))


def _above(z: F64) -> F64:
    """Return about the normal distribution function: the logistic one is within 0.01 (Johnson & Kotz 1970, ch. 22)."""
    return np.asarray(1 / (1 + np.exp(np.clip(-1.702 * z, -50, 50))))


def _gauss(z: F64, sigma: F64) -> F64:
    return np.asarray(np.exp(-0.5 * z * z) / (np.sqrt(2 * np.pi) * sigma))


def profile(sizes: F64, sigma: F64, grid: F64, table: F64) -> tuple[F64, F64, F64]:
    """Return, for levels (M,), the ln likelihood of sizes (N,), the shares (M, 3), the density of extended ones (M, T).

    The density is smooth over `BROAD` and ends at the level; what is narrower than that is left to the stars.
    """
    if not sizes.size:
        return np.zeros(grid.size), np.tile([0.0, 0.9, 0.1], (grid.size, 1)), np.zeros((grid.size, table.size))
    order = np.argsort(sizes)
    sizes, sigma = sizes[order], sigma[order]
    bins = np.clip(((sizes - table[0]) / BIN + 0.5).astype(np.int64), 0, table.size - 1)
    filled, first = np.unique(bins, return_index=True)
    z = (sizes[None, :] - grid[:, None]) / sigma
    star, edge = _gauss(z, sigma), _above(z - LEAST_EXCESS / sigma)
    end = _above((table[None, :] - grid[:, None] - LEAST_EXCESS) / SOFT)
    extended = np.ones_like(star)
    shares = np.tile([0.3, 0.6, 0.1], (grid.size, 1))
    counts = np.zeros((grid.size, table.size))
    for _ in range(ROUNDS):
        counts[:, filled] = np.add.reduceat(extended, first, axis=1)
        density = _density(counts)
        mass = np.maximum((density * end).sum(1) * BIN, 0.02)
        stars = shares[:, :1] * star
        extended = shares[:, 1:2] / mass[:, None] * density[:, bins] * edge
        total = stars + extended + shares[:, 2:] * ANYTHING
        stars /= total
        extended /= total
        shares[:, 0], shares[:, 1] = stars.mean(1), extended.mean(1)
        shares[:, 2] = np.maximum(1 - shares[:, 0] - shares[:, 1], LEAST_ODD)
    return np.log(total).sum(1), shares, density * end / mass[:, None]


def unstructured(sizes: F64, kind: I64) -> float:
    """Return the ln likelihood of ln sizes (N,) without stars: smooth in each class (N,) of S/N, and nothing else."""
    table = np.arange(sizes.min() - 0.5, sizes.max() + 0.5, BIN)
    total = 0.0
    for c in np.unique(kind):
        mine = sizes[kind == c]
        density = _density(np.histogram(mine, np.append(table, table[-1] + BIN) - 0.5 * BIN)[0].astype(np.float64))
        total += float(np.log(np.interp(mine, table, density)).sum())
    return total


def densities(above: F64, noise: F64, kind: I64, mixture: Mixture) -> F64:
    """Return the densities (3, ..., N) of stars, extended sources and anything, shares included.

    Parameters
    ----------
    above
        ln size above the level, shape (..., N).
    noise, kind
        Error of ln size, and class of S/N, shape (N,).
    """
    sigma = np.hypot(noise, mixture.scatter)
    z = above / sigma
    out = np.empty((3, *above.shape))
    shares = mixture.shares[kind].T
    out[0] = shares[0] * _gauss(z, sigma)
    which = np.clip(((above - TABLE[0]) / BIN + 0.5).astype(np.int64), 0, TABLE.size - 1)
    out[1] = shares[1] * mixture.density[np.broadcast_to(kind, above.shape), which] * _above(z - LEAST_EXCESS / sigma)
    out[2] = shares[2] * ANYTHING
    return out


def shape(some: Sizes, levels: F64, mixture: Mixture) -> Mixture:
    """Return the mixture that sources are about their levels (N,): one step of expectation and maximisation.

    The scatter is that of stars next to the level, beyond their noise.
    """
    above = some.size - levels
    parts = densities(above, some.noise, some.kind, mixture)
    parts /= parts.sum(0)
    shares, tables = mixture.shares.copy(), mixture.density.copy()
    end, edges = _above((TABLE - LEAST_EXCESS) / SOFT), np.append(TABLE, TABLE[-1] + BIN) - 0.5 * BIN
    for c in np.unique(some.kind):
        mine = some.kind == c
        shares[c] = parts[:, mine].mean(1)
        density = _density(np.histogram(above[mine], edges, weights=parts[1, mine])[0])
        tables[c] = density / max(float((density * end).sum() * BIN), 0.02)
    shares[:, 2] = np.maximum(shares[:, 2], LEAST_ODD)
    stars = (parts[0] > 0.5) & (np.abs(above) < KEEP * np.hypot(some.noise, mixture.scatter))
    if stars.sum() < 5:
        return Mixture(shares, tables, mixture.scatter)
    bright = stars & (some.noise <= np.quantile(some.noise[stars], 0.5))
    square = (SIGMA_PER_MAD * median(np.abs(above[bright]))) ** 2 - median(some.noise[bright]) ** 2
    most = min(2 * mixture.scatter, MOST_SCATTER)
    return Mixture(shares, tables, float(np.sqrt(np.clip(square, LEAST_SCATTER**2, most**2))))
