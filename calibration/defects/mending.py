"""Values for lone bad pixels: what the light around them says, with the error of saying so.

A bad pixel would cost every kernel that touches it. Star light is a stationary process whose autocovariance is that of
the PSF, averaged over the positions of stars inside their pixels; the best linear guess of a missing pixel from its
neighbours follows (Wiener; Rasmussen & Williams 2006, eq. 2.25), and so does the error of the guess.
"""

from dataclasses import replace

import cv2
import numpy as np

from calibration.lonely import are_scattered, lonely_pixels
from calibration.stars import bright_stars
from exposure import Exposure, Instrument, estimate_background
from exposure.flagging.bad_pixels import known_offsets
from exposure.mask import plane_bits
from exposure.stamps import gather
from tasks.arrays import F32, F64, I64, Flags, nearest_pixels

__all__ = ["find_sharp_pixels", "mend_bad_pixels", "mend_with_sky"]

REACH = 2  # px: neighbours that a guess is made from
LEAST_KNOWN = 4  # of the eight pixels around: a guess from fewer is none
LEAST_NOISE = 1e-3  # of the power of the light around: keeps the equations well posed
STARS = 200
MESH = 64  # px, of the sky beneath pixels that are mended before it is taken off
SHARP, ALONG = 6.0, 3.0  # sigma of pixels that are tested: anywhere, and next to a marked one
SURE = 4.0  # sigma above the guess
TRACK = 6  # px of a track that are followed
OFFSET_ERROR = 0.1  # of an offset: the detector may be warmer or colder than when it was learned
CHUNK = 4096
USUAL_FWHM = 2.5  # px, where no star tells


