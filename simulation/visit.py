"""One simulated detector image with its truth."""

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from exposure import Exposure, MoffatPsf, PhotoCalib, SkyWcs, VisitInfo
from exposure.mask import plane_bits
from simulation.render import add_galaxies, add_points
from simulation.sky import Sky
from tasks.arrays import F32, F64, I32

__all__ = ["Conditions", "DetectorImage", "simulate_detector"]

READ_NOISE = 6.0  # electrons
SATURATION = 1.0e5  # electrons


@dataclass(frozen=True)
class Conditions:
    """What differs from visit to visit.

    Seeing is arcsec FWHM, `sky` electrons per px, `nanojansky` nJy per electron, `dx, dy` the pixel offsets of the
    detector's centre from the boresight, `rotation` degrees.
    """

    visit: int
    detector: int
    mjd: float
    exposure_time: float
    ra: float
    dec: float
    rotation: float
    seeing: float
    airmass: float
    sky: float
    nanojansky: float
    band: str
    dx: float
    dy: float


@dataclass(frozen=True)
class DetectorImage:
    """An exposure, the true PSF, and the truth table (kind, id, ra, dec, x, y, flux nJy)."""

    exposure: Exposure
    psf: MoffatPsf
    truth: pd.DataFrame


def detector_wcs(c: Conditions, size: int, pixel_scale: float) -> SkyWcs:
    """Return the TAN WCS of a detector whose centre lies (dx, dy) px from the boresight."""
    t, s = np.radians(c.rotation), pixel_scale / 3600
    cd = s * np.array([[-np.cos(t), np.sin(t)], [np.sin(t), np.cos(t)]])
    return SkyWcs.tan(((size - 1) / 2 - c.dx, (size - 1) / 2 - c.dy), (c.ra, c.dec), cd)


def detector_psf(c: Conditions, size: int, pixel_scale: float, rng: np.random.Generator) -> MoffatPsf:
    """Return an elliptical Moffat that varies by a few per cent over the detector."""
    fwhm = c.seeing / pixel_scale
    wobble = rng.normal(0, 0.012, 5) * fwhm
    e1, e2 = rng.normal(0, 0.015, 4), rng.normal(0, 0.015, 4)
    return MoffatPsf((fwhm, *wobble), 3.3, 41, (0, 0, size, size), tuple(e1), tuple(e2))


def _points(sky: Sky, mjd: float) -> pd.DataFrame:
    """Return all point sources at a time: kind, id, ra, dec (deg), flux and meanFlux (nJy)."""
    stars, trans = sky.stars, sky.transients
    rocks = sky.asteroids.ephemerides(mjd) if len(sky.asteroids.designation) else pd.DataFrame()
    parts = [
        pd.DataFrame(
            {
                "kind": np.where(stars.amplitude > 0, "variable", "star"),
                "id": stars.starId.astype(str),
                "ra": stars.ra,
                "dec": stars.dec,
                "flux": sky.star_flux(mjd),
                "meanFlux": stars.flux,
            }
        ),
        pd.DataFrame(
            {
                "kind": "transient",
                "id": trans.transientId.astype(str),
                "ra": trans.ra,
                "dec": trans.dec,
                "flux": sky.transient_flux(mjd),
                "meanFlux": 0.0,
            }
        ),
    ]
    if len(rocks):
        moving = {"kind": "asteroid", "id": rocks.designation, "ra": rocks.ephRa, "dec": rocks.ephDec}
        parts.append(pd.DataFrame({**moving, "flux": sky.asteroids.flux, "meanFlux": 0.0}))
    return pd.concat(parts, ignore_index=True)


