"""How well constant stars subtract: what is left of their light beyond photon noise."""

from dataclasses import dataclass

import numpy as np

from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.quantiles import scatter_about
from exposure.stars import Stars
from tasks.arrays import F64, nearest_pixels

__all__ = ["StarResiduals", "star_residuals"]
NEW = 0.15  # of the light of a source, that is not in the difference: the template has nothing there
CHANGED = 0.3  # of the light of a source: it appeared, went or varied, and says nothing of constant stars


@dataclass(frozen=True)
class StarResiduals:
    """What is left of `n` constant stars: relative flux error and position error (px, one axis) beyond photon noise."""

    flux_error: float
    position_error: float
    n: int


def star_residuals(difference: Exposure, sources: Stars, side: int = 15) -> StarResiduals:
    """Fit flux and shift residuals on stamps of `side` px at the bright clean sources of the image.

    The scatter of residual flux / flux and of residual shifts beyond what photon noise explains is how well this
    subtraction knows the flux scale and the registration; variable stars are outliers of the robust scatter.
    """
    able = sources.take((sources.snr > 30) & ~sources.flagged)
    bright = able.take(able.snr > 100)
    chosen = bright if len(bright) >= 10 else able
    if len(chosen) < 8 or difference.psf is None:
        return StarResiduals(0.0, 0.0, len(chosen))
    x, y, flux = chosen.x, chosen.y, chosen.psfFlux
    stamps = difference.psf.image_at(x, y).astype(np.float64)
    low = max((stamps.shape[-1] - side) // 2, 0)
    stamps = stamps[:, low : low + side, low : low + side]
    gy, gx = np.gradient(stamps, axis=(1, 2))
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    data, var = MaskedImage.of(difference, "CR", "BAD").stamps(ix, iy, stamps.shape[-1])
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
    if (
        3 * np.count_nonzero(constant) >= constant.size
    ):  # else it is the subtraction that is poor, not the stars that vary
        relative, noise = relative[constant], noise[constant]
    excess = [_excess(relative[:, k], noise[:, k]) for k in range(3)]
    return StarResiduals(excess[0], float(np.sqrt(0.5 * (excess[1] ** 2 + excess[2] ** 2))), len(chosen))


def _excess(values: F64, noise: F64) -> float:
    """Robust scatter beyond the noise; 0 where it is below half of its own uncertainty."""
    ok = np.isfinite(values) & np.isfinite(noise)
    if ok.sum() < 8:
        return 0.0
    # about zero, not about the mean: a common offset is a residual too
    scatter = scatter_about(values[ok]) ** 2
    expected = float(np.median(noise[ok]))
    if scatter < expected * (1 + 1.5 / np.sqrt(ok.sum())):
        return 0.0
    return float(np.sqrt(scatter - expected))
