"""Source tables of many visits of a mosaic camera with known faults, with the truth behind every number.

Positions are those of `simulation.optics` with noise; fluxes those of the star, chip scale and smooth field of the
visit.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd
from astropy.io.fits import Header

from exposure.camera import Camera
from exposure.photocalib import AB_ZEROPOINT as AB
from exposure.wcs.sip import sip_approximation
from exposure.wcs.tangent import deproject
from simulation.optics import (
    CHIP,
    PIXEL_MM,
    SCALE,
    ZERO,
    MosaicVisit,
    NominalWcs,
    Optics,
    at_hour_angle,
    mosaic_camera,
    to_zenith,
)
from simulation.turbulence import turbulence
from tasks.arrays import F64, I64

__all__ = ["MosaicSettings", "MosaicSurvey", "simulate_mosaic"]

SKY_NOISE = 155.0  # counts under a star: S/N 10 at mag 23
EPOCH = 57000.0  # MJD TAI of positions and motions
_FLAGS = {
    "apFlux_12_0_flag": False,
    "ixx": 4.0,
    "iyy": 4.0,
    "ixy": 0.0,
    "detect_isPrimary": True,
    "sizeExtendedness": 0.0,
    "parentSourceId": 0,
    "deblend_nChild": 0,
    "hsmPsfMoments_flag": False,
} | {f"pixelFlags_{f}": False for f in ("edge", "saturated", "interpolatedCenter", "interpolated", "crCenter", "bad")}


@dataclass(frozen=True)
class MosaicSettings:
    """What is simulated.

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
    centre
        RA and Dec of the field, degrees.
    years
        From the first visit to the last.
    motion_mas
        Scatter of proper motions per axis, mas/yr.
    pointing_arcsec
        Scatter of the pointing in the rough WCS.
    reference_mag
        Stars brighter than this are in the reference catalogue (0.5 mas, 10 mmag).
    dcr_mas
        Chromatic shift towards the zenith per tan z and magnitude of colour (needs the telescope's site).
    turbulence_mas
        What turbulence displaces the stars of a visit by: rms per axis.
    """

    seed: int = 1
    n_visits: int = 4
    n_chips: int = 103
    stars_per_chip: float = 108.0
    floor_px: float = 0.02
    outliers: float = 0.01
    flux_outliers: float = 0.0
    chip_fault_mas: float = 30.0
    centre: tuple[float, float] = (150.1, 2.2)
    years: float = 1.0
    motion_mas: float = 0.0
    pointing_arcsec: float = 0.3
    reference_mag: float = 21.5
    dcr_mas: float = 0.0
    turbulence_mas: float = 0.0


class Extra(TypedDict, total=False):
    """More of the truth: the visits, and the proper motions (M, 2) of the stars, mas/yr."""

    visits: list[MosaicVisit]
    motion: F64


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
    optics: Optics
    extra: Extra


def simulate_mosaic(settings: MosaicSettings) -> MosaicSurvey:
    """Simulate visits of one field; equal settings give equal bytes."""
    rng = np.random.default_rng(settings.seed)
    n_chips, centre = settings.n_chips, settings.centre
    optics = _optics(rng, settings)
    area = n_chips * CHIP[0] * CHIP[1] * SCALE**2
    reach = 1.1 * optics.radius_arcsec + 200.0
    n_stars = int(settings.stars_per_chip * n_chips / area * (2 * reach) ** 2)
    xi, eta = rng.uniform(-reach, reach, n_stars), rng.uniform(-reach, reach, n_stars)
    ra, dec = deproject(xi, eta, centre)
    mag = np.clip(23.0 + np.log10(rng.uniform(0, 1, n_stars)) / 0.3, 17.0, None)
    motion = rng.normal(0, settings.motion_mas, (n_stars, 2)) if settings.motion_mas else np.zeros((n_stars, 2))
    colour = rng.normal(0.8, 0.4, n_stars)
    truth = pd.DataFrame({"ra": ra, "dec": dec, "flux": 10 ** (-0.4 * (mag - AB)), "colour": colour})
    visits = [_visit(rng, settings, k) for k in range(settings.n_visits)]
    references = _references(rng, truth, mag, motion, settings.reference_mag)
    extra: Extra = {"visits": visits, "motion": motion}
    out = MosaicSurvey(optics.camera, [], {}, references, truth, [], {}, EPOCH, optics, extra)
    for visit in visits:
        _observe(rng, out, visit, settings)
    return out


def _optics(rng: np.random.Generator, settings: MosaicSettings) -> Optics:
    camera = mosaic_camera(settings.n_chips)
    x_low, y_low, x_high, y_high = camera.focal_box()
    radius = max(abs(x_low), abs(y_low), x_high, y_high) * SCALE / PIXEL_MM
    shift = rng.normal(0, settings.chip_fault_mas / 1000 / SCALE, (settings.n_chips, 2))
    turn = rng.normal(0, 2e-5, settings.n_chips)
    return Optics(camera, radius, shift, turn, rng.normal(0, 0.03, settings.n_chips))


def _visit(rng: np.random.Generator, settings: MosaicSettings, k: int) -> MosaicVisit:
    """Return the k-th visit: where it points, when, and what its air and optics do."""
    dx, dy = rng.normal(0, 60.0, (2, 1))
    boresight = deproject(dx, dy, settings.centre)
    mjd = EPOCH + 365.25 * settings.years * (k / max(settings.n_visits - 1, 1) - 0.5)
    mjd = at_hour_angle(mjd, float(rng.uniform(-45, 45)), settings.centre)
    throughput = np.concatenate([rng.normal(0, 0.1, 1), rng.normal(0, 0.015, 5)])
    turn = float(rng.normal(0, 0.01))
    smooth = rng.normal(0, 0.05, (2, 10))
    return MosaicVisit(1000 + 2 * k, float(boresight[0][0]), float(boresight[1][0]), turn, mjd, smooth, throughput)


def _references(rng: np.random.Generator, truth: pd.DataFrame, mag: F64, motion: F64, limit: float) -> pd.DataFrame:
    bright = np.flatnonzero(mag < limit)
    error = 0.5e-3 / 3600
    d = truth.dec.to_numpy()[bright] + rng.normal(0, error, bright.size)
    r = truth.ra.to_numpy()[bright] + rng.normal(0, error, bright.size) / np.cos(np.radians(d))
    flux = truth.flux.to_numpy()[bright]
    measured = flux * 10 ** (-0.4 * rng.normal(0, 0.01, bright.size))
    mas = np.radians(1 / 3.6e6)
    colour = truth.colour.to_numpy()[bright]
    return pd.DataFrame(
        {
            "coord_ra": np.radians(r),
            "coord_dec": np.radians(d),
            "coord_raErr": np.radians(error),
            "coord_decErr": np.radians(error),
            "pm_ra": motion[bright, 0] * mas,
            "pm_dec": motion[bright, 1] * mas,
            "pm_raErr": 0.05 * mas,
            "pm_decErr": 0.05 * mas,
            "epoch": EPOCH,
            "phot_g_mean_flux": measured,
            "phot_g_mean_fluxErr": measured * 0.01 / 1.0857,
            "z_flux": measured,
            "z_fluxErr": measured * 0.01 / 1.0857,
            "g_flux": flux * 10 ** (-0.4 * colour),
            "i_flux": flux,
        }
    )


def _observe(rng: np.random.Generator, out: MosaicSurvey, visit: MosaicVisit, settings: MosaicSettings) -> None:
    """Add the source table of one visit, its true stars, and the headers and zero points of its images."""
    truth = out.truth
    ra, dec = _apparent(out, visit, settings.dcr_mas)
    fx, fy = out.optics.to_focal(visit, ra, dec)
    if settings.turbulence_mas:
        moved = turbulence(
            (settings.seed, visit.number), fx * SCALE / PIXEL_MM, fy * SCALE / PIXEL_MM, 1e-3 * settings.turbulence_mas
        )
        fx, fy = (f + d * PIXEL_MM / SCALE for f, d in zip((fx, fy), moved, strict=True))
    chip, star, x, y = _on_chips(out.optics, fx, fy)
    zero = out.optics.scale_mag(visit, chip, fx[star], fy[star])
    counts = truth.flux.to_numpy()[star] * 10 ** (0.4 * (zero - AB))
    noise = np.sqrt(counts / 3.0 + SKY_NOISE**2)
    flux = counts + rng.normal(0, 1, star.size) * noise
    err = 1.8 * noise / counts  # px: about FWHM / 2.35 / (S/N)
    sigma = np.hypot(err, settings.floor_px)
    jump = rng.uniform(size=star.size) < settings.outliers
    x = x + rng.normal(0, 1, star.size) * sigma + jump * rng.normal(0, 1.0, star.size)
    y = y + rng.normal(0, 1, star.size) * sigma + jump * rng.normal(0, 1.0, star.size)
    wrong = rng.uniform(size=star.size) < settings.flux_outliers
    flux = np.where(wrong, flux * 10 ** (0.4 * rng.normal(0, 0.5, star.size)), flux)
    table = pd.DataFrame(
        {
            "sourceId": (np.int64(visit.number) << 32) + np.arange(star.size),
            "visit": visit.number,
            "detector": chip,
            "x": x,
            "y": y,
            "xErr": err,
            "yErr": err,
            "apFlux_12_0_instFlux": flux,
            "apFlux_12_0_instFluxErr": noise,
        }
        | _FLAGS
    )
    good = flux > 3 * noise
    out.sources.append(table[good].reset_index(drop=True))
    out.star.append(star[good])
    _add_headers(out, visit, rng.normal(0, settings.pointing_arcsec, 2) / 3600)


def _apparent(out: MosaicSurvey, visit: MosaicVisit, dcr_mas: float) -> tuple[F64, F64]:
    """Return RA and Dec (deg) of all stars at the time of a visit, moved by chromatic refraction."""
    truth, motion = out.truth, out.extra["motion"]
    years = (visit.mjd - out.epoch_mjd) / 365.25
    dec = truth.dec.to_numpy() + motion[:, 1] * years / 3.6e6
    ra = truth.ra.to_numpy() + motion[:, 0] * years / 3.6e6 / np.cos(np.radians(dec))
    if dcr_mas:
        tan_z, east, north = to_zenith(visit, out.camera)
        push = dcr_mas / 3.6e6 * tan_z * (truth.colour.to_numpy() - 0.61)
        ra, dec = ra + push * east / np.cos(np.radians(dec)), dec + push * north
    return ra, dec


def _on_chips(optics: Optics, fx: F64, fy: F64) -> tuple[I64, I64, F64, F64]:
    """Return chip, star, x and y (px) of the stars at focal-plane positions (mm) that lie on a chip, chip after chip."""
    chips, stars, xs, ys = [], [], [], []
    order = np.argsort(fx)  # NaN last
    sorted_fx = fx[order]
    for number, d in optics.camera.detectors.items():
        columns = slice(*np.searchsorted(sorted_fx, (d.offset_mm[0] - 40.0, d.offset_mm[0] + 40.0)))
        near = np.sort(order[columns])
        near = near[np.abs(fy[near] - d.offset_mm[1]) < 40.0]
        x, y = optics.to_pixel(number, fx[near], fy[near])
        on = (x > 5) & (x < CHIP[0] - 6) & (y > 5) & (y < CHIP[1] - 6)
        chips.append(np.full(on.sum(), number))
        stars.append(near[on])
        xs.append(x[on])
        ys.append(y[on])
    return np.concatenate(chips), np.concatenate(stars), np.concatenate(xs), np.concatenate(ys)


def _add_headers(out: MosaicSurvey, visit: MosaicVisit, off: F64) -> None:
    """Add the rough headers, off by (2,) degrees, and the true zero points of the images of a visit."""
    for number, detector in out.camera.detectors.items():
        sip = sip_approximation(NominalWcs(out.optics, visit, number), (0, 0, *CHIP), order=3, points=8)
        out.headers[visit.number, number] = _header(sip.wcs.to_header(), visit, number, off)
        mx, my = detector.offset_mm
        z = float(out.optics.scale_mag(visit, number, np.array([mx]), np.array([my]))[0])
        out.zero_points[visit.number, number] = 10 ** (-0.4 * (z - AB))


def _header(header: Header, visit: MosaicVisit, chip: int, off: F64) -> Header:
    header["CRVAL2"] += off[1]
    header["CRVAL1"] += off[0] / np.cos(np.radians(visit.dec))
    for key, value in {
        "IMAGEW": CHIP[0],
        "IMAGEH": CHIP[1],
        "VISIT": visit.number,
        "DETECTOR": chip,
        "BAND": "z",
        "FILTER": "HSC-Z",
        "TIMESYS": "TAI",
        "MJD-OBS": visit.mjd,
        "EXPTIME": 0.0,
        "AIRMASS": 1.2,
        "RABORE": visit.ra,
        "DECBORE": visit.dec,
        "CALMEAN": 10 ** (-0.4 * (ZERO - AB)),
    }.items():
        header[key] = value
    return header
