"""The wings of a PSF: where pixels tell little an elliptical Moffat does, fitted to the mean profile.

It also says how much light falls outside the stamp.
"""

import numpy as np
from scipy.optimize import least_squares

from calibration.psf.stamps import ring
from exposure import PolynomialPsf
from exposure.field import polynomial_terms
from exposure.quantiles import scatter
from tasks.arrays import F64

__all__ = ["normalised", "with_wings"]

NARROWEST = -3.0  # logarithm of a Moffat's width, px
STEEPEST = 3.0  # logarithm of a Moffat's power beyond which it is a Gaussian


def _moffat(p: F64, gx: F64, gy: F64) -> F64:
    """Return an elliptical Moffat of sum 1 (Moffat 1969) at pixels gx, gy.

    `p` holds the logarithms of alpha (px) and of beta - 1.2, and the inverse hyperbolic tangents of two ellipticities.
    """
    return _moffat_and_slopes(p, gx, gy, slopes=False)[0]


def _moffat_and_slopes(p: F64, gx: F64, gy: F64, slopes: bool = True) -> list[F64]:
    """Return `_moffat`, and its derivatives by each of its four parameters; those are 0 where a parameter is held at its limit."""
    alpha, beta, e1, e2 = np.exp(max(p[0], NARROWEST)), 1.2 + np.exp(min(p[1], STEEPEST)), np.tanh(p[2]), np.tanh(p[3])
    square = max(1 - e1 * e1 - e2 * e2, 1e-3)
    det = np.sqrt(square)
    scale = 1 / (det * alpha**2)
    r2 = ((1 - e1) * gx * gx - 2 * e2 * gx * gy + (1 + e1) * gy * gy) * scale
    inside = 1 + np.maximum(r2, 0)  # a flat one has no inside
    value = np.asarray((beta - 1) / (np.pi * alpha**2) * inside ** (-beta))
    if not slopes:
        return [value]
    by_r2 = -beta * value * (r2 > 0) / inside
    round_ = r2 / square * (square > 1e-3)
    return [
        value,
        (-2 * value - 2 * r2 * by_r2) * (p[0] > NARROWEST),
        (beta - 1.2) * (1 / (beta - 1) - np.log(inside)) * value * (p[1] < STEEPEST),
        by_r2 * ((gy * gy - gx * gx) * scale + e1 * round_) * (1 - e1 * e1),
        by_r2 * (-2 * gx * gy * scale + e2 * round_) * (1 - e2 * e2),
    ]


def with_wings(model: PolynomialPsf, fwhm: float, leveled: bool) -> tuple[PolynomialPsf, float]:
    """Blend the mean stamp into a Moffat beyond the core; returns the model and the light outside the stamp.

    The level of the mean is that of its ring, or, where the stamps were `leveled` with a model, one that is fitted.
    """
    mean = model.kernel_at(*model.centre)[0].astype(np.float64)
    side = mean.shape[0]
    p = _fit_moffat(mean, fwhm, leveled)
    gx, gy, radius = _grid(side)
    blend = np.clip((radius - 2.0 * fwhm) / fwhm, 0, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        profile = p[4] * _moffat(p, gx, gy)
    level = p[5] if leveled else -np.mean(profile[ring(side)])
    total = (1 - blend) * (mean - level) + blend * profile
    alpha, beta, equal_area = np.exp(max(p[0], NARROWEST)), 1.2 + np.exp(min(p[1], STEEPEST)), side / np.sqrt(np.pi)
    wing = float(np.clip(p[4] * (1 + (equal_area / alpha) ** 2) ** (1 - beta), 0, 0.1))
    basis = model.basis.astype(np.float64) * (1 - blend)
    at_centre = polynomial_terms(model.orders, model.bbox, *model.centre)[0]
    basis[0] = total - np.tensordot(at_centre[1:], basis[1:], axes=1)
    blended = normalised(basis).astype(np.float32)
    return PolynomialPsf(blended, model.orders, model.bbox, model.centre), wing


def _fit_moffat(mean: F64, fwhm: float, leveled: bool) -> F64:
    """Return what `_moffat` takes, the flux, and, where `leveled`, the level of a Moffat fitted to a stamp (side,
    side).
    """
    gx, gy, radius = _grid(len(mean))
    outside = ring(len(mean))  # its level was taken for sky when the stamps were cut
    fitted = radius < 3.0 * fwhm
    noise = scatter(mean[outside])
    x, y = (np.concatenate([g[fitted], g[outside]]) for g in (gx, gy))
    core, level = slice(int(fitted.sum())), slice(int(fitted.sum()), None)
    p = np.array([np.log(fwhm), np.log(1.8), 0.0, 0.0, 1.0, *[0.0] * leveled])
    for _ in range(2):
        # relative: the wings count as much as the core; from a model, as weights from noisy pixels would bias the wings
        scale = np.hypot(0.03 * p[4] * _moffat(p, x[core], y[core]), max(noise, 1e-4 * mean.max()))

        def miss(q: F64, scale: F64 = scale) -> F64:
            profile = q[4] * _moffat(q, x, y)
            return np.asarray((profile[core] + (q[5] if leveled else -np.mean(profile[level])) - mean[fitted]) / scale)

        def slopes(q: F64, scale: F64 = scale) -> F64:
            value, *by_shape = _moffat_and_slopes(q, x, y)
            by = np.stack([*(q[4] * s for s in by_shape), value])
            out = by[:, core] if leveled else by[:, core] - by[:, level].mean(1, keepdims=True)
            return np.asarray((np.concatenate([out, np.ones((int(leveled), scale.size))]) / scale).T)

        with np.errstate(over="ignore", invalid="ignore"):  # steps of the fit to a PSF without wings go far
            p = least_squares(miss, p, slopes, max_nfev=200, method="lm").x
    return np.asarray(p, np.float64)


def _grid(side: int) -> tuple[F64, F64, F64]:
    """Return x, y and distance (side, side) of a stamp's pixels from its middle, px."""
    g = np.arange(side, dtype=np.float64) - side // 2
    gx, gy = np.meshgrid(g, g)
    return gx, gy, np.hypot(gx, gy)


def normalised(basis: F64) -> F64:
    """Return a basis (terms, side, side) whose first stamp has the sum 1, and the others 0."""
    out = basis / basis[0].sum()
    for k in range(1, len(out)):
        out[k] -= out[k].sum() * out[0]
    return np.asarray(out)
