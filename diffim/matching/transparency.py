"""How the flux ratio of two images varies over them: clouds, vignetting, a flat field that was wrong.

A matching kernel has one sum for the image, as most pairs have. Where the stars say otherwise the image that is convolved is
brought to the transparency of the other one before.
"""

from dataclasses import dataclass, replace

import numpy as np

from diffim.matching.kernel_stamps import StarEquations
from diffim.pixels.masked_image import MaskedImage
from exposure.field import ChebyshevField, chebyshev_orders, polynomial_terms
from exposure.quantiles import median, scatter
from tasks.arrays import F32, F64, Box, Flags

__all__ = ["Transparency", "star_transparency"]

MAX_ORDER = 8
STARS_PER_TERM = 3
MOST_ERROR = 0.05  # of a star's flux ratio
LEAST_RMS = 0.015  # of the field: less is within the errors of PSF models
LEAST_GAIN = 4.0  # by how many standard deviations of chi^2 the held-out stars must fit better
FOLDS, CLIP, ROUNDS = 5, 4.0, 3


@dataclass(frozen=True)
class Transparency:
    """Flux ratio over its mean: `field` over the image, known to `order` in x and y together.

    Parameters
    ----------
    rms
        Standard deviation of the field at the stars.
    """

    field: ChebyshevField
    order: int
    rms: float

    def at(self, x: F64, y: F64) -> F64:
        """Return the factor at frame positions (N,), px; beyond the box that of its edge."""
        x0, y0, width, height = self.field.bbox
        return self.field(np.clip(x, x0, x0 + width - 1), np.clip(y, y0, y0 + height - 1))

    def dimmed(self, image: MaskedImage) -> MaskedImage:
        """Return an image as it would be under this transparency."""
        factor = self.plane((*image.origin, *image.image.shape[::-1]))
        return replace(image, image=image.image * factor, variance=image.variance * factor**2)

    def plane(self, box: Box) -> F32:
        """Return the factor on the pixels of a box (x0, y0, width, height), shape (height, width)."""
        x0, y0, width, height = box
        x, y = x0 + np.arange(width), y0 + np.arange(height)
        fx0, fy0, fw, fh = self.field.bbox
        u, v = self.field.scaled(np.clip(x, fx0, fx0 + fw - 1), np.clip(y, fy0, fy0 + fh - 1))
        top = self.order
        rows, columns = np.polynomial.chebyshev.chebvander(v, top), np.polynomial.chebyshev.chebvander(u, top)
        return np.asarray((rows @ self.field.coefficients).astype(np.float32) @ columns.T.astype(np.float32))


def star_transparency(s: StarEquations, which: Flags, box: Box) -> Transparency | None:
    """Return the field that the flux ratios of the stars in `which` (N,) tell; None where one number does as well."""
    ratio, error = _flux_ratios(s)
    with np.errstate(invalid="ignore", divide="ignore"):
        good = which & np.isfinite(ratio) & (ratio > 0) & (error < MOST_ERROR * ratio)
    n = int(good.sum())
    if n < STARS_PER_TERM * len(chebyshev_orders(1)):
        return None
    x, y, usual = s.x[good], s.y[good], median(ratio[good])
    value, error = ratio[good] / usual - 1, error[good] / usual
    if scatter(value) < LEAST_RMS / 2:
        return None
    sigma = np.hypot(error, scatter(value))
    scores = []
    for order in range(MAX_ORDER + 1):
        terms = polynomial_terms(chebyshev_orders(order), box, x, y)
        if order and n < STARS_PER_TERM * terms.shape[1]:
            break
        scores.append(_held_out(terms, value, sigma))
    best = int(np.argmin(scores))
    orders = chebyshev_orders(best)
    terms = polynomial_terms(orders, box, x, y)
    solution = _robust_fit(terms, value, error)
    rms = float(np.std(terms @ solution))
    if scores[0] - scores[best] < LEAST_GAIN * np.sqrt(scores[0]) or rms < LEAST_RMS:
        return None
    coefficients = np.zeros((best + 1, best + 1))
    coefficients[orders[:, 1], orders[:, 0]] = solution
    coefficients[0, 0] += 1 - float(np.mean(terms @ solution))
    return Transparency(ChebyshevField(coefficients, box), best, rms)


def _flux_ratios(s: StarEquations) -> tuple[F64, F64]:
    """Return the flux ratio (N,) of each star under the base kernel, its own background free, and the error."""
    m, c, g = s.normal[:, 0, 0], s.normal[:, 0, -1], s.normal[:, -1, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        information = m - c * c / g
        return (s.right[:, 0] - c * s.right[:, -1] / g) / information, 1 / np.sqrt(information)


def _robust_fit(terms: F64, value: F64, sigma: F64) -> F64:
    """Return the coefficients of a weighted fit from which values that stand out are left."""
    keep = np.ones(value.size, bool)
    weight = 1 / np.hypot(sigma, 1e-3)
    solution: F64 = np.zeros(terms.shape[1])
    for _ in range(ROUNDS):
        found = np.linalg.lstsq(terms[keep] * weight[keep, None], value[keep] * weight[keep], rcond=None)[0]
        solution = np.asarray(found, np.float64)
        rest = value - terms @ solution
        keep = np.abs(rest) <= CLIP * np.hypot(sigma, scatter(rest))
    return solution


def _held_out(terms: F64, value: F64, sigma: F64) -> float:
    """Return chi^2 of all values, each under a fit that it is not in; no value counts for more than `CLIP` sigma."""
    number, rest = np.arange(value.size) % FOLDS, np.empty(value.size)
    for k in range(FOLDS):
        out = number == k
        rest[out] = value[out] - terms[out] @ _robust_fit(terms[~out], value[~out], sigma[~out])
    return float(np.minimum((rest / sigma) ** 2, CLIP**2).sum())
