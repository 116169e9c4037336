"""What the models of a joint fit give to its solver: linearised measurements and the parameters of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tasks.arrays import F64, I64, Flags

__all__ = ["LightRows", "ModelParameters", "Rows"]


@dataclass(frozen=True)
class ModelParameters:
    """The P parameters of a model; problems of different stars share the arrays.

    Parameters
    ----------
    values
        (P,) present values.
    fitted
        (P,) which of them the fit moves.
    names
        What each is, in words.
    prior_weight, expected
        (P,) inverse variance of what is known of a parameter beforehand (mostly 0), and that value.
    """

    values: F64
    fitted: Flags
    names: list[str]
    prior_weight: F64
    expected: F64


class Rows(NamedTuple):
    """One block of all n measurements of m stars, linearised at the present parameters; compiled code takes it as one.

    Parameters
    ----------
    residual
        (n, d), model minus star: arcsec (d = 2), or nJy or mag (d = 1).
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
        (m, q, q) inverse covariance of what is known of a star without measurements (a reference star).
    pull
        (m, q) that matrix times (star minus what is known).
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


@dataclass(frozen=True)
class LightRows:
    """Linearised measurements without their derivatives by the model: all that a pass without a normal matrix needs.

    Parameters
    ----------
    rows
        With ``model`` of no columns.
    add_gradient
        Adds J^T `pull` (n, d) to a gradient (P,), called with both.
    """

    rows: Rows
    add_gradient: Callable[[F64, F64], None]
