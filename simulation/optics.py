"""The optics of a simulated mosaic camera: exact maps between sky, focal plane and pixels.

Sky to pixels: gnomonic projection about the boresight, rotation, radial distortion, smooth terms of the visit, then
each chip with its own small shift and turn.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from exposure.camera import Camera, CameraDetector
from exposure.wcs.tangent import deproject, project
from tasks.arrays import F64, I64

__all__ = [
    "CHIP",
    "PIXEL_MM",
    "SCALE",
    "MosaicVisit",
    "NominalWcs",
    "Optics",
    "at_hour_angle",
    "mosaic_camera",
    "to_zenith",
]

PIXEL_MM, SCALE = 0.015, 0.168  # mm and arcsec per pixel
CHIP = (2048, 4176)  # columns and rows
DISTORTION = 0.045  # of the radius at the edge of the field, like a prime-focus corrector
ZERO = 31.0  # mag of one count
_BEYOND = 1.5  # radii of the field: the corners of the camera are within 1.42
_BLOCK = 8192  # stars whose terms stay in the processor's cache


def mosaic_camera(n_chips: int = 103) -> Camera:
    """Return a round mosaic of equal chips with gaps, the middle ones first."""
    nx, ny = CHIP[0] * PIXEL_MM + 0.9, CHIP[1] * PIXEL_MM + 1.6
    cells = [(i * nx, j * ny) for i in range(-12, 13) for j in range(-8, 9)]
    cells.sort(key=lambda c: (round(float(np.hypot(*c)), 6), c))
    detectors = {
        i: CameraDetector(
            i, f"c{i:03d}", (0, 0, *CHIP), (PIXEL_MM, PIXEL_MM), cells[i], 180.0 if i % 2 else 0.0, 3.0, 4.5
        )
        for i in range(n_chips)
    }
    return Camera("mosaic", detectors, -155.476667, 19.825556, 4139.0)


@dataclass(frozen=True)
class MosaicVisit:
    """One visit of the mosaic.

    Parameters
    ----------
    ra, dec, turn
        Boresight, degrees; position angle of the focal plane, radians.
    mjd
        TAI.
    smooth
        (2, 10) arcsec, cubic terms over the field.
    throughput
        (6,) mag, quadratic terms over the field.
    """

    number: int
    ra: float
    dec: float
    turn: float
    mjd: float
    smooth: F64
    throughput: F64


@dataclass(frozen=True)
class Optics:
    """The camera with the true faults of its chips.

    Parameters
    ----------
    radius_arcsec
        Radius of the field: the unit of the smooth terms.
    chip_shift, chip_turn, chip_scale
        (n, 2) px, (n,) rad and (n,) mag by which each chip is off from the camera file.
    """

    camera: Camera
    radius_arcsec: float
    chip_shift: F64
    chip_turn: F64
    chip_scale: F64

    def to_sky(self, visit: MosaicVisit, fx: F64, fy: F64) -> tuple[F64, F64]:
        """Return RA and Dec (deg) of focal-plane positions (mm), all (N,): radial distortion and the visit's smooth
        terms are cubic in this direction.
        """
        reach = self.radius_arcsec * PIXEL_MM / SCALE
        u, v = fx / reach, fy / reach
        shrink = 1.0 - DISTORTION * (u * u + v * v)
        du, dv = visit.smooth @ _cubic(u, v)
        a, b = u * shrink * self.radius_arcsec + du, v * shrink * self.radius_arcsec + dv
        c, s = np.cos(visit.turn), np.sin(visit.turn)
        return deproject(c * a + s * b, -s * a + c * b, (visit.ra, visit.dec))

    def to_focal(self, visit: MosaicVisit, ra: F64, dec: F64) -> tuple[F64, F64]:
        """Return focal-plane positions (mm) of RA and Dec (deg), all (N,), to 1e-9 mm; NaN well beyond the corners of the
        camera, where the distortion folds.
        """
        reach = self.radius_arcsec * PIXEL_MM / SCALE
        out = np.empty((2, ra.size))
        for first in range(0, ra.size, _BLOCK):
            block = slice(first, first + _BLOCK)
            out[:, block] = reach * self._undistorted(visit, *project(ra[block], dec[block], (visit.ra, visit.dec)))
        return out[0], out[1]

    def _undistorted(self, visit: MosaicVisit, xi: F64, eta: F64) -> F64:
        """Return places (2, N) in the field, in units of its radius, of those in the tangent plane, arcsec, by fixed-point
        steps in the plane: they need no angles, and an error shrinks to a third or less in each. NaN where no chip can be.
        """
        c, s = np.cos(visit.turn), np.sin(visit.turn)
        wanted = np.stack([c * xi - s * eta, s * xi + c * eta]) / self.radius_arcsec
        wanted[:, np.hypot(*wanted) > _BEYOND] = np.nan
        smooth = visit.smooth / self.radius_arcsec
        uv = wanted
        for _ in range(60):
            new = (wanted - smooth @ _cubic(uv[0], uv[1])) / (1.0 - DISTORTION * (uv[0] * uv[0] + uv[1] * uv[1]))
            moved, uv = np.abs(new - uv) > 1e-12, new
            if not moved.any():
                break
        return uv

    def to_pixel(self, chip: int, fx: F64, fy: F64, true: bool = True) -> tuple[F64, F64]:
        """Return the pixels of one chip at focal-plane positions (mm), with its own faults or as the camera file says."""
        d = self.camera[chip]
        turn = np.radians(d.rotation_deg) + (self.chip_turn[chip] if true else 0.0)
        c, s = np.cos(turn), np.sin(turn)
        dx, dy = fx - d.offset_mm[0], fy - d.offset_mm[1]
        shift = self.chip_shift[chip] if true else np.zeros(2)
        cx, cy = d.centre
        return (c * dx + s * dy) / PIXEL_MM + cx + shift[0], (-s * dx + c * dy) / PIXEL_MM + cy + shift[1]

    def scale_mag(self, visit: MosaicVisit, chip: "int | I64", fx: F64, fy: F64) -> F64:
        """Zero point (mag, AB of one count) at focal-plane positions (mm)."""
        reach = self.radius_arcsec * PIXEL_MM / SCALE
        u, v = fx / reach, fy / reach
        terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])
        return np.asarray(ZERO + self.chip_scale[chip] + visit.throughput @ terms)


def _cubic(u: F64, v: F64) -> F64:
    """Return the ten terms of total degree <= 3, shape (10, N)."""
    us, vs = ((np.ones_like(w), w, w * w, w * w * w) for w in (u, v))
    return np.stack([us[i] * vs[j] for i in range(4) for j in range(4 - i)])


class NominalWcs:
    """The rough WCS of a header: the camera file and the optics without the chips' faults."""

    def __init__(self, optics: Optics, visit: MosaicVisit, chip: int) -> None:
        self.optics, self.visit, self.chip = optics, visit, chip

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[F64, F64]:
        """Return RA and Dec (deg) of pixels."""
        fx, fy = self.optics.camera[self.chip].to_focal(x, y)
        return self.optics.to_sky(self.visit, fx, fy)


