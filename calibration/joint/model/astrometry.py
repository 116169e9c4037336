"""The astrometric problem: pixels -> (chip map) -> (visit or image map) -> tangent plane, against stars that move.

Constrained: a chip map of low order shared by all visits, from pixels to the scaled focal plane, then a visit map of
higher order to the tangent plane of the visit. Simple: one map per image from scaled pixels. Both are the composition
outer(inner(pixel)), which is all that the kernel knows; in the simple model the inner map is fixed.

Residuals are arcsec in the visit's tangent plane: model of the pixel minus projection of the star. A star's own
motion is t - t0 times its proper motion, plus parallax times the Earth's place; see Lindegren et al. 2021 for the
convention (a star shifts against the Earth's barycentric position).
"""

from dataclasses import dataclass

import numpy as np

from calibration.joint.model.basis import n_terms, term_degrees, terms, terms_and_slopes
from calibration.joint.model.data import ARCSEC
from calibration.joint.model.rows import Rows
from tasks.arrays import F64, I64, Flags
from tasks.compiled import compiled

__all__ = ["AstrometryProblem", "Frames", "Layout", "StarAstrometry", "map_pixels"]


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

    @property
    def n_outer(self) -> int:
        """Number of outer maps."""
        return int(self.outer.max()) + 1

    @property
    def n_inner(self) -> int:
        """Number of inner maps that have parameters."""
        return int(self.inner.max()) + 1 if self.inner_order >= 0 else 0

    @property
    def lengths(self) -> I64:
        """Lengths of the column runs of one measurement."""
        return np.array(
            [2 * n_terms(self.outer_order), 2 * n_terms(self.inner_order) if self.inner_order >= 0 else 0,
             1 if self.dcr else 0]
        )  # fmt: skip

    @property
    def inner_start(self) -> int:
        """First column of the inner maps."""
        return self.n_outer * int(self.lengths[0])

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.inner_start + self.n_inner * int(self.lengths[1]) + int(self.dcr)

    def starts(self, image: I64) -> I64:
        """Return the first columns (N, 3) of the runs of measurements on these images."""
        lengths = self.lengths
        inner = self.inner_start + (self.inner[image] * lengths[1] if self.inner_order >= 0 else 0 * image)
        return np.stack([self.outer[image] * lengths[0], inner, np.full(image.size, self.size - int(self.dcr))], axis=1)


@dataclass
class Frames:
    """Per image: the tangent frame of its visit, years from the fit's epoch, the Earth's place, refraction.

    Parameters
    ----------
    tangent, east, north
        (I, 3) unit vectors.
    years
        (I,) Julian years of the image after the epoch of the fit.
    earth
        (I, 3) barycentric position of the Earth, au.
    refraction
        (I, 2) tan z times the unit vector to the zenith in the tangent frame.
    """

    tangent: F64
    east: F64
    north: F64
    years: F64
    earth: F64
    refraction: F64


@dataclass
class StarAstrometry:
    """Stars as the fit moves them.

    Parameters
    ----------
    vector, east, north
        (M, 3) direction where ``place`` is zero, and its tangent frame.
    place
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
        (M, q) where the reference star says that ``place`` is.
    """

    vector: F64
    east: F64
    north: F64
    place: F64
    motion: F64
    parallax: F64
    colour: F64
    prior: F64
    target: F64


