"""A mosaic camera with known faults: source tables of many visits with the truth behind every number.

Sky to pixels, exactly: gnomonic projection about the boresight, rotation, radial distortion, smooth terms of the
visit, then each chip with its own small shift and turn. Fluxes: star, chip scale and smooth field of the visit.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from astropy.io.fits import Header

from exposure.camera import Camera, CameraDetector
from exposure.wcs.sip import sip_approximation
from exposure.wcs.tangent import deproject, project
from tasks.arrays import F64, I64

__all__ = ["MosaicSurvey", "mosaic_camera", "simulate_mosaic"]

PIXEL_MM, SCALE = 0.015, 0.168  # mm and arcsec per pixel
CHIP = (2048, 4176)
DISTORTION = 0.045  # of the radius at the edge of the field, like a prime-focus corrector
AB = 31.4
ZERO = 31.0  # mag of one count
SKY_NOISE = 155.0  # counts under a star: S/N 10 at mag 23


def mosaic_camera(n_chips: int = 103) -> Camera:
    """Return a round mosaic of equal chips with gaps, the middle ones first."""
    nx, ny = CHIP[0] * PIXEL_MM + 0.9, CHIP[1] * PIXEL_MM + 1.6
    cells = [(i * nx, j * ny) for i in range(-12, 13) for j in range(-8, 9)]
    cells.sort(key=lambda c: (round(float(np.hypot(*c)), 6), c))
    made = {
        i: CameraDetector(
            i, f"c{i:03d}", (0, 0, *CHIP), (PIXEL_MM, PIXEL_MM), cells[i], 180.0 if i % 2 else 0.0, 3.0, 4.5
        )
        for i in range(n_chips)
    }
    return Camera("mosaic", made, -155.476667, 19.825556, 4139.0)


@dataclass
class MosaicSurvey:
    """What was simulated.

    Parameters
    ----------
    sources
        One table per visit.
    headers
        Header of each image (rough WCS and calibration) by (visit, detector).
    references
        Reference catalogue.
    truth
        Star table: ra, dec (deg at `epoch`), flux (nJy), colour.
    star
        Star index of each source, per visit; -1: not a star.
    zero_points
        True nJy per count at the middle of each image.
    """

    camera: Camera
    sources: list[pd.DataFrame]
    headers: dict[tuple[int, int], Header]
    references: pd.DataFrame
    truth: pd.DataFrame
    star: list[I64]
    zero_points: dict[tuple[int, int], float]
    epoch_mjd: float
    optics: "_Optics"
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Visit:
    number: int
    ra: float
    dec: float
    turn: float
    mjd: float
    smooth: F64  # (2, 10) arcsec, cubic terms over the field
    throughput: F64  # (6,) mag, quadratic terms


@dataclass(frozen=True)
class _Optics:
    camera: Camera
    radius_arcsec: float
    chip_shift: F64  # (n, 2) px
    chip_turn: F64  # rad
    chip_scale: F64  # mag

    def to_sky(self, visit: _Visit, fx: F64, fy: F64) -> tuple[F64, F64]:
        """Focal plane (mm) to sky: radial distortion and the visit's smooth terms are cubic in this direction."""
        reach = self.radius_arcsec * PIXEL_MM / SCALE
        u, v = fx / reach, fy / reach
        shrink = 1.0 - DISTORTION * (u * u + v * v)
        du, dv = np.tensordot(visit.smooth, _cubic(u, v), 1)
        a, b = u * shrink * self.radius_arcsec + du, v * shrink * self.radius_arcsec + dv
        c, s = np.cos(visit.turn), np.sin(visit.turn)
        return deproject(c * a + s * b, -s * a + c * b, (visit.ra, visit.dec))

    def to_focal(self, visit: _Visit, ra: F64, dec: F64) -> tuple[F64, F64]:
        """Sky to focal plane, by fixed-point steps (the distortion is a few per cent)."""
        xi, eta = project(ra, dec, (visit.ra, visit.dec))
        c, s = np.cos(visit.turn), np.sin(visit.turn)
        mm = PIXEL_MM / SCALE
        wanted = (c * xi - s * eta) * mm, (s * xi + c * eta) * mm
        fx, fy = wanted
        for _ in range(60):
            gx, gy = project(*self.to_sky(visit, fx, fy), (visit.ra, visit.dec))
            dx, dy = wanted[0] - (c * gx - s * gy) * mm, wanted[1] - (s * gx + c * gy) * mm
            fx, fy = fx + dx, fy + dy
            if max(np.nanmax(np.abs(dx)), np.nanmax(np.abs(dy))) < 1e-9:
                break
        return fx, fy

    def to_pixel(self, chip: int, fx: F64, fy: F64, true: bool = True) -> tuple[F64, F64]:
        """Focal plane to pixels of one chip, with its own faults or as the camera file says."""
        d = self.camera[chip]
        turn = np.radians(d.rotation_deg) + (self.chip_turn[chip] if true else 0.0)
        c, s = np.cos(turn), np.sin(turn)
        dx, dy = fx - d.offset_mm[0], fy - d.offset_mm[1]
        shift = self.chip_shift[chip] if true else np.zeros(2)
        cx, cy = d.centre
        return (c * dx + s * dy) / PIXEL_MM + cx + shift[0], (-s * dx + c * dy) / PIXEL_MM + cy + shift[1]

    def scale_mag(self, visit: _Visit, chip: "int | I64", fx: F64, fy: F64) -> F64:
        """Zero point (mag, AB of one count) at focal-plane places."""
        reach = self.radius_arcsec * PIXEL_MM / SCALE
        u, v = fx / reach, fy / reach
        terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])
        return np.asarray(ZERO + self.chip_scale[chip] + visit.throughput @ terms)


