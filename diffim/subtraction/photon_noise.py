"""What the variance plane of a difference does not tell of the errors of its measurements (`exposure.photon_noise`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from diffim.matching.spatial_kernel import SpatialKernel
from diffim.pixels.masked_image import MaskedImage
from diffim.pixels.stamp_convolution import centred_spectra, stamps_through
from diffim.subtraction.difference_exposure import StampsAt
from diffim.subtraction.noise_power import correlated_gain, measured_autocorrelation
from exposure import Exposure, ExposureError
from exposure.noise import MAX_LAG
from exposure.photometry import position_basis, psf_images
from exposure.photon_noise import (
    AP_FLUX,
    AP_RADIUS,
    CENTROID,
    FILTER_SIDE,
    LEAST,
    MODEL,
    NUMBERS,
    PSF_FLUX,
    SKY,
    SLOPE,
    PhotonNoise,
)
from exposure.psf import GridPsf, Psf
from exposure.stamps import gather
from exposure.stars import Stars
from tasks.arrays import F32, F64, Box, nearest_pixels

__all__ = ["Light", "LightPaths", "variance_per_count", "with_photon_noise", "with_sky_noise"]

CELLS = 3
STARS, SIDE, RING = 200, 25, 3  # stars that tell the noise of photons; their stamps, px, the rim of which is sky


@dataclass(frozen=True)
class Light:
    """One of the two images behind a difference.

    Parameters
    ----------
    psf
        Its PSF.
    filter_at
        What it is convolved with to become its part of the difference: stamps (N, S, S) at frame positions (N,).
    unit
        Counts of the difference per count of the image.
    noise
        Variance (counts^2) that each count of a source adds to the image.
    correlation
        How the noise of the image is correlated, at lags -L..L, shape (2L + 1, 2L + 1), 1 in the middle; None: it is white.
    """

    psf: Psf
    filter_at: StampsAt
    unit: float
    noise: float
    correlation: F64 | None = None


@dataclass(frozen=True)
class LightPaths:
    """How a subtraction with a matching kernel brings the light of both images to the difference.

    Parameters
    ----------
    of_template
        Whether it is the template that is convolved with the kernel.
    kernel
        The kernel.
    whitening_at
        The whitening: stamps (N, S, S) at frame positions (N,).
    correlations
        How the noise of the image and of the template is correlated (`Light`).
    """

    of_template: bool
    kernel: SpatialKernel
    whitening_at: StampsAt
    correlations: tuple[F64 | None, F64 | None] = (None, None)

    def lights(self, psfs: tuple[Psf, Psf], noise: Sequence[float]) -> tuple[Light, Light]:
        """Return the two images, which have PSFs and variances per count."""
        total, (own, old) = np.float32(self.kernel.kernel_sum), self.correlations
        if self.of_template:
            return (
                Light(psfs[0], self.whitening_at, 1.0, noise[0], own),
                Light(psfs[1], self._matched, float(total), noise[1], old),
            )
        return (
            Light(psfs[0], lambda x, y: self._matched(x, y) / total, 1.0, noise[0], own),
            Light(psfs[1], lambda x, y: self.whitening_at(x, y) / total, float(1 / total), noise[1], old),
        )

    def _matched(self, x: F64, y: F64) -> F32:
        """Return the kernel with the whitening after it, stamps that hold all of both."""
        kernels, whitening = self.kernel.kernels_at(x, y), self.whitening_at(x, y)
        more = whitening.shape[-1] // 2
        return stamps_through(np.pad(kernels, ((0, 0), (more, more), (more, more))), whitening)


def with_photon_noise(difference: Exposure, science: Light, template: Light, model_error: float = 0.0) -> GridPsf:
    """Return the PSF of a difference with what its variance plane does not tell of errors.

    `model_error` is the relative one of fluxes by the PSF, rms.

    Raises
    ------
    ExposureError
        The difference has no PSF.
    """
    psf = difference.require_psf()
    assert isinstance(psf, GridPsf)
    return replace(psf, photon_noise=_photon_noise(difference, science, template, model_error))


def with_sky_noise(difference: Exposure) -> tuple[GridPsf, float]:
    """Return the PSF of a difference with what correlation of the sky is left in it, and what that multiplies errors of fluxes by.

    The factor is that of a PSF flux on blank sky in the middle; where too little of it is left to measure on, it is 1.

    Raises
    ------
    ExposureError
        The difference has no PSF, or one without what `with_photon_noise` adds.
    """
    psf = difference.require_psf()
    if not isinstance(psf, GridPsf) or psf.photon_noise is None:
        raise ExposureError("the PSF is not that of a difference: it knows no noise of photons", **difference.where)
    noise, planes = psf.photon_noise, MaskedImage.of(difference, "BAD", "CR", "SAT", "EDGE")
    correlation = measured_autocorrelation(planes)
    if correlation is None:
        return psf, 1.0
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    beyond = correlation - np.outer(lags == 0, lags == 0)
    x, y = _cells(difference)
    stamps = psf.kernel_at(x, y).astype(np.float64)
    full = fft.next_fast_len(stamps.shape[-1] + 2 * MAX_LAG + 1, real=True)
    levels = _sky_levels(planes, difference.bbox)
    values = noise.values.copy()
    for column, (one, other) in _weights(stamps).items():
        spectra = [centred_spectra(w, full) for w in (one, other)]
        together = _image(spectra[0].conj() * spectra[1], 2 * MAX_LAG + 1)
        values[:, SKY, column] = levels * (together * beyond).sum((1, 2))
    values[:, SKY] = np.where(np.isfinite(values[:, SKY]), values[:, SKY], 0.0)
    middle = len(values) // 2
    factor = 1 + values[middle, SKY, PSF_FLUX] * float((stamps[middle] ** 2).sum()) / levels[middle]
    return replace(psf, photon_noise=replace(noise, values=values)), float(np.sqrt(max(factor, LEAST)))


def _sky_levels(planes: MaskedImage, box: Box) -> F64:
    """Return the variances of the sky (N,) in the cells of the grid over a box."""
    side = -(-max(box[2:]) // CELLS)
    levels = planes.sky_levels(box, side)
    rows, columns = (((np.arange(CELLS) + 0.5) * n / CELLS / side).astype(int) for n in (box[3], box[2]))
    return np.asarray(levels[np.ix_(rows, columns)].ravel())


def _cells(difference: Exposure) -> tuple[F64, F64]:
    """Return the middles x, y of the cells of the grid, each of shape (N,), px."""
    x0, y0, width, height = difference.bbox
    gx = x0 + (np.arange(CELLS) + 0.5) * width / CELLS - 0.5
    gy = y0 + (np.arange(CELLS) + 0.5) * height / CELLS - 0.5
    x, y = (a.ravel() for a in np.meshgrid(gx, gy))
    return x, y


def _weights(stamps: F64) -> dict[int, tuple[F64, F64]]:
    """Return the weights (N, S, S) of estimates by PSFs (N, S, S): two for each column, which are those of a covariance."""
    side = stamps.shape[-1]
    g = np.arange(side) - side // 2
    disc = np.broadcast_to(np.hypot(g[:, None], g[None, :]) <= AP_RADIUS, stamps.shape).astype(np.float64)
    middle, across, up = (_sided(b, side) for b in position_basis(stamps))
    flux = stamps / (stamps**2).sum((1, 2), keepdims=True)
    of_position = ((middle, middle), (across, across), (up, up), (across, up))
    return {PSF_FLUX: (flux, flux), AP_FLUX: (disc, disc)} | dict(enumerate(of_position, CENTROID.start))


def _photon_noise(difference: Exposure, science: Light, template: Light, model_error: float) -> PhotonNoise:
    """Return by how much errors on the difference are not those of the variance plane, on a grid."""
    x, y = _cells(difference)
    stamps = difference.require_psf().kernel_at(x, y).astype(np.float64)
    values = np.zeros((x.size, 3, NUMBERS))
    for k, light in enumerate((science, template)):
        values[:, k] = _values(light, stamps, x, y)
        values[:, k, MODEL] = model_error**2
    filters = [_sided(light.filter_at(x, y).astype(np.float64), FILTER_SIDE) for light in (science, template)]
    return PhotonNoise(values, CELLS, CELLS, difference.bbox, np.stack(filters, axis=1).astype(np.float32))


def _values(light: Light, stamps: F64, x: F64, y: F64) -> F64:
    """Return the numbers (N, 8) of an image, without that of the model, for PSFs (N, S, S) of the difference at frame positions."""
    out = np.zeros((x.size, NUMBERS))
    if light.noise <= 0:
        return out
    side = stamps.shape[-1]
    # where the PSF is not defined nothing is known, and nothing is added
    source = _sided(np.nan_to_num(psf_images(light.psf, np.rint(x), np.rint(y))).astype(np.float64), side)
    source *= light.noise / light.unit
    kernel = light.filter_at(x, y).astype(np.float64)
    full = fft.next_fast_len(side + max(kernel.shape[-1], 2 * MAX_LAG + 1), real=True)
    forward, squared = centred_spectra(kernel, full), centred_spectra(kernel**2, full)
    gains = np.array([correlated_gain(k, light.correlation) for k in kernel], np.float64)
    plane = _image(centred_spectra(source, full) * squared, side) * gains[:, None, None]
    scatter = np.sqrt(np.maximum(source, 0.0))
    mixing = None if light.correlation is None else centred_spectra(light.correlation[None], full)
    for column, (one, other) in _weights(stamps).items():
        first, second = (scatter * _image(centred_spectra(w, full) * forward.conj(), side) for w in (one, other))
        if mixing is not None:
            first = _image(centred_spectra(first, full) * mixing, side)
        out[:, column] = (first * second - plane * one * other).sum((1, 2))
    centred = stamps - stamps.mean((1, 2), keepdims=True)
    out[:, SLOPE] = (centred * plane).sum((1, 2)) / (centred**2).sum((1, 2))
    return out


def _sided(stamps: F64, side: int) -> F64:
    """Return stamps (N, S, S) with another odd side: cut, or with zeros around."""
    more = (side - stamps.shape[-1]) // 2
    if more < 0:
        return stamps[:, -more:more, -more:more].copy()
    return np.pad(stamps, ((0, 0), (more, more), (more, more)))


def _image(spectra: NDArray[np.complex128], side: int) -> F64:
    """Transform back to stamps (N, side, side) around the origin."""
    full = spectra.shape[1]
    wide = np.roll(fft.irfft2(spectra, (full, full)), (side // 2, side // 2), axis=(1, 2))
    return np.asarray(wide[:, :side, :side])


def variance_per_count(exposure: Exposure, stars: Stars) -> float:
    """Return by how much (counts^2) the variance plane is higher for each count of a star, 0 where it is not."""
    chosen = np.argsort(-stars.snr, kind="stable")[:STARS]
    ix, iy = (nearest_pixels(a[chosen]) - o for a, o in zip((stars.x, stars.y), exposure.origin, strict=True))
    light, noise = (gather(p, ix, iy, SIDE, np.nan).astype(np.float64) for p in (exposure.image, exposure.variance))
    whole = np.isfinite(light + noise).all((1, 2))
    light, noise = light[whole], noise[whole]
    if not len(light):
        return 0.0
    rim = np.ones((SIDE, SIDE), np.bool_)
    rim[RING:-RING, RING:-RING] = False
    light -= np.median(light[:, rim], axis=1)[:, None, None]
    noise -= np.median(noise[:, rim], axis=1)[:, None, None]
    ratio = (light * noise)[:, ~rim].sum(1) / (light**2)[:, ~rim].sum(1)
    return max(float(np.median(ratio)), 0.0)
