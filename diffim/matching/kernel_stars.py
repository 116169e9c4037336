"""Choice of the stars that the matching kernel is fitted on."""

import numpy as np

from exposure import Exposure
from exposure.mask import plane_bits
from exposure.stamps import gather
from exposure.stars import Stars
from tasks.arrays import Flags, nearest_pixels

__all__ = ["kernel_stars"]

SNR_TIERS = ((200.0, 220), (100.0, 100), (50.0, 40))  # (least S/N, stars that make it enough)


def kernel_stars(
    sources: Stars,
    science: Exposure,
    template: Exposure,
    kernel_size: int,
    *,
    min_snr: float = 20.0,
    max_snr: float = 1e5,
    maximum: int = 400,
    enough: int = 20,
) -> Stars:
    """Return sources whose stamps are clean in both images: stars first, from all parts of the image, brightest first.

    Parameters
    ----------
    kernel_size
        Side of the kernel, px: stamps are a little larger.
    min_snr, max_snr
        Limits of the S/N of a star.
    maximum
        More are not taken; -1 takes all.

    Notes
    -----
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
    return _over_cells(chosen, science, maximum)


def _clean(able: Stars, science: Exposure, template: Exposure, kernel_size: int) -> Flags:
    """Return which stars (N,) have a stamp that lies inside and holds no pixel that would spoil the fit."""
    x, y = able.x, able.y
    inner = kernel_size // 2 + 2
    x0, y0, width, height = science.bbox
    fits = (x >= x0 + inner) & (y >= y0 + inner) & (x < x0 + width - inner) & (y < y0 + height - inner)
    bits = plane_bits(["NO_DATA", "BAD", "SAT", "EDGE", "FAKE", "HIGH_VARIANCE", "SAT_TEMPLATE", "CR"])
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    marred = (gather(science.mask, ix - x0, iy - y0, kernel_size + 2, bits) & bits) != 0
    middle = kernel_size // 2 + 1
    clean = ~marred[:, middle - 3 : middle + 4, middle - 3 : middle + 4].any(axis=(1, 2)) & (marred.mean((1, 2)) < 0.2)
    tx, ty = template.origin
    clean &= ~((gather(template.mask, ix - tx, iy - ty, 2 * kernel_size + 1, bits) & bits) != 0).any(axis=(1, 2))
    return np.asarray(fits & clean)


def _over_cells(stars: Stars, science: Exposure, maximum: int) -> Stars:
    """Take the brightest of every cell in turn until `maximum` are taken."""
    ordered = stars.brightest_first()
    if maximum < 0 or len(stars) <= maximum:
        return ordered
    cells = int(np.ceil(np.sqrt(maximum)))
    cx = ((ordered.x - science.origin[0]) * cells / science.width).astype(np.int64)
    cy = ((ordered.y - science.origin[1]) * cells / science.height).astype(np.int64)
    cell = cy * cells + cx
    by_cell = np.argsort(cell, kind="stable")
    first = np.searchsorted(cell[by_cell], cell[by_cell])
    turn = np.empty(len(stars), np.int64)
    turn[by_cell] = np.arange(len(stars)) - first
    return ordered.take(np.sort(np.argsort(turn, kind="stable")[:maximum]))