@compiled
def _linearise(
    x: F64, y: F64, image: I64, star: I64, parameters: F64, starts: I64, outer_order: int, inner_order: int,
    centre: F64, half: F64, tangent: F64, east: F64, north: F64, years: F64, earth: F64, refraction: F64,
    s_vector: F64, s_east: F64, s_north: F64, place: F64, motion: F64, parallax: F64, colour: F64, dcr: bool,
    residual: F64, model: F64, by_star: F64, slope: F64,
) -> None:  # fmt: skip
    """Fill residuals (n, 2), derivatives by model (n, 2, K), by star (n, 2, q) and by pixel (n, 2, 2)."""
    to = (outer_order + 1) * (outer_order + 2) // 2
    ti = (inner_order + 1) * (inner_order + 2) // 2
    top = max(outer_order, inner_order) + 1
    work = np.empty((4, top))
    bo, bu, bv = np.empty(to), np.empty(to), np.empty(to)
    bi, iu, iv = np.empty(max(ti, 1)), np.empty(max(ti, 1)), np.empty(max(ti, 1))
    q = place.shape[1]
    p = np.empty(3)
    for m in range(x.size):
        i, s = image[m], star[m]
        u, v = (x[m] - centre[i, 0]) / half[i, 0], (y[m] - centre[i, 1]) / half[i, 1]
        xx, xy, yx, yy = 1.0 / half[i, 0], 0.0, 0.0, 1.0 / half[i, 1]
        if ti > 0:
            terms_and_slopes(inner_order, u, v, bi, iu, iv, work)
            first = starts[m, 1]
            fu = fv = xx_u = xx_v = yy_u = yy_v = 0.0
            for t in range(ti):
                cx, cy = parameters[first + t], parameters[first + ti + t]
                fu += cx * bi[t]
                fv += cy * bi[t]
                xx_u += cx * iu[t]
                xx_v += cx * iv[t]
                yy_u += cy * iu[t]
                yy_v += cy * iv[t]
            u, v = fu, fv
            xx, xy = xx_u / half[i, 0], xx_v / half[i, 1]
            yx, yy = yy_u / half[i, 0], yy_v / half[i, 1]
        terms_and_slopes(outer_order, u, v, bo, bu, bv, work)
        first = starts[m, 0]
        xi = eta = xi_u = xi_v = eta_u = eta_v = 0.0
        for t in range(to):
            cx, cy = parameters[first + t], parameters[first + to + t]
            xi += cx * bo[t]
            eta += cy * bo[t]
            xi_u += cx * bu[t]
            xi_v += cx * bv[t]
            eta_u += cy * bu[t]
            eta_v += cy * bv[t]
            model[m, 0, t] = bo[t]
            model[m, 0, to + t] = 0.0
            model[m, 1, t] = 0.0
            model[m, 1, to + t] = bo[t]
        k = 2 * to
        for t in range(ti):
            model[m, 0, k + t] = xi_u * bi[t]
            model[m, 0, k + ti + t] = xi_v * bi[t]
            model[m, 1, k + t] = eta_u * bi[t]
            model[m, 1, k + ti + t] = eta_v * bi[t]
        k += 2 * ti
        slope[m, 0, 0], slope[m, 0, 1] = xi_u * xx + xi_v * yx, xi_u * xy + xi_v * yy
        slope[m, 1, 0], slope[m, 1, 1] = eta_u * xx + eta_v * yx, eta_u * xy + eta_v * yy
        a = place[s, 0] + motion[s, 0] * years[i]
        b = place[s, 1] + motion[s, 1] * years[i]
        if q == 4:
            a += place[s, 2] * years[i]
            b += place[s, 3] * years[i]
        cos = pe = pn = ce = cn = ee = en = ne = nn = 0.0
        for c in range(3):
            p[c] = s_vector[s, c] + ARCSEC * (a * s_east[s, c] + b * s_north[s, c] - parallax[s] * earth[i, c])
            cos += tangent[i, c] * p[c]
            pe += east[i, c] * p[c]
            pn += north[i, c] * p[c]
            ce += tangent[i, c] * s_east[s, c]
            cn += tangent[i, c] * s_north[s, c]
            ee += east[i, c] * s_east[s, c]
            en += east[i, c] * s_north[s, c]
            ne += north[i, c] * s_east[s, c]
            nn += north[i, c] * s_north[s, c]
        pe, pn = pe / cos, pn / cos
        residual[m, 0] = xi - pe / ARCSEC
        residual[m, 1] = eta - pn / ARCSEC
        by_star[m, 0, 0], by_star[m, 0, 1] = -(ee - pe * ce) / cos, -(en - pe * cn) / cos
        by_star[m, 1, 0], by_star[m, 1, 1] = -(ne - pn * ce) / cos, -(nn - pn * cn) / cos
        if q == 4:
            for r in range(2):
                by_star[m, r, 2] = by_star[m, r, 0] * years[i]
                by_star[m, r, 3] = by_star[m, r, 1] * years[i]
        if dcr:
            for r in range(2):
                model[m, r, k] = -refraction[i, r] * colour[s]
                residual[m, r] += parameters[starts[m, 2]] * model[m, r, k]


@compiled
def _weights(vx: F64, vy: F64, vxy: F64, pedestal: F64, slope: F64, out: F64) -> None:
    """Write the inverse of J C J^T (n, 2, 2); zero where it is not positive definite."""
    for m in range(vx.size):
        a, b, c = vx[m] + pedestal[m], vy[m] + pedestal[m], vxy[m]
        j00, j01, j10, j11 = slope[m, 0, 0], slope[m, 0, 1], slope[m, 1, 0], slope[m, 1, 1]
        xx = j00 * (j00 * a + j01 * c) + j01 * (j00 * c + j01 * b)
        xy = j10 * (j00 * a + j01 * c) + j11 * (j00 * c + j01 * b)
        yy = j10 * (j10 * a + j11 * c) + j11 * (j10 * c + j11 * b)
        det = xx * yy - xy * xy
        if det > 0.0 and xx > 0.0:
            out[m, 0, 0], out[m, 1, 1] = yy / det, xx / det
            out[m, 0, 1] = out[m, 1, 0] = -xy / det
        else:
            out[m, :, :] = 0.0


