"""Weights of sums that stand for an image between its pixels, and keep the flux of stars wherever these lie between pixels."""

from collections.abc import Sequence

import numpy as np

from tasks.arrays import F64

__all__ = ["STEPS", "weight_table"]

STEPS = 1024  # of a table between two pixels: linear between them the weights are right to 1e-6
FIELD_FWHM = 2.5  # px, of the stars that the sums are made for
_SQUARE = 4 / (8 * np.log(2))  # of the width of a Gaussian's autocorrelation, exp(-t^2 / this), over that of its FWHM


def weight_table(half: int, fwhms: Sequence[float]) -> F64:
    """Return the weights, shape (STEPS + 1, 2 half), of the pixels -half+1..half for offsets 0..1 px from pixel 0.

    Parameters
    ----------
    fwhms
        Stars of these widths, px, keep their flux exactly; others of about these widths to some 1e-4.

    Notes
    -----
    They estimate a field of stars from its pixels with the least error (ordinary kriging: Cressie 1993, Statistics for
    Spatial Data, 3.2, for the autocorrelation of Gaussians of `FIELD_FWHM`), under these conditions: a constant and a slope are kept
    (sum w = 1, sum w t = 0, with t the pixels' distances from the point), and the fit of a star of each of the widths to its
    interpolated image gives all of its flux: sum w A(t) = A(0), with A the autocorrelation of its PSF. Lanczos kernels
    keep none of that: between two pixels the flux of a star of 3 px FWHM is 0.4 % (order 3) or 0.2 % (order 5) less than on one.
    """
    pixels = np.arange(-half + 1, half + 1, dtype=np.float64)
    t = pixels[None, :] - np.arange(STEPS + 1)[:, None] / STEPS
    conditions = [np.ones_like(t), t, *(_autocorrelation(t, fwhm) for fwhm in fwhms)]
    count, size = len(conditions), 2 * half
    equations = np.zeros((STEPS + 1, size + count, size + count))
    equations[:, :size, :size] = _autocorrelation(pixels[:, None] - pixels[None, :], FIELD_FWHM)
    for k, condition in enumerate(conditions):
        equations[:, :size, size + k] = equations[:, size + k, :size] = condition
    right = np.ones((STEPS + 1, size + count, 1))
    right[:, :size, 0] = _autocorrelation(t, FIELD_FWHM)
    right[:, size + 1] = 0.0
    weights = np.linalg.solve(equations, right)[:, :size, 0]
    return np.asarray(np.round(weights, 8))  # the same with every linear algebra; squares of denormal numbers are slow


def _autocorrelation(t: F64, fwhm: float) -> F64:
    """Return that of a Gaussian of a FWHM at distances of any shape, all in px."""
    return np.asarray(np.exp(-(t**2) / (_SQUARE * fwhm**2)))
