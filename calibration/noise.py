"""Background and variance of an image that came without them."""

import cv2
import numpy as np

from exposure import Background, Exposure, Instrument, estimate_background
from exposure.background import subtract_plane
from exposure.errors import BadPixels, SkyClipped
from exposure.quantiles import median
from exposure.sky_steps import subtract_steps
from exposure.threads import in_bands
from tasks.arrays import F32, Flags

SAMPLE = 250_000
ROWS = 64  # that are filled at once: no maps as large as the image beside its own
CLIPPED = 0.25  # share of the least value above which the sky was cut off

__all__ = ["fill_variance", "subtract_background"]


def subtract_background(exposure: Exposure, mesh: int) -> F32:
    """Subtract the sky in place, with a mesh of so many px; returns its rms (height, width), image unit.

    Detected objects are left out of a second estimate.

    Raises
    ------
    BadPixels
        Fewer than 1 % of the pixels are usable.
    """
    bad = ~np.isfinite(exposure.image) | exposure.flagged("BAD", "SAT", "NO_DATA", "CR")
    if bad.mean() > 0.99:
        raise BadPixels("less than 1 % of the pixels are usable", **exposure.where)
    exposure.metadata["leastValueShare"] = _least_share(exposure.image, bad)
    exposure.metadata["nSkySteps"] = float(subtract_steps(exposure))
    subtract_plane(exposure, mesh)
    first = estimate_background(exposure.image, bad, mesh)
    objects = _objects(exposure.image, bad, first)
    del first  # maps as large as the image
    second = estimate_background(exposure.image, bad | _grow(objects, 3), mesh)
    second.take_off(exposure.image)
    rms = _quantised(exposure, bad | objects, second)
    exposure.metadata["skyLevel"], exposure.metadata["skyRms"] = second.global_level, second.global_rms
    return rms


def _objects(image: F32, bad: Flags, sky: Background) -> Flags:
    """Return where the mean of 3x3 pixels is 4.5 sigma above the sky."""
    flat = image.copy()
    sky.take_off(flat)
    flat[bad] = 0
    smooth = cv2.blur(flat, (3, 3))
    return np.asarray(smooth > np.multiply(sky.rms, np.float32(1.5), out=flat))


def _quantised(exposure: Exposure, leave_out: Flags, sky: Background) -> F32:
    """Return the rms map, floored where coarse digitisation makes clipped percentiles collapse to whole steps.

    The sky is taken off already.
    """
    step = max(1, exposure.image.size // 500_000)
    rest = exposure.image[~leave_out][::step].copy()  # of the few alone, not of all that they were taken from
    if rest.size < 100:
        return sky.rms
    rest = rest[np.abs(rest - median(rest)) < 5 * max(sky.global_rms, 1e-12)]
    middle = median(rest)
    lower = rest[rest < middle] - middle  # faint objects hide in the upper half
    floor = 0.9 * float(np.sqrt(np.mean(lower**2))) if lower.size else 0.0
    return np.maximum(sky.rms, np.float32(floor), out=sky.rms)


def _least_share(image: F32, bad: Flags) -> float:
    """Return how much of an image has its least value."""
    step = max(1, int(np.sqrt(image.size / SAMPLE)))
    some = image[::step, ::step][~bad[::step, ::step]]
    return float(np.mean(some == some.min())) if some.size else 0.0


def _grow(where: Flags, radius: int) -> Flags:
    """Return the pixels within a box of 2 radius + 1 px around each that is set."""
    side = 2 * radius + 1
    return np.asarray(cv2.dilate(where.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)


def fill_variance(exposure: Exposure, rms: F32, rules: Instrument) -> None:
    """Set the variance plane by the instrument's rule; the image must be background-subtracted.

    `rms` (height, width) is the scatter of its sky, image unit.

    ``plane`` keeps the file's own; ``gain`` adds photon noise of sky and objects to the read noise; ``empirical`` takes
    the sky noise as measured and adds the photon noise of objects. A gain that nothing tells is estimated from the
    image, and the sky's noise is then taken as measured: its level may be less than the sky's light, or more.

    Raises
    ------
    BadPixels
        The instrument promises a variance plane that the file does not have.
    GainUnknown, SkyClipped
        Nothing tells the gain, or the noise of the sky.
    """
    if rules.variance == "plane":
        if not np.isfinite(exposure.variance).any():
            raise BadPixels(f"instrument {rules.name} promises a variance plane and the file has none")
        return
    _refuse_clipped(exposure)
    gain_known = "gain" in exposure.metadata
    if not gain_known:
        from calibration.gain import estimate_gain  # it loads what a pair with variance planes does without

        exposure.metadata["gain"] = estimate_gain(exposure, rms, rules.characterize.psf_order)
    gain = max(float(exposure.metadata["gain"]), 1e-30)
    given = rules.variance == "gain" and gain_known
    noise = float(exposure.metadata.get("readNoise", 0.0)) / gain
    sky = max(float(exposure.metadata.get("skyLevel", 0.0)), 0.0) / gain
    extra = rules.characterize.systematic_fraction

    def fill(first: int, last: int) -> None:
        for top in range(first, last, ROWS):
            part = slice(top, min(top + ROWS, last))
            counts = np.maximum(exposure.image[part], 0)
            objects = counts / np.float32(gain)
            variance = objects + sky + noise**2 if given else rms[part] ** 2 + objects
            exposure.variance[part] = variance + (extra * counts) ** 2 if extra else variance

    in_bands(fill, exposure.height)


def _refuse_clipped(exposure: Exposure) -> None:
    """Raise `SkyClipped` where too many pixels have the least value of all."""
    share = exposure.metadata.get("leastValueShare", 0.0)
    if share > CLIPPED:
        raise SkyClipped(
            f"{100 * share:.0f} % of the pixels have the least value of all: the sky was cut off there, and nothing tells its "
            "noise; give the image as it was before, or one with a variance plane",
            **exposure.where,
        )
