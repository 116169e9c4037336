"""The zero point by the instrument's rule: header, fixed, or from reference stars."""

import numpy as np

from calibration.errors import ZeropointFailed
from calibration.refcat import Matches
from exposure import ChebyshevField, Exposure, Instrument, PhotoCalib
from exposure.field import polynomial_terms
from exposure.quantiles import scatter_about
from tasks.arrays import F64, I64

__all__ = ["calibrate"]

BRIGHT_SNR = 30
ENOUGH = 40  # stars, for a gradient of the extinction over the field


def calibrate(exposure: Exposure, rules: Instrument, matches: Matches | None) -> PhotoCalib:
    """Return the calibration of an exposure.

    ``header`` and ``fixed`` take the value read from the file; ``refcat`` and ``relative`` fit it to matched stars.
    ``relative`` without a reference (the first frame of a template) takes the configured zero point as its scale.

    Raises
    ------
    ZeropointFailed
        The rule needs stars and fewer than 3 match.
    """
    if rules.zeropoint in ("header", "fixed"):
        return PhotoCalib.from_zeropoint(float(exposure.metadata["zeropoint"]), source=rules.zeropoint)
    if matches is None:
        if rules.zeropoint == "relative":
            return PhotoCalib.from_zeropoint(float(rules.zeropoint_value.constant), source="relative")
        raise ZeropointFailed(
            f"instrument {rules.name} takes its zero point from a reference catalogue, and none was given",
            **exposure.where,
        )
    return _from_stars(exposure, matches, rules.zeropoint)


def _from_stars(exposure: Exposure, m: Matches, source: str) -> PhotoCalib:
    good = (m.flux > 0) & (m.flux_ref > 0)
    bright = good & (m.flux > BRIGHT_SNR * m.flux_err)  # faint stars sit on their neighbours' light
    m = m.subset(bright if bright.sum() >= ENOUGH else good & (m.flux > 10 * m.flux_err))
    if len(m) < 3:
        raise ZeropointFailed(
            f"{len(m)} stars match the reference catalogue, need 3: check the WCS and the catalogue's depth",
            **exposure.where,
        )
    ratio = np.log(m.flux_ref / m.flux)
    weight = 1.0 / ((m.flux_err / m.flux) ** 2 + 0.01**2)
    order = 0 if len(m) < ENOUGH else 1
    orders = np.array([(d - j, j) for d in range(order + 1) for j in range(d + 1)], dtype=np.int64)
    terms = polynomial_terms(orders, exposure.bbox, m.x, m.y)
    solution, error = _robust(terms, ratio, weight)
    level = float(np.exp(solution[0]))
    variation = _variation(exposure, orders, solution) if order else None
    return PhotoCalib(level, level * error, variation, source)


def _robust(terms: F64, ratio: F64, weight: F64) -> tuple[F64, float]:
    """Return coefficients (terms,) and the error of the first, by least squares with Tukey weights about a median
    start.

    Parameters
    ----------
    terms, ratio, weight
        (N, terms), (N,) natural logarithms of flux ratios, and (N,) their inverse variances.
    """
    miss = ratio - np.median(ratio)
    solution: F64 = np.zeros(terms.shape[1])
    for _ in range(12):
        scale = max(scatter_about(miss), 1e-4)
        robust = np.clip(1 - (miss / (4.685 * scale)) ** 2, 0, None) ** 2
        w = weight * robust
        normal = terms.T @ (terms * w[:, None])
        normal += 1e-12 * max(np.trace(normal), 1.0) * np.eye(terms.shape[1])  # stars on a line leave a gradient open
        solution = np.asarray(np.linalg.solve(normal, terms.T @ (w * ratio)), np.float64)
        miss = ratio - terms @ solution
    used = max(int((robust > 0.1).sum()), 1)
    return solution, scale / np.sqrt(used)


def _variation(exposure: Exposure, orders: I64, solution: F64) -> ChebyshevField:
    """Return exp of the fitted logarithm, to second order, as a Chebyshev field of factor 1 at the fit's constant."""
    top = int(orders.max()) * 2
    x0, y0, width, height = exposure.bbox
    nodes = np.cos(np.pi * (np.arange(top + 1) + 0.5) / (top + 1))
    u, v = np.meshgrid(nodes, nodes)
    x, y = x0 + (u.ravel() + 1) / 2 * (width - 1), y0 + (v.ravel() + 1) / 2 * (height - 1)
    values = np.exp(polynomial_terms(orders, exposure.bbox, x, y)[:, 1:] @ solution[1:])
    design = np.polynomial.chebyshev.chebvander2d(v.ravel(), u.ravel(), [top, top])
    coefficients = np.linalg.solve(design, values)
    return ChebyshevField(coefficients.reshape(top + 1, top + 1), exposure.bbox)
