"""Boresight and rotation of a visit from the WCS of all its detectors."""

from dataclasses import dataclass

import numpy as np

from calibration.errors import CalibrationError
from exposure import SkyWcs
from exposure.camera import Camera
from exposure.wcs.tangent import deproject, project
from tasks.arrays import F64, Box
from tasks.sphere import sky_positions, unit_vectors

__all__ = ["Pointing", "fit_pointing"]

_NODES = 5


@dataclass(frozen=True)
class Pointing:
    """Where the camera pointed.

    Parameters
    ----------
    ra, dec
        Sky position (deg) of the origin of the focal plane.
    rotation
        Position angle (deg, east of north, [0, 360)) of the focal plane's +Y axis.
    scale
        arcsec per mm at the origin.
    scatter
        Rms (arcsec) of what the fit (shift, rotation, scale, cubic radial distortion) leaves.
    """

    ra: float
    dec: float
    rotation: float
    scale: float
    scatter: float


def fit_pointing(wcs: "dict[int, tuple[SkyWcs, Box]]", camera: Camera) -> Pointing:
    """Fit the pointing to all detectors that have a WCS.

    The map is xi + i eta = a z (1 + k |z|^2) + c with z the focal-plane position (or its mirror image, whichever fits):
    c moves the tangent point until it vanishes, arg a is the rotation.

    Raises
    ------
    CalibrationError
        No detector has a WCS.
    """
    if not wcs:
        raise CalibrationError("the pointing cannot be fitted: no detector has a WCS")
    focal, ra, dec = [], [], []
    for detector, (one, (x0, y0, w, h)) in wcs.items():
        gx, gy = (
            a.ravel() for a in np.meshgrid(x0 + np.linspace(0, w - 1, _NODES), y0 + np.linspace(0, h - 1, _NODES))
        )
        focal.append(np.stack(camera[detector].to_focal(gx, gy), 1))
        r, d = one.pixel_to_sky(gx, gy)
        ra.append(r)
        dec.append(d)
    positions, sky_ra, sky_dec = np.concatenate(focal), np.concatenate(ra), np.concatenate(dec)
    start_ra, start_dec = sky_positions(unit_vectors(sky_ra, sky_dec).mean(0))
    start = float(start_ra), float(start_dec)
    fits = [_fit(positions, sky_ra, sky_dec, start, mirrored) for mirrored in (False, True)]
    return min(fits, key=lambda p: p.scatter)


def _fit(positions: F64, ra: F64, dec: F64, start: tuple[float, float], mirrored: bool) -> Pointing:
    reach = float(np.abs(positions).max()) or 1.0
    z = (positions[:, 0] + 1j * positions[:, 1]) / reach
    z = np.conj(z) if mirrored else z
    tangent = start
    design = np.column_stack([z, z * np.abs(z) ** 2, np.ones(z.size)])
    for _ in range(6):
        xi, eta = project(ra, dec, tangent)
        solved = np.linalg.lstsq(design, xi + 1j * eta, rcond=None)[0]
        moved = deproject(np.array([solved[2].real]), np.array([solved[2].imag]), tangent)
        tangent = (float(moved[0][0]), float(moved[1][0]))
    left = (xi + 1j * eta) - design @ solved
    up = solved[0] * (-1j if mirrored else 1j)  # where +Y points, east + i north
    angle = float(np.degrees(np.arctan2(up.real, up.imag)) % 360.0)
    return Pointing(*tangent, angle, float(abs(solved[0])) / reach, float(np.sqrt((np.abs(left) ** 2).mean())))
