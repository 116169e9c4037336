"""Start values of an astrometric fit from input WCS and camera, and its result as WCS."""

import logging
from dataclasses import dataclass

import numpy as np

from calibration.joint.config import JointcalConfig
from calibration.joint.model.astrometry import AstrometryProblem, Frames, Layout, StarAstrometry
from calibration.joint.model.basis import design, fit_terms, n_terms, term_degrees
from calibration.joint.model.data import ARCSEC, Images, tangent_frames, unit_vectors
from calibration.joint.model.stars import Associated
from exposure.camera import Camera
from exposure.wcs.mapped import ComposedWcs, PolynomialMap
from tasks.arrays import F64, I64, Flags

__all__ = ["AstrometryBuilder", "build_wcs", "fit_epoch"]

log = logging.getLogger("alertprod.jointcal")
_NODES = 8
_SOURCES_PER_TERM = 2  # below, a map follows the noise of its sources


def fit_epoch(images: Images) -> float:
    """Return the mean Julian epoch (TAI) of all images as MJD; NaN when no time is known."""
    known = images.mjd_tai[np.isfinite(images.mjd_tai)]
    if not known.size:
        return float("nan")
    return float(known.mean())  # Julian years of TAI are days of MJD over 365.25


@dataclass
class AstrometryBuilder:
    """Everything about the images that fits of different stars share."""

    images: Images
    layout: Layout
    frames: Frames
    tangent: F64  # (n_visits, 2) degrees
    visit_index: I64
    parameters: F64
    fitted: Flags
    names: list[str]
    scale_mm: float
    known: F64
    expected: F64

    @classmethod
    def start(
        cls, images: Images, associated: Associated, camera: Camera, config: JointcalConfig
    ) -> "AstrometryBuilder":
        """Fit the start values of all maps to the input WCS, moved onto the reference stars."""
        visits, visit_index = np.unique(images.visit, return_inverse=True)
        detectors, chip = np.unique(images.detector, return_inverse=True)
        bbox = images.bbox.astype(np.float64)
        centre, half = bbox[:, :2] + (bbox[:, 2:] - 1) / 2, bbox[:, 2:] / 2
        constrained = config.astrometryModel == "constrained"
        tangent = _tangent_points(images, visit_index)
        frames = _frames(
            images, tangent[visit_index], camera, config.fitDcr, bool(associated.references.parallax.any())
        )
        if constrained:
            layout = Layout(
                visit_index, chip, config.astrometryVisitOrder, config.astrometryChipOrder, centre, half, config.fitDcr
            )
        else:
            layout = Layout(np.arange(len(images)), chip, config.astrometrySimpleOrder, -1, centre, half, config.fitDcr)
        out = cls(
            images, layout, frames, tangent, visit_index, np.zeros(layout.size), np.ones(layout.size, bool),
            _names(layout, visits, detectors, images), 1.0, np.zeros(layout.size), np.zeros(layout.size),
        )  # fmt: skip
        if constrained:
            out._start_chips(detectors, camera)
            out._expect_chips(detectors, camera, config.chipPositionPrior)
        out._start_outer(associated, config)
        return out

    def _inner(self, chip: int) -> F64:
        """Coefficients (n, 2) of one chip map; none in the simple model."""
        count = n_terms(self.layout.inner_order) if self.layout.inner_order >= 0 else 0
        first = self.layout.inner_start + 2 * count * chip
        return np.stack([self.parameters[first : first + count], self.parameters[first + count : first + 2 * count]], 1)

    def _start_chips(self, detectors: I64, camera: Camera) -> None:
        found = [camera[int(d)] for d in detectors]
        nodes = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
        gu, gv = (a.ravel() for a in np.meshgrid(nodes, nodes))
        focal = []
        for d in found:
            cx, cy = d.centre
            focal.append(np.stack(d.to_focal(cx + gu * d.bbox[2] / 2, cy + gv * d.bbox[3] / 2), axis=1))
        self.scale_mm = float(max(np.abs(f).max() for f in focal)) * 1.02
        count = n_terms(self.layout.inner_order)
        for chip, f in enumerate(focal):
            solved = fit_terms(self.layout.inner_order, gu, gv, f / self.scale_mm)
            first = self.layout.inner_start + 2 * count * chip
            self.parameters[first : first + 2 * count] = solved.T.ravel()
        middle = camera.nearest([int(d) for d in detectors], 0.0, 0.0)
        first = self.layout.inner_start + 2 * count * int(np.searchsorted(detectors, middle))
        self.fitted[first : first + 2 * count] = False  # one chip is held: else chip and visit maps trade places

    def _expect_chips(self, detectors: I64, camera: Camera, pixels: float) -> None:
        """Trust the camera file to so many pixels: nothing against many visits, all there is against one."""
        if not pixels > 0:
            return
        size = np.array([max(camera[int(d)].pixel_size_mm) for d in detectors]) * pixels / self.scale_mm
        first = self.layout.inner_start
        last = first + self.layout.n_inner * int(self.layout.lengths[1])
        self.known[first:last] = np.repeat(1.0 / size**2, int(self.layout.lengths[1]))
        self.expected[first:last] = self.parameters[first:last]

    def _start_outer(self, associated: Associated, config: JointcalConfig) -> None:
        lay, images = self.layout, self.images
        nodes = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
        gu, gv = (a.ravel() for a in np.meshgrid(nodes, nodes))
        measured = np.bincount(lay.outer[associated.measurements.image], minlength=lay.n_outer)
        for outer in range(lay.n_outer):
            of = np.flatnonzero(lay.outer == outer)
            points, target = [], []
            for i in of:
                x, y = lay.centre[i, 0] + gu * lay.half[i, 0], lay.centre[i, 1] + gv * lay.half[i, 1]
                vectors = associated.registration.apply(unit_vectors(*images.wcs[i].pixel_to_sky(x, y)), int(i))
                target.append(_gnomonic(vectors, self.frames, int(i)))
                points.append(self._focal(int(lay.inner[i]), gu, gv))
            order, count = lay.outer_order, int(measured[outer])
            while order > 1 and _SOURCES_PER_TERM * n_terms(order) > count:
                order -= 1
            if order < lay.outer_order:
                log.warning(
                    "%s: %d sources: the order of its map is lowered from %d to %d",
                    self.names[outer * 2 * n_terms(lay.outer_order)].rsplit(",", 1)[0], count, lay.outer_order, order,
                )  # fmt: skip
            used = term_degrees(lay.outer_order).sum(1) <= order
            start = used if config.useInputWcs else term_degrees(lay.outer_order).sum(1) <= 1
            self._fit_outer(outer, np.concatenate(points), np.concatenate(target), start, used)

    def _fit_outer(self, outer: int, points: F64, target: F64, start: Flags, used: Flags) -> None:
        basis = design(self.layout.outer_order, points[:, 0], points[:, 1])[:, start]
        count = used.size
        first = outer * 2 * count
        for axis in range(2):
            values = np.zeros(count)
            values[start] = np.linalg.lstsq(basis, target[:, axis], rcond=None)[0]
            self.parameters[first + axis * count : first + (axis + 1) * count] = values
            self.fitted[first + axis * count : first + (axis + 1) * count] &= used

    def _focal(self, chip: int, u: F64, v: F64) -> F64:
        if self.layout.inner_order < 0:
            return np.stack([u, v], axis=1)
        return np.asarray(design(self.layout.inner_order, u, v) @ self._inner(chip))

    def problem(
        self, associated: Associated, which: I64, config: JointcalConfig, use_references: bool = True
    ) -> AstrometryProblem:
        """Return the problem of some stars; model parameters are shared between problems made here."""
        index, offsets = _measurements_of(associated.stars.offsets, which)
        m = associated.measurements.take(index)
        pedestal = np.full(len(m), config.positionErrorPedestal**2)
        made = AstrometryProblem(
            self.layout, self.frames, _stars(associated, which, config, use_references), offsets, m.image,
            np.stack([m.x, m.y], 1), np.stack([m.vx, m.vy, m.vxy], 1), pedestal, self.parameters, self.fitted,
            self.names,
        )  # fmt: skip
        made.known, made.expected = self.known, self.expected
        return made