def mend_bad_pixels(exposure: Exposure, rules: Instrument) -> int:
    """Guess the pixels that the instrument file calls bad, in place, where their neighbours allow it; returns how many.

    Without such a list it is those that the image's own mask calls bad and that stand alone, where there are many of them.
    Where the map tells by how much a pixel is off, its own value counts too, each with its error: beneath a bright star
    a warm pixel still tells more than its neighbours. They are INTRP instead of BAD then, and their variance is that of
    the guess. What bad pixels hold is no saturation. The sky must be taken off.
    """
    if _nothing_to_mend(exposure, rules):
        return 0
    bad = exposure.flagged("BAD") & ~exposure.flagged("NO_DATA")
    if not rules.bad_pixels:
        bad &= lonely_pixels(exposure)
    usable = exposure.good("BAD", "SAT", "CR")
    full = exposure.flagged("SAT")
    exposure.mask[bad] &= np.int32(~plane_bits(["SAT"]))
    around = cv2.boxFilter(usable.astype(np.float32), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    y, x = np.nonzero(bad & (around > LEAST_KNOWN - 0.5))
    if y.size == 0:
        return 0
    value, variance = _by_light(exposure, usable, x, y, _autocovariance(exposure))
    if rules.bad_pixels:
        own, own_variance = _own_values(exposure, rules, x, y)
        weight = np.where(full[y, x] | ~np.isfinite(own_variance + own), 0, variance / (variance + own_variance))
        value, variance = np.where(weight > 0, weight * own + (1 - weight) * value, value), (1 - weight) * variance
    exposure.image[y, x], exposure.variance[y, x] = value, variance
    exposure.mask[y, x] &= np.int32(~plane_bits(["BAD"]))
    exposure.mask[y, x] |= np.int32(plane_bits(["INTRP"]))
    return int(y.size)


def _own_values(exposure: Exposure, rules: Instrument, x: I64, y: I64) -> tuple[F64, F64]:
    """Return what bad pixels x, y (N,) hold less what the map says they are off by, and its variance (image unit^2)."""
    offset, scatter = (plane[y, x].astype(np.float64) for plane in known_offsets(rules.bad_pixels, exposure))
    spread = np.maximum(scatter, 0) ** 2 + (OFFSET_ERROR * offset) ** 2
    return exposure.image[y, x] - offset, spread + np.maximum(exposure.variance[y, x], 0)


def mend_with_sky(exposure: Exposure, rules: Instrument) -> int:
    """Do what `mend_bad_pixels` does for an image that has its sky still, and may have no variance yet."""
    if _nothing_to_mend(exposure, rules):
        return 0
    bad = exposure.flagged("BAD")
    sky = estimate_background(exposure.image, ~np.isfinite(exposure.image) | exposure.flagged("BAD", "NO_DATA"), MESH)
    given = np.isfinite(exposure.variance)
    variance = np.where(given, exposure.variance, sky.rms**2 + np.maximum(exposure.image - sky.level, 0))
    bare = replace(exposure, image=exposure.image - sky.level, variance=variance.astype(np.float32))
    count = mend_bad_pixels(bare, rules)  # the mask is that of the exposure
    mended = bad & exposure.flagged("INTRP")
    exposure.image[mended] = (bare.image + sky.level)[mended]
    exposure.variance[mended & given] = bare.variance[mended & given]
    return count


def _nothing_to_mend(exposure: Exposure, rules: Instrument) -> bool:
    """Whether neither the instrument file nor the image's own mask says what to mend."""
    return not rules.bad_pixels and not are_scattered(exposure)


def _by_light(exposure: Exposure, usable: Flags, x: I64, y: I64, covariance: F64) -> tuple[F64, F64]:
    """Return the guess of pixels x, y (N,) from those around, and its variance (image unit^2), both (N,).

    `covariance` is that of `_autocovariance`.
    """
    image = np.where(usable, exposure.image, 0).astype(np.float32)
    noise = _sky_variance(exposure, usable, x, y)
    near = gather(image, x, y, 3, 0.0)
    near[:, 1, 1] = 0
    power = np.maximum(np.square(near, dtype=np.float64).max(axis=(1, 2)), noise)
    value, error = np.zeros(y.size), np.ones(y.size)
    for low in range(0, y.size, CHUNK):
        part = slice(low, low + CHUNK)
        value[part], error[part] = _guess(image, usable, x[part], y[part], covariance, (noise / power)[part])
    return value, noise + power * error**2


def find_sharp_pixels(exposure: Exposure, spare: Flags) -> Flags:
    """Return the pixels (height, width) that are brighter than any star would make them: cosmic rays.

    A track is followed: a marked pixel says nothing of its neighbours. Pixels of `spare` (known stars) are not tested.
    """
    usable = exposure.good("BAD", "SAT", "CR")
    covariance = _autocovariance(exposure)
    sigma = np.sqrt(np.where(usable, exposure.variance, 1))
    out = np.zeros(usable.shape, np.bool_)
    test = usable & ~spare & (exposure.image > SHARP * sigma)
    for _ in range(TRACK):
        y, x = np.nonzero(test & ~out)
        if y.size == 0:
            break
        value, variance = _by_light(exposure, usable & ~out, x, y, covariance)
        own = exposure.variance[y, x] - _sky_variance(exposure, usable, x, y)
        sharp = exposure.image[y, x] - value > SURE * np.sqrt(variance + np.maximum(own, 0))
        out[y[sharp], x[sharp]] = True
        if not sharp.any():
            break
        near = cv2.dilate(out.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        test = usable & ~spare & near & (exposure.image > ALONG * sigma)
    return out


def _sky_variance(exposure: Exposure, usable: Flags, x: I64, y: I64) -> F64:
    """Return the median variance of usable pixels around each: that of a bad pixel holds its own light's noise."""
    near = gather(np.where(usable, exposure.variance, np.float32(np.nan)), x, y, 2 * REACH + 1, np.nan)
    return np.asarray(np.nanmedian(near, axis=(1, 2)), np.float64)


def _autocovariance(exposure: Exposure) -> F64:
    """Return the autocovariance of star light at lags up to 2 REACH, 1 in the middle, shape (4 REACH + 1,) * 2."""
    lag = 2 * REACH
    side = 2 * (lag + 5) + 1
    stars = bright_stars(exposure)
    ix = nearest_pixels(stars.x[:STARS]) - exposure.origin[0]
    iy = nearest_pixels(stars.y[:STARS]) - exposure.origin[1]
    stamps = gather(exposure.image, ix, iy, side, np.nan).astype(np.float64)
    spoilt = (gather(exposure.mask, ix, iy, side, -1) & plane_bits(["BAD", "SAT", "NO_DATA", "CR"])) != 0
    clean = ~spoilt[:, lag + 3 : -lag - 3, lag + 3 : -lag - 3].any(axis=(1, 2)) & np.isfinite(stamps).all(axis=(1, 2))
    stamps = np.where(spoilt, 0, stamps)[clean]
    g = np.arange(-lag, lag + 1)
    if len(stamps) < 5:
        return np.asarray(np.exp(-(g[:, None] ** 2 + g[None, :] ** 2) / (4 * (USUAL_FWHM / 2.3548) ** 2)))
    stamps /= np.sqrt((stamps**2).sum(axis=(1, 2)))[:, None, None]
    power = (np.abs(np.fft.rfft2(stamps, s=(2 * side, 2 * side))) ** 2).mean(
        axis=0
    )  # of a positive definite covariance
    out = np.fft.irfft2(power, s=(2 * side, 2 * side))
    return np.asarray(out[g[:, None], g[None, :]] / out[0, 0])


def _guess(image: F32, usable: Flags, x: I64, y: I64, covariance: F64, noise: F64) -> tuple[F64, F64]:
    """Return guesses (N,) of pixels from their neighbours, and their errors as a fraction of the light around.

    `noise` is the variance of a pixel over the power of that light.
    """
    side, lag = 2 * REACH + 1, 2 * REACH
    g = np.arange(side) - REACH
    dy, dx = (a.ravel() for a in np.meshgrid(g, g, indexing="ij"))
    others = (dy != 0) | (dx != 0)
    dy, dx = dy[others], dx[others]
    between = covariance[dy[:, None] - dy[None, :] + lag, dx[:, None] - dx[None, :] + lag]
    to_middle = covariance[dy + lag, dx + lag]
    seen = gather(usable.astype(np.uint8), x, y, side, 0).reshape(len(x), side**2)[:, others] > 0
    values = gather(image, x, y, side, 0.0).reshape(len(x), side**2)[:, others].astype(np.float64)
    system = (
        between * (seen[:, :, None] & seen[:, None, :])
        + np.eye(dy.size) * np.where(seen, (noise + LEAST_NOISE)[:, None], 1.0)[:, None, :]
    )
    right = to_middle * seen
    weight = np.linalg.solve(system, right[..., None])[..., 0]
    error = np.sqrt(np.clip(1 - (weight * right).sum(1), 0, 1))
    return (weight * values).sum(1), error