def sidereal_deg(mjd_tai: float, longitude: float) -> float:
    """Return the local mean sidereal time in degrees, to an arc minute (Meeus 1998, chapter 12)."""
    return (280.46061837 + 360.98564736629 * (mjd_tai - 37.0 / 86400 - 51544.5) + longitude) % 360.0


def at_hour_angle(mjd: float, hour_angle_deg: float, centre: tuple[float, float]) -> float:
    """Return the time near `mjd` when the field has this hour angle at the mosaic's site."""
    now = sidereal_deg(mjd, mosaic_camera(1).longitude) - centre[0]
    return mjd + ((hour_angle_deg - now + 180.0) % 360.0 - 180.0) / 360.98564736629


def to_zenith(visit: MosaicVisit, camera: Camera) -> tuple[float, float, float]:
    """Return tan z of the boresight, and the unit vector to the zenith there, east and north (spherical trigonometry)."""
    h = np.radians(sidereal_deg(visit.mjd, camera.longitude) - visit.ra)
    lat, d = np.radians(camera.latitude), np.radians(visit.dec)
    cos_z = np.sin(lat) * np.sin(d) + np.cos(lat) * np.cos(d) * np.cos(h)
    east = np.cos(lat) * np.sin(h)
    north = np.sin(lat) * np.cos(d) - np.cos(lat) * np.sin(d) * np.cos(h)
    sin_z = np.hypot(east, north)
    return float(sin_z / cos_z), float(east / sin_z), float(north / sin_z)
