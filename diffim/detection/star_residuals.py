"""How well constant stars subtract: what is left of their light beyond photon noise."""

from dataclasses import dataclass

import numpy as np

from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.photometry import SPOILT
from exposure.quantiles import scatter_about
from exposure.stars import Stars
from tasks.arrays import F64, Flags, nearest_pixels

__all__ = ["StarResiduals", "star_residuals"]
NEW = 0.15  # of the light of a source, that is not in the difference: the template has nothing there
CHANGED = 0.3  # of the light of a source: it appeared, went or varied, and says nothing of constant stars
MOST_VARY = 0.6  # share of the stars: more cannot be told from a poor subtraction
FEW = 8  # stars that do not tell a scatter
SCATTERS = np.geomspace(1e-4, CHANGED, 60)  # of constant stars, relative
SHARES = np.linspace(0.0, MOST_VARY, 15)  # of the stars that vary
LEAST_DENSITY = 1e-100  # of which the logarithm is taken


@dataclass(frozen=True)
class StarResiduals:
    """What is left of `n` constant stars: relative flux error and position error (px, one axis) beyond photon noise."""

    flux_error: float
    position_error: float
    n: int


def star_residuals(difference: Exposure, sources: Stars, side: int = 15) -> StarResiduals:
    """Fit flux and shift residuals on stamps of `side` px at the bright clean sources of the image.

    The scatter of residual flux / flux and of residual shifts beyond what photon noise explains is how well this
    subtraction knows the flux scale and the registration. Sources that vary, or have a new one beside them, are told from
    constant stars by their fluxes (`_constant`), so that six in ten of the sources may.
    """
    able = sources.take((sources.snr > 30) & ~sources.flagged)
    bright = able.take(able.snr > 100)
    chosen = bright if len(bright) >= 10 else able
    if len(chosen) < FEW or difference.psf is None:
        return StarResiduals(0.0, 0.0, len(chosen))
    x, y, flux = chosen.x, chosen.y, chosen.psfFlux
    stamps = difference.psf.image_at(x, y).astype(np.float64)
    low = max((stamps.shape[-1] - side) // 2, 0)
    stamps = stamps[:, low : low + side, low : low + side]
    gy, gx = np.gradient(stamps, axis=(1, 2))
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    data, var = MaskedImage.of(difference, *SPOILT).stamps(ix, iy, stamps.shape[-1])
    data, var = data.astype(np.float64), np.where(np.isfinite(var), var, 0).astype(np.float64)
    basis = np.stack([stamps, -gx, -gy], axis=1)
    inverse = np.linalg.inv(np.einsum("nkij,nlij->nkl", basis, basis) + 1e-18 * np.eye(3))
    fitted = np.einsum("nkl,nl->nk", inverse, np.einsum("nkij,nij->nk", basis, data))
    cov = np.einsum("nkl,nlm,npm->nkp", inverse, np.einsum("nkij,nij,nlij->nkl", basis, var, basis), inverse)
    relative = fitted / flux[:, None]
    noise = np.einsum("nkk->nk", cov) / flux[:, None] ** 2
    known = ~(np.abs(relative[:, 0] - 1) < NEW)
    relative, noise = relative[known], noise[known]
    constant = ~(np.abs(relative[:, 0]) > CHANGED)
    # else it is the subtraction that is poor, not the stars that vary
    if 3 * np.count_nonzero(constant) >= constant.size:
        relative, noise = relative[constant], noise[constant]
        constant = _constant(relative[:, 0], noise[:, 0])
        if np.count_nonzero(constant) >= max(FEW, len(constant) / 3):  # fewer are alike by chance
            relative, noise = relative[constant], noise[constant]
    excess = [_excess(relative[:, k], noise[:, k]) for k in range(3)]
    return StarResiduals(excess[0], float(np.sqrt(0.5 * (excess[1] ** 2 + excess[2] ** 2))), len(chosen))


def _constant(values: F64, noise: F64) -> Flags:
    """Return which of the sources (N,) are as likely constant stars as not, by their relative residual fluxes.

    Constant stars scatter normally about zero, by their noise and by one error of the subtraction; those that vary lie
    anywhere within `CHANGED`. The share of these and that error are the most likely ones (a mixture of two populations, for
    instance Hogg, Bovy & Lang 2010, arXiv:1008.4686, section 3). An offset that all have is scatter about zero, not change.
    """
    known = np.isfinite(values) & np.isfinite(noise)
    square = SCATTERS[:, None] ** 2 + np.where(known, noise, 1.0)
    steady = np.exp(-0.5 * np.where(known, values, 0.0) ** 2 / square) / np.sqrt(2 * np.pi * square)
    varying = 0.5 / CHANGED
    both = (1 - SHARES[:, None, None]) * steady + SHARES[:, None, None] * varying
    likelihood = np.where(known, np.log(np.maximum(both, LEAST_DENSITY)), 0).sum(-1)
    share, error = np.unravel_index(np.argmax(likelihood), likelihood.shape)
    return np.asarray((1 - SHARES[share]) * steady[error] >= SHARES[share] * varying)


def _excess(values: F64, noise: F64) -> float:
    """Robust scatter beyond the noise; 0 where it is below half of its own uncertainty."""
    ok = np.isfinite(values) & np.isfinite(noise)
    if ok.sum() < FEW:
        return 0.0
    # about zero, not about the mean: a common offset is a residual too
    scatter = scatter_about(values[ok]) ** 2
    expected = float(np.median(noise[ok]))
    if scatter < expected * (1 + 1.5 / np.sqrt(ok.sum())):
        return 0.0
    return float(np.sqrt(scatter - expected))
