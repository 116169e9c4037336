"""Is what a fit leaves white over the focal plane? A test of the error model that needs no other fit.

Turbulence, a chip that moved, a seam or an edge of a cloud push neighbouring measurements of one image the same way. The
residuals in a ninth of an image add up to no more than chance has it where errors are independent of each other, as the
fit takes them to be.
"""

import logging
from dataclasses import dataclass

import numpy as np

from calibration.joint.data import Images
from calibration.joint.model.photometry import POGSON, PhotometryProblem
from calibration.joint.result import AstrometryHalf, PhotometryHalf
from calibration.joint.solve.minimize import evaluate, star_blocks
from exposure.threads import in_threads
from tasks.arrays import F64, I64

__all__ = ["Whiteness", "white_metrics", "whiteness"]

log = logging.getLogger("alertprod.jointcal")
_SIDE = 3  # cells of an image per axis, at the most
_CELLS = _SIDE**2
_LEAST = 4  # measurements of a cell; an image has as many cells as hold so many on average
_MOST_LEVERAGE = 0.9  # a star that is seen once leaves no residual
_SIGNIFICANT = 5.0
_COMMON = 3.0  # sigma, of one image of a visit that is not white
_NAMED = 5


@dataclass(frozen=True)
class Whiteness:
    """How far the sums of residuals over ninths of images are from chance, visit by visit.

    Parameters
    ----------
    visits
        (V,) ids.
    square
        (V,) mean square of the sums, 1 where residuals are white; NaN without any.
    degrees
        (V,) how many sums.
    chi2
        (V,) mean square of the residuals themselves.
    whole
        (I,) square of the sum of each image's residuals over their number: one for each of its dimensions where they are white.
    push
        (V,) rms of what the residuals in a ninth have in common, per axis, arcsec or mag, in that image of the visit which has
        most of it; 0 where that may be chance.
    """

    visits: I64
    square: F64
    degrees: I64
    chi2: F64
    whole: F64
    push: F64

    @property
    def sigma(self) -> F64:
        """How many sigma (V,) the mean squares are above 1."""
        return np.asarray((self.square - 1.0) * np.sqrt(self.degrees / 2.0))

    def growth(self, visit: I64) -> F64:
        """Return how many times larger the errors of what fits to some visits (I,) gives are than those of independent
        residuals: 1 where these are white.
        """
        larger = np.where(
            np.nan_to_num(self.sigma) > _SIGNIFICANT, np.sqrt(np.maximum(np.nan_to_num(self.square), 1.0)), 1.0
        )
        return np.asarray(larger[np.searchsorted(self.visits, visit)])

    def pushed(self, visit: I64) -> F64:
        """Return what neighbouring residuals have in common in the worst image of some visits (I,), arcsec or mag; 0 where that may
        be chance.

        It is the same of few stars and of many, where sums of residuals grow with their number.
        """
        loud = np.nan_to_num(self.sigma) > _SIGNIFICANT
        return np.asarray(np.where(loud, self.push, 0.0)[np.searchsorted(self.visits, visit)])


