"""The photometric problem: scale of a chip (or image) times a smooth field of the visit, against constant stars.

Four models: the scale per image (simple) or per chip times a Chebyshev field over the focal plane per visit
(constrained); in flux (nJy) or in magnitude, where products become sums.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from calibration.joint.model.basis import n_terms, terms
from calibration.joint.model.rows import ModelParameters, Rows
from exposure.photocalib import AB_ZEROPOINT
from tasks.arrays import F64, I64, Flags
from tasks.compiled import compiled

__all__ = ["POGSON", "MeasuredFluxes", "PhotometryLayout", "PhotometryProblem", "StarPhotometry", "field_at"]

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
        """Lengths (2,) of the column runs of one measurement."""
        return np.array([n_terms(self.order), 1])

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
    work = np.empty((4, max(order, 0) + 1))
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
    """What the kernel writes: residual (n, 1), its derivatives (n, 1, K) and the present nJy per count (n,)."""

    residual: F64
    model: F64
    scale: F64


@compiled
def _linearise(counts: Counts, order: int, magnitude: bool, parameters: F64, value: F64, out: FluxDerivatives) -> None:
    """Fill residuals, derivatives and scales; `parameters` (P,) of the model, `value` (M, 1) of the stars."""
    count = (order + 1) * (order + 2) // 2
    basis = np.empty(max(count, 1))
    work = np.empty((4, max(order, 0) + 1))
    measured, starts, model = counts.measured, counts.starts, out.model
    for m in range(measured.size):
        field = 0.0 if magnitude else 1.0
        if count > 0:
            terms(order, counts.u[m], counts.v[m], basis, work)
            field = 0.0
            for t in range(count):
                field += parameters[starts[m, 0] + t] * basis[t]
        k = parameters[starts[m, 1]]
        if magnitude:
            out.residual[m, 0] = measured[m] + k + field - value[counts.star[m], 0]
            for t in range(count):
                model[m, 0, t] = basis[t]
            model[m, 0, count] = 1.0
            out.scale[m] = 10.0 ** (-0.4 * (k + field - AB_ZEROPOINT))
        else:
            out.residual[m, 0] = k * field * measured[m] - value[counts.star[m], 0]
            for t in range(count):
                model[m, 0, t] = k * measured[m] * basis[t]
            model[m, 0, count] = field * measured[m]
            out.scale[m] = k * field


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
        self.known, self.expected = parameters.known, parameters.expected
        self.names = parameters.names
        self.start = parameters.values.copy()
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

    def _linearised(self, part: slice) -> tuple[Counts, FluxDerivatives]:
        image = self.image[part]
        n = image.size
        out = FluxDerivatives(np.empty((n, 1)), np.empty((n, 1, self.width)), np.empty(n))
        counts = Counts(
            self.u[part], self.v[part], self.measured[part], self.star_index[part], self.layout.starts(image)
        )
        _linearise(counts, self.layout.order, self.layout.magnitude, self.parameters, self.stars.value, out)
        return counts, out

    def rows(self, first: int, last: int) -> Rows:
        """Linearise the measurements of the stars [first, last)."""
        low, high = int(self.offsets[first]), int(self.offsets[last])
        part = slice(low, high)
        counts, out = self._linearised(part)
        scale = out.scale if self.error_scale is None else self.error_scale[part]
        prior = self.stars.prior[first:last]
        return Rows(
            residual=out.residual,
            weight=(self.kept[part] / self._sigma(part, scale) ** 2)[:, None, None],
            model=out.model,
            star=np.full((high - low, 1, 1), -1.0),
            starts=counts.starts,
            group=self.image[part],
            lengths=self.layout.lengths,
            offsets=self.offsets[first : last + 1] - low,
            prior=prior,
            pull=prior[:, :, 0] * (self.stars.value[first:last] - self.stars.target[first:last]),
        )

    def _sigma(self, part: slice, scale: F64) -> F64:
        """Return the error (n,) of each measurement in the model's unit; `scale` (n,) nJy per count."""
        if not self.layout.magnitude:
            return np.asarray(scale * self.flux_err[part])
        flux = self.flux[part]
        if self.predicted:  # a faint star's measured flux is noisy, and so would be its weight
            flux = 10.0 ** (-0.4 * (self.stars.value[self.star_index[part], 0] - AB_ZEROPOINT)) / scale
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
