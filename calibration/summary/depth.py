"""How deep an exposure is: limiting magnitude and effective exposure time."""

import logging
from dataclasses import dataclass, field

import numpy as np

from calibration.summary.statistics import NAN, Values

__all__ = ["Fiducials", "effective_time", "fiducial_mag_limit", "mag_limit"]

log = logging.getLogger("alertprod.summary")


def mag_limit(area: float, sky: float, zero_point: float, read_noise: float, gain: float, snr: float = 5.0) -> float:
    """Return the AB magnitude of a point source of that S/N (SMTN-002).

    Parameters
    ----------
    area
        Noise-equivalent area of the PSF, px^2.
    sky
        Counts per pixel.
    read_noise
        Counts (not electrons).
    gain
        Electrons per count.
    """
    if not all(map(np.isfinite, (area, sky, zero_point, read_noise, gain))):
        return NAN
    background = (sky / gain + read_noise**2) * area
    with np.errstate(invalid="ignore", divide="ignore"):
        source = snr**2 / (2 * gain) + np.sqrt(snr**4 / (4 * gain**2) + snr**2 * background)
        return float(zero_point - 2.5 * np.log10(source))


@dataclass(frozen=True)
class Fiducials:
    """Fiducial values by band, and the most that clear nights may gain.

    Parameters
    ----------
    sky
        Counts per pixel and second.
    psf_sigma
        px.
    zero_point, mag_lim
        AB magnitudes of one count per second, and of a point source of S/N 5.
    exposure_time
        Seconds.
    read_noise
        Electrons.
    """

    sky: dict[str, float] = field(default_factory=dict)
    psf_sigma: dict[str, float] = field(default_factory=dict)
    zero_point: dict[str, float] = field(default_factory=dict)
    exposure_time: dict[str, float] = field(default_factory=dict)
    mag_lim: dict[str, float] = field(default_factory=dict)
    read_noise: dict[str, float] = field(default_factory=dict)
    max_transparency: float = float("inf")


def effective_time(
    band: str, exposure_time: float, psf_sigma: float, sky: float, zero_point: float, mag_lim: float, f: Fiducials
) -> Values:
    """Return the effective exposure time (s) and its three scale factors (DMTN-296); NaN where the band has no
    fiducial.

    Parameters
    ----------
    exposure_time
        Seconds.
    psf_sigma
        px.
    sky
        Counts per pixel.
    zero_point, mag_lim
        AB magnitudes of one count per exposure, and of a point source of S/N 5.
    f
        Fiducial values.
    """
    if not band:
        log.warning("no band: effective times are NaN")
        return dict.fromkeys(("effTime", "effTimePsfSigmaScale", "effTimeSkyBgScale", "effTimeZeroPointScale"), NAN)
    with np.errstate(invalid="ignore", divide="ignore"):
        psf = np.float64(psf_sigma) / f.psf_sigma.get(band, NAN)
        sky_rate = np.float64(sky) / exposure_time
        zero = np.float64(f.zero_point.get(band, NAN)) - (zero_point - 2.5 * np.log10(exposure_time))
        clear = 10.0 ** (-0.8 * zero)
        depth = 10.0 ** (0.8 * (np.float64(mag_lim) - f.mag_lim.get(band, NAN)))
        return {
            "effTime": float(f.exposure_time.get(band, NAN) * depth),
            "effTimePsfSigmaScale": float(psf**-2),
            "effTimeSkyBgScale": float(f.sky.get(band, NAN) / sky_rate),
            "effTimeZeroPointScale": float(np.minimum(clear, f.max_transparency)) if np.isfinite(clear) else NAN,
        }


def fiducial_mag_limit(band: str, f: Fiducials, pixel_scale: float, gain: float = 1.0) -> float:
    """Return the limiting magnitude that a band's other fiducials amount to; NaN for a band without them."""
    values = [d.get(band, NAN) for d in (f.psf_sigma, f.sky, f.zero_point, f.exposure_time, f.read_noise)]
    sigma, sky, zero, seconds, noise = values
    if not all(map(np.isfinite, values)):
        return NAN
    geometric = (2.355 * sigma * pixel_scale - 0.052) / 0.822 / pixel_scale
    return mag_limit(2.266 * geometric**2, sky * seconds, zero + 2.5 * np.log10(seconds), noise / gain, gain)
