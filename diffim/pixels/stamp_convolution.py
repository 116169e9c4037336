"""Convolution of stamps with a kernel each."""

import cv2
import numpy as np
from numpy import fft

from tasks.arrays import F32

__all__ = ["stamps_through"]


def stamps_through(stamps: F32, kernels: F32) -> F32:
    """Convolve stamps, shape (N, S, S), with centred kernels, shape (N, K, K), one each; the result has the shape of the stamps."""
    side, reach = stamps.shape[-1], kernels.shape[-1] // 2
    full = cv2.getOptimalDFTSize(side + 2 * reach)
    wide = fft.irfft2(fft.rfft2(stamps, (full, full)) * fft.rfft2(kernels, (full, full)), (full, full))
    return np.asarray(wide[:, reach : reach + side, reach : reach + side], dtype=np.float32)
