"""How well a kernel subtracts each star, from the star's equations alone."""

import numpy as np

from diffim.matching.kernel_stamps import StarEquations
from diffim.matching.spatial_kernel import SpatialKernel
from exposure.field import chebyshev_terms
from exposure.quantiles import scatter
from tasks.arrays import F64, Flags

__all__ = ["judge", "left_over", "star_scatter"]

MAX_STAR_SCATTER = 0.1
MAX_MISFIT = 0.02
LEAST_LEVEL = 1e-3  # of chi^2 per pixel: less is rounding


def left_over(s: StarEquations, kernel: SpatialKernel, which: Flags, scatter_of_stars: float) -> float:
    """Return how much a kernel leaves of some stars: -2 log likelihood, each star known to a noise of its own.

    So no star outvotes the others, however bright. The noise that the kernel carries over from the convolved image is taken
    off: a kernel is not better because it smooths more. Of the part that another flux would explain no more counts than stars
    scatter by.
    """
    deviation, power = _flux_residuals(s, kernel)
    a = np.column_stack(_local(s, kernel))
    square = s.power - 2 * np.einsum("ni,ni->n", s.right, a) + np.einsum("ni,nij,nj->n", a, s.normal, a, optimize=True)
    of_noise = s.noise * np.einsum("ni,nij,nj->n", a, s.noise_gram, a, optimize=True)
    of_flux = deviation**2 * power
    pixels = np.maximum(s.pixels, 1)
    level = (square - of_noise - of_flux + of_flux / (1 + scatter_of_stars**2 * power)) / pixels
    return float((pixels * np.log(np.maximum(level, LEAST_LEVEL)))[which].sum())


def _local(s: StarEquations, kernel: SpatialKernel) -> tuple[F64, F64]:
    """Return the kernel coefficients (N, K) and the background (N,) at the stars."""
    local = chebyshev_terms(kernel.kernel_order, kernel.box, s.x, s.y) @ kernel.coefficients.T
    return local, chebyshev_terms(kernel.background_order, kernel.box, s.x, s.y) @ kernel.background


def _flux_residuals(s: StarEquations, kernel: SpatialKernel) -> tuple[F64, F64]:
    """Return by what fraction each star's flux is off, and the square of the S/N to which that is known."""
    local, sky = _local(s, kernel)
    along = np.einsum("nij,nj->ni", s.normal[:, :, :-1], local)  # C^T W m
    power = np.maximum(np.einsum("ni,ni->n", along[:, :-1], local), 1e-30)
    onto = np.einsum("ni,ni->n", s.right[:, :-1], local) - along[:, -1] * sky  # m^T W (I - g)
    return onto / power - 1, power


def star_scatter(s: StarEquations, kernel: SpatialKernel, use: Flags) -> float:
    """Robust relative scatter (a fraction) of the N stars' flux ratios beyond their noise, 0 where it is not significant.

    `use`, shape (N,), says which stars count.
    """
    deviation, power = _flux_residuals(s, kernel)
    strong = use & (power > 50.0**2)  # flux known to 2 %
    if strong.sum() < 5:
        return 0.0
    square = scatter(deviation[strong]) ** 2
    excess = square - float(np.median(1 / power[strong]))
    return 0.0 if excess < 3.0 * square / np.sqrt(strong.sum()) else min(float(np.sqrt(excess)), MAX_STAR_SCATTER)


def judge(s: StarEquations, kernel: SpatialKernel, use: Flags, scatter_of_stars: float) -> tuple[F64, Flags]:
    """Return the rms of residual / sigma of each star, its own flux deviation taken out, and whether the star agrees.

    A star disagrees when its flux is off by more than the stars scatter, or when its shape misfits by more than photon
    noise and by more than `MAX_MISFIT` of its light.
    """
    deviation, power = _flux_residuals(s, kernel)
    a = np.column_stack(_local(s, kernel))
    square = s.power - 2 * np.einsum("ni,ni->n", s.right, a) + np.einsum("ni,nij,nj->n", a, s.normal, a, optimize=True)
    total = np.maximum(square - deviation**2 * power, 0)
    n = np.maximum(s.pixels, 1)
    rms = np.sqrt(total / n)
    level = float(np.median(rms[use]))
    scatter_of_rms = 1.4826 * float(np.median(np.abs(rms[use] - level)))
    misfit = np.sqrt(np.maximum(total - n * level**2, 0) / power)
    agrees = np.isfinite(rms) & (np.abs(deviation) < 4.5 * np.hypot(scatter_of_stars, 1 / np.sqrt(power)) + 0.005)
    return rms, agrees & ((rms < max(1.5 * level, level + 3 * scatter_of_rms)) | (misfit < MAX_MISFIT))
