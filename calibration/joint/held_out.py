"""How a joint fit is judged by the stars that were kept out of it."""

import numpy as np

from calibration.joint.config import JointcalConfig
from calibration.joint.matching.stars import Associated
from calibration.joint.model.build_astrometry import AstrometryBuilder
from calibration.joint.solve.fit import chi2_cut
from calibration.joint.solve.minimize import evaluate
from calibration.joint.solve.problem import Fittable
from tasks.arrays import I64

__all__ = ["held_absolute", "held_chi2"]


def held_chi2(problem: Fittable, config: JointcalConfig) -> tuple[float, int]:
    """Return chi2 and degrees of freedom of held-out stars about their own best coordinates.

    Outliers are left out in up to four rounds, the worst of each star.
    """
    star = problem.star_index
    for _ in range(4):
        for _ in range(2):
            evaluation = evaluate(problem)
        cut = chi2_cut(config.outlierRejectSigma, problem.dimension)
        own = evaluation.chi2 / np.maximum(1 - evaluation.leverage, 0.05)
        outlying = problem.kept & (own > cut) & (evaluation.leverage < 0.95)
        if not outlying.any():
            break
        worst = np.full(problem.offsets.size - 1, -1.0)
        np.maximum.at(worst, star[outlying], own[outlying])
        problem.kept &= ~(outlying & (own == worst[star]))
        left = np.bincount(star[problem.kept], minlength=worst.size)
        problem.kept &= left[star] >= 2
    stars = int((evaluation.star_inverse[:, 0, 0] > 0).sum())
    return float(evaluation.chi2.sum()), problem.dimension * int(problem.kept.sum()) - problem.n_star * stars


def held_absolute(builder: AstrometryBuilder, a: Associated, held: I64, config: JointcalConfig) -> float:
    """Return 1.4826 times the median distance per axis (mas) of held-out stars, placed by their measurements alone,
    about their reference stars.
    """
    tied = held[a.stars.reference[held] >= 0]
    if not tied.size:
        return float("nan")
    problem = builder.problem(a, tied, config)
    problem.stars.prior[:, :2, :2] = 0.0
    for _ in range(2):
        evaluate(problem)
    off = 1e3 * problem.stars.coordinates[:, :2]
    return float(1.4826 * np.median(np.abs(off)))
