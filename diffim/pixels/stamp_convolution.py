"""Transforms of stamps, and their convolution with a kernel each."""

import cv2
import numpy as np
from numpy import fft
from numpy.typing import NDArray

from tasks.arrays import F32, F64

__all__ = ["centred_spectra", "stamps_through"]


def centred_spectra(stamps: F32 | F64, side: int) -> NDArray[np.complex128]:
    """Transform stamps (N, S, S) with their middle at the origin, shape (N, side, side / 2 + 1)."""
    half, s = stamps.shape[-1] // 2, stamps.shape[-1]
    wide = np.zeros((len(stamps), side, side))
    wide[:, :s, :s] = stamps
    return np.asarray(fft.rfft2(np.roll(wide, (-half, -half), axis=(1, 2))))


def stamps_through(stamps: F32, kernels: F32) -> F32:
    """Convolve stamps, shape (N, S, S), with centred kernels, shape (N, K, K), one each; the result has the shape of the stamps."""
    side, reach = stamps.shape[-1], kernels.shape[-1] // 2
    full = cv2.getOptimalDFTSize(side + 2 * reach)
    wide = fft.irfft2(fft.rfft2(stamps, (full, full)) * fft.rfft2(kernels, (full, full)), (full, full))
    return np.asarray(wide[:, reach : reach + side, reach : reach + side], dtype=np.float32)