def whiteness(half: AstrometryHalf | PhotometryHalf, images: Images) -> Whiteness:
    """Sum the residuals of a fit over ninths of its images."""
    pull, off, cell = _pulls(half, images)
    n_cells = _CELLS * len(images)
    n = np.bincount(cell, minlength=n_cells)
    use = n >= _LEAST
    sums = np.stack([np.bincount(cell, p, n_cells) for p in pull.T], 1)
    square = np.where(use, (sums**2).mean(1) / np.maximum(n, 1), 0.0)
    visits, of = np.unique(images.visit, return_inverse=True)
    visit = np.repeat(of, _CELLS)
    count = np.bincount(visit[use], minlength=visits.size)
    total = np.bincount(visit[cell], (pull**2).mean(1), visits.size)
    measured = np.bincount(visit[cell], minlength=visits.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(visit[use], square[use], visits.size) / count
        whole = (sums.reshape(len(images), _CELLS, -1).sum(1) ** 2).sum(1) / n.reshape(len(images), _CELLS).sum(1)
    degrees = count * pull.shape[1]
    push = np.zeros(visits.size)
    np.maximum.at(push, of, _common(off, cell, len(images)))
    return Whiteness(visits, mean, degrees, total / measured, np.nan_to_num(whole), push)


def _common(off: F64, cell: I64, n_images: int) -> F64:
    """Return the rms (I,), per axis, of what residuals (K, d) in one ninth of each image have in common; 0 where that may be chance.

    It is by the products of all pairs of them, whose mean is its square, however large their own errors are.
    """
    n = np.bincount(cell, minlength=_CELLS * n_images).astype(np.float64)
    squares: F64 = np.stack([np.bincount(cell, o**2, n.size) for o in off.T])
    products: F64 = np.stack([np.bincount(cell, o, n.size) for o in off.T]) ** 2 - squares
    chance = np.sqrt(2.0 * _by_image(squares**2))
    total, pairs = _by_image(products), _by_image(np.tile(n * (n - 1.0), (off.shape[1], 1)))
    return np.asarray(np.sqrt(np.where(total > _COMMON * chance, total, 0.0) / np.maximum(pairs, 1.0)))


def _by_image(values: F64) -> F64:
    """Return the sums (I,) of values (d, cells) of each image."""
    return np.asarray(values.reshape(len(values), -1, _CELLS).sum((0, 2)))


def white_metrics(name: str, white: Whiteness | None) -> dict[str, float]:
    """Return numbers of all visits, and warn of those whose residuals are not white.

    Returns
    -------
    metrics
        ``NAME_white_chi2``: mean square of the sums; ``NAME_white_significance``: sigma that it is above 1.
    """
    if white is None:
        return {}
    sigma = np.nan_to_num(white.sigma)
    loud = np.flatnonzero(sigma > _SIGNIFICANT)
    if loud.size:
        worst = loud[np.argsort(-sigma[loud], kind="stable")][:_NAMED]
        log.warning(
            "%s: residuals of %d of %d visits are not independent of each other over the focal plane, as turbulence, seams or "
            "clouds make them (%s)",
            name,
            loud.size,
            white.visits.size,
            ", ".join(f"visit {white.visits[v]}: {sigma[v]:.0f} sigma" for v in worst),
        )
    degrees = int(white.degrees.sum())
    if not degrees:
        return {f"{name}_white_chi2": float("nan"), f"{name}_white_significance": float("nan")}
    every = float(np.nansum(white.square * white.degrees) / degrees)
    return {f"{name}_white_chi2": every, f"{name}_white_significance": (every - 1.0) * float(np.sqrt(degrees / 2.0))}


def _pulls(half: AstrometryHalf | PhotometryHalf, images: Images) -> tuple[F64, F64, I64]:
    """Return the residuals (K, d) of the kept measurements in units of their robust scatter and in arcsec or mag, corrected for
    what their stars took, and the ninth (K,) of an image that each lies in.
    """
    problem = half.problem
    evaluation = evaluate(problem)
    pull, off = np.empty((2, problem.image.size, problem.dimension))

    def one(block: tuple[int, int]) -> None:
        first, last = (int(k) for k in problem.offsets[list(block)])
        rows = problem.light(*block).rows
        pull[first:last] = rows.residual * np.sqrt(np.einsum("ndd->nd", rows.weight))
        off[first:last] = rows.residual

    in_threads(one, star_blocks(problem, light=True))
    if isinstance(problem, PhotometryProblem) and not problem.layout.magnitude:
        off *= POGSON / problem.stars.value[problem.star_index]
    taken = np.sqrt(np.maximum(1.0 - evaluation.leverage, 1.0 - _MOST_LEVERAGE))[:, None]
    pull, off = pull / taken, off / taken
    m = half.associated.measurements
    index, _ = half.associated.stars.measurements_of(half.which)
    image = m.image[index]
    positions = np.stack([m.x[index], m.y[index]], 1) + 0.5 - images.bbox[image, :2]
    use = problem.kept & (evaluation.leverage < _MOST_LEVERAGE)
    number = np.bincount(image[use], minlength=len(images))
    side = np.clip(np.sqrt(number / _LEAST).astype(np.int64), 1, _SIDE)[image]
    step = np.clip((side[:, None] * positions / images.bbox[image, 2:]).astype(np.int64), 0, side[:, None] - 1)
    cell = _CELLS * image + _SIDE * step[:, 1] + step[:, 0]
    pull, off, cell = pull[use], off[use], cell[use]
    scale = 1.4826 * float(np.median(np.abs(pull))) if pull.size else 1.0
    return pull / max(scale, 1e-9), off, cell
