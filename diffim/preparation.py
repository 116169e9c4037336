"""What happens to the two images before they are subtracted: masks, kernel stars, matching boxes."""

import numpy as np

from diffim.errors import MismatchError
from exposure import Exposure
from exposure.mask import count_flagged, plane_bits, spread_bits, translate

__all__ = [
    "check_match",
    "coverage",
    "flux_unit_ratio",
    "known_unit_ratio",
    "mark_saturated_haloes",
    "prepare_masks",
    "usual_noise",
]

KEEP_TEMPLATE = ("NO_DATA", "BAD", "CR", "HIGH_VARIANCE", "INEXACT_PSF")
RENAME_TEMPLATE = {
    "SAT": "SAT_TEMPLATE", "INJECTED": "INJECTED_TEMPLATE", "FAKE": "INJECTED_TEMPLATE",
    "INJECTED_CORE": "INJECTED_CORE_TEMPLATE",
}  # fmt: skip


def check_match(science: Exposure, template: Exposure, registered: bool = False) -> None:
    """Raise `MismatchError` unless band, box and, if they are not registered, WCS of the two images fit together."""
    problems = []
    if science.band != template.band:
        problems.append(f"band {science.band!r} against the template's {template.band!r}")
    sx, sy, sw, sh = science.bbox
    tx, ty, tw, th = template.bbox
    if tx > sx or ty > sy or tx + tw < sx + sw or ty + th < sy + sh:
        problems.append(f"the template's box {template.bbox} does not contain the image's {science.bbox}")
    corners = (np.array([sx, sx + sw - 1.0, sx + sw / 2]), np.array([sy, sy + sh - 1.0, sy + sh / 2]))
    if not registered and not science.require_wcs().same_as(template.require_wcs(), *corners):
        problems.append("the WCS of the template is not that of the image: warp it first")
    if problems:
        raise MismatchError("; ".join(problems), **science.where)


def coverage(template: Exposure, science: Exposure | None = None) -> float:
    """Return the fraction of pixels that have data in the template (and in the image)."""
    mask = template.mask if science is None else template.cutout(*science.bbox).mask
    missing = count_flagged(mask, mask if science is None else science.mask, plane_bits(["NO_DATA"]))
    return 1.0 - missing / mask.size


def prepare_masks(science: Exposure, template: Exposure) -> None:
    """Clear detection planes on the image; reduce the template's planes to those that say something about pixels.

    Both masks are changed in place. Cosmic rays of the template that are interpolated over are not kept: a coadd has those of all
    its frames in one plane, and what fills them there is the light of the other frames.
    """
    detected = plane_bits(["DETECTED", "DETECTED_NEGATIVE"])
    translate(science.mask, ~detected, {"FAKE": "INJECTED"})
    mended = template.flagged("CR") & template.flagged("INTRP")
    template.mask[mended] &= np.int32(~plane_bits(["CR"]))
    translate(template.mask, plane_bits([*KEEP_TEMPLATE, *RENAME_TEMPLATE.values()]), RENAME_TEMPLATE)


def flux_unit_ratio(image: Exposure, template: Exposure) -> float:
    """Return the factor from pixel values of the template to those of the image, by their calibrations (nJy per count)."""
    if image.photo_calib is None or template.photo_calib is None:
        return 1.0
    return template.photo_calib.mean / image.photo_calib.mean


def known_unit_ratio(image: Exposure, template: Exposure) -> float | None:
    """Return `flux_unit_ratio` (a factor) where both images are calibrated, None where one is not."""
    if image.photo_calib is None or template.photo_calib is None:
        return None
    return flux_unit_ratio(image, template)


def mark_saturated_haloes(exposure: Exposure, radius: float) -> None:
    """Set SUSPECT within `radius` px of saturated pixels: a kernel of finite size leaves rings there."""
    saturated, suspect = plane_bits(["SAT", "SAT_TEMPLATE"]), plane_bits(["SUSPECT"])
    spread_bits(exposure.mask, saturated, radius, exposure.mask, put=suspect)


def usual_noise(exposure: Exposure) -> float:
    """Return the standard deviation of most pixels, as the variance plane has it; NaN of an exposure without data."""
    some = exposure.variance[::8, ::8]
    some = some[np.isfinite(some) & (some > 0)]
    return float(np.sqrt(np.median(some))) if some.size else float("nan")
