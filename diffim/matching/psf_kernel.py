"""The kernel that turns the PSF model of one image into that of another, at every place: what the fit on stars starts from.

With P and Q the spectra of the PSFs of the image that is convolved and of its target, and G that of the elliptical Gaussian
between their moments, the kernel is the Wiener deconvolution that goes from G as far as the models are known (N. Wiener 1949;
the Gaussian in place of zero is what keeps the kernel whole where both spectra vanish):

    K = (Q conj(P) + eps G) / (|P|^2 + eps).

Its light beyond the stamp is given back as a broad Gaussian, so that its sum is 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from diffim.pixels.stamp_convolution import centred_spectra
from exposure.errors import PsfUndefined
from exposure.field import neighbours_2d
from exposure.psf import Psf
from exposure.stamps import adaptive_moments
from tasks.arrays import F64, Box

__all__ = ["KernelGrid", "psf_kernels"]

NODES = 10  # along each side of the image
NOISE_BAND = 0.4  # cycles per px: beyond it the spectrum of a PSF is taken for the noise of its model
LEAST_EPS, MOST_EPS = 1e-6, 1e-3
MAX_GAIN = 1.3  # of the kernel at any frequency: what would have to be sharpened more is left to the stars
EDGE = 3  # px over which a kernel runs out at the edge of its stamp


@dataclass(frozen=True)
class KernelGrid:
    """Kernels of sum 1 at the nodes of a regular grid whose outer nodes lie on the edges of a box.

    Parameters
    ----------
    stamps
        Shape (n * n, size, size), x fastest.
    box
        (x0, y0, width, height) in the frame.
    """

    stamps: F64
    n: int
    box: Box

    def at(self, x: F64, y: F64) -> F64:
        """Return the kernels (N, size, size) at frame positions (N,), px: between the nodes bilinear."""
        index, weight = self._neighbours(np.atleast_1d(x), np.atleast_1d(y))
        flat = self.stamps.reshape(len(self.stamps), -1)
        dense = np.zeros((len(index), len(flat)))
        np.add.at(dense, (np.arange(len(index))[:, None], index), weight)
        return np.asarray(dense @ flat).reshape(-1, *self.stamps.shape[1:])

    def _neighbours(self, x: F64, y: F64) -> tuple[NDArray[np.intp], F64]:
        """Return the nodes (N, 4) around positions and their weights: cells of which those nodes are the centres."""
        x0, y0, width, height = self.box
        dx, dy = max(width - 1, 1) / (self.n - 1), max(height - 1, 1) / (self.n - 1)
        u, v = (np.asarray(x, np.float64) - x0) / dx, (np.asarray(y, np.float64) - y0) / dy
        return neighbours_2d(u, v, (0, 0, self.n, self.n), self.n, self.n)

    @property
    def middle(self) -> F64:
        """The mean of all kernels, shape (size, size)."""
        return np.asarray(self.stamps.mean(0))


def psf_kernels(convolved: Psf, target: Psf, box: Box, size: int) -> KernelGrid | None:
    """Return the kernels of sum 1 from one PSF model to another; None where one of them is defined nowhere.

    Parameters
    ----------
    convolved, target
        PSF of the image that is convolved, and of that which it shall look like.
    box
        (x0, y0, width, height) of the frame that the kernels are for.
    size
        Side of the kernels, px, odd.
    """
    x0, y0, width, height = box
    gx, gy = np.meshgrid(np.linspace(x0, x0 + width - 1, NODES), np.linspace(y0, y0 + height - 1, NODES))
    stamps = [_stamps(psf, gx.ravel(), gy.ravel()) for psf in (convolved, target)]
    defined = np.isfinite(stamps[0][:, 0, 0]) & np.isfinite(stamps[1][:, 0, 0])
    if not defined.any():
        return None
    kernels = _deconvolved(stamps[0][defined], stamps[1][defined], size)
    px, py = gx.ravel()[defined], gy.ravel()[defined]
    nearest = np.argmin(np.hypot(gx.reshape(-1, 1) - px, gy.reshape(-1, 1) - py), axis=1)
    return KernelGrid(kernels[nearest], NODES, box)


def _stamps(psf: Psf, x: F64, y: F64) -> F64:
    """Return the PSF's stamps (N, S, S) of sum 1; NaN where it is not defined."""
    try:
        stamps = psf.kernel_at(x, y).astype(np.float64)
    except PsfUndefined:
        stamps = np.stack([_stamp(psf, float(a), float(b)) for a, b in zip(x, y, strict=True)])
    total = stamps.sum((1, 2), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, stamps / total, np.nan)


def _stamp(psf: Psf, x: float, y: float) -> F64:
    try:
        return np.asarray(psf.kernel_at(x, y)[0], np.float64)
    except PsfUndefined:
        return np.full((psf.size, psf.size), np.nan)


def _deconvolved(convolved: F64, target: F64, size: int) -> F64:
    """Return the kernels (N, size, size) between stamps (N, S, S) and (N, R, R)."""
    side = fft.next_fast_len(max(convolved.shape[-1], target.shape[-1]) + size, real=True)
    p, q = (centred_spectra(a, side) for a in (convolved, target))
    fx, fy = fft.rfftfreq(side)[None, None, :], fft.fftfreq(side)[None, :, None]
    beyond = (np.hypot(fx, fy) > NOISE_BAND)[0]
    noise = float(np.mean(np.abs(p[:, beyond]) ** 2 + np.abs(q[:, beyond]) ** 2))
    eps = float(np.clip(noise, LEAST_EPS, MOST_EPS))
    between = _between(convolved, target)
    xx, yy, xy = (between[:, k, None, None] for k in range(3))
    gauss = np.exp(-2 * np.pi**2 * (xx * fx**2 + yy * fy**2 + 2 * xy * fx * fy))
    k = (q * p.conj() + eps * gauss) / (np.abs(p) ** 2 + eps)
    k *= np.minimum(1.0, MAX_GAIN / np.maximum(np.abs(k), 1e-30))
    wide = np.roll(fft.irfft2(k, (side, side)), (size // 2, size // 2), axis=(1, 2))
    return _of_sum_one(wide[:, :size, :size])


def _between(convolved: F64, target: F64) -> F64:
    """Return the moments xx, yy, xy (N, 3), px^2, that broaden the one to the other; along no axis less than none."""
    more = adaptive_moments(target) - adaptive_moments(convolved)
    more[~np.isfinite(more[:, 0])] = 0.0
    mean, half = 0.5 * (more[:, 0] + more[:, 1]), 0.5 * (more[:, 0] - more[:, 1])
    length = np.hypot(half, more[:, 2])
    major, minor = np.maximum(mean + length, 0), np.maximum(mean - length, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        cos, sin = (np.where(length > 0, a / length, 0.0) for a in (half, more[:, 2]))
    middle, part = 0.5 * (major + minor), 0.5 * (major - minor)
    return np.column_stack([middle + part * cos, middle - part * cos, part * sin])


def _of_sum_one(kernels: F64) -> F64:
    """Let kernels run out towards the edge of their stamp, and give what that takes, and what lies beyond, to their wings."""
    size = kernels.shape[-1]
    half = size // 2
    g = np.arange(size) - half
    r = np.hypot(g[:, None], g[None, :])
    run_out = 0.5 * (1 + np.cos(np.pi * np.clip((r - (half - EDGE)) / EDGE, 0, 1)))
    wings = np.exp(-0.5 * (r / (half / 2)) ** 2) * run_out
    kernels = kernels * run_out
    lacking = 1 - kernels.sum((1, 2), keepdims=True)
    return np.asarray(kernels + lacking * wings / wings.sum())
