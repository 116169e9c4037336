"""PSF models: analytic, pixel basis that varies over the CCD, and grids of stamps.

Every model gives stamps of odd size S whose sum is that of the model (1, or less where a file's wings were cut),
centred to the sub-pixel: pixel ``[S//2, S//2]`` of the stamp is image pixel ``floor(x + 0.5)``.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exposure.errors import PsfUndefined
from exposure.field import neighbours_2d, polynomial_terms
from exposure.photon_noise import PhotonNoise
from exposure.stamps import adaptive_moments, blend, shift_stamps
from tasks.arrays import F32, F64, I64, Box, Flags
from tasks.compiled import compiled
from tasks.reprs import short_repr

__all__ = ["FWHM_PER_SIGMA", "GaussianPsf", "GridPsf", "MoffatPsf", "PolynomialPsf", "Psf", "fwhm_of"]

FWHM_PER_SIGMA = 2.3548200450309493
"""Full width at half maximum of a Gaussian in units of its standard deviation: 2 sqrt(2 ln 2)."""

_LEAST_WEIGHT = 1e-6  # of the cells around a position that have a PSF: with less there is none


@runtime_checkable
class Psf(Protocol):
    """What the project asks of a PSF model."""

    @property
    def size(self) -> int:
        """Side of the stamps, odd."""
        ...

    def image_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        """Return (N, S, S) stamps at the sub-pixel positions."""
        ...

    def kernel_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        """Return (N, S, S) stamps centred on their middle pixel."""
        ...

    def moments_at(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return (N, 3) adaptive moments Ixx, Iyy, Ixy in px^2."""
        ...

    def average_position(self) -> tuple[float, float]:
        """Return the position that stands for the whole CCD."""
        ...


def fwhm_of(moments: F64) -> F64:
    """Return the FWHM (...) in px of moments (..., 3) in px^2: `FWHM_PER_SIGMA` times the trace radius."""
    return FWHM_PER_SIGMA * np.sqrt(0.5 * (moments[..., 0] + moments[..., 1]))


