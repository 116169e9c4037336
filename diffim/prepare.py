"""What happens to the two images before they are subtracted: masks, kernel stars, matching boxes."""

import numpy as np
from numpy.typing import NDArray

from diffim.errors import MismatchError
from exposure import Exposure
from exposure.mask import count_flagged, plane_bits, spread_bits, translate
from exposure.stamps import gather
from exposure.stars import Stars

__all__ = ["check_match", "coverage", "flux_unit_ratio", "kernel_stars", "mark_saturated_haloes", "prepare_masks"]

KEEP_TEMPLATE = ("NO_DATA", "BAD", "HIGH_VARIANCE")
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

    Both masks are changed in place.
    """
    detected = plane_bits(["DETECTED", "DETECTED_NEGATIVE"])
    translate(science.mask, ~detected, {"FAKE": "INJECTED"})
    translate(template.mask, plane_bits([*KEEP_TEMPLATE, *RENAME_TEMPLATE.values()]), RENAME_TEMPLATE)


def flux_unit_ratio(image: Exposure, template: Exposure) -> float:
    """Return what turns pixel values of the template into those of the image, by their calibrations."""
    if image.photo_calib is None or template.photo_calib is None:
        return 1.0
    return template.photo_calib.mean / image.photo_calib.mean


SNR_TIERS = ((200.0, 220), (100.0, 100), (50.0, 40))  # (least S/N, stars that make it enough)


def kernel_stars(
    sources: Stars, science: Exposure, template: Exposure, kernel_size: int, *, min_snr: float = 20.0,
    max_snr: float = 1e5, maximum: int = 400, enough: int = 20,
) -> Stars:  # fmt: skip
    """Return sources whose stamps are clean in both images: stars first, spread over cells, brightest first.

    Where the field has enough bright stars, faint ones are left out: what they add is mostly noise. Where fewer than
    `enough` stars qualify, isolated and then any unflagged sources fill up (a kernel can be learnt from galaxies too).
    """
    able = sources.take((sources.snr > min_snr) & (sources.snr < max_snr) & ~sources.flagged)
    if len(able) == 0:
        return able
    able = able.take(_clean(able, science, template, kernel_size))
    rank = np.where(able.star, 0, np.where(able.isolated, 1, 2))
    for worst in range(3):
        chosen = able.take(rank <= worst)
        if len(chosen) >= enough:
            break
    for least, number in SNR_TIERS:
        if (chosen.snr > least).sum() >= number:
            chosen = chosen.take(chosen.snr > least)
            break
    return _spread(chosen, science, maximum)


def _clean(able: Stars, science: Exposure, template: Exposure, kernel_size: int) -> NDArray[np.bool_]:
    """Return which stamps lie inside and hold no pixel that would spoil the fit."""
    x, y = able.x, able.y
    inner = kernel_size // 2 + 2
    x0, y0, width, height = science.bbox
    fits = (x >= x0 + inner) & (y >= y0 + inner) & (x < x0 + width - inner) & (y < y0 + height - inner)
    bits = plane_bits(["NO_DATA", "BAD", "SAT", "EDGE", "FAKE", "HIGH_VARIANCE", "SAT_TEMPLATE", "CR"])
    ix, iy = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
    marred = (gather(science.mask, ix - x0, iy - y0, kernel_size + 2, bits) & bits) != 0
    middle = kernel_size // 2 + 1
    clean = ~marred[:, middle - 3 : middle + 4, middle - 3 : middle + 4].any(axis=(1, 2)) & (marred.mean((1, 2)) < 0.2)
    tx, ty = template.origin
    clean &= ~((gather(template.mask, ix - tx, iy - ty, 2 * kernel_size + 1, bits) & bits) != 0).any(axis=(1, 2))
    return np.asarray(fits & clean)


def _spread(able: Stars, science: Exposure, maximum: int) -> Stars:
    """Take the brightest of every cell in turn until `maximum` are taken."""
    ordered = able.brightest_first()
    if maximum < 0 or len(able) <= maximum:
        return ordered
    cells = int(np.ceil(np.sqrt(maximum)))
    cx = ((ordered.x - science.origin[0]) * cells / science.width).astype(np.int64)
    cy = ((ordered.y - science.origin[1]) * cells / science.height).astype(np.int64)
    cell = cy * cells + cx
    by_cell = np.argsort(cell, kind="stable")
    first = np.searchsorted(cell[by_cell], cell[by_cell])
    turn = np.empty(len(able), np.int64)
    turn[by_cell] = np.arange(len(able)) - first
    return ordered.take(np.sort(np.argsort(turn, kind="stable")[:maximum]))


def mark_saturated_haloes(exposure: Exposure, radius: float) -> None:
    """Set SUSPECT within `radius` px of saturated pixels: a kernel of finite size leaves rings there."""
    saturated, suspect = plane_bits(["SAT", "SAT_TEMPLATE"]), plane_bits(["SUSPECT"])
    spread_bits(exposure.mask, saturated, radius, exposure.mask, put=suspect)
