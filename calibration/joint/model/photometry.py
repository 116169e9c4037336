"""The photometric problem: scale of a chip (or image) times a smooth field of the visit, against constant stars.

Four models: the scale per image (simple) or per chip times a Chebyshev field over the focal plane per visit
(constrained); in flux (nJy) or in magnitude, where products become sums.
"""

from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, Self

import numpy as np

from calibration.joint.data import measurements_of
from calibration.joint.model.basis import n_terms, terms
from calibration.joint.model.rows import LightRows, ModelParameters, Rows
from exposure.photocalib import AB_ZEROPOINT
from tasks.arrays import F64, I64, Flags
from tasks.compiled import compiled

__all__ = ["POGSON", "MeasuredFluxes", "PhotometryLayout", "PhotometryProblem", "StarPhotometry", "field_at"]

POGSON = 2.5 / np.log(10.0)
_TO_NATURAL = -1.0 / POGSON


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

    @cached_property
    def lengths(self) -> I64:
        """Lengths (2,) of the column runs of one measurement."""
        return np.array([n_terms(self.order), 1])

    @cached_property
    def scale_start(self) -> int:
        """First column of the scales."""
        return (int(self.field.max()) + 1) * int(self.lengths[0])

    @cached_property
    def size(self) -> int:
        """Number of columns."""
        return self.scale_start + int(self.scale.max()) + 1

    def starts(self, image: I64) -> I64:
        """Return the first columns (N, 2) of the runs of measurements on these images."""
        return np.stack([self.field[image] * self.lengths[0], self.scale_start + self.scale[image]], axis=1)


@dataclass
class StarPhotometry:
    """Stars as the fit moves them.

    Parameters
    ----------
    value
        (M, 1) nJy or mag.
    prior
        (M, 1, 1) inverse variance of the reference star's flux, 0 where there is none.
    target
        (M, 1) the reference star's flux, nJy or mag.
    """

    value: F64
    prior: F64
    target: F64


@compiled
def field_at(order: int, coefficients: F64, u: F64, v: F64, out: F64) -> None:
    """Write the field (N,) of one visit at scaled focal-plane positions u, v (N,) from its terms (n_terms,)."""
    values = np.empty(max(coefficients.size, 1))
    work = np.empty((2, max(order, 0) + 1))
    for m in range(u.size):
        terms(order, u[m], v[m], values, work)
        total = 0.0
        for t in range(coefficients.size):
            total += coefficients[t] * values[t]
        out[m] = total


class Counts(NamedTuple):
    """Measured fluxes of a block of n measurements, as compiled code takes them.

    Parameters
    ----------
    u, v
        (n,) scaled focal-plane positions.
    measured
        (n,) counts, or mag of them in magnitude models.
    star
        (n,) index of the star.
    starts
        (n, 2) first columns of field and scale.
    """

    u: F64
    v: F64
    measured: F64
    star: I64
    starts: I64


class FluxDerivatives(NamedTuple):
    """What the kernel writes for n measurements.

    Parameters
    ----------
    residual
        (n, 1) model minus star.
    basis
        (n, 2, order + 1) polynomials of u and of v; a term of the field is the product of one of each.
    by_field, by_scale
        (n,) derivatives by a term of the field that is 1, and by the scale.
    scale
        (n,) present nJy per count.
    """

    residual: F64
    basis: F64
    by_field: F64
    by_scale: F64
    scale: F64


