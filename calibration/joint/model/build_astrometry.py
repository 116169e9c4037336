"""Start values of an astrometric fit from input WCS and camera, and its result as WCS."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from calibration.joint.config import JointcalConfig
from calibration.joint.data import ARCSEC, Images, tangent_frames
from calibration.joint.matching.stars import Associated
from calibration.joint.model.astrometry import AstrometryProblem, Layout, MeasuredPositions, StarAstrometry
from calibration.joint.model.basis import design, fit_terms, n_terms, order_by_evidence, square_nodes, term_degrees
from calibration.joint.model.chip_places import shifts_by_headers
from calibration.joint.model.expected.common_maps import expected_images
from calibration.joint.model.frames import gnomonic, held_chips, image_frames, tangent_points
from calibration.joint.model.linearise import Frames
from calibration.joint.model.rows import ModelParameters
from exposure.camera import Camera
from exposure.wcs.displacement import DisplacementGrid
from exposure.wcs.mapped import ComposedWcs, PolynomialMap
from tasks.arrays import F64, I64, Box, Flags
from tasks.sphere import unit_vectors

__all__ = ["AstrometryBuilder", "build_wcs"]

log = logging.getLogger("alertprod.jointcal")
_CHIP_SHAPE = 0.1
_SOURCES_PER_TERM = 6  # below, a map follows the noise of its sources
_SOURCES_OF_PLANE = 4  # below, only its offset is fitted
_TRUST = 20.0  # times the distance of stars from their reference stars by the input WCS
_TRUST_LIMITS = (0.05, 30.0)  # arcsec


@dataclass
class AstrometryBuilder:
    """Everything about the images that fits of different stars share.

    Parameters
    ----------
    tangent
        (V, 2) tangent point of each visit, degrees.
    visit_index
        (I,) index of the visit of each image.
    scale_mm
        mm of the focal plane that are 1 in the inner maps' output; 1 without inner maps.
    fields
        By index of a visit: the displacement of its tangent plane that its maps do not follow (the atmosphere's).
    trusted
        How far each term of second order or higher is expected to be from the input, arcsec.
    targets
        Where the input WCS, moved onto the reference stars, has the nodes (N, 2) of each image in its tangent plane, arcsec.
    """

    images: Images
    layout: Layout
    frames: Frames
    tangent: F64
    visit_index: I64
    parameters: ModelParameters
    scale_mm: float = 1.0
    fields: dict[int, DisplacementGrid] = field(default_factory=dict)
    trusted: float = 0.0
    targets: list[F64] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        images: Images,
        associated: Associated,
        camera: Camera,
        config: JointcalConfig,
        own_chips: frozenset[tuple[int, int]] = frozenset(),
        trusted: float = 0.0,
    ) -> "AstrometryBuilder":
        """Fit the start values of all maps to the input WCS, moved onto the reference stars.

        In the constrained model the images `own_chips` (visit, detector) have chip maps of their own. Each term of second
        order or higher is expected within `trusted` arcsec of the input, or further, as the reference stars tell.
        """
        visits, visit_index = np.unique(images.visit, return_inverse=True)
        detectors, chip, chip_names = _chip_maps(images, own_chips)
        n_shared = detectors.size - len(own_chips & {images.key(i) for i in range(len(images))})
        bbox = images.bbox.astype(np.float64)
        centre, half = bbox[:, :2] + (bbox[:, 2:] - 1) / 2, bbox[:, 2:] / 2
        constrained = config.astrometryModel == "constrained"
        if constrained:
            outer, outer_order, inner_order = visit_index, config.astrometryVisitOrder, config.astrometryChipOrder
        else:
            outer, outer_order, inner_order = np.arange(len(images)), config.astrometrySimpleOrder, -1
        layout = Layout(outer, chip, outer_order, inner_order, centre, half, config.fitDcr)
        tangent = tangent_points(images, visit_index)
        parallax = bool(associated.references.parallax.any())
        frames = image_frames(images, tangent[visit_index], camera, config.fitDcr, parallax)
        n = layout.size
        names = _names(layout, visits, chip_names, images)
        parameters = ModelParameters(np.zeros(n), np.ones(n, bool), names, np.zeros(n), np.zeros(n))
        out = cls(images, layout, frames, tangent, visit_index, parameters)
        out.targets = out._targets(associated)
        if constrained:
            out._start_chips(detectors, n_shared, camera, config.chipPositionPrior)
            out._expect_chips(detectors, camera, config.chipPositionPrior)
        out.trusted = max(trusted, _trusted(associated))
        out._start_outer(associated, config)
        return out

    def _inner(self, chip: int) -> F64:
        """Return the coefficients (n_terms, 2) of one chip map; none in the simple model."""
        count = n_terms(self.layout.inner_order)
        first = self.layout.inner_start + 2 * count * chip
        return np.ascontiguousarray(self.parameters.values[first : first + 2 * count].reshape(2, count).T)

    def _start_chips(self, detectors: I64, n_shared: int, camera: Camera, prior: float) -> None:
        """Take the chip maps from the camera file, or from the headers where these have a chip more than half of `prior` px elsewhere,
        and hold those of the chips in the middle of the first `n_shared`.
        """
        gu, gv = square_nodes()
        focal = []
        for d in (camera[int(d)] for d in detectors):
            cx, cy = d.centre
            focal.append(np.stack(d.to_focal(cx + gu * d.bbox[2] / 2, cy + gv * d.bbox[3] / 2), axis=1))
        if prior > 0:
            places, pixel = np.array(focal), np.array([max(camera[int(d)].pixel_size_mm) for d in detectors])
            scale = float(np.abs(places).max())
            layout = self.layout.outer, self.layout.inner, n_shared
            sky, order = np.array(self.targets), self.layout.outer_order
            shift = shifts_by_headers(order, layout, places / scale, sky, detectors, pixel / scale, prior)
            focal = [f + s for f, s in zip(focal, scale * shift, strict=True)]
        self.scale_mm = float(max(np.abs(f).max() for f in focal)) * 1.02
        count = n_terms(self.layout.inner_order)
        for chip, f in enumerate(focal):
            solved = fit_terms(self.layout.inner_order, gu, gv, f / self.scale_mm)
            first = self.layout.inner_start + 2 * count * chip
            self.parameters.values[first : first + 2 * count] = solved.T.ravel()
        shared = self.layout.inner < n_shared
        for chip in held_chips(
            self.layout.outer[shared], self.layout.inner[shared], detectors[:n_shared], camera, (0.0, 0.0)
        ):
            first = self.layout.inner_start + 2 * count * chip
            self.parameters.fitted[first : first + 2 * count] = False  # else chip and visit maps trade places

    def _expect_chips(self, detectors: I64, camera: Camera, pixels: float) -> None:
        """Trust the camera file to so many pixels: nothing against many visits, all there is against one."""
        if not pixels > 0:
            return
        size = np.array([max(camera[int(d)].pixel_size_mm) for d in detectors]) * pixels / self.scale_mm
        length = int(self.layout.lengths[1])
        part = slice(self.layout.inner_start, self.layout.inner_start + self.layout.n_inner * length)
        # a chip is placed worse than it is made: scale, turn and shape move its edge by a tenth of that
        share = np.tile(np.where(term_degrees(self.layout.inner_order).sum(1) > 0, _CHIP_SHAPE, 1.0), 2)
        self.parameters.prior_weight[part] = (1.0 / (size[:, None] * share) ** 2).ravel()
        self.parameters.expected[part] = self.parameters.values[part]

    def _start_outer(self, associated: Associated, config: JointcalConfig) -> None:
        """Fit each outer map to the input WCS of its images, with fewer terms where sources are few.

        In the simple model the images of a visit tell what is expected of each other's maps, where they are enough.
        """
        lay = self.layout
        degree = term_degrees(lay.outer_order).sum(1)
        # what is not fitted stays as the input WCS has it
        start = degree <= (lay.outer_order if config.useInputWcs else 1)
        common: Mapping[int, tuple[F64, F64]] = {}
        if lay.inner_order < 0:
            pedestal = config.positionErrorPedestal**2
            common = expected_images(self.images, lay, self.frames, associated, pedestal, start)
        measured = np.bincount(lay.outer[associated.measurements.image], minlength=lay.n_outer)
        for outer in range(lay.n_outer):
            if outer in common:
                self._take_common(outer, *common[outer])
                continue
            order, count = lay.outer_order, int(measured[outer])
            while order > 1 and _SOURCES_PER_TERM * n_terms(order) > count:
                order -= 1
            if count < _SOURCES_OF_PLANE:
                order = 0
            self._fit_outer(outer, *self._outer_points(outer), start)
            if order < lay.outer_order:
                order = order_by_evidence(*self._misses(outer, associated), order, lay.outer_order)
            if order < lay.outer_order:
                name = self.parameters.names[outer * 2 * n_terms(lay.outer_order)].rsplit(",", 1)[0]
                log.warning(
                    "%s: %d sources: the order of its map is lowered from %d to %d", name, count, lay.outer_order, order
                )
            self._expect_outer(outer, degree, degree <= order)

    def _take_common(self, outer: int, terms: F64, weight: F64) -> None:
        """Start one outer map from terms (T, 2), expected with inverse variances (T,)."""
        part = slice(2 * outer * weight.size, 2 * (outer + 1) * weight.size)
        self.parameters.values[part] = self.parameters.expected[part] = terms.T.ravel()
        self.parameters.prior_weight[part] = np.tile(weight, 2)

    def _targets(self, associated: Associated) -> list[F64]:
        """Return where the input WCS, moved onto the reference stars, sees the nodes (N, 2) of each image, arcsec in its plane."""
        lay, n = self.layout, len(self.images)
        u, v = square_nodes()
        x, y = lay.centre[:, :1] + u * lay.half[:, :1], lay.centre[:, 1:] + v * lay.half[:, 1:]
        sky = np.array([wcs.pixel_to_sky(x[i], y[i]) for i, wcs in enumerate(self.images.wcs)])
        vectors = unit_vectors(sky[:, 0].ravel(), sky[:, 1].ravel())
        moved = associated.registration.apply(vectors, np.repeat(np.arange(n), u.size)).reshape(n, u.size, 3)
        return [gnomonic(moved[i], self.frames, i) for i in range(n)]

    def _outer_points(self, outer: int) -> tuple[F64, F64]:
        """Return points (N, 2) of one outer map's domain, and where the input WCS, moved onto the reference stars, sees
        them, arcsec in its tangent plane.
        """
        gu, gv = square_nodes()
        of = np.flatnonzero(self.layout.outer == outer)
        points = [self.focal(int(self.layout.inner[i]), gu, gv) for i in of]
        return np.concatenate(points), np.concatenate([self.targets[i] for i in of])

    def _misses(self, outer: int, associated: Associated) -> tuple[F64, F64]:
        """Return where stars with a reference star lie in one outer map's domain (N, 2), and by how much its start misses
        them (N, 2), arcsec.
        """
        lay, m, stars = self.layout, associated.measurements, associated.stars
        reference = stars.reference[stars.of_measurement]
        points, off = [np.zeros((0, 2))], [np.zeros((0, 2))]
        first = 2 * outer * n_terms(lay.outer_order)
        terms = self.parameters.values[first : first + 2 * n_terms(lay.outer_order)].reshape(2, -1)
        for i in np.flatnonzero(lay.outer == outer):
            part = np.flatnonzero((m.image == i) & (reference >= 0))
            u, v = ((np.stack([m.x[part], m.y[part]], 1) - lay.centre[i]) / lay.half[i]).T
            focal_positions = self.focal(int(lay.inner[i]), u, v)
            target = gnomonic(associated.references.vector[reference[part]], self.frames, int(i))
            points.append(focal_positions)
            off.append(target - design(lay.outer_order, focal_positions[:, 0], focal_positions[:, 1]) @ terms.T)
        return np.concatenate(points), np.concatenate(off)

    def _fit_outer(self, outer: int, points: F64, target: F64, start: Flags) -> None:
        """Fit the terms `start` (n_terms,) of one map to points."""
        basis = design(self.layout.outer_order, points[:, 0], points[:, 1])[:, start]
        count = start.size
        for axis in range(2):
            part = slice((2 * outer + axis) * count, (2 * outer + axis + 1) * count)
            values = np.zeros(count)
            values[start] = np.linalg.lstsq(basis, target[:, axis], rcond=None)[0]
            self.parameters.values[part] = values

    def _expect_outer(self, outer: int, degree: I64, used: Flags) -> None:
        """Trust the distortion of the start, each term to so many arcsec: nothing against stars, all there is without; hold
        the terms that are not `used` (n_terms,).
        """
        count = degree.size
        for axis in range(2):
            part = slice((2 * outer + axis) * count, (2 * outer + axis + 1) * count)
            self.parameters.prior_weight[part] = np.where(degree >= 2, 1.0 / self.trusted**2, 0.0)
            self.parameters.expected[part] = self.parameters.values[part]
            self.parameters.fitted[part] &= used

    def focal(self, chip: int, u: F64, v: F64) -> F64:
        """Return what the inner map of a chip makes of scaled pixels u, v (N,): shape (N, 2), in units of ``scale_mm``."""
        if self.layout.inner_order < 0:
            return np.stack([u, v], axis=1)
        return np.asarray(design(self.layout.inner_order, u, v) @ self._inner(chip))

    def problem(
        self, associated: Associated, which: I64, config: JointcalConfig, use_references: bool = True
    ) -> AstrometryProblem:
        """Return the problem of some stars (indices); model parameters are shared between problems made here."""
        index, offsets = associated.stars.measurements_of(which)
        m = associated.measurements.take(index)
        measured = MeasuredPositions(
            offsets,
            m.image,
            pixels=np.stack([m.x, m.y], 1),
            covariance=np.stack([m.vx, m.vy, m.vxy], 1),
            pedestal=np.full(len(m), config.positionErrorPedestal**2),
        )
        stars = _stars(associated, which, config, use_references)
        out = AstrometryProblem(self.layout, self.frames, stars, measured, self.parameters)
        self.displace(out)
        return out

    def displace(self, problem: AstrometryProblem) -> None:
        """Take the displacements by the fields of the visits off the measurements of a problem."""
        if not self.fields:
            problem.displacement = None
            return
        places, visit = problem.places(), self.visit_index[problem.image]
        out = np.zeros(places.shape)
        for index, grid in self.fields.items():
            of = visit == index
            out[of] = np.stack(grid.displacement(places[of, 0], places[of, 1]), 1)
        problem.displacement = out


def _trusted(a: Associated) -> float:
    """Return how far each term of second order or higher may be from the registered input WCS, arcsec."""
    tied = a.stars.reference >= 0
    expected = a.references.vector[a.stars.reference[tied]]
    off = np.linalg.norm(unit_vectors(a.stars.ra[tied], a.stars.dec[tied]) - expected, axis=1) / ARCSEC
    return float(np.clip(_TRUST * np.median(off), *_TRUST_LIMITS))


def _chip_maps(images: Images, own: frozenset[tuple[int, int]]) -> tuple[I64, I64, list[str]]:
    """Return the detector of each chip map (C,), the chip map of each image (I,), and the names of the chip maps."""
    detectors = np.unique(images.detector[[images.key(i) not in own for i in range(len(images))]])
    alone = [i for i in range(len(images)) if images.key(i) in own]
    chip = np.searchsorted(detectors, images.detector)
    chip[alone] = detectors.size + np.arange(len(alone))
    names = [f"detector {d}" for d in detectors] + [
        f"detector {images.detector[i]} in visit {images.visit[i]}" for i in alone
    ]
    return np.concatenate([detectors, images.detector[alone]]), chip, names


def _stars(a: Associated, which: I64, config: JointcalConfig, use_references: bool) -> StarAstrometry:
    n, q = which.size, 4 if config.fitProperMotions else 2
    vector = unit_vectors(a.stars.ra[which], a.stars.dec[which])
    reference = a.stars.reference[which]
    has = reference >= 0
    ref = a.references.take(np.maximum(reference, 0))
    if use_references:
        vector = np.where(has[:, None], ref.vector, vector)
    east, north = tangent_frames(vector)
    motion = np.where(has[:, None], ref.motion, 0.0)
    prior, target = np.zeros((n, q, q)), np.zeros((n, q))
    if use_references:
        weight = np.where(has[:, None], 1.0 / ref.error**2, 0.0)
        prior[:, 0, 0], prior[:, 1, 1] = weight[:, 0], weight[:, 1]
    if q == 4:  # motions of stars without a reference are small: what they are like on average is their prior
        moving = (has & (np.hypot(*ref.motion.T) > 0))[:, None]
        sigma = np.where(moving, np.maximum(ref.motion_error, 1e-5), config.properMotionPrior)
        prior[:, 2, 2], prior[:, 3, 3] = 1.0 / sigma[:, 0] ** 2, 1.0 / sigma[:, 1] ** 2
    colour = np.where(has, ref.colour - config.dcrReferenceColor, 0.0)
    parallax = np.where(has, ref.parallax, 0.0)
    return StarAstrometry(vector, east, north, np.zeros((n, q)), motion, parallax, np.nan_to_num(colour), prior, target)


def _names(layout: Layout, visits: I64, chips: list[str], images: Images) -> list[str]:
    out = []
    for o in range(layout.n_outer):
        who = f"map of visit {visits[o]}" if layout.inner_order >= 0 else f"map of {images.label(o)}"
        for axis in ("xi", "eta"):
            out += [f"{who}, {axis} term T{i}(x)T{j}(y)" for i, j in term_degrees(layout.outer_order)]
    for c in range(layout.n_inner):
        for axis in ("x", "y"):
            out += [f"map of {chips[c]}, {axis} term T{i}T{j}" for i, j in term_degrees(layout.inner_order)]
    return [*out, "chromatic refraction"] if layout.dcr else out


def build_wcs(builder: AstrometryBuilder) -> dict[tuple[int, int], ComposedWcs]:
    """Return the fitted WCS of every image, by (visit, detector), as the composition of its maps."""
    lay = builder.layout
    out = {}
    for i in range(len(builder.images)):
        maps: list[PolynomialMap | DisplacementGrid] = []
        centre, half = tuple(lay.centre[i]), tuple(lay.half[i])
        count = n_terms(lay.outer_order)
        first = int(lay.outer[i]) * 2 * count
        outer = builder.parameters.values[first : first + 2 * count].reshape(2, count)
        if lay.inner_order >= 0:
            maps.append(PolynomialMap(_square(builder._inner(int(lay.inner[i])).T, lay.inner_order), centre, half))
            maps.append(PolynomialMap(_square(outer, lay.outer_order)))
        else:
            maps.append(PolynomialMap(_square(outer, lay.outer_order), centre, half))
        visit = int(builder.visit_index[i])
        tangent = builder.tangent[visit]
        x0, y0, w, h = (int(v) for v in builder.images.bbox[i])
        if visit in builder.fields:
            maps.append(_part_of(builder.fields[visit], maps, (x0, y0, w, h)))
        out[builder.images.key(i)] = ComposedWcs(maps, (float(tangent[0]), float(tangent[1])), (x0, y0, w, h))
    return out


def _part_of(
    grid: DisplacementGrid, maps: Sequence[Callable[[F64, F64], tuple[F64, F64]]], box: Box
) -> DisplacementGrid:
    """Return the part of a visit's grid that an image of this box needs, whose maps lead to the grid's plane."""
    u, v = square_nodes()
    x, y = box[0] + 0.5 * (box[2] - 1) + 0.51 * box[2] * u, box[1] + 0.5 * (box[3] - 1) + 0.51 * box[3] * v
    for step in maps:
        x, y = step(x, y)
    return grid.cut(x, y)


def _square(coefficients: F64, order: int) -> F64:
    """Put terms (2, n_terms) into (2, order + 1, order + 1) with [k, j, i] for T_i(u) T_j(v)."""
    out = np.zeros((2, order + 1, order + 1))
    degrees = term_degrees(order)
    out[:, degrees[:, 1], degrees[:, 0]] = coefficients
    return out