def _cubic(u: F64, v: F64) -> F64:
    return np.stack([u**i * v**j for i in range(4) for j in range(4 - i)])


class _Nominal:
    """The rough WCS of a header: the camera file and the optics without the chips' faults."""

    def __init__(self, optics: _Optics, visit: _Visit, chip: int) -> None:
        self.optics, self.visit, self.chip = optics, visit, chip

    def pixel_to_sky(self, x: Any, y: Any) -> tuple[F64, F64]:
        """Pixels to sky."""
        fx, fy = self.optics.camera[self.chip].to_focal(x, y)
        return self.optics.to_sky(self.visit, fx, fy)


def simulate_mosaic(
    seed: int = 1, n_visits: int = 4, n_chips: int = 103, stars_per_chip: float = 108.0, *,
    floor_px: float = 0.02, outliers: float = 0.01, flux_outliers: float = 0.0, chip_fault_mas: float = 30.0,
    centre: tuple[float, float] = (150.1, 2.2), years: float = 1.0, motion_mas: float = 0.0, pointing_arcsec: float = 0.3,
    reference_mag: float = 21.5, dcr_mas: float = 0.0,
) -> MosaicSurvey:  # fmt: skip
    """Simulate visits of one field.

    Parameters
    ----------
    stars_per_chip
        Measured stars per chip and visit, about.
    floor_px
        Error of each position beside photon noise.
    outliers, flux_outliers
        Shares of positions off by about 1 px, and of fluxes off by half a magnitude.
    chip_fault_mas
        Scatter of the chips' shifts against the camera file.
    motion_mas
        Scatter of proper motions per axis, mas/yr.
    pointing_arcsec
        Scatter of the pointing in the rough WCS.
    reference_mag
        Stars brighter than this are in the reference catalogue (0.5 mas, 10 mmag).
    dcr_mas
        Chromatic shift towards the zenith per tan z and magnitude of colour (needs the telescope's place).
    """
    rng = np.random.default_rng(seed)
    camera = mosaic_camera(n_chips)
    x_low, y_low, x_high, y_high = camera.focal_box()
    radius = max(abs(x_low), abs(y_low), x_high, y_high) * SCALE / PIXEL_MM
    optics = _Optics(
        camera, radius, rng.normal(0, chip_fault_mas / 1000 / SCALE, (n_chips, 2)), rng.normal(0, 2e-5, n_chips),
        rng.normal(0, 0.03, n_chips),
    )  # fmt: skip
    area = n_chips * CHIP[0] * CHIP[1] * SCALE**2
    reach = 1.1 * radius + 200.0
    n_stars = int(stars_per_chip * n_chips / area * (2 * reach) ** 2)
    xi, eta = rng.uniform(-reach, reach, n_stars), rng.uniform(-reach, reach, n_stars)
    ra, dec = deproject(xi, eta, centre)
    mag = np.clip(23.0 + np.log10(rng.uniform(0, 1, n_stars)) / 0.3, 17.0, None)
    motion = rng.normal(0, motion_mas, (n_stars, 2)) if motion_mas else np.zeros((n_stars, 2))
    colour = rng.normal(0.8, 0.4, n_stars)
    epoch = 57000.0
    truth = pd.DataFrame({"ra": ra, "dec": dec, "flux": 10 ** (-0.4 * (mag - AB)), "colour": colour})
    visits = []
    for k in range(n_visits):
        dx, dy = rng.normal(0, 60.0, (2, 1))
        at = deproject(dx, dy, centre)
        mjd = _at_hour_angle(
            epoch + 365.25 * years * (k / max(n_visits - 1, 1) - 0.5), float(rng.uniform(-45, 45)), centre
        )
        level = np.concatenate([rng.normal(0, 0.1, 1), rng.normal(0, 0.015, 5)])
        visits.append(
            _Visit(
                1000 + 2 * k, float(at[0][0]), float(at[1][0]), float(rng.normal(0, 0.01)), mjd,
                rng.normal(0, 0.05, (2, 10)), level,
            )
        )  # fmt: skip
    out = MosaicSurvey(
        camera, [], {}, _references(rng, truth, mag, motion, epoch, reference_mag), truth, [], {}, epoch, optics
    )
    out.extra = {"visits": visits, "motion": motion}
    for visit in visits:
        _observe(
            rng, out, visit, motion,
            (floor_px, outliers, flux_outliers, dcr_mas), pointing_arcsec,
        )  # fmt: skip
    return out


