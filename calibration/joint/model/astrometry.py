"""The astrometric problem: pixels -> (chip map) -> (visit or image map) -> tangent plane, against stars that move.

Constrained: a chip map of low order shared by all visits, from pixels to the scaled focal plane, then a visit map of
higher order to the tangent plane of the visit. Simple: one map per image from scaled pixels. Both are the composition
outer(inner(pixel)), which is all that the kernel knows; in the simple model the inner map is fixed.

Residuals are arcsec in the visit's tangent plane: model of the pixel minus projection of the star. A star's own
motion is t - t0 times its proper motion, plus parallax times the Earth's barycentric position with the sign turned
(Lindegren et al. 2012, A&A 538, A78, eq. 4).
"""

from copy import copy
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Self

import numpy as np

from calibration.joint.data import measurements_of
from calibration.joint.model.basis import n_terms, term_degrees
from calibration.joint.model.linearise import (
    Basis,
    Derivatives,
    Frames,
    Maps,
    MovingStars,
    Pixels,
    add_chroma,
    add_map_gradient,
    expand,
    map_pixels,
    subtract_stars,
    weights_of,
)
from calibration.joint.model.rows import LightRows, ModelParameters, Rows
from tasks.arrays import F64, I64, Flags

__all__ = ["AstrometryProblem", "Layout", "MeasuredPositions", "StarAstrometry"]


@dataclass
class Layout:
    """Which columns belong to what: outer maps, inner maps, one chromatic term.

    Parameters
    ----------
    outer, inner
        (I,) index of the outer and of the inner map of each image.
    outer_order, inner_order
        Total degrees; ``inner_order`` -1: the inner maps are the scaled pixels themselves.
    centre, half
        (I, 2) pixel centre and half side of each image: scaled pixels are (p - centre) / half.
    dcr
        Whether a chromatic column exists.
    """

    outer: I64
    inner: I64
    outer_order: int
    inner_order: int
    centre: F64
    half: F64
    dcr: bool = False

    @cached_property
    def n_outer(self) -> int:
        """Number of outer maps."""
        return int(self.outer.max()) + 1

    @cached_property
    def n_inner(self) -> int:
        """Number of inner maps that have parameters."""
        return int(self.inner.max()) + 1 if self.inner_order >= 0 else 0

    @cached_property
    def lengths(self) -> I64:
        """Lengths (3,) of the column runs of one measurement."""
        return np.array([2 * n_terms(self.outer_order), 2 * n_terms(self.inner_order), int(self.dcr)])

    @cached_property
    def inner_start(self) -> int:
        """First column of the inner maps."""
        return self.n_outer * int(self.lengths[0])

    @cached_property
    def size(self) -> int:
        """Number of columns."""
        return self.inner_start + self.n_inner * int(self.lengths[1]) + int(self.dcr)

    def maps(self, parameters: F64) -> Maps:
        """Return the maps with these parameters (P,), as compiled code takes them."""
        return Maps(parameters, self.outer_order, self.inner_order, self.centre, self.half, self.dcr)

    def starts(self, image: I64) -> I64:
        """Return the first columns (N, 3) of the runs of measurements on these images."""
        lengths = self.lengths
        inner = self.inner_start + (self.inner[image] * lengths[1] if self.inner_order >= 0 else 0 * image)
        return np.stack([self.outer[image] * lengths[0], inner, np.full(image.size, self.size - int(self.dcr))], axis=1)


