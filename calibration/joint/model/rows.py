"""The rows of a least-squares problem, star by star."""

from dataclasses import dataclass

from tasks.arrays import F64, I64

__all__ = ["Rows"]


@dataclass
class Rows:
    """One block of n measurements of m whole stars, linearised at the present parameters.

    Parameters
    ----------
    residual
        (n, d), model minus star.
    weight
        (n, d, d) inverse covariance times the weight of the measurement (0: left out).
    model
        (n, d, K) derivatives by the model's parameters, run after run.
    star
        (n, d, q) derivatives by the star's parameters.
    starts
        (n, R) first column of each run.
    group
        (n,) measurements of one group share all their columns (an image).
    lengths
        (R,) lengths of the runs; they add up to K.
    offsets
        (m + 1,) first measurement of each star.
    prior
        (m, q, q) weight of what is known of a star without measurements (a reference star).
    pull
        (m, q) that weight times (star minus what is known).
    """

    residual: F64
    weight: F64
    model: F64
    star: F64
    starts: I64
    group: I64
    lengths: I64
    offsets: I64
    prior: F64
    pull: F64
