"""Areas that hold one value because there are no data: what resampling programs write outside of their input.

Real pixels may be equal too: those of coarse digits, of a sky that was cut off at zero. So a value counts as fill only
where it covers more than chance can cover, given how often it stands in the rest of the image.
"""

import cv2
import numpy as np

from exposure.flagging.connected import largest_area
from exposure.quantiles import median, scatter
from tasks.arrays import F32, U8, Flags

__all__ = ["fill_pixels", "saturation_level"]

CANDIDATES = 4  # values that are looked at
BRIGHT = 20.0  # times the scatter above the median: no fill but saturation
CUT_OFF = 3  # times the number of pixels with the next lower values
BORDER_SHARE = 0.25  # of a border line that is one value
CHANCE = 1e-6  # of one false area in the whole image
CORRELATED = 4  # px of an image that scatter together, as resampling leaves them
ANIMALS = 4.1  # connected shapes grow in number by this per pixel (site animals of the square lattice)
PERCOLATES = 0.1  # share of a value above which areas of it join by chance
TOO_COMMON = 0.55  # share above which equal pixels say nothing
LEAST = 16  # px
RARE = 0.5  # pixels around an area that have its value by chance: with less, all of them are part of it
LINE = 9  # px of a line of fill that is one px wide
SAMPLE = 250_000


def fill_pixels(image: F32) -> Flags | None:
    """Return where an image is filled with one value, None where it is not.

    Parameters
    ----------
    image
        Shape (height, width); NaN pixels are never fill.
    """
    values = _repeated(image)
    if not values.size:
        return None
    out: Flags | None = None
    for value in values:
        area = _area(image == value)
        if area is not None:
            out = area if out is None else out | area
    return out


def saturation_level(image: F32) -> float | None:
    """Return the value at which an image is cut off at the top, None where no such plateau is seen.

    The largest value stands in patches, and far more often than the two values below it: peaks of stars in coarse digits
    stand on more pixels of the next lower digits.
    """
    top = float(np.nanmax(image))
    low, scale = _sky(image)
    if not np.isfinite(top) or top <= low + BRIGHT * scale:
        return None
    full = image == np.float32(top)
    patches = full[1:] & full[:-1]
    if not (patches[:, 1:] & patches[:, :-1]).any():
        return None
    del full, patches
    _, counts = np.unique(image[image > np.float32(top - 0.2 * (top - low))], return_counts=True)
    next_lower = int(counts[-3:-1].max()) if counts.size > 1 else 1
    return top if counts[-1] > CUT_OFF * next_lower else None


def _sky(image: F32) -> tuple[float, float]:
    """Return median and scatter of the finite pixels (a sample of them)."""
    step = max(1, int(np.sqrt(image.size / SAMPLE)))
    some = image[::step, ::step]
    some = some[np.isfinite(some)]
    return median(some), scatter(some)


def _repeated(image: F32) -> F32:
    """Return values that stand in squares of 2x2 or along a border, most frequent first.

    None that are bright but zero, the usual fill, and what fills a border and is not the brightest of all.
    """
    corner = image[: image.shape[0] // 2 * 2 : 2, : image.shape[1] // 2 * 2 : 2]
    flat = np.ones(corner.shape, np.bool_)
    for j, i in ((0, 1), (1, 0), (1, 1)):
        flat &= corner == image[j : image.shape[0] // 2 * 2 : 2, i : image.shape[1] // 2 * 2 : 2]
    repeated, along = [corner[flat]], [np.float32(0)]
    for line in (image[0], image[-1], image[:, 0], image[:, -1]):
        kept = line[np.isfinite(line)]
        if kept.size:
            values, counts = np.unique(kept, return_counts=True)
            if counts.max() >= BORDER_SHARE * line.size:
                repeated.append(np.repeat(values[counts.argmax()], counts.max()))
                along.append(values[counts.argmax()])
    values, counts = np.unique(np.concatenate(repeated), return_counts=True)
    values = values[np.argsort(-counts, kind="stable")][: 2 * CANDIDATES]
    if not values.size:
        return values
    low, scale = _sky(image)
    usual = np.isin(values, along) & (values < np.nanmax(image))
    return values[(values <= low + BRIGHT * scale) | usual][:CANDIDATES]


def _area(equal: Flags) -> Flags | None:
    """Return which of the pixels with one value are fill, None for none."""
    flags = equal.view(np.uint8)
    share = _share(equal)
    if share > TOO_COMMON:
        return None
    bits = np.log(equal.size / CHANCE)  # an area of n pixels comes about by chance less often than exp(-n x rarity)
    if share > PERCOLATES:
        side = int(np.ceil(np.sqrt(CORRELATED * bits / -np.log(share))))
        fill = _opened(flags, (side, side))
        return fill if fill.any() else None
    rarity = -np.log(ANIMALS * max(share, 1.0 / equal.size))
    least = max(LEAST, CORRELATED * bits / rarity)
    if largest_area(equal) < least:  # most images have no fill: labels of all their pixels would be for nothing
        return None
    _, labels, stats, _ = cv2.connectedComponentsWithStats(flags, connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    large[0] = False
    fill = large[labels]
    near = cv2.dilate(fill.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    ring = np.count_nonzero(near) - np.count_nonzero(fill)
    lone = int(np.count_nonzero(equal & ~near))
    if lone * ring > RARE * max(int(np.count_nonzero(~near)), 1):
        return _without_neighbours(fill)
    return np.asarray(equal & near)


def _share(equal: Flags) -> float:
    """Return how much of the image beyond wide areas of a value has that value."""
    wide = _opened(equal.view(np.uint8), (9, 9))
    if not wide.any():
        return float(np.count_nonzero(equal)) / equal.size
    wide = cv2.dilate(wide.view(np.uint8), np.ones((5, 5), np.uint8)) > 0
    rest = int(np.count_nonzero(~wide))
    return float(np.count_nonzero(equal & ~wide)) / rest if rest else 0.0


def _without_neighbours(fill: Flags) -> Flags:
    """Leave out single pixels at the rim that are equal by chance: what stays is part of a square or of a long line."""
    flags = fill.astype(np.uint8)
    kept = _opened(flags, (2, 2))
    rest = (fill & ~kept).astype(np.uint8)
    return kept | _opened(rest, (1, LINE)) | _opened(rest, (LINE, 1))


def _opened(flags: U8, shape: tuple[int, int]) -> Flags:
    """Return which pixels lie in a box (height, width) of set ones."""
    box = np.ones(shape, np.uint8)
    last = (shape[1] - 1, shape[0] - 1)
    first = cv2.erode(flags, box, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if not first.any():
        return first.view(np.bool_)
    return np.asarray(cv2.dilate(first, box, anchor=last, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0)
