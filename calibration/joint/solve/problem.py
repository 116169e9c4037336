"""What the solver needs to know of a problem."""

from typing import Protocol, Self

from calibration.joint.model.rows import LightRows, Rows
from tasks.arrays import F64, I64, Flags

__all__ = ["Columns", "Fittable", "FittedStars", "Problem"]


class Problem(Protocol):
    """What a fit needs to know of a model: parameters, blocks of linearised measurements, stars that can move.

    Parameters
    ----------
    parameters, fitted, prior_weight, expected
        (P,) as in `calibration.joint.model.rows.ModelParameters`.
    n_groups, width, n_star, dimension
        Groups of measurements; K, q and d of `calibration.joint.model.rows.Rows`.
    guarded
        Steps are taken back where they make things worse; needs weights that do not follow the stars.
    offsets
        (M + 1,) first measurement of each star.
    """

    parameters: F64
    fitted: Flags
    prior_weight: F64
    expected: F64
    n_groups: int
    width: int
    n_star: int
    dimension: int
    guarded: bool
    offsets: I64

    def rows(self, first: int, last: int) -> Rows:
        """Linearise the measurements of the stars [first, last)."""

    def light(self, first: int, last: int) -> LightRows:
        """Linearise the same measurements for a gradient, without their derivatives by the model."""

    def move(self, first: int, last: int, step: F64) -> None:
        """Add the steps (last - first, q) to those stars."""

    def name(self, index: int) -> str:
        """Return what a parameter is, in words."""


class Columns(Protocol):
    """Which columns of the model the measurements on an image touch."""

    @property
    def lengths(self) -> I64:
        """Lengths (R,) of the runs of columns."""

    def starts(self, image: I64) -> I64:
        """Return the first column (N, R) of each run of measurements on these images (N,)."""


class FittedStars(Protocol):
    """What is known of M stars beforehand."""

    prior: F64
    """(M, q, q) inverse covariance of the reference star; 0 where there is none."""


class Fittable(Problem, Protocol):
    """A problem whose measurements and reference stars can be left out.

    Parameters
    ----------
    kept
        (N,) measurements that are used.
    image, star_index
        (N,) index of image and star of each.
    start
        (P,) parameters at the start.
    firm
        (P,) parameters of which enough is expected beforehand: they need no measurements.
    """

    kept: Flags
    firm: Flags
    image: I64
    star_index: I64
    start: F64

    @property
    def layout(self) -> Columns:
        """The columns of the model."""

    @property
    def stars(self) -> FittedStars:
        """The stars."""

    def of_stars(self, which: I64) -> Self:
        """Return the problem of some stars (K,), which moves none of the others; the parameters are shared."""

    def undetermined(self) -> Flags:
        """Return which parameters (P,) the kept measurements are too few for."""

    def reference_chi2(self) -> F64:
        """Return the chi2 (M,) of each star against its reference star."""
