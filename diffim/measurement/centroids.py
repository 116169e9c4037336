"""Centroids of sources: a fit of the PSF's flux and position."""

import numpy as np

from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.photometry import CENTROID_SIDE, SPOILT, position_basis, psf_at_fixed_pixel
from exposure.photon_noise import CENTROID, LEAST, PhotonNoise
from exposure.psf import GridPsf, Psf, fwhm_of
from tasks.arrays import F64

__all__ = ["fit_centroids"]

MAX_MOVE = 5.0  # px from the peak
SIDE_FWHM = 3.0  # of the stamps that a wide source is fitted on


def fit_centroids(difference: Exposure, psf: Psf, px: F64, py: F64) -> tuple[F64, F64, F64]:
    """Fit flux and position with the PSF (linear in flux, dx, dy; iterated).

    Parameters
    ----------
    px, py
        Frame positions of the peaks, shape (N,), px.

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
    fwhm = float(np.median(fwhm_of(psf.moments_at(px, py))))
    side = min(max(CENTROID_SIDE, int(SIDE_FWHM * fwhm) | 1), psf.size)
    cx, cy = px.astype(np.int64), py.astype(np.int64)
    data, var = (a.astype(float) for a in MaskedImage.of(difference, *SPOILT).stamps(cx, cy, side))
    var[np.isinf(var)] = 0
    inverse = np.zeros((n, 3, 3))
    basis = np.zeros((n, 3, side, side))
    for _ in range(6):
        stamps = psf_at_fixed_pixel(psf, x, y, cx, cy)
        basis = position_basis(stamps, side).swapaxes(0, 1) * (var > 0)[:, None]
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
    noise = np.einsum("nkij,nij,nlij->nkl", basis, var, basis)
    if isinstance(psf, GridPsf) and psf.photon_noise is not None:
        _add_photon_noise(noise, psf.photon_noise, x, y, solution[:, 0], _slope(basis[:, 0], var))
    covariance = np.einsum("nkl,nlm,npm->nkp", inverse, noise, inverse)
    with np.errstate(invalid="ignore", divide="ignore"):
        square = solution[:, 0] ** 2
        info[:, 0], info[:, 1] = np.sqrt(covariance[:, 1, 1] / square), np.sqrt(covariance[:, 2, 2] / square)
        info[:, 2] = covariance[:, 1, 2] / square
    lost = (np.hypot(x - px, y - py) >= MAX_MOVE) | ~np.isfinite(info[:, 0])
    x[lost], y[lost] = px[lost], py[lost]
    info[lost, :3], info[lost, 3] = np.nan, 1.0
    return x, y, info


def _slope(stamps: F64, variance: F64) -> F64:
    """Return the slopes (N,) of variances (N, S, S) over PSF stamps, of pixels with a variance above zero."""
    use = variance > 0
    count = np.maximum(use.sum((1, 2)), 1)
    centred = np.where(use, stamps - ((stamps * use).sum((1, 2)) / count)[:, None, None], 0.0)
    return np.asarray((centred * variance).sum((1, 2)) / np.maximum((centred**2).sum((1, 2)), 1e-30))


def _add_photon_noise(noise: F64, photons: PhotonNoise, x: F64, y: F64, flux: F64, slope: F64) -> None:
    """Add what the variance plane does not tell of a source's own photons to the noise (N, 3, 3) of the sums of the fit."""
    more = photons.variance(x, y, flux, slope)[:, CENTROID]
    for k, (i, j) in enumerate(((0, 0), (1, 1), (2, 2))):
        noise[:, i, j] = np.maximum(noise[:, i, j] + more[:, k], LEAST * noise[:, i, j])
    bound = np.sqrt(noise[:, 1, 1] * noise[:, 2, 2])
    noise[:, 1, 2] = noise[:, 2, 1] = np.clip(noise[:, 1, 2] + more[:, 3], -0.99 * bound, 0.99 * bound)