def _measurements_of(offsets: I64, which: I64) -> tuple[I64, I64]:
    """Return the indices of the measurements of some stars, and their offsets."""
    count = np.diff(offsets)[which]
    new = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    index = np.repeat(offsets[which] - new[:-1], count) + np.arange(new[-1])
    return index, new


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
        sigma = np.where(
            (has & (np.hypot(*ref.motion.T) > 0))[:, None], np.maximum(ref.motion_error, 1e-5),
            config.properMotionPrior,
        )  # fmt: skip
        prior[:, 2, 2], prior[:, 3, 3] = 1.0 / sigma[:, 0] ** 2, 1.0 / sigma[:, 1] ** 2
    colour = np.where(has, ref.colour - config.dcrReferenceColor, 0.0)
    return StarAstrometry(
        vector, east, north, np.zeros((n, q)), motion, np.where(has, ref.parallax, 0.0), np.nan_to_num(colour), prior,
        target,
    )  # fmt: skip


def _tangent_points(images: Images, visit_index: I64) -> F64:
    """Boresight of each visit; the middle of its images where it is unknown."""
    out = np.empty((int(visit_index.max()) + 1, 2))
    for v in range(len(out)):
        of = np.flatnonzero(visit_index == v)
        bore = images.boresight[of]
        good = np.isfinite(bore).all(1)
        if good.any():
            out[v] = bore[good][0]
            continue
        middles = np.array([
            images.wcs[i].pixel_to_sky(images.bbox[i, 0] + images.bbox[i, 2] / 2, images.bbox[i, 1] + images.bbox[i, 3] / 2)
            for i in of
        ])  # fmt: skip
        mean = unit_vectors(middles[:, 0], middles[:, 1]).mean(0)
        out[v] = np.degrees(np.arctan2(mean[1], mean[0])) % 360, np.degrees(np.arctan2(mean[2], np.hypot(*mean[:2])))
    return out