@compiled
def map_pixels(
    x: F64, y: F64, centre: F64, half: F64, inner: F64, inner_order: int, outer: F64, outer_order: int, out: F64
) -> None:
    """Write the tangent-plane place (n, 2), arcsec, of pixels of one image, by its inner and outer coefficients."""
    ti, to = inner.shape[0], outer.shape[0]
    bi, bo = np.empty(max(ti, 1)), np.empty(to)
    work = np.empty((4, max(outer_order, inner_order) + 1))
    for m in range(x.size):
        u, v = (x[m] - centre[0]) / half[0], (y[m] - centre[1]) / half[1]
        if ti > 0:
            terms(inner_order, u, v, bi, work)
            fu = fv = 0.0
            for t in range(ti):
                fu += inner[t, 0] * bi[t]
                fv += inner[t, 1] * bi[t]
            u, v = fu, fv
        terms(outer_order, u, v, bo, work)
        out[m, 0] = out[m, 1] = 0.0
        for t in range(to):
            out[m, 0] += outer[t, 0] * bo[t]
            out[m, 1] += outer[t, 1] * bo[t]


class AstrometryProblem:
    """Measurements, maps and stars as the solver wants them (see `calibration.joint.solve.minimize.Problem`)."""

    dimension = 2
    guarded = True

    def __init__(
        self, layout: Layout, frames: Frames, stars: StarAstrometry, offsets: I64, image: I64, pixels: F64,
        covariance: F64, pedestal: F64, parameters: F64, fitted: Flags, names: "list[str] | None" = None,
    ) -> None:  # fmt: skip
        """`pixels` (N, 2), `covariance` (N, 3) as vx, vy, vxy and `pedestal` (N,) px^2, all sorted by star."""
        self.layout, self.frames, self.stars = layout, frames, stars
        self.offsets, self.image = offsets, image
        self.x, self.y = np.ascontiguousarray(pixels[:, 0]), np.ascontiguousarray(pixels[:, 1])
        self.covariance, self.pedestal = np.ascontiguousarray(covariance.T), pedestal
        self.parameters, self.fitted = parameters, fitted
        self.known, self.expected = np.zeros_like(parameters), parameters.copy()
        self.start = parameters.copy()
        self.kept = np.ones(image.size, bool)
        self.star_index = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
        self.n_groups = int(layout.outer.size)
        self.width = int(layout.lengths.sum())
        self.n_star = int(stars.place.shape[1])
        self.names = names

    def name(self, index: int) -> str:
        """Say in words what a parameter is."""
        return self.names[index] if self.names is not None else f"parameter {index}"

    def rows(self, first: int, last: int) -> Rows:
        """Linearise the measurements of the stars [first, last)."""
        low, high = int(self.offsets[first]), int(self.offsets[last])
        part, n = slice(low, high), high - low
        image = self.image[part]
        starts = self.layout.starts(image)
        out = Rows(
            np.empty((n, 2)), np.empty((n, 2, 2)), np.empty((n, 2, self.width)), np.empty((n, 2, self.n_star)),
            starts, image, self.layout.lengths, self.offsets[first : last + 1] - low, self.stars.prior[first:last],
            np.einsum(
                "nab,nb->na", self.stars.prior[first:last], self.stars.place[first:last] - self.stars.target[first:last]
            ),
        )  # fmt: skip
        slope = np.empty((n, 2, 2))
        f, s, lay = self.frames, self.stars, self.layout
        _linearise(
            self.x[part], self.y[part], image, self.star_index[part], self.parameters, starts, lay.outer_order,
            lay.inner_order, lay.centre, lay.half, f.tangent, f.east, f.north, f.years, f.earth, f.refraction,
            s.vector, s.east, s.north, s.place, s.motion, s.parallax, s.colour, lay.dcr, out.residual, out.model,
            out.star, slope,
        )  # fmt: skip
        vx, vy, vxy = self.covariance[:, part]
        _weights(vx, vy, vxy, self.pedestal[part], slope, out.weight)
        out.weight *= self.kept[part, None, None]
        return out

    def undetermined(self) -> Flags:
        """Which terms of outer maps the kept measurements are too few for: three for every two terms."""
        lay = self.layout
        count = np.bincount(self.star_index[self.kept], minlength=self.offsets.size - 1)
        tells = self.kept & ((count >= 2) | (self.stars.prior[:, 0, 0] > 0))[self.star_index]
        measured = np.bincount(lay.outer[self.image[tells]], minlength=lay.n_outer)
        degree = term_degrees(lay.outer_order).sum(1)
        need = np.array([1.5 * n_terms(int(d)) if d > 1 else 3.0 for d in degree])
        poor = np.zeros(self.parameters.size, bool)
        poor[: lay.inner_start] = np.repeat(measured[:, None] < need, 2, axis=0).reshape(-1)
        return poor

    def move(self, first: int, last: int, step: F64) -> None:
        """Move the stars [first, last)."""
        self.stars.place[first:last] += step

    def reference_chi2(self) -> F64:
        """Return the chi2 of each star against its reference star; 0 where there is none."""
        off = self.stars.place - self.stars.target
        return np.asarray(np.einsum("na,nab,nb->n", off, self.stars.prior, off))
