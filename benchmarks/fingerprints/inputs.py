"""Fixed inputs of the fingerprints: images, tables and rows from seeds, through published names only."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apdb import columns_of
from exposure import Exposure, GaussianPsf, Instrument, PhotoCalib, SkyWcs, VisitInfo
from tasks import IdPacker

__all__ = [
    "ARCSEC", "MJD", "RULES", "SIDE", "detections", "image", "pixels", "plain", "random_rows", "star_table", "stars", "tan",
    "visit_image",
]  # fmt: skip

SIDE = 320  # px
ARCSEC = 1 / 3600
MJD = 61000.0
RULES = Instrument(name="made", pixel_scale=0.4, variance="empirical", zeropoint_value={"constant": 31.4})


def tan(x: float, y: float, ra: float = 150.0, dec: float = 2.0, angle: float = 0.0, scale: float = 0.2) -> SkyWcs:
    """Return a TAN WCS with its reference (ra, dec) at the pixel (x, y); scale in arcsec per px."""
    c, s = (scale * ARCSEC * f(np.radians(angle)) for f in (np.cos, np.sin))
    return SkyWcs.tan((x, y), (ra, dec), np.array([[-c, s], [s, c]]))


def stars(
    seed: int, n: int, faint: float = 3.0, bright: float = 5.0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return x, y (px of a square of `SIDE`) and fluxes, log-uniform."""
    rng = np.random.default_rng(seed)
    return rng.uniform(6, SIDE - 6, n), rng.uniform(6, SIDE - 6, n), 10 ** rng.uniform(faint, bright, n)


def pixels(x: Any, y: Any, flux: Any, sigma: float, shape: tuple[int, int], sky: float = 0.0) -> NDArray[np.float64]:
    """Return Gaussian stars on a flat sky, without noise."""
    gy, gx = np.arange(shape[0]), np.arange(shape[1])
    norm = np.sqrt(2 * np.pi) * sigma
    ex = np.exp(-0.5 * ((gx - np.asarray(x)[:, None]) / sigma) ** 2) / norm
    ey = np.exp(-0.5 * ((gy - np.asarray(y)[:, None]) / sigma) ** 2) / norm
    return np.asarray(np.einsum("n,nj,ni->ji", flux, ey, ex) + sky)


def image(sigma: float, seed: int, pad: int = 0, changed: bool = False, noise: float = 6.0) -> Exposure:
    """Return a calibrated image of fixed stars; a changed one has transients, a dipole, a trail, rays and bad pixels."""
    x, y, flux = stars(5, 110)
    if changed:
        tx, ty, tflux = stars(6, 14, 2.8, 4.0)
        x, y, flux = np.append(x, tx), np.append(y, ty), np.append(flux, tflux)
        x[3] += 0.7  # a dipole
        along = np.linspace(0, 22, 40)
        x, y = np.append(x, 60 + along), np.append(y, 250 + 0.4 * along)
        flux = np.append(flux, np.full(along.size, 150.0))
    side = SIDE + 2 * pad
    light = pixels(x + pad, y + pad, flux, sigma, (side, side))
    variance = light + noise**2
    rng = np.random.default_rng(seed)
    values = light + rng.normal(size=light.shape) * np.sqrt(variance)
    mask = np.zeros(light.shape, np.int32)
    if changed:
        for cx, cy in rng.integers(10, SIDE - 10, (15, 2)):
            values[cy + pad, cx + pad : cx + pad + 3] += 900.0
        values[100 + pad : 140 + pad, 200 + pad] = np.nan
        mask[100 + pad : 140 + pad, 200 + pad] = 1  # BAD
    return Exposure(
        values.astype(np.float32), variance.astype(np.float32), mask, (-pad, -pad), tan(160.0, 150.0),
        GaussianPsf(sigma, 41, (160.0, 160.0)), PhotoCalib(1.3), VisitInfo(71, 3, MJD, 30.0, "fixed"), "r",
    )  # fmt: skip


