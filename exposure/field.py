"""A smooth scalar field over a bounding box: Chebyshev polynomials of the first kind."""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from tasks.arrays import F64, I64, Box
from tasks.reprs import short_repr

__all__ = ["ChebyshevField", "chebyshev_orders", "chebyshev_terms", "neighbours_2d", "polynomial_terms"]


@dataclass(frozen=True)
class ChebyshevField:
    """f(x, y) = sum_ji c[j, i] T_j(v) T_i(u), u and v in [-1, 1] across the box.

    Parameters
    ----------
    coefficients
        Shape (ny, nx).
    bbox
        (x0, y0, width, height) in pixels; pixel centres are integers.
    """

    coefficients: F64
    bbox: Box

    __repr__ = short_repr

    @classmethod
    def constant(cls, value: float, bbox: Box) -> "ChebyshevField":
        """Return the field that is `value` everywhere."""
        return cls(np.array([[value]], dtype=np.float64), bbox)

    def scaled(self, x: ArrayLike, y: ArrayLike) -> tuple[F64, F64]:
        """Return positions mapped to [-1, 1] across the box."""
        x0, y0, width, height = self.bbox
        u = 2.0 * (np.asarray(x, dtype=np.float64) - x0) / max(width - 1, 1) - 1.0
        v = 2.0 * (np.asarray(y, dtype=np.float64) - y0) / max(height - 1, 1) - 1.0
        return u, v

    def __call__(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Evaluate at positions (broadcast)."""
        u, v = self.scaled(x, y)
        return np.asarray(chebyshev.chebval2d(v, u, self.coefficients), dtype=np.float64)


def chebyshev_orders(top: int) -> I64:
    """Return the (i, j) orders up to a total degree, by degree, x first."""
    return np.array([(d - j, j) for d in range(top + 1) for j in range(d + 1)], dtype=np.int64)


def chebyshev_terms(top: int, box: Box, x: ArrayLike, y: ArrayLike) -> F64:
    """Return (N, n_terms) Chebyshev polynomials of positions mapped to [-1, 1] across the box."""
    x0, y0, width, height = box
    u = 2 * (np.atleast_1d(np.asarray(x, np.float64)) - x0) / max(width - 1, 1) - 1
    v = 2 * (np.atleast_1d(np.asarray(y, np.float64)) - y0) / max(height - 1, 1) - 1
    orders = chebyshev_orders(top)
    cu, cv = chebyshev.chebvander(u, top), chebyshev.chebvander(v, top)
    return np.asarray(cu[:, orders[:, 0]] * cv[:, orders[:, 1]], dtype=np.float64)


def polynomial_terms(orders: I64, bbox: Box, x: ArrayLike, y: ArrayLike) -> F64:
    """Return products of Chebyshev polynomials at N positions, shape (N, n_terms).

    Parameters
    ----------
    orders
        (n_terms, 2): orders in x and y of each term.
    x, y
        Frame px, shape (N,); clipped to the box, so that nothing is extrapolated.
    """
    x0, y0, width, height = bbox
    u = np.clip(2 * (np.atleast_1d(np.asarray(x, np.float64)) - x0) / max(width - 1, 1) - 1, -1, 1)
    v = np.clip(2 * (np.atleast_1d(np.asarray(y, np.float64)) - y0) / max(height - 1, 1) - 1, -1, 1)
    top = int(orders.max(initial=0))
    cu, cv = chebyshev.chebvander(u, top), chebyshev.chebvander(v, top)
    return np.asarray(cu[:, orders[:, 0]] * cv[:, orders[:, 1]], dtype=np.float64)


def neighbours_2d(x: F64, y: F64, bbox: Box, nx: int, ny: int) -> tuple[NDArray[np.intp], F64]:
    """Return the cells (N, 4) around N frame positions, and their bilinear weights (N, 4), which sum to 1.

    The box is divided into `nx` x `ny` cells, whose values belong to their centres; cells are numbered along x first.
    """
    x0, y0, width, height = bbox
    u = np.clip((x - x0 + 0.5) * nx / width - 0.5, 0, nx - 1)
    v = np.clip((y - y0 + 0.5) * ny / height - 0.5, 0, ny - 1)
    i, j = np.minimum(u.astype(int), max(nx - 2, 0)), np.minimum(v.astype(int), max(ny - 2, 0))
    fu, fv = u - i, v - j
    i1, j1 = np.minimum(i + 1, nx - 1), np.minimum(j + 1, ny - 1)
    index = np.stack([j * nx + i, j * nx + i1, j1 * nx + i, j1 * nx + i1], axis=1)
    weight = np.stack([(1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv], axis=1)
    return index, weight
