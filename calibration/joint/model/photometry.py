"""The photometric problem: scale of a chip (or image) times a smooth field of the visit, against constant stars.

Four models: the scale per image (simple) or per chip times a Chebyshev field over the focal plane per visit
(constrained); in flux (nJy) or in magnitude, where products become sums.
"""

from dataclasses import dataclass

import numpy as np

from calibration.joint.model.basis import n_terms, terms
from calibration.joint.model.rows import Rows
from tasks.arrays import F64, I64, Flags
from tasks.compiled import compiled

__all__ = ["POGSON", "PhotometryLayout", "PhotometryProblem", "StarPhotometry", "field_at"]

POGSON = 2.5 / np.log(10.0)


@dataclass
class PhotometryLayout:
    """Columns: the fields' terms, then one scale per group.

    Parameters
    ----------
    field, scale
        (I,) index of the field and of the scale of each image.
    order
        Total degree of the fields; -1: none.
    magnitude
        Sums of magnitudes in place of products of fluxes.
    """

    field: I64
    scale: I64
    order: int
    magnitude: bool

    @property
    def lengths(self) -> I64:
        """Lengths of the column runs of one measurement."""
        return np.array([n_terms(self.order) if self.order >= 0 else 0, 1])

    @property
    def scale_start(self) -> int:
        """First column of the scales."""
        return (int(self.field.max()) + 1) * int(self.lengths[0])

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.scale_start + int(self.scale.max()) + 1

    def starts(self, image: I64) -> I64:
        """Return the first columns (N, 2) of the runs of measurements on these images."""
        return np.stack([self.field[image] * self.lengths[0], self.scale_start + self.scale[image]], axis=1)


@dataclass
class StarPhotometry:
    """Stars as the fit moves them: ``value`` (M, 1) in nJy or mag; ``prior`` (M, 1, 1) and ``target`` (M, 1)."""

    value: F64
    prior: F64
    target: F64


@compiled
def field_at(order: int, coefficients: F64, u: F64, v: F64, out: F64) -> None:
    """Write the field of one visit at scaled focal-plane places."""
    values = np.empty(max(coefficients.size, 1))
    work = np.empty((4, max(order, 0) + 1))
    for m in range(u.size):
        terms(order, u[m], v[m], values, work)
        total = 0.0
        for t in range(coefficients.size):
            total += coefficients[t] * values[t]
        out[m] = total


@compiled
def _linearise(
    u: F64, v: F64, measured: F64, star: I64, parameters: F64, starts: I64, order: int, magnitude: bool, value: F64,
    residual: F64, model: F64, scale: F64,
) -> None:  # fmt: skip
    """Fill residuals (n, 1), derivatives (n, 1, K), and flux scales of the present model (n,)."""
    count = (order + 1) * (order + 2) // 2
    basis = np.empty(max(count, 1))
    work = np.empty((4, max(order, 0) + 1))
    for m in range(u.size):
        field = 0.0 if magnitude else 1.0
        if count > 0:
            terms(order, u[m], v[m], basis, work)
            field = 0.0
            for t in range(count):
                field += parameters[starts[m, 0] + t] * basis[t]
        k = parameters[starts[m, 1]]
        if magnitude:
            residual[m, 0] = measured[m] + k + field - value[star[m], 0]
            for t in range(count):
                model[m, 0, t] = basis[t]
            model[m, 0, count] = 1.0
            scale[m] = 10.0 ** (-0.4 * (k + field - 31.4))
        else:
            residual[m, 0] = k * field * measured[m] - value[star[m], 0]
            for t in range(count):
                model[m, 0, t] = k * measured[m] * basis[t]
            model[m, 0, count] = field * measured[m]
            scale[m] = k * field


class PhotometryProblem:
    """Measurements, scales, fields and stars as the solver wants them (see `calibration.joint.solve.minimize.Problem`)."""

    dimension = 1
    guarded = False
    n_star = 1

    def __init__(
        self, layout: PhotometryLayout, stars: StarPhotometry, offsets: I64, image: I64, focal: F64, flux: F64,
        flux_err: F64, parameters: F64, fitted: Flags, names: "list[str] | None" = None,
    ) -> None:  # fmt: skip
        """`focal` (N, 2) scaled focal-plane places; `flux`, `flux_err` (N,) counts; all sorted by star."""
        self.layout, self.stars, self.offsets, self.image = layout, stars, offsets, image
        self.u, self.v = np.ascontiguousarray(focal[:, 0]), np.ascontiguousarray(focal[:, 1])
        self.flux, self.flux_err = flux, flux_err
        self.measured = -2.5 * np.log10(flux) if layout.magnitude else flux
        self.parameters, self.fitted = parameters, fitted
        self.known, self.expected = np.zeros_like(parameters), parameters.copy()
        self.start = parameters.copy()
        self.kept = np.ones(image.size, bool)
        self.star_index = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
        self.n_groups = int(layout.scale.size)
        self.width = int(layout.lengths.sum())
        self.names = names
        self.error_scale: F64 | None = None
        self.predicted = False

    def name(self, index: int) -> str:
        """Say in words what a parameter is."""
        return self.names[index] if self.names is not None else f"parameter {index}"

    def freeze_errors(self) -> None:
        """Keep the flux scales of the present model for the errors: the problem becomes bilinear with fixed weights."""
        n = self.image.size
        scale = np.empty(n)
        self._fill(slice(0, n), np.empty((n, 1)), np.empty((n, 1, self.width)), scale)
        self.error_scale = scale

    def _fill(self, part: slice, residual: F64, model: F64, scale: F64) -> I64:
        starts = self.layout.starts(self.image[part])
        _linearise(
            self.u[part], self.v[part], self.measured[part], self.star_index[part], self.parameters, starts,
            self.layout.order, self.layout.magnitude, self.stars.value, residual, model, scale,
        )  # fmt: skip
        return starts

    def rows(self, first: int, last: int) -> Rows:
        """Linearise the measurements of the stars [first, last)."""
        low, high = int(self.offsets[first]), int(self.offsets[last])
        part, n = slice(low, high), high - low
        residual, model, scale = np.empty((n, 1)), np.empty((n, 1, self.width)), np.empty(n)
        starts = self._fill(part, residual, model, scale)
        used = scale if self.error_scale is None else self.error_scale[part]
        if self.layout.magnitude:
            flux = self.flux[part]
            if self.predicted:  # a faint star's measured flux is noisy, and so would be its weight
                flux = 10.0 ** (-0.4 * (self.stars.value[self.star_index[part], 0] - 31.4)) / used
            sigma = POGSON * self.flux_err[part] / flux
        else:
            sigma = used * self.flux_err[part]
        weight = (self.kept[part] / sigma**2)[:, None, None]
        prior = self.stars.prior[first:last]
        pull = prior[:, :, 0] * (self.stars.value[first:last] - self.stars.target[first:last])
        return Rows(
            residual, weight, model, np.full((n, 1, 1), -1.0), starts, self.image[part], self.layout.lengths,
            self.offsets[first : last + 1] - low, prior, pull,
        )  # fmt: skip

    def undetermined(self) -> Flags:
        """Which parameters the kept measurements are too few for: none, a scale needs only one."""
        return np.zeros(self.parameters.size, bool)

    def move(self, first: int, last: int, step: F64) -> None:
        """Move the stars [first, last)."""
        self.stars.value[first:last] += step

    def reference_chi2(self) -> F64:
        """Return the chi2 of each star against its reference star; 0 where there is none."""
        return np.asarray((self.stars.value - self.stars.target)[:, 0] ** 2 * self.stars.prior[:, 0, 0])
