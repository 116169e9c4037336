"""Which stars tell the curvature of chi2 well enough: a sample of them, where they are many.

The gradient is a sum over all measurements, and the fit ends where it vanishes. The matrix only says how far to go along it:
where a parameter has thousands of measurements some hundreds of them tell that to a tenth, and each pass leaves a hundredth of
what chi2 had to win. Stars are drawn so that every parameter has its measurements, and each counts for the inverse of the share
of its like that are drawn (Horvitz & Thompson 1952, JASA 47, 663): the sum has no bias.
"""

from typing import NamedTuple

import numpy as np

from calibration.joint.solve.problem import Fittable
from tasks.arrays import F64, I64

__all__ = ["Sample", "sample_stars"]

_WORTH = 0.5  # of the stars: a larger sample saves too little


class Sample(NamedTuple):
    """Some stars of a fit.

    Parameters
    ----------
    which
        (K,) their indices, sorted.
    times
        (K,) how many stars each stands for.
    """

    which: I64
    times: F64


def sample_stars(problem: Fittable, per_parameter: float) -> Sample | None:
    """Return stars whose images give each parameter about so many measurements; None where that is most of them.

    Reference stars, which alone hold what all images have in common, are as many as one map asks for.
    """
    if not problem.image.size:
        return None
    n_images = problem.n_groups
    starts, lengths = problem.layout.starts(np.arange(n_images)), problem.layout.lengths
    measured = np.bincount(problem.image[problem.kept], minlength=n_images)
    need = np.zeros(n_images)
    for first, length in zip(starts.T, lengths, strict=True):
        have = np.bincount(first, measured)[first] if length else np.ones(n_images)
        need = np.maximum(need, per_parameter * length / np.maximum(have, 1.0))
    share = np.maximum.reduceat(np.minimum(need, 1.0)[problem.image], problem.offsets[:-1])
    tied = problem.stars.prior[:, 0, 0] > 0
    share[tied] = np.maximum(share[tied], min(per_parameter * int(lengths.max()) / max(int(tied.sum()), 1), 1.0))
    # neighbours on the sky stand together: equal steps along the sum of the shares draw evenly over the sky
    which = np.flatnonzero((np.diff(np.floor(np.cumsum(share)), prepend=0.0) > 0) | (share >= 1.0))
    if which.size > _WORTH * share.size:
        return None
    return Sample(which, 1.0 / share[which])
