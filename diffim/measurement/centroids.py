"""Centroids of sources: a fit of the PSF's flux and position."""

import numpy as np

from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.photometry import psf_at_fixed_pixel
from exposure.psf import Psf
from tasks.arrays import F32, F64

__all__ = ["fit_centroids"]

MAX_MOVE = 3.0  # px from the peak


def _crop(stamps: F32, side: int) -> F32:
    """Return the middle (N, side, side) of stamps."""
    low = (stamps.shape[-1] - side) // 2
    return stamps[:, low : low + side, low : low + side] if low > 0 else stamps


def fit_centroids(difference: Exposure, psf: Psf, px: F64, py: F64, side: int = 15) -> tuple[F64, F64, F64]:
    """Fit flux and position with the PSF (linear in flux, dx, dy; iterated).

    Parameters
    ----------
    px, py
        Frame positions of the peaks, shape (N,), px.
    side
        Side of the stamps of the fit, px.

    Returns
    -------
    x, y
        Frame positions, shape (N,), px; those of the peaks where the fit moved away by `MAX_MOVE` or more.
    info
        Shape (N, 4): xErr and yErr (px), their covariance (px^2), 1 where the fit failed.
    """
    n = px.size
    x, y = px.copy(), py.copy()
    info = np.zeros((n, 4))
    if n == 0:
        return x, y, info
    side = min(side, psf.size)
    cx, cy = px.astype(np.int64), py.astype(np.int64)
    data, var = (a.astype(float) for a in MaskedImage.of(difference, "BAD", "CR").stamps(cx, cy, side))
    var[np.isinf(var)] = 0
    inverse = np.zeros((n, 3, 3))
    basis = np.zeros((n, 3, side, side))
    for _ in range(6):
        stamps = _crop(psf_at_fixed_pixel(psf, x, y, cx, cy), side).astype(np.float64)
        gy, gx = np.gradient(stamps, axis=(1, 2))
        basis = np.stack([stamps, -gx, -gy], axis=1) * (var > 0)[:, None]
        normal = np.einsum("nkij,nlij->nkl", basis, basis)
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3) + 1e-30 * np.eye(3)
        inverse = np.linalg.inv(normal)
        solution = np.einsum("nkl,nl->nk", inverse, np.einsum("nkij,nij->nk", basis, data))
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.clip(np.nan_to_num(solution[:, 1:] / solution[:, :1]), -0.7, 0.7)
        x, y = (
            np.clip(x + step[:, 0], px - MAX_MOVE, px + MAX_MOVE),
            np.clip(y + step[:, 1], py - MAX_MOVE, py + MAX_MOVE),
        )
    covariance = np.einsum("nkl,nlm,npm->nkp", inverse, np.einsum("nkij,nij,nlij->nkl", basis, var, basis), inverse)
    with np.errstate(invalid="ignore", divide="ignore"):
        square = solution[:, 0] ** 2
        info[:, 0], info[:, 1] = np.sqrt(covariance[:, 1, 1] / square), np.sqrt(covariance[:, 2, 2] / square)
        info[:, 2] = covariance[:, 1, 2] / square
    lost = (np.hypot(x - px, y - py) >= MAX_MOVE) | ~np.isfinite(info[:, 0])
    x[lost], y[lost] = px[lost], py[lost]
    info[lost, :3], info[lost, 3] = np.nan, 1.0
    return x, y, info