@compiled
def _linearise(counts: Counts, magnitude: bool, parameters: F64, value: F64, out: FluxDerivatives) -> None:
    """Fill residuals, derivatives and scales; `parameters` (P,) of the model, `value` (M, 1) of the stars."""
    measured, starts, star, basis = counts.measured, counts.starts, counts.star, out.basis
    count = basis.shape[2]
    for m in range(measured.size):
        field = 0.0 if magnitude else 1.0
        if count > 0:
            for axis in range(2):
                t = counts.u[m] if axis == 0 else counts.v[m]
                basis[m, axis, 0] = 1.0
                if count > 1:
                    basis[m, axis, 1] = t
                for i in range(2, count):
                    basis[m, axis, i] = 2.0 * t * basis[m, axis, i - 1] - basis[m, axis, i - 2]
            field = 0.0
            k = starts[m, 0]
            for j in range(count):
                total = 0.0
                for i in range(count - j):
                    total += parameters[k] * basis[m, 0, i]
                    k += 1
                field += total * basis[m, 1, j]
        level = parameters[starts[m, 1]]
        if magnitude:
            out.residual[m, 0] = measured[m] + level + field - value[star[m], 0]
            out.by_field[m] = out.by_scale[m] = 1.0
            out.scale[m] = np.exp(_TO_NATURAL * (level + field - AB_ZEROPOINT))
        else:
            out.residual[m, 0] = level * field * measured[m] - value[star[m], 0]
            out.by_field[m], out.by_scale[m] = level * measured[m], field * measured[m]
            out.scale[m] = level * field


@compiled
def _expand(out: FluxDerivatives, model: F64) -> None:
    """Write the derivatives (n, 1, K) by the terms of the field and by the scale."""
    basis = out.basis
    count = basis.shape[2]
    for m in range(basis.shape[0]):
        k = 0
        for j in range(count):
            for i in range(count - j):
                model[m, 0, k] = out.by_field[m] * basis[m, 0, i] * basis[m, 1, j]
                k += 1
        model[m, 0, k] = out.by_scale[m]


@compiled
def _add_gradient(out: FluxDerivatives, starts: I64, pull: F64, gradient: F64) -> None:
    """Add J^T `pull` (n, 1) to the gradient (P,)."""
    basis = out.basis
    count = basis.shape[2]
    for m in range(basis.shape[0]):
        w = pull[m, 0]
        if w == 0.0:
            continue
        k = starts[m, 0]
        for j in range(count):
            a = w * out.by_field[m] * basis[m, 1, j]
            for i in range(count - j):
                gradient[k] += a * basis[m, 0, i]
                k += 1
        gradient[starts[m, 1]] += w * out.by_scale[m]


@dataclass(frozen=True)
class MeasuredFluxes:
    """The measurements of a fit, sorted by star.

    Parameters
    ----------
    offsets
        (M + 1,) first measurement of each star.
    image
        (N,) index of the image.
    focal
        (N, 2) scaled focal-plane positions.
    flux, flux_err
        (N,) counts.
    """

    offsets: I64
    image: I64
    focal: F64
    flux: F64
    flux_err: F64