@dataclass
class StarAstrometry:
    """Stars as the fit moves them.

    Parameters
    ----------
    vector, east, north
        (M, 3) direction where ``coordinates`` are zero, and its tangent frame.
    coordinates
        (M, q) arcsec east and north of it at the epoch; for q = 4 the proper motion in arcsec per year too.
    motion
        (M, 2) known proper motion, arcsec per year (added to a fitted one).
    parallax
        (M,) arcsec.
    colour
        (M,) colour minus the reference colour, mag; 0 where unknown.
    prior
        (M, q, q) inverse covariance of the reference star, arcsec^-2.
    target
        (M, q) ``coordinates`` of the reference star.
    """

    vector: F64
    east: F64
    north: F64
    coordinates: F64
    motion: F64
    parallax: F64
    colour: F64
    prior: F64
    target: F64

    def take(self, which: I64) -> "StarAstrometry":
        """Return some of the stars (K,), which move by themselves."""
        return StarAstrometry(*(getattr(self, f.name)[which] for f in fields(self)))

    @property
    def moving(self) -> MovingStars:
        """The stars at their present coordinates, as compiled code takes them."""
        return MovingStars(
            self.vector, self.east, self.north, self.coordinates, self.motion, self.parallax, self.colour
        )


@dataclass(frozen=True)
class MeasuredPositions:
    """The measurements of a fit, sorted by star.

    Parameters
    ----------
    offsets
        (M + 1,) first measurement of each star.
    image
        (N,) index of the image.
    pixels
        (N, 2) frame pixels.
    covariance
        (N, 3) as vx, vy, vxy, px^2.
    pedestal
        (N,) px^2 that is added to both variances.
    """

    offsets: I64
    image: I64
    pixels: F64
    covariance: F64
    pedestal: F64


