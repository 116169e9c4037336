"""Small plain pairs of images with known transients, as files."""

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from exposure import SkyWcs

SIDE, SCALE, GAIN, SKY, ZEROPOINT = 260, 0.4, 1.5, 300.0, 27.5


@dataclass
class Truth:
    """Positions (array px, ICRS degrees) and counts of the transients."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    flux: NDArray[np.float64]


def wcs(angle: float = 25.0) -> SkyWcs:
    """A TAN WCS of 0.4 arcsec/px, turned by `angle` degrees."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return SkyWcs.tan((130.0, 120.0), (150.0, 2.0), SCALE / 3600 * np.array([[-c, s], [s, c]]))


def render(x, y, flux, fwhm, seed):
    """Gaussian stars on a sky with the noise of photons and of reading: image and variance, float32."""
    g, sigma = np.arange(SIDE), fwhm / 2.3548
    ex, ey = (np.exp(-0.5 * ((g - v[:, None]) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma) for v in (x, y))
    image = np.einsum("n,nj,ni->ji", flux, ey, ex) + SKY
    variance = image / GAIN + 16
    noise = np.random.default_rng(seed).normal(size=image.shape) * np.sqrt(variance)
    return (image + noise).astype(np.float32), variance.astype(np.float32)


def stars(seed=12, n=90):
    """Positions and counts of stars."""
    rng = np.random.default_rng(seed)
    return rng.uniform(8, SIDE - 8, n), rng.uniform(8, SIDE - 8, n), 10 ** rng.uniform(3.3, 5.0, n)


def write(path, image, variance, header=None, mask=None):
    """IMAGE and VARIANCE extensions, a MASK with the planes BAD, SAT and CR where it is given."""
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, header, name="IMAGE"), fits.ImageHDU(variance, name="VARIANCE")]
    if mask is not None:
        hdus.append(fits.ImageHDU(mask, name="MASK"))
        for bit, name in enumerate(("BAD", "SAT", "CR")):
            hdus[-1].header[f"MP_{name}"] = bit
    fits.HDUList(hdus).writeto(path)


def make_pair(folder, *, with_wcs=True):
    """Write ``new.fits`` and ``old.fits`` into a folder; returns the transients."""
    x, y, flux = stars()
    at = np.array([[60.3, 200.8], [130.6, 90.2], [210.1, 160.4]])
    assert np.hypot(x[:, None] - at[:, 0], y[:, None] - at[:, 1]).min() > 12
    new = np.array([9000.0, 5000.0, 7000.0])
    image, variance = render(*(np.concatenate(p) for p in ((x, at[:, 0]), (y, at[:, 1]), (flux, new))), 3.2, 1)
    mask = np.zeros(image.shape, np.int32)
    mask[:, 30] = 1
    mask[150:156, 214:217] = 2  # next to a transient
    header = wcs().to_header() if with_wcs else fits.Header()
    header["DATE-OBS"], header["EXPTIME"], header["FILTER"] = "2024-05-02T03:04:05", 30.0, "r"
    header["BUNIT"], header["MAGZP"] = "adu", ZEROPOINT
    write(folder / "new.fits", image, variance, header, mask)
    old, spread = render(x, y, flux, 2.8, 2)
    header["DATE-OBS"], header["FILTER"] = "2024-03-01T02:00:00", "g"
    write(folder / "old.fits", old, spread, header)
    return Truth(at[:, 0], at[:, 1], *wcs().pixel_to_sky(at[:, 0], at[:, 1]), new)
