"""Polynomials over an image whose terms are held back as far as the data ask: no count of stars says which order they pay for.

Terms of one degree have one Gaussian prior about zero. Its width, and by what factor the noise is more than was said, are
those under which the data are most likely, found by fixed-point steps (MacKay 1992, Neural Computation 4, 415). The
constant term is free.
"""

import numpy as np

from tasks.arrays import F64, I64

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
    width = np.where(degrees > 0, START, np.inf)
    flat = right[:, 0] / normal[:, 0, 0]
    usual = noise = max(power - float((flat * right[:, 0]).sum()), TINY) / max(known - pixels, 1.0)
    for _ in range(STEPS):
        inverse_prior = 1 / (width * size[:, None]) ** 2
        covariance = np.linalg.inv(normal / noise + inverse_prior[:, :, None] * np.eye(n))
        solution = np.einsum("pkl,pl->pk", covariance, right) / noise
        told = 1 - np.einsum("pkk->pk", covariance) * inverse_prior
        for degree in range(1, int(degrees.max(initial=0)) + 1):
            which = degrees == degree
            square = float(((solution[:, which] / size[:, None]) ** 2).sum())
            width[which] = max(np.sqrt(square / max(float(told[:, which].sum()), 1e-3)), LEAST_WIDTH)
        left = (
            power
            - 2 * float((solution * right).sum())
            + float(np.einsum("pk,pkl,pl->", solution, normal, solution, optimize=True))
        )
        noise = (max(left, 0.0) + DOUBT * usual) / (max(known - float(told.sum()), 0.0) + DOUBT)
    return np.asarray(solution.T)
