"""Moffat stars as a detector sees them: integrated over each pixel."""

import numpy as np

__all__ = ["moffat"]

FINE = 8  # points per pixel and axis of the integral (Gauss-Legendre): to 1e-9 for stars of 2 px FWHM and more


def moffat(fwhm: float, beta: float, side: int, x: float, y: float) -> np.ndarray:
    """Return a star of flux 1, shape (side, side), whose centre is (x, y) px from that of the middle pixel."""
    points, weights = np.polynomial.legendre.leggauss(FINE)
    g = (np.arange(side)[:, None] - side // 2 + 0.5 * points[None, :]).ravel()
    alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    light = (1 + ((g[:, None] - y) ** 2 + (g[None, :] - x) ** 2) / alpha2) ** -beta
    light *= (beta - 1) / (np.pi * alpha2)
    cells = light.reshape(side, FINE, side, FINE)
    return np.einsum("jaib,a,b->ji", cells, weights / 2, weights / 2)