def _references(
    rng: np.random.Generator, truth: pd.DataFrame, mag: F64, motion: F64, epoch: float, limit: float
) -> pd.DataFrame:
    bright = np.flatnonzero(mag < limit)
    error = 0.5e-3 / 3600
    d = truth.dec.to_numpy()[bright] + rng.normal(0, error, bright.size)
    r = truth.ra.to_numpy()[bright] + rng.normal(0, error, bright.size) / np.cos(np.radians(d))
    flux = truth.flux.to_numpy()[bright]
    measured = flux * 10 ** (-0.4 * rng.normal(0, 0.01, bright.size))
    mas = np.radians(1 / 3.6e6)
    colour = truth.colour.to_numpy()[bright]
    return pd.DataFrame({
        "coord_ra": np.radians(r), "coord_dec": np.radians(d), "coord_raErr": np.radians(error), "coord_decErr": np.radians(error),
        "pm_ra": motion[bright, 0] * mas, "pm_dec": motion[bright, 1] * mas, "pm_raErr": 0.05 * mas,
        "pm_decErr": 0.05 * mas, "epoch": epoch, "phot_g_mean_flux": measured, "phot_g_mean_fluxErr": measured * 0.01 / 1.0857,
        "z_flux": measured, "z_fluxErr": measured * 0.01 / 1.0857,
        "g_flux": flux * 10 ** (-0.4 * colour), "i_flux": flux,
    })  # fmt: skip


def _sidereal_deg(mjd_tai: float, longitude: float) -> float:
    """Local mean sidereal time in degrees, to an arc minute (Meeus, chapter 12)."""
    return (280.46061837 + 360.98564736629 * (mjd_tai - 37.0 / 86400 - 51544.5) + longitude) % 360.0


def _at_hour_angle(mjd: float, hour_angle_deg: float, centre: tuple[float, float]) -> float:
    """Return the time near `mjd` when the field has this hour angle at the mosaic's site."""
    now = _sidereal_deg(mjd, mosaic_camera(1).longitude) - centre[0]
    return mjd + ((hour_angle_deg - now + 180.0) % 360.0 - 180.0) / 360.98564736629


def _to_zenith(visit: _Visit, camera: Camera) -> tuple[float, float, float]:
    """tan z of the boresight, and the unit vector to the zenith there, east and north (spherical trigonometry)."""
    h = np.radians(_sidereal_deg(visit.mjd, camera.longitude) - visit.ra)
    lat, d = np.radians(camera.latitude), np.radians(visit.dec)
    cos_z = np.sin(lat) * np.sin(d) + np.cos(lat) * np.cos(d) * np.cos(h)
    east = np.cos(lat) * np.sin(h)
    north = np.sin(lat) * np.cos(d) - np.cos(lat) * np.sin(d) * np.cos(h)
    sin_z = np.hypot(east, north)
    return float(sin_z / cos_z), float(east / sin_z), float(north / sin_z)


