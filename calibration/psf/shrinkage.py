"""Polynomials over an image whose terms are held back as far as the data ask: no count of stars says which order they pay for.

Terms of one degree have one Gaussian prior about zero. Its width, and by what factor the noise is more than was said, are
those under which the data are most likely, found by fixed-point steps (MacKay 1992, Neural Computation 4, 415). The
constant term is free.
"""

import math

import numpy as np

from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = ["shrunken", "shrunken_pixels"]

STEPS = 20
START = 0.03  # width of the priors
LEAST_WIDTH = 1e-6
DOUBT = 4.0  # values that stand for no variation at all, all scatter noise: of few values the terms could explain any
TINY = 1e-9  # of the mean diagonal: what no datum determines stays zero


def shrunken(terms: F64, degrees: I64, values: F64, weight: F64) -> F64:
    """Return the coefficients (terms,) of values (N,) of known inverse variance (N,) over terms (N, terms)."""
    return shrunken_pixels(terms, degrees, values[:, None], weight[:, None], np.ones(1))[:, 0]


def shrunken_pixels(terms: F64, degrees: I64, values: F64, weight: F64, size: F64) -> F64:
    """Return the coefficients (terms, P) of values (N, P) at P pixels, which share their priors.

    Parameters
    ----------
    terms
        (N, terms), the constant one first.
    degrees
        (terms,): of each.
    weight
        (N, P): inverse variances; 0 where a value is not known.
    size
        (P,): how large the priors of a pixel are to those of the others.
    """
    count, pixels = weight.shape
    n = terms.shape[1]
    products = (terms[:, :, None] * terms[:, None, :]).reshape(count, n * n)
    normal = (weight.T @ products).reshape(pixels, n, n)
    normal += TINY * (np.trace(normal, axis1=1, axis2=2)[:, None, None] / n + TINY) * np.eye(n)
    right = (weight * values).T @ terms
    power = float((weight * values**2).sum())
    known = float((weight > 0).sum())
    flat = right[:, 0] / normal[:, 0, 0]
    usual = max(power - float((flat * right[:, 0]).sum()), TINY) / max(known - pixels, 1.0)
    return np.asarray(_held_back(normal, right, degrees, size, power, known, usual).T)


@compiled
def _held_back(normal: F64, right: F64, degrees: I64, size: F64, power: float, known: float, usual: float) -> F64:
    """Return the coefficients (P, n) after all steps; arguments as of `_step`, sums over the data, and the noise at first."""
    n = degrees.size
    solution, precision, noise = np.zeros(right.shape), np.zeros(n), usual
    for k in range(n):
        if degrees[k] > 0:
            precision[k] = 1 / START**2
    for _ in range(STEPS):
        told, square, left = _step(normal, right, size, precision, noise, solution)
        everything = 0.0
        for k in range(n):
            everything += told[k]
            tells, squares = 0.0, 0.0
            for j in range(n):
                if degrees[j] == degrees[k]:
                    tells += told[j]
                    squares += square[j]
            if degrees[k] > 0:
                precision[k] = 1 / max(math.sqrt(squares / max(tells, 1e-3)), LEAST_WIDTH) ** 2
        noise = (max(power + left, 0.0) + DOUBT * usual) / (max(known - everything, 0.0) + DOUBT)
    return solution


@compiled
def _step(normal: F64, right: F64, size: F64, precision: F64, noise: float, solution: F64) -> tuple[F64, F64, float]:
    """Solve at each pixel into `solution` (P, n); returns what terms are told by data, their squares, and chi2 less its start.

    `normal` (P, n, n), `right` (P, n): the normal equations. `precision` (n,): of the priors where `size` (P,) is 1.
    Matrices this small are decomposed (Cholesky, and its triangle inverted) before a call of linear algebra begins.
    """
    pixels, n = right.shape
    told, square, left = np.zeros(n), np.zeros(n), 0.0
    lower, inverse, forward = np.zeros((n, n)), np.zeros((n, n)), np.zeros(n)
    for p in range(pixels):
        for i in range(n):
            for j in range(i + 1):
                rest = normal[p, i, j] / noise
                if i == j:
                    rest += precision[i] / size[p] ** 2
                for k in range(j):
                    rest -= lower[i, k] * lower[j, k]
                lower[i, j] = np.sqrt(rest) if i == j else rest / lower[j, j]
            forward[i] = 0.0
            for j in range(i + 1):
                total = 1.0 if i == j else 0.0
                for k in range(j, i):
                    total -= lower[i, k] * inverse[k, j]
                inverse[i, j] = total / lower[i, i]
                forward[i] += inverse[i, j] * right[p, j]
        for i in range(n):
            total, covariance = 0.0, 0.0
            for k in range(i, n):
                total += inverse[k, i] * forward[k]
                covariance += inverse[k, i] ** 2
            solution[p, i] = total / noise
            told[i] += 1 - covariance * precision[i] / size[p] ** 2
            square[i] += (solution[p, i] / size[p]) ** 2
        for i in range(n):
            total = -2 * right[p, i]
            for k in range(n):
                total += normal[p, i, k] * solution[p, k]
            left += solution[p, i] * total
    return told, square, left