class AstrometryProblem:
    """Measurements, maps and stars as the solver wants them (see `calibration.joint.solve.minimize.Problem`)."""

    dimension = 2
    guarded = True

    def __init__(
        self,
        layout: Layout,
        frames: Frames,
        stars: StarAstrometry,
        measured: MeasuredPositions,
        parameters: ModelParameters,
    ) -> None:
        self.layout, self.frames, self.stars = layout, frames, stars
        self.offsets, self.image = measured.offsets, measured.image
        self.x, self.y = (np.ascontiguousarray(measured.pixels[:, k]) for k in range(2))
        self.covariance, self.pedestal = np.ascontiguousarray(measured.covariance.T), measured.pedestal
        self.displacement: F64 | None = None  # (N, 2) arcsec, by what no map follows: taken off the residuals
        self.parameters, self.fitted = parameters.values, parameters.fitted
        self.prior_weight, self.expected = parameters.prior_weight, parameters.expected
        self.names = parameters.names
        self.start = parameters.values.copy()
        self.firm = _firm(layout, parameters.prior_weight)
        self.kept = np.ones(self.image.size, bool)
        self.star_index = np.repeat(np.arange(self.offsets.size - 1), np.diff(self.offsets))
        self.n_groups = int(layout.outer.size)
        self.width = int(layout.lengths.sum())
        self.n_star = int(stars.coordinates.shape[1])

    def name(self, index: int) -> str:
        """Return what a parameter is, in words."""
        return self.names[index]

    def of_stars(self, which: I64) -> Self:
        """Return the problem of some stars (K,), which moves none of the others; the parameters are shared."""
        index, offsets = measurements_of(self.offsets, which)
        out = copy(self)
        out.offsets, out.star_index = offsets, np.repeat(np.arange(which.size), np.diff(offsets))
        out.image, out.kept = self.image[index], self.kept[index]
        out.x, out.y, out.pedestal = self.x[index], self.y[index], self.pedestal[index]
        out.covariance, out.stars = self.covariance.take(index, axis=1), self.stars.take(which)
        out.displacement = None if self.displacement is None else self.displacement[index]
        return out

    def rows(self, first: int, last: int) -> Rows:
        """Linearise the measurements of the stars [first, last)."""
        rows, basis = self._linearised(first, last)
        model = np.empty((len(rows.residual), 2, self.width))
        expand(basis, self.layout.dcr, model)
        return rows._replace(model=model)

    def light(self, first: int, last: int) -> LightRows:
        """Linearise the measurements of the stars [first, last) for a gradient."""
        rows, basis = self._linearised(first, last)
        return LightRows(rows, partial(add_map_gradient, basis, rows.starts, self.layout.dcr))

    def _linearised(self, first: int, last: int) -> tuple[Rows, Basis]:
        """Return the rows of the stars [first, last) without their derivatives by the model, and what these are made of."""
        low, high = int(self.offsets[first]), int(self.offsets[last])
        part, n, lay = slice(low, high), high - low, self.layout
        pixels, basis, out = self._mapped(part)
        image = pixels.image
        maps, stars = lay.maps(self.parameters), self.stars.moving
        subtract_stars(pixels, maps, self.frames, stars, out)
        if lay.dcr:
            add_chroma(pixels, maps, self.frames, stars.colour, basis, out.residual)
        if self.displacement is not None:
            out.residual[:] -= self.displacement[part]
        weight = np.empty((n, 2, 2))
        vx, vy, vxy = self.covariance[:, part]
        weights_of(vx, vy, vxy, self.pedestal[part], out.pixel, weight)
        weight *= self.kept[part, None, None]
        prior = self.stars.prior[first:last]
        off = self.stars.coordinates[first:last] - self.stars.target[first:last]
        rows = Rows(
            residual=out.residual,
            weight=weight,
            model=np.empty((n, 2, 0)),
            star=out.star,
            starts=pixels.starts,
            group=image,
            lengths=lay.lengths,
            offsets=self.offsets[first : last + 1] - low,
            prior=prior,
            pull=np.einsum("nab,nb->na", prior, off),
        )
        return rows, basis

    def _mapped(self, part: slice) -> tuple[Pixels, Basis, Derivatives]:
        """Return some measurements, what the derivatives of their maps are made of, and their places as residuals."""
        lay, image = self.layout, self.image[part]
        n = image.size
        pixels = Pixels(self.x[part], self.y[part], image, self.star_index[part], lay.starts(image))
        out = Derivatives(np.empty((n, 2)), np.empty((n, 2, self.n_star)), np.empty((n, 2, 2)))
        outer, inner = (np.empty((n, 2, order + 1)) for order in (lay.outer_order, lay.inner_order))
        basis = Basis(outer, inner, np.empty((n, 2, 2)), np.empty((n, 2)))
        map_pixels(pixels, lay.maps(self.parameters), basis, out)
        return pixels, basis, out

    def places(self) -> F64:
        """Return where the maps put the measurements in the tangent planes of their visits, (N, 2) arcsec."""
        return self._mapped(slice(None))[2].residual

    def undetermined(self) -> Flags:
        """Return which parameters (P,), terms of outer maps, have fewer than three kept measurements for every two terms, and
        are not firm.
        """
        lay = self.layout
        count = np.bincount(self.star_index[self.kept], minlength=self.offsets.size - 1)
        tells = self.kept & ((count >= 2) | (self.stars.prior[:, 0, 0] > 0))[self.star_index]
        measured = np.bincount(lay.outer[self.image[tells]], minlength=lay.n_outer)
        degree = term_degrees(lay.outer_order).sum(1)
        need = np.array([1.5 * n_terms(int(d)) if d > 1 else 3.0 for d in degree])
        poor = np.zeros(self.parameters.size, bool)
        poor[: lay.inner_start] = np.repeat(measured[:, None] < need, 2, axis=0).reshape(-1)
        return np.asarray(poor & ~self.firm)

    def move(self, first: int, last: int, step: F64) -> None:
        """Add steps (last - first, q) to the coordinates of the stars [first, last)."""
        self.stars.coordinates[first:last] += step

    def reference_chi2(self) -> F64:
        """Return the chi2 (M,) of each star against its reference star; 0 where there is none."""
        off = self.stars.coordinates - self.stars.target
        return np.asarray(np.einsum("na,nab,nb->n", off, self.stars.prior, off))


def _firm(layout: Layout, prior_weight: F64) -> Flags:
    """Return which parameters (P,) are of outer maps whose place itself is expected: such a map needs no measurements."""
    out = np.zeros(prior_weight.size, bool)
    outer = prior_weight[: layout.inner_start].reshape(layout.n_outer, -1)
    out[: layout.inner_start] = np.repeat(outer[:, 0] > 0, outer.shape[1])
    return out