def simulate_detector(
    sky: Sky, c: Conditions, size: int = 1024, pixel_scale: float = 0.2, seed: int = 1
) -> DetectorImage:
    """Render one square detector of `size` px, `pixel_scale` arcsec each; equal arguments give equal bytes.

    The variance plane is the true variance of each pixel (photons, sky and read noise). The PSF is not attached.
    """
    rng = np.random.default_rng([seed, c.visit, c.detector])
    wcs, psf = detector_wcs(c, size, pixel_scale), detector_psf(c, size, pixel_scale, rng)
    counts = np.zeros((size, size))
    truth = _points(sky, c.mjd)
    truth["x"], truth["y"] = wcs.sky_to_pixel(truth.ra.to_numpy(), truth.dec.to_numpy())
    near = truth.x.between(-80, size + 80) & truth.y.between(-80, size + 80)
    truth = truth[near & (truth.flux > 0)].reset_index(drop=True)
    add_points(counts, psf, truth.x.to_numpy(), truth.y.to_numpy(), truth.flux.to_numpy() / c.nanojansky)
    add_galaxies(counts, psf, _galaxies(sky, wcs, size, pixel_scale, c.nanojansky))
    image, variance, mask = _expose(counts, c, rng)
    _add_cosmics(image, mask, rng, round(200 * (size / 4096) ** 2))
    info = VisitInfo(
        c.visit, c.detector, c.mjd, c.exposure_time, "simcam", c.ra, c.dec, c.rotation, c.airmass, "simulation", "field"
    )
    exposure = Exposure(
        image,
        variance,
        mask,
        wcs=wcs,
        photo_calib=PhotoCalib(c.nanojansky),
        visit_info=info,
        band=c.band,
        physical_filter=f"{c.band}_sim",
    )
    exposure.metadata["saturation"] = SATURATION
    inside = truth.x.between(-0.5, size - 0.5) & truth.y.between(-0.5, size - 0.5)
    return DetectorImage(exposure, psf, truth[inside].reset_index(drop=True))


def _galaxies(sky: Sky, wcs: SkyWcs, size: int, pixel_scale: float, nanojansky: float) -> dict[str, F64]:
    """Return the galaxies on a detector as `simulation.render.add_galaxies` takes them."""
    galaxies = sky.galaxies
    x, y = wcs.sky_to_pixel(galaxies.ra.to_numpy(), galaxies.dec.to_numpy())
    galaxies = galaxies.assign(x=x, y=y)[(x > -60) & (x < size + 60) & (y > -60) & (y < size + 60)]
    return {
        "x": galaxies.x.to_numpy(),
        "y": galaxies.y.to_numpy(),
        "flux": galaxies.flux.to_numpy() / nanojansky,
        "re": galaxies.re_arcsec.to_numpy() / pixel_scale,
        "q": galaxies.axis_ratio.to_numpy(),
        "angle": galaxies.angle.to_numpy(),
        "index": galaxies.sersic.to_numpy(),
    }


def _expose(counts: F64, c: Conditions, rng: np.random.Generator) -> tuple[F32, F32, I32]:
    """Return image, variance and mask: noise and a background gradient, saturation with bleed trails, bad columns."""
    size = len(counts)
    v, u = np.mgrid[0:size, 0:size].astype(np.float32) / size
    a, b, g = rng.uniform(-0.03, 0.03, 3)
    gradient = np.float32(c.sky) * (np.float32(a) * u + np.float32(b) * v + np.float32(g) * u * v)
    variance = (counts + c.sky + READ_NOISE**2).astype(np.float32)
    image = counts.astype(np.float32) + gradient
    image += rng.standard_normal((size, size), dtype=np.float32) * np.sqrt(variance)
    mask = np.zeros((size, size), np.int32)
    full = counts + c.sky > SATURATION
    grown = cv2.dilate(full.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(full.astype(np.uint8))
    for x, y, w, h, _area in boxes[1:]:  # short bleed trails along the columns
        grown[max(y - 2 * h, 0) : y + 3 * h, max(x + w // 2 - 1, 0) : x + w // 2 + 2] = True
    image[grown] = np.clip(image[grown], SATURATION * 0.3, SATURATION * 1.05)
    mask[grown] |= plane_bits(["SAT"])
    for column in rng.integers(10, size - 10, max(1, int(6 * (size / 4096) ** 2))):
        start = rng.integers(0, size // 2)
        mask[start:, column] |= plane_bits(["BAD"])
        image[start:, column] *= 1.5
    return image, variance, mask


def _add_cosmics(image: F32, mask: I32, rng: np.random.Generator, n: int) -> None:
    """Add cosmic-ray tracks: half of them marked in the mask, as a real pipeline would find most but not all."""
    size = image.shape[0]
    for k in range(n):
        x, y = rng.uniform(5, size - 6, 2)
        t, length = rng.uniform(0, 2 * np.pi), rng.exponential(7) + 1
        s = np.arange(0, length, 0.5)
        xi = np.clip((x + s * np.cos(t)).astype(int), 0, size - 1)
        yi = np.clip((y + s * np.sin(t)).astype(int), 0, size - 1)
        image[yi, xi] += np.float32(10 ** rng.uniform(2.5, 4))
        if k % 2:
            mask[yi, xi] |= plane_bits(["CR"])
