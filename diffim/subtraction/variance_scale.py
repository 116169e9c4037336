"""The scale of a variance plane, from the scatter of the sky."""

import numpy as np

from diffim.errors import DifferencingError
from exposure import Exposure, estimate_background
from exposure.mask import plane_bits, usable_pixels
from exposure.noise import near_sources
from exposure.quantiles import median, quantiles
from tasks.arrays import F32, F64

__all__ = ["check_variance", "scale_variance"]

NOT_SKY = ("DETECTED", "DETECTED_NEGATIVE", "BAD", "SAT", "INTRP", "CR", "NO_DATA")
SAMPLE = 250_000  # pixels that the scale of a variance plane is known from
ENOUGH_SKY = 2000  # pixels
LAGS = (1, 2)  # px
BANDS, LEAST_ROWS, LOOKS = 4, 48, 2  # of rows, that hold the sample, and how often sources are searched there
CROWDED = 0.9  # of the scatter of all pixels: less away from sources is the light of stars
COARSE = 0.005  # share of values that are equal: more is digitisation
_MEANT = {"sigma": "standard deviations", "weight": "inverse variances"}
WHITE = 0.08  # relative difference of the scatter at those lags: more (resampling makes 0.3) is no white noise


def scale_variance(exposure: Exposure, limit: float = 10.0, *, static_sky: bool = True) -> float:
    """Scale the variance plane in place so that it is that of the sky's noise; returns the factor.

    Parameters
    ----------
    static_sky
        The image has stars. The light of those too faint to be left out is no noise, as it is gone from a difference:
        where the noise is white it is known from differences of neighbours along both diagonals, where it cancels.
        Otherwise (and of resampled images) the interquartile range of the sky is made right; in a crowded field that of what
        is away from all sources.

    Raises
    ------
    DifferencingError
        Even the image's own scatter asks for more than `limit`.
    """
    factor = (_white_factor(exposure) if static_sky else 0.0) or _sky_factor(exposure, limit, static_sky)
    if factor > limit:
        raise DifferencingError(
            f"the variance plane is wrong by a factor {factor:.1f}, more than {limit}",
            **exposure.where,
        )
    if factor <= 0 or not np.isfinite(factor):
        return 1.0
    exposure.variance *= np.float32(factor)
    return factor


def check_variance(exposure: Exposure, limit: float = 10.0, *, relative: bool = False) -> None:
    """Refuse a variance plane that is none: stars would be found, and PSFs measured, by a noise that the image has not.

    Parameters
    ----------
    relative
        The plane comes of weights, which many programs write without a scale (exposure times, relative sensitivities):
        it is scaled, in place, to the noise of the sky.

    Raises
    ------
    DifferencingError
        The sky scatters by more than `limit` times the plane, or the plane holds inverse variances.
    """
    factor = _white_factor(exposure) or _sky_factor(exposure, np.inf)
    step = max(1, int(np.sqrt(exposure.image.size / SAMPLE)))
    some = exposure.variance[::step, ::step][exposure.good()[::step, ::step]]
    usual = median(some)
    if factor <= 0 or not np.isfinite(factor) or not usual > 0:
        return
    inverse = (
        abs(np.log(factor * usual * usual)) < 1.0 and abs(np.log(factor)) > 2.0
    )  # noise^2 = factor x usual = 1 / usual
    if relative and not inverse:
        exposure.variance *= np.float32(factor)
        return
    if factor <= limit and not inverse:
        return
    meant = "sigma" if abs(np.log(factor / usual)) < 1.0 else "weight"
    if relative:
        hint = ": weights as large as the sky's variance: name them as planes.variance where they are that, else scale them"
    elif inverse or meant == "sigma":
        hint = f": if it holds {_MEANT[meant]}, name it as planes.{meant} in the instrument file"
    else:
        hint = ": correct it, or leave it out, by an instrument file without planes.variance, and the noise is measured"
    raise DifferencingError(
        f"the variance plane is wrong by a factor {factor:.3g}{hint}",
        **exposure.where,
    )