class _PixelMixin:
    """Sub-pixel images and moments from ``kernel_at``."""

    size: int

    def kernel_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        raise NotImplementedError

    def image_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        """Return (N, S, S) stamps at the sub-pixel positions (the centred stamps, moved)."""
        xs, ys = np.atleast_1d(np.asarray(x, dtype=np.float64)), np.atleast_1d(np.asarray(y, dtype=np.float64))
        stamps = self.kernel_at(xs, ys)
        out = np.empty(stamps.shape, dtype=np.float32)
        shift_stamps(stamps, xs - np.floor(xs + 0.5), ys - np.floor(ys + 0.5), out)
        return out

    def moments_at(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return (N, 3) adaptive moments Ixx, Iyy, Ixy in px^2.

        Where they do not converge (sharpened or very undersampled PSFs), those of the round Gaussian with the same
        noise-equivalent area.
        """
        stamps = self.kernel_at(np.atleast_1d(x), np.atleast_1d(y)).astype(np.float64)
        out = adaptive_moments(stamps)
        lost = ~np.isfinite(out[:, 0])
        if lost.any():
            area = stamps[lost].sum(axis=(1, 2)) ** 2 / (stamps[lost] ** 2).sum(axis=(1, 2))
            out[lost, 0] = out[lost, 1] = area / (4 * np.pi)
            out[lost, 2] = 0.0
        return out


@compiled
def _outer(rows: Any, columns: Any, out: Any) -> None:
    for n in range(out.shape[0]):
        for j in range(out.shape[1]):
            for i in range(out.shape[2]):
                out[n, j, i] = rows[n, j] * columns[n, i]


@dataclass(frozen=True)
class GaussianPsf:
    """Round Gaussian sampled at pixel centres, sum 1.

    Parameters
    ----------
    sigma
        Standard deviation, px.
    size
        Side of the stamps, odd.
    position
        Frame px: what `average_position` returns.
    """

    sigma: float
    size: int
    position: tuple[float, float] = (0.0, 0.0)

    def _at(self, fx: NDArray[Any], fy: NDArray[Any]) -> F32:
        g = np.arange(self.size) - self.size // 2
        a = -0.5 / self.sigma**2
        ex, ey = np.exp(a * (g - fx[:, None]) ** 2), np.exp(a * (g - fy[:, None]) ** 2)
        ex /= ex.sum(1, keepdims=True)
        ey /= ey.sum(1, keepdims=True)
        out = np.empty((ex.shape[0], self.size, self.size), np.float32)
        _outer(ey, ex, out)
        return out

    def image_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        """Return (N, S, S) stamps at the sub-pixel positions."""
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        return self._at(x - np.floor(x + 0.5), y - np.floor(y + 0.5))

    def kernel_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        """Return (N, S, S) centred stamps."""
        zero = np.zeros(np.atleast_1d(x).shape)
        return self._at(zero, zero)

    def moments_at(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return (N, 3) moments of the sampled stamp."""
        one = adaptive_moments(self._at(np.zeros(1), np.zeros(1)))
        return np.repeat(one, np.atleast_1d(x).size, axis=0)

    def average_position(self) -> tuple[float, float]:
        """Return the position given at construction."""
        return self.position


@dataclass(frozen=True)
class MoffatPsf:
    """Elliptical Moffat whose FWHM and ellipticity are polynomials over the CCD.

    Parameters
    ----------
    fwhm, e1, e2
        Coefficients (1, u, v, uv, u^2, v^2) with u, v in [-1, 1] over `bbox`; FWHM in px. Shorter tuples are padded.
    beta
        Exponent of the profile (1 + r^2 / alpha^2)^-beta (Moffat 1969, A&A 3, 455).
    """

    fwhm: tuple[float, ...]
    beta: float
    size: int
    bbox: Box
    e1: tuple[float, ...] = (0.0,)
    e2: tuple[float, ...] = (0.0,)

    __repr__ = short_repr

    def parameters(self, x: ArrayLike, y: ArrayLike) -> tuple[F64, ...]:
        """Return (alpha, e1, e2) at the positions, alpha the Moffat radius in px."""
        x0, y0, width, height = self.bbox
        u = 2 * (np.asarray(x, np.float64) - x0) / max(width - 1, 1) - 1
        v = 2 * (np.asarray(y, np.float64) - y0) / max(height - 1, 1) - 1
        terms = np.stack([np.ones_like(u), u, v, u * v, u * u, v * v])
        values = [np.tensordot(np.asarray(c), terms[: len(c)], 1) for c in (self.fwhm, self.e1, self.e2)]
        alpha = values[0] / (2 * np.sqrt(2 ** (1 / self.beta) - 1))
        return alpha, values[1], values[2]

    def _at(self, x: NDArray[Any], y: NDArray[Any], fx: NDArray[Any], fy: NDArray[Any]) -> F32:
        alpha, e1, e2 = (p[:, None, None] for p in self.parameters(x, y))
        g = np.arange(self.size) - self.size // 2
        gx, gy = g[None, None, :] - fx[:, None, None], g[None, :, None] - fy[:, None, None]
        det = np.sqrt(1 - e1 * e1 - e2 * e2)
        r2 = ((1 - e1) * gx * gx - 2 * e2 * gx * gy + (1 + e1) * gy * gy) / (det * alpha * alpha)
        out = (1.0 + r2) ** (-self.beta)
        return np.asarray(out / out.sum(axis=(1, 2), keepdims=True), dtype=np.float32)

    def image_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        """Return (N, S, S) stamps at the sub-pixel positions."""
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        return self._at(x, y, x - np.floor(x + 0.5), y - np.floor(y + 0.5))

    def kernel_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        """Return (N, S, S) centred stamps."""
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        zero = np.zeros(x.shape)
        return self._at(x, y, zero, zero)

    def moments_at(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return (N, 3) adaptive moments in px^2."""
        return adaptive_moments(self.kernel_at(x, y))

    def average_position(self) -> tuple[float, float]:
        """Return the centre of the box."""
        x0, y0, width, height = self.bbox
        return x0 + 0.5 * (width - 1), y0 + 0.5 * (height - 1)


@dataclass(frozen=True)
class PolynomialPsf(_PixelMixin):
    """Pixel basis that varies over the CCD: stamp = sum_k T_k(u, v) basis[k].

    Parameters
    ----------
    basis
        Shape (n_terms, S, S); the first stamp has sum 1, the others sum 0.
    orders
        Shape (n_terms, 2): Chebyshev orders (i in x, j in y) of each term.
    bbox
        (x0, y0, width, height) of the frame.
    centre
        The average position of the stars that made the model.
    flux_error
        By what share of themselves fluxes by the model are off, rms over the image; 0: not known.
    """

    basis: F32
    orders: I64
    bbox: Box
    centre: tuple[float, float]
    flux_error: float = 0.0
    size: int = field(init=False)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", int(self.basis.shape[-1]))

    def terms(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return the (N, n_terms) polynomial values, positions clipped to the box."""
        return polynomial_terms(self.orders, self.bbox, x, y)

    def kernel_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        """Return (N, S, S) centred stamps."""
        values = np.tensordot(self.terms(x, y).astype(np.float32), self.basis, axes=1)
        return np.asarray(values, dtype=np.float32)

    def average_position(self) -> tuple[float, float]:
        """Return the average position of the stars that made the model."""
        return self.centre


@dataclass(frozen=True)
class GridPsf(_PixelMixin):
    """Stamps at the centres of a regular grid of cells, interpolated bilinearly; NaN stamps mean "not defined here".

    Parameters
    ----------
    cube
        Shape (ny * nx, S, S), x fastest.
    nx, ny
        Cells (FITS: NGX, NGY).
    bbox
        (x0, y0, width, height) that the grid covers.
    photon_noise
        Of an image that was filtered: what its variance plane does not tell of errors.
    """

    cube: F32
    nx: int
    ny: int
    bbox: Box
    photon_noise: PhotonNoise | None = None
    size: int = field(init=False)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", int(self.cube.shape[-1]))

    def kernel_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        """Return (N, S, S) centred stamps; cells without a PSF are left out of the interpolation.

        Raises
        ------
        PsfUndefined
            None of the four cells around a position has a PSF.
        """
        xs, ys = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        index, weight = neighbours_2d(xs, ys, self.bbox, self.nx, self.ny)
        good = np.isfinite(self.cube[:, 0, 0])
        if not good.all():
            weight = weight * good[index]
            total = weight.sum(1)
            if np.any(total <= _LEAST_WEIGHT):
                k = int(np.argmin(total))
                raise PsfUndefined(f"no PSF at x={xs[k]:.1f}, y={ys[k]:.1f}")
            weight = weight / total[:, None]
        cube = np.where(good[:, None, None], self.cube, np.float32(0))
        return np.asarray(blend(cube, index, weight.astype(np.float32)))

    def defined_at(self, x: ArrayLike, y: ArrayLike) -> Flags:
        """Return for positions (N,) px whether any of the four cells around each has a PSF."""
        xs, ys = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        index, weight = neighbours_2d(xs, ys, self.bbox, self.nx, self.ny)
        return np.asarray((weight * np.isfinite(self.cube[:, 0, 0])[index]).sum(1) > _LEAST_WEIGHT)

    def average_position(self) -> tuple[float, float]:
        """Return the centroid of the cells that have a PSF."""
        good = np.flatnonzero(np.isfinite(self.cube[:, 0, 0]))
        if good.size == 0:
            raise PsfUndefined("no cell of the grid has a PSF")
        x0, y0, width, height = self.bbox
        gx, gy = x0 + (np.arange(self.nx) + 0.5) * width / self.nx, y0 + (np.arange(self.ny) + 0.5) * height / self.ny
        return float(gx[good % self.nx].mean() - 0.5), float(gy[good // self.nx].mean() - 0.5)