def _observe(
    rng: np.random.Generator, out: MosaicSurvey, visit: _Visit, motion: F64,
    faults: tuple[float, float, float, float], pointing: float,
) -> None:  # fmt: skip
    floor, outliers, flux_outliers, dcr = faults
    truth, optics = out.truth, out.optics
    years = (visit.mjd - out.epoch_mjd) / 365.25
    dec = truth.dec.to_numpy() + motion[:, 1] * years / 3.6e6
    ra = truth.ra.to_numpy() + motion[:, 0] * years / 3.6e6 / np.cos(np.radians(dec))
    if dcr:
        tan_z, east, north = _to_zenith(visit, out.camera)
        push = dcr / 3.6e6 * tan_z * (truth.colour.to_numpy() - 0.61)
        ra, dec = ra + push * east / np.cos(np.radians(dec)), dec + push * north
    fx, fy = optics.to_focal(visit, ra, dec)
    chips, stars, xs, ys = [], [], [], []
    for id_, d in out.camera.detectors.items():
        near = np.flatnonzero(np.hypot(fx - d.offset_mm[0], fy - d.offset_mm[1]) < 40.0)
        x, y = optics.to_pixel(id_, fx[near], fy[near])
        on = (x > 5) & (x < CHIP[0] - 6) & (y > 5) & (y < CHIP[1] - 6)
        chips.append(np.full(on.sum(), id_))
        stars.append(near[on])
        xs.append(x[on])
        ys.append(y[on])
    chip, star = np.concatenate(chips), np.concatenate(stars)
    x, y = np.concatenate(xs), np.concatenate(ys)
    zero = optics.scale_mag(visit, chip, fx[star], fy[star])
    counts = truth.flux.to_numpy()[star] * 10 ** (0.4 * (zero - AB))
    noise = np.sqrt(counts / 3.0 + SKY_NOISE**2)
    flux = counts + rng.normal(0, 1, star.size) * noise
    err = 1.8 * noise / counts  # px: about FWHM / 2.35 / (S/N)
    spread = np.hypot(err, floor)
    jump = rng.uniform(size=star.size) < outliers
    x = x + rng.normal(0, 1, star.size) * spread + jump * rng.normal(0, 1.0, star.size)
    y = y + rng.normal(0, 1, star.size) * spread + jump * rng.normal(0, 1.0, star.size)
    wrong = rng.uniform(size=star.size) < flux_outliers
    flux = np.where(wrong, flux * 10 ** (0.4 * rng.normal(0, 0.5, star.size)), flux)
    n = star.size
    table = pd.DataFrame({
        "sourceId": (np.int64(visit.number) << 32) + np.arange(n), "visit": visit.number, "detector": chip, "x": x, "y": y,
        "xErr": err, "yErr": err, "apFlux_12_0_instFlux": flux, "apFlux_12_0_instFluxErr": noise,
        "apFlux_12_0_flag": False, "ixx": 4.0, "iyy": 4.0, "ixy": 0.0, "detect_isPrimary": True, "sizeExtendedness": 0.0,
        "parentSourceId": 0, "deblend_nChild": 0, "hsmPsfMoments_flag": False,
    } | {f"pixelFlags_{f}": False for f in ("edge", "saturated", "interpolatedCenter", "interpolated", "crCenter", "bad")})  # fmt: skip
    good = table["apFlux_12_0_instFlux"].to_numpy() > 3 * noise
    out.sources.append(table[good].reset_index(drop=True))
    out.star.append(star[good])
    off = rng.normal(0, pointing, 2) / 3600
    for number in out.camera.detectors:
        sip = sip_approximation(_Nominal(optics, visit, number), (0, 0, *CHIP), order=3, points=8)
        out.headers[visit.number, number] = _header(sip.wcs.to_header(), visit, number, off)
        mx, my = out.camera[number].offset_mm
        z = float(optics.scale_mag(visit, number, np.array([mx]), np.array([my]))[0])
        out.zero_points[visit.number, number] = 10 ** (-0.4 * (z - AB))


def _header(header: Header, visit: _Visit, chip: int, off: F64) -> Header:
    header["CRVAL2"] += off[1]
    header["CRVAL1"] += off[0] / np.cos(np.radians(visit.dec))
    header["IMAGEW"], header["IMAGEH"] = CHIP
    header["VISIT"], header["DETECTOR"], header["BAND"], header["FILTER"] = visit.number, chip, "z", "HSC-Z"
    header["TIMESYS"], header["MJD-OBS"], header["EXPTIME"], header["AIRMASS"] = "TAI", visit.mjd, 0.0, 1.2
    header["RABORE"], header["DECBORE"] = visit.ra, visit.dec
    header["CALMEAN"] = 10 ** (-0.4 * (ZERO - AB))
    return header