def _white_factor(exposure: Exposure) -> float:
    """Return the variance of the noise over that of the plane, 0 where the noise is not white or there is no sky.

    Light that is smooth over a few px cancels in a - b - c + d of the corners of a square. White noise has the same
    scatter there for a square of any side; that of a resampled image has not.
    """
    height, width = exposure.image.shape
    rows = np.arange(0, height - max(LAGS), max(1, height * width // SAMPLE))
    part = rows[:, None] + np.array([0, *LAGS])
    image, variance = exposure.image[part], exposure.variance[part]
    usable = usable_pixels(
        image.reshape(-1, width),
        variance.reshape(-1, width),
        exposure.mask[part].reshape(-1, width),
        plane_bits(NOT_SKY),
    ).reshape(image.shape)
    if np.count_nonzero(usable) < ENOUGH_SKY:
        return 0.0
    usable &= variance < 2 * median(variance[usable])
    z = np.where(usable, image / np.sqrt(np.where(usable, variance, 1)), np.nan)
    variances = []
    for k, lag in enumerate(LAGS):
        across = z[:, 0] - z[:, 1 + k]
        rest = (across[:, lag:] - across[:, :-lag]) / 2
        rest = rest[np.isfinite(rest)]
        if rest.size < ENOUGH_SKY:
            return 0.0
        variances.append(_robust_sigma(rest) ** 2)
    near, far = variances
    return near if abs(near - far) < WHITE * far else 0.0


def _sky_factor(exposure: Exposure, limit: float, crowded: bool = False) -> float:
    """Return the variance of the sky over that of the plane, by interquartile ranges; 1 where there is no sky.

    Of what may be `crowded` with stars that of pixels away from them, where it is less.
    """
    step = max(1, int(np.sqrt(exposure.image.size / SAMPLE)))
    part = (slice(None, None, step), slice(None, None, step))
    image, variance = exposure.image[part], exposure.variance[part]
    usable = usable_pixels(image, variance, exposure.mask[part], plane_bits(NOT_SKY))
    if np.count_nonzero(usable) < 2:
        return 1.0
    level = estimate_background(image, ~usable, 64 // step).level
    rest, sigma2 = (image - level)[usable], variance[usable]
    sky = sigma2 < 2 * median(sigma2)  # objects are not known yet: leave out pixels that their light makes noisy
    rest, sigma2 = rest[sky], sigma2[sky]
    factor = _robust_sigma(rest / np.sqrt(sigma2)) ** 2
    factor = factor if factor <= limit else _robust_sigma(rest) ** 2 / median(sigma2)
    clear = _clear_factor(exposure) if crowded else np.inf
    return clear if clear < CROWDED * factor else factor


def _clear_factor(exposure: Exposure) -> float:
    """Return the variance of what is away from sources over that of the plane, by interquartile ranges; infinite without such.

    A second look finds fainter sources, as what all pixels scatter by is no noise where most have the light of some star.
    """
    height, width = exposure.image.shape
    rows = min(max(SAMPLE // (BANDS * width), LEAST_ROWS), height)
    bands = [slice(low, low + rows) for low in np.linspace(0, height - rows, BANDS).astype(int)]
    image, variance, mask = (
        np.concatenate([plane[b] for b in bands]) for plane in (exposure.image, exposure.variance, exposure.mask)
    )
    sky = usable_pixels(image, variance, mask, plane_bits(NOT_SKY))
    if np.count_nonzero(sky) < ENOUGH_SKY:
        return np.inf
    z = np.where(sky, image / np.sqrt(np.where(sky, variance, 1)), np.float32(0)).astype(np.float32)
    sky &= variance < 2 * median(variance[sky])
    for _ in range(LOOKS):
        z -= np.float32(median(z[sky]))
        sky &= ~near_sources(z, sky)
        if np.count_nonzero(sky) < ENOUGH_SKY:
            return np.inf
    return _robust_sigma(z[sky]) ** 2


def _robust_sigma(values: F32 | F64) -> float:
    """Return the interquartile range in units of that of a unit Gaussian, or where it falls on steps of digitisation the rms."""
    first, low, high, last = quantiles(values, 0.01, 0.25, 0.75, 0.99)
    width = (high - low) / 1.349 or (last - first) / 4.652
    equal = max(np.count_nonzero(np.abs(values - edge) <= 1e-3 * width) for edge in (low, high))
    if equal > COARSE * values.size:
        return float(np.std(values[np.abs(values - median(values)) <= 5 * width]))
    return float(0.7413 * (high - low))
