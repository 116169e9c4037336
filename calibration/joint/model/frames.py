"""Where each image of a joint fit points, when it was taken, how the air refracted it, and which chips hold the frame."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from calibration.errors import JointCalibrationError
from calibration.joint.data import ARCSEC, Images, tangent_frames
from calibration.joint.model.linearise import Frames
from exposure.camera import Camera
from tasks.arrays import F64, I64
from tasks.sphere import sky_positions, unit_vectors

__all__ = ["fit_epoch", "gnomonic", "held_chips", "image_frames", "tangent_points"]

_JULIAN_YEAR = 365.25  # days


def fit_epoch(images: Images) -> float:
    """Return the mean Julian epoch (TAI) of all images as MJD; NaN when no time is known."""
    times = images.mjd_tai[np.isfinite(images.mjd_tai)]
    if not times.size:
        return float("nan")
    return float(times.mean())  # Julian years of TAI are days of MJD over 365.25


def tangent_points(images: Images, visit_index: I64) -> F64:
    """Return the boresight of each visit (V, 2), RA and Dec in degrees.

    The middle of its images where it is unknown.
    """
    out = np.empty((int(visit_index.max()) + 1, 2))
    for v in range(len(out)):
        of = np.flatnonzero(visit_index == v)
        bore = images.boresight[of]
        good = np.isfinite(bore).all(1)
        if good.any():
            out[v] = bore[good][0]
            continue
        corner, size = images.bbox[of, :2], images.bbox[of, 2:]
        middles = np.array(
            [images.wcs[i].pixel_to_sky(*middle) for i, middle in zip(of, corner + size / 2, strict=True)]
        )
        mean = unit_vectors(middles[:, 0], middles[:, 1]).mean(0)
        out[v] = sky_positions(mean)
    return out


def gnomonic(vectors: F64, frames: Frames, image: int) -> F64:
    """Return directions (N, 3) in the tangent plane of an image: (N, 2) arcsec east and north.

    Raises
    ------
    JointCalibrationError
        A direction lies 90 degrees or more from the tangent point.
    """
    along = vectors @ frames.tangent[image]
    if not (along > 0).all():
        raise JointCalibrationError(
            "an image and the point that its visit is mapped about lie on opposite sides of the sky: check the boresight "
            "(RABORE, DECBORE, degrees) and CRVAL of its headers"
        )
    return np.stack([vectors @ frames.east[image] / along, vectors @ frames.north[image] / along], 1) / ARCSEC


def image_frames(images: Images, tangent: F64, camera: Camera, chromatic: bool, parallax: bool) -> Frames:
    """Return the frames of all images, whose tangent points are (I, 2) degrees.

    `chromatic` asks for the refraction, `parallax` for the position of the Earth; what is not asked for is zero.
    """
    direction = unit_vectors(tangent[:, 0], tangent[:, 1])
    east, north = _frames_at(tangent)
    n = len(images)
    years, earth = np.zeros(n), np.zeros((n, 3))
    epoch = fit_epoch(images)
    timed = np.isfinite(images.mjd_tai)
    if timed.any():
        years[timed] = (images.mjd_tai[timed] - epoch) / _JULIAN_YEAR
    if timed.any() and parallax:
        from astropy.coordinates import get_body_barycentric
        from astropy.time import Time

        times = Time(images.mjd_tai[timed], format="mjd", scale="tai")
        earth[timed] = get_body_barycentric("earth", times, ephemeris="builtin").xyz.to_value("au").T
    refraction = _refraction(images, tangent, camera) if chromatic else np.zeros((n, 2))
    return Frames(direction, east, north, years, earth, refraction)


def _frames_at(tangent: F64) -> tuple[F64, F64]:
    """Return the unit vectors to the east and north (I, 3) at (I, 2) RA and Dec in degrees; at a pole RA says which way."""
    ra, dec = np.radians(tangent[:, 0]), np.radians(tangent[:, 1])
    east = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)], 1)
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], 1)
    return east, north


def _refraction(images: Images, tangent: F64, camera: Camera) -> F64:
    """Return tan z towards the zenith (I, 2), east and north; zero where the time or the site is unknown."""
    out = np.zeros((len(images), 2))
    timed = np.isfinite(images.mjd_tai)
    if not (np.isfinite(camera.longitude) and np.isfinite(camera.latitude) and timed.any()):
        return out
    from astropy import units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils.iers import conf

    site = EarthLocation(lon=camera.longitude * u.deg, lat=camera.latitude * u.deg, height=camera.elevation * u.m)
    with conf.set_temp("auto_download", False), conf.set_temp("iers_degraded_accuracy", "ignore"):
        times = Time(images.mjd_tai[timed], format="mjd", scale="tai")
        frame = AltAz(obstime=times, location=site)
        zenith = SkyCoord(alt=np.full(timed.sum(), 90) * u.deg, az=np.zeros(timed.sum()) * u.deg, frame=frame).icrs
    up = unit_vectors(zenith.ra.deg, zenith.dec.deg)
    boresight = unit_vectors(tangent[timed, 0], tangent[timed, 1])
    east, north = tangent_frames(boresight)
    out[timed] = np.stack([(up * east).sum(1), (up * north).sum(1)], 1) / (up * boresight).sum(1)[:, None]
    return out


def held_chips(visit: I64, chip: I64, detectors: I64, camera: Camera, middle: tuple[float, float]) -> list[int]:
    """Return one chip of each connected group of visits and chips: that nearest to a place (mm) of the focal plane.

    Parameters
    ----------
    visit, chip
        (I,) index of both of each image.
    detectors
        (C,) detector of each chip.
    """
    n = int(visit.max()) + 1
    size = n + detectors.size
    links = coo_array((np.ones(visit.size), (visit, n + chip)), shape=(size, size))
    group = connected_components(links, directed=False)[1][n:]
    out = []
    for g in np.unique(group):
        of = np.flatnonzero(group == g)
        nearest = camera.nearest([int(d) for d in detectors[of]], *middle)
        out.append(int(of[np.flatnonzero(detectors[of] == nearest)[0]]))
    return out
