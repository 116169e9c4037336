"""Choice of the stars that the matching kernel is fitted on."""

from dataclasses import replace

import numpy as np

from diffim.matching.common_stars import judge_stars
from exposure import Exposure
from exposure.mask import plane_bits
from exposure.stamps import gather
from exposure.stars import Stars
from tasks.arrays import Flags, nearest_pixels

__all__ = ["kernel_stars"]

BLENDED, CHANGED = 4, 5  # ranks of sources whose light differs: a little, as beside neighbours; by more
MOST_CHANGE = 0.15  # ln of the ratio of fluxes, that a neighbour may make
LEAST = 3  # where there are not even so many others, those whose light changed are taken
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
    What is a star is judged by both images (`diffim.matching.common_stars`); ``star`` of the result says which are.
    Where the field has enough bright stars, faint ones are left out: what they add is mostly noise. Where fewer than
    `enough` stars qualify, isolated and then any unflagged sources fill up (a kernel can be learnt from galaxies too),
    and where there is hardly any, those whose light changed.
    """
    able = sources.take((sources.snr > min_snr) & (sources.snr < max_snr) & ~sources.flagged)
    if len(able) == 0:
        return able
    able = able.take(_clean(able, science, template, kernel_size))
    able = _promising(able, science, 2 * maximum)
    if len(able) and science.psf is not None and template.psf is not None:
        judged = judge_stars(able, science, template)
        able, steady, change = replace(able, star=judged.star), judged.steady, judged.change
    else:
        steady, change = np.ones(len(able), np.bool_), np.zeros(len(able))
    rank = np.where(able.star, np.where(able.isolated, 0, 1), np.where(able.isolated, 2, 3))
    rank[~steady] = np.where(change < MOST_CHANGE, BLENDED, CHANGED)[~steady]
    for worst in range(CHANGED):
        chosen = able.take(rank <= worst)
        if len(chosen) >= enough:
            break
    if len(chosen) < LEAST:
        chosen = able
    for least, number in SNR_TIERS:
        if (chosen.snr > least).sum() >= number:
            chosen = chosen.take(
                (chosen.snr > least) | (chosen.star & (worst > 1))
            )  # others fill up: no star gives way
            break
    return _over_cells(chosen, science, maximum)


def _promising(able: Stars, science: Exposure, number: int) -> Stars:
    """Return those that are looked at closely: `number` of what is said to be stars, and as many of the others."""
    if number < 0 or len(able) <= number:
        return able
    groups = [_over_cells(able.take(which), science, number) for which in (able.star, ~able.star)]
    return groups[0].and_(groups[1])


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
