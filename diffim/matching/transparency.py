"""How the flux ratio of two images varies over them: clouds, vignetting, a flat field that was wrong.

A matching kernel has one sum for the image, as most pairs have. Where the stars say otherwise the image that is convolved is
brought to the transparency of the other one before.
"""

from dataclasses import dataclass, replace

import numpy as np

from diffim.matching.kernel_stamps import StarEquations
from diffim.pixels.masked_image import MaskedImage
from exposure.field import ChebyshevField
from exposure.quantiles import median, scatter
from tasks.arrays import F32, F64, Box, Flags

__all__ = ["Transparency", "star_transparency"]

ORDER = 10  # of the polynomial that the field is kept as
LENGTHS = (1.5, 0.75, 0.4, 0.2, 0.12)  # over which it may change, in units of the image's longer side
LEAST_STARS = 12
MOST_ERROR = 0.05  # of a star's flux ratio
STAR_ERROR = 0.005  # by which constant stars may differ from each other all the same: colours
LEAST_RMS = 0.015  # of the field: less is within the errors of PSF models
LEAST_GAIN = 4.0  # by how many standard deviations of chi^2 stars must be predicted better by the others
CLIP, ROUNDS = 4.0, 3


@dataclass(frozen=True)
class Transparency:
    """Flux ratio over its mean: `field` over the image.

    Parameters
    ----------
    rms
        Standard deviation of the field at the stars.
    length
        Over which it changes, in units of the image's longer side.
    """

    field: ChebyshevField
    rms: float
    length: float

    def at(self, x: F64, y: F64) -> F64:
        """Return the factor at frame positions (N,), px; beyond the box that of its edge."""
        x0, y0, width, height = self.field.bbox
        return self.field(np.clip(x, x0, x0 + width - 1), np.clip(y, y0, y0 + height - 1))

    def dimmed(self, image: MaskedImage) -> MaskedImage:
        """Return an image (planes of shape (height, width), counts) as it would be under this transparency."""
        factor = self.plane((*image.origin, *image.image.shape[::-1]))
        return replace(image, image=image.image * factor, variance=image.variance * factor**2)

    def plane(self, box: Box) -> F32:
        """Return the factor on the pixels of a box (x0, y0, width, height), shape (height, width)."""
        x0, y0, width, height = box
        x, y = x0 + np.arange(width), y0 + np.arange(height)
        fx0, fy0, fw, fh = self.field.bbox
        u, v = self.field.scaled(np.clip(x, fx0, fx0 + fw - 1), np.clip(y, fy0, fy0 + fh - 1))
        top = len(self.field.coefficients) - 1
        rows, columns = np.polynomial.chebyshev.chebvander(v, top), np.polynomial.chebyshev.chebvander(u, top)
        return np.asarray((rows @ self.field.coefficients).astype(np.float32) @ columns.T.astype(np.float32))


def star_transparency(s: StarEquations, which: Flags, box: Box) -> Transparency | None:
    """Return the field that the flux ratios of the stars in `which` (N,) tell; None where one number does as well.

    A Gaussian process (Rasmussen & Williams 2006, chapter 2), whose length is that under which each star is predicted best by
    the others (their equation 5.12).
    """
    ratio, error = _flux_ratios(s)
    with np.errstate(invalid="ignore", divide="ignore"):
        good = which & np.isfinite(ratio) & (ratio > 0) & (error < MOST_ERROR * ratio)
    if good.sum() < LEAST_STARS:
        return None
    usual = median(ratio[good])
    value, error = ratio[good] / usual - 1, np.hypot(error[good] / usual, STAR_ERROR)
    amplitude = scatter(value)
    if amplitude < LEAST_RMS / 2:
        return None
    unit = max(box[2], box[3])
    positions, sigma = np.column_stack([s.x[good], s.y[good]]) / unit, np.hypot(error, amplitude)
    plain = float(np.minimum((value / sigma) ** 2, CLIP**2).sum())
    processes = [_Process.of(positions, value, error, amplitude, length) for length in LENGTHS]
    scores = [float(np.minimum((p.held_out / sigma) ** 2, CLIP**2).sum()) for p in processes]
    best = processes[int(np.argmin(scores))]
    rms = float(np.std(best.at(positions)))
    if plain - min(scores) < LEAST_GAIN * np.sqrt(plain) or rms < LEAST_RMS:
        return None
    return Transparency(_as_polynomial(best, box, unit), rms, best.length)


@dataclass(frozen=True)
class _Process:
    """A Gaussian process through values at places (N, 2), those that stand out left aside.

    Parameters
    ----------
    held_out
        Each value less what the others predict for it, shape (N,).
    """

    places: F64
    weights: F64
    mean: float
    amplitude: float
    length: float
    held_out: F64

    @classmethod
    def of(cls, places: F64, value: F64, error: F64, amplitude: float, length: float) -> "_Process":
        """Fit a process of some amplitude and length to values of known errors."""
        covariance = _covariance(places, places, amplitude, length)
        noise = error.copy()
        mean, rest, weights = float(np.mean(value)), value, value
        for _ in range(ROUNDS):
            inverse = np.linalg.inv(covariance + np.diag(noise**2))
            mean = float((inverse @ value).sum() / inverse.sum())
            weights = inverse @ (value - mean)
            rest = weights / np.diag(inverse)
            noise = np.where(np.abs(rest) > CLIP * np.hypot(error, scatter(rest)), 1e3 * amplitude, error)
        return cls(places, weights, mean, amplitude, length, rest)

    def at(self, places: F64) -> F64:
        """Return the value at other places (M, 2)."""
        return np.asarray(self.mean + _covariance(places, self.places, self.amplitude, self.length) @ self.weights)


def _covariance(first: F64, second: F64, amplitude: float, length: float) -> F64:
    square = ((first[:, None] - second[None, :]) ** 2).sum(-1)
    return np.asarray(amplitude**2 * np.exp(-0.5 * square / length**2))


def _as_polynomial(process: _Process, box: Box, unit: float) -> ChebyshevField:
    """Return 1 + the process over its mean as a polynomial, exact at the nodes of Chebyshev."""
    x0, y0, width, height = box
    node = np.cos(np.pi * (np.arange(ORDER + 1) + 0.5) / (ORDER + 1))
    x, y = x0 + 0.5 * (node + 1) * (width - 1), y0 + 0.5 * (node + 1) * (height - 1)
    gx, gy = np.meshgrid(x, y)
    values = 1 + process.at(np.column_stack([gx.ravel(), gy.ravel()]) / unit).reshape(gx.shape)
    to_coefficients = np.linalg.inv(np.polynomial.chebyshev.chebvander(node, ORDER))
    return ChebyshevField(to_coefficients @ values @ to_coefficients.T, box)


def _flux_ratios(s: StarEquations) -> tuple[F64, F64]:
    """Return the flux ratio (N,) of each star under the base kernel, its own background free, and the error."""
    m, c, g = s.normal[:, 0, 0], s.normal[:, 0, -1], s.normal[:, -1, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        information = m - c * c / g
        return (s.right[:, 0] - c * s.right[:, -1] / g) / information, 1 / np.sqrt(information)