def star_table() -> pd.DataFrame:
    """Return the sources of the image for the kernel."""
    x, y, flux = stars(5, 110)
    table = pd.DataFrame({"x": x, "y": y, "psfFlux": flux, "snr": flux / 60.0})
    table["star"], table["isolated"], table["flagged"] = True, True, False
    return table.sort_values("psfFlux", ascending=False, ignore_index=True)


def plain(seed: int, sigma: float, changed: bool = False, n: int = 130) -> Exposure:
    """Return an image without variance, PSF, calibration and sources, on a sloping sky."""
    x, y, flux = stars(15, n, 3.2, 5.2)
    if changed:
        tx, ty, tflux = stars(16, 8, 3.4, 4.4)
        x, y, flux = np.append(x, tx), np.append(y, ty), np.append(flux, tflux)
    light = pixels(x, y, flux, sigma, (SIDE, SIDE), 400.0) + 0.05 * np.arange(SIDE)
    noisy = light + np.random.default_rng(seed).normal(size=light.shape) * np.sqrt(light)
    return Exposure(
        noisy.astype(np.float32), np.full(light.shape, np.nan, np.float32), np.zeros(light.shape, np.int32), (0, 0),
        tan(160.0, 160.0, scale=0.4), None, PhotoCalib(1.0), VisitInfo(90 + seed, 3, MJD + seed, 30.0, "fixed"), "r",
    )  # fmt: skip


def random_rows(table: str, n: int, seed: int) -> pd.DataFrame:
    """Return rows of a table of the APDB whose columns are random."""
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {}
    for c in columns_of(table):
        kind = c.dtype.kind
        values[c.name] = (
            rng.normal(100, 20, n).astype(c.dtype)
            if kind == "f"
            else rng.integers(1, 50, n).astype(c.dtype)
            if kind in "iu"
            else rng.uniform(size=n) < 0.3
            if kind == "b"
            else np.full(n, "r", object)
        )
    return pd.DataFrame(values)


def visit_image(visit: int, band: str) -> Exposure:
    values = np.random.default_rng(visit).normal(0, 3, (200, 200)).astype(np.float32)
    return Exposure(
        values, np.full_like(values, 9), np.zeros(values.shape, np.int32), (0, 0), tan(100.0, 100.0, 30.0, -20.0),
        GaussianPsf(1.8, 21), PhotoCalib(1.0), VisitInfo(visit, 3, MJD + visit, 30.0, "fixed"), band,
    )  # fmt: skip


def detections(e: Exposure) -> pd.DataFrame:
    """Return DiaSource rows of a visit: a grid of objects that scatter a little."""
    visit, detector = e.key
    rng = np.random.default_rng(100 + visit)
    x, y = (g.ravel()[: 20 + visit] for g in np.meshgrid(np.arange(20.0, 181, 40), np.arange(20.0, 181, 40)))
    n = x.size
    values = {}
    for c in columns_of("DiaSource"):
        empty = {"f": np.nan if c.nullable else 0.0, "b": False, "O": e.band}.get(c.dtype.kind, 0)
        values[c.name] = np.full(n, empty).astype(c.dtype)
    ra, dec = e.require_wcs().pixel_to_sky(x, y)
    flux = rng.normal(500, 50, n).astype(np.float32)
    return pd.DataFrame(values).assign(
        diaSourceId=IdPacker(1 << 20, 64).ids(visit, detector, n),
        visit=np.int64(visit),
        detector=np.int16(detector),
        ra=ra + rng.normal(0, 0.05 * ARCSEC, n),
        dec=dec + rng.normal(0, 0.05 * ARCSEC, n),
        x=x,
        y=y,
        raErr=0.1 * ARCSEC,
        decErr=0.1 * ARCSEC,
        ra_dec_Cov=0.0,
        psfFlux=flux,
        psfFluxErr=25.0,
        apFlux=flux,
        apFluxErr=25.0,
        scienceFlux=flux + 90,
        scienceFluxErr=25.0,
        trailLength=0.1,
        reliability=0.9,
        band=e.band,
        midpointMjdTai=MJD + visit,
        timeProcessedMjdTai=MJD + 50 + visit,
        bboxSize=20,
    )