class PhotometryProblem:
    """Measurements, scales, fields and stars as the solver wants them (see `calibration.joint.solve.minimize.Problem`)."""

    dimension = 1
    guarded = False
    n_star = 1

    def __init__(
        self,
        layout: PhotometryLayout,
        stars: StarPhotometry,
        measured: MeasuredFluxes,
        parameters: ModelParameters,
        predicted: bool = False,
    ) -> None:
        """`predicted`: errors in magnitudes come from the star's fitted flux, not from the measured one."""
        self.layout, self.stars = layout, stars
        self.offsets, self.image = measured.offsets, measured.image
        self.u, self.v = (np.ascontiguousarray(measured.focal[:, k]) for k in range(2))
        self.flux, self.flux_err = measured.flux, measured.flux_err
        self.measured = -2.5 * np.log10(measured.flux) if layout.magnitude else measured.flux
        self.parameters, self.fitted = parameters.values, parameters.fitted
        self.prior_weight, self.expected = parameters.prior_weight, parameters.expected
        self.names = parameters.names
        self.start = parameters.values.copy()
        self.firm = np.zeros(parameters.values.size, bool)
        self.kept = np.ones(self.image.size, bool)
        self.star_index = np.repeat(np.arange(self.offsets.size - 1), np.diff(self.offsets))
        self.n_groups = int(layout.scale.size)
        self.width = int(layout.lengths.sum())
        self.error_scale: F64 | None = None
        self.predicted = predicted

    def name(self, index: int) -> str:
        """Return what a parameter is, in words."""
        return self.names[index]

    def freeze_errors(self) -> None:
        """Keep the flux scales of the present model for the errors: the problem becomes bilinear with fixed weights."""
        self.error_scale = self._linearised(slice(0, self.image.size))[1].scale

    def of_stars(self, which: I64) -> Self:
        """Return the problem of some stars (K,), which moves none of the others; the parameters are shared."""
        index, offsets = measurements_of(self.offsets, which)
        out = copy(self)
        out.offsets, out.star_index = offsets, np.repeat(np.arange(which.size), np.diff(offsets))
        out.image, out.kept, out.u, out.v = self.image[index], self.kept[index], self.u[index], self.v[index]
        out.flux, out.flux_err, out.measured = self.flux[index], self.flux_err[index], self.measured[index]
        out.error_scale = None if self.error_scale is None else self.error_scale[index]
        stars = self.stars
        out.stars = StarPhotometry(stars.value[which], stars.prior[which], stars.target[which])
        return out

    def _linearised(self, part: slice) -> tuple[Counts, FluxDerivatives]:
        image = self.image[part]
        n = image.size
        basis = np.empty((n, 2, self.layout.order + 1))
        out = FluxDerivatives(np.empty((n, 1)), basis, *(np.empty(n) for _ in range(3)))
        counts = Counts(
            self.u[part], self.v[part], self.measured[part], self.star_index[part], self.layout.starts(image)
        )
        _linearise(counts, self.layout.magnitude, self.parameters, self.stars.value, out)
        return counts, out

    def rows(self, first: int, last: int) -> Rows:
        """Linearise the measurements of the stars [first, last)."""
        rows, out = self._light(first, last)
        model = np.empty((len(rows.residual), 1, self.width))
        _expand(out, model)
        return rows._replace(model=model)

    def light(self, first: int, last: int) -> LightRows:
        """Linearise the measurements of the stars [first, last) for a gradient."""
        rows, out = self._light(first, last)
        return LightRows(rows, partial(_add_gradient, out, rows.starts))

    def _light(self, first: int, last: int) -> tuple[Rows, FluxDerivatives]:
        """Return the rows of the stars [first, last) without their derivatives by the model, and what these are made of."""
        low, high = int(self.offsets[first]), int(self.offsets[last])
        part = slice(low, high)
        counts, out = self._linearised(part)
        scale = out.scale if self.error_scale is None else self.error_scale[part]
        prior = self.stars.prior[first:last]
        rows = Rows(
            residual=out.residual,
            weight=(self.kept[part] / self._sigma(part, scale) ** 2)[:, None, None],
            model=np.empty((high - low, 1, 0)),
            star=np.full((high - low, 1, 1), -1.0),
            starts=counts.starts,
            group=self.image[part],
            lengths=self.layout.lengths,
            offsets=self.offsets[first : last + 1] - low,
            prior=prior,
            pull=prior[:, :, 0] * (self.stars.value[first:last] - self.stars.target[first:last]),
        )
        return rows, out

    def _sigma(self, part: slice, scale: F64) -> F64:
        """Return the error (n,) of each measurement in the model's unit; `scale` (n,) nJy per count."""
        if not self.layout.magnitude:
            return np.asarray(scale * self.flux_err[part])
        flux = self.flux[part]
        if self.predicted:  # a faint star's measured flux is noisy, and so would be its weight
            flux = np.exp(_TO_NATURAL * (self.stars.value[self.star_index[part], 0] - AB_ZEROPOINT)) / scale
        return np.asarray(POGSON * self.flux_err[part] / flux)

    def undetermined(self) -> Flags:
        """Return which parameters (P,) the kept measurements are too few for: none, a scale needs only one."""
        return np.zeros(self.parameters.size, bool)

    def move(self, first: int, last: int, step: F64) -> None:
        """Add steps (last - first, 1) to the fluxes of the stars [first, last)."""
        self.stars.value[first:last] += step

    def reference_chi2(self) -> F64:
        """Return the chi2 (M,) of each star against its reference star; 0 where there is none."""
        return np.asarray((self.stars.value - self.stars.target)[:, 0] ** 2 * self.stars.prior[:, 0, 0])