def _frames(images: Images, tangent: F64, camera: Camera, chromatic: bool, parallax: bool) -> Frames:
    direction = unit_vectors(tangent[:, 0], tangent[:, 1])
    east, north = tangent_frames(direction)
    n = len(images)
    years, earth = np.zeros(n), np.zeros((n, 3))
    epoch = fit_epoch(images)
    known = np.isfinite(images.mjd_tai)
    if known.any():
        years[known] = (images.mjd_tai[known] - epoch) / 365.25
    if known.any() and parallax:
        from astropy.coordinates import get_body_barycentric
        from astropy.time import Time

        times = Time(images.mjd_tai[known], format="mjd", scale="tai")
        earth[known] = get_body_barycentric("earth", times, ephemeris="builtin").xyz.to_value("au").T
    refraction = _refraction(images, tangent, camera) if chromatic else np.zeros((n, 2))
    return Frames(direction, east, north, years, earth, refraction)


def _refraction(images: Images, tangent: F64, camera: Camera) -> F64:
    """tan z towards the zenith, east and north; zero where the telescope's place or the time is unknown."""
    out = np.zeros((len(images), 2))
    known = np.isfinite(images.mjd_tai)
    if not (np.isfinite(camera.longitude) and np.isfinite(camera.latitude) and known.any()):
        return out
    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils.iers import conf

    place = EarthLocation(lon=camera.longitude * u.deg, lat=camera.latitude * u.deg, height=camera.elevation * u.m)
    with conf.set_temp("auto_download", False), conf.set_temp("iers_degraded_accuracy", "ignore"):
        times = Time(images.mjd_tai[known], format="mjd", scale="tai")
        frame = AltAz(obstime=times, location=place)
        zenith = SkyCoord(alt=np.full(known.sum(), 90) * u.deg, az=np.zeros(known.sum()) * u.deg, frame=frame).icrs
    up = unit_vectors(zenith.ra.deg, zenith.dec.deg)
    at = unit_vectors(tangent[known, 0], tangent[known, 1])
    east, north = tangent_frames(at)
    out[known] = np.stack([(up * east).sum(1), (up * north).sum(1)], 1) / (up * at).sum(1)[:, None]
    return out


def _gnomonic(vectors: F64, frames: Frames, image: int) -> F64:
    along = vectors @ frames.tangent[image]
    return np.stack([vectors @ frames.east[image] / along, vectors @ frames.north[image] / along], 1) / ARCSEC


def _names(layout: Layout, visits: I64, detectors: I64, images: Images) -> list[str]:
    out = []
    for o in range(layout.n_outer):
        who = f"map of visit {visits[o]}" if layout.inner_order >= 0 else f"map of {images.said(o)}"
        for axis in ("xi", "eta"):
            out += [f"{who}, {axis} term T{i}(x)T{j}(y)" for i, j in term_degrees(layout.outer_order)]
    for c in range(layout.n_inner):
        for axis in ("x", "y"):
            out += [
                f"map of detector {detectors[c]}, {axis} term T{i}T{j}" for i, j in term_degrees(layout.inner_order)
            ]
    return [*out, "chromatic refraction"] if layout.dcr else out


def build_wcs(builder: AstrometryBuilder) -> dict[tuple[int, int], ComposedWcs]:
    """Return the fitted WCS of every image as the composition of its maps."""
    lay = builder.layout
    out = {}
    for i in range(len(builder.images)):
        maps = []
        centre, half = tuple(lay.centre[i]), tuple(lay.half[i])
        count = n_terms(lay.outer_order)
        first = int(lay.outer[i]) * 2 * count
        outer = builder.parameters[first : first + 2 * count].reshape(2, count)
        if lay.inner_order >= 0:
            maps.append(PolynomialMap(_square(builder._inner(int(lay.inner[i])).T, lay.inner_order), centre, half))
            maps.append(PolynomialMap(_square(outer, lay.outer_order)))
        else:
            maps.append(PolynomialMap(_square(outer, lay.outer_order), centre, half))
        tangent = builder.tangent[builder.visit_index[i]]
        x0, y0, w, h = (int(v) for v in builder.images.bbox[i])
        out[builder.images.key(i)] = ComposedWcs(maps, (float(tangent[0]), float(tangent[1])), (x0, y0, w, h))
    return out


def _square(coefficients: F64, order: int) -> F64:
    """Spread terms (2, n) into (2, order + 1, order + 1) with [k, j, i] for T_i(u) T_j(v)."""
    out = np.zeros((2, order + 1, order + 1))
    degrees = term_degrees(order)
    out[:, degrees[:, 1], degrees[:, 0]] = coefficients
    return out
