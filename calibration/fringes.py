"""Fringes of the sky: waves that the mesh of the background cannot follow, and among whose crests sources would be found."""

from dataclasses import replace

import cv2
import numpy as np

from diffim.subtraction.sky_structure import node_levels, structure
from exposure import Exposure
from exposure.background import subtract_level
from exposure.quantiles import block_medians, median, scatter
from tasks.arrays import F64, Flags

__all__ = ["subtract_fringes"]

STRONG = 0.25  # of the noise of a pixel: rms of waves that are taken off; weaker ones make no sources
FINE = 0.6  # share of the power that is in waves: what has less is a nebula or a galaxy, which the template has too
WIDEST = 1.5  # times the mesh: longer waves it follows
LEAST_PERIOD = 3.0  # blocks
BORDER = 16  # the longer side over how far waves go on beyond the rims
FILLS = 8  # rounds in which that is filled with them
BLOCK, LEAST_PIXELS = 8, 32  # px along a side, and of a block that tell its level
STEP = 4  # px: the map that is taken off is bilinear between such
ROUNDS = 4  # what stands out of the waves, and not on their crests alone, is no sky
CLIP = 4.0  # times the scatter of the blocks


def subtract_fringes(exposure: Exposure, mesh: int) -> float:
    """Take fringes off in place; returns their rms, image unit, 0 where there are none beyond doubt.

    Parameters
    ----------
    exposure
        Without its smooth sky, and with its variance.
    mesh
        Side of the cells, px, that the smooth sky was known from.
    """
    blocks, known = _blocks(exposure)
    usable, found, border = known, None, max(2, max(blocks.shape) // BORDER)
    for _ in range(ROUNDS):
        rest = blocks if found is None else blocks - found.blocks()
        usable = known & ~_standing_out(rest, known)
        found = structure(blocks, usable, LEAST_PERIOD, border, FILLS)
        if found is None:
            return 0.0
    assert found is not None
    coefficients = found.coefficients
    coefficients[0, 0] = 0
    waves = np.where(_periods(coefficients.shape) < WIDEST * mesh, coefficients, 0)
    y, x = (np.arange(0, n + STEP, STEP, dtype=np.float64) for n in exposure.image.shape)
    if not waves.any() or (waves**2).sum() < FINE * (coefficients**2).sum():
        return 0.0
    level = node_levels(replace(found, coefficients=waves), BLOCK, y, x)
    some = exposure.variance[::BLOCK, ::BLOCK][exposure.good()[::BLOCK, ::BLOCK]]
    if level.std() < STRONG * np.sqrt(median(some)):
        return 0.0
    subtract_level(exposure, level, STEP)
    return float(level.std())


def _blocks(exposure: Exposure) -> tuple[F64, Flags]:
    """Return the medians of blocks over that of all, an even number of them along both sides, and which are known.

    A level would end at the rims, beyond which there are none, and ring there.
    """
    rows, columns = (2 * (n // (2 * BLOCK)) for n in exposure.image.shape)
    out = np.full((rows, columns), np.nan)
    edges = (np.arange(rows + 1) * BLOCK, np.arange(columns + 1) * BLOCK)
    block_medians(exposure.image, exposure.good("BAD", "SAT", "CR"), *edges, LEAST_PIXELS, out)
    known = np.isfinite(out)
    return np.where(known, out - (median(out[known]) if known.any() else 0.0), 0), known


def _standing_out(rest: F64, known: Flags) -> Flags:
    """Return which blocks stand out of the others, or are next to one that does."""
    out = np.abs(rest) > CLIP * scatter(rest[known]) if known.any() else ~known
    return np.asarray(cv2.dilate(out.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)


def _periods(shape: tuple[int, ...]) -> F64:
    """Return the periods, px, of cosine coefficients of a shape (rows, columns)."""
    along_y, along_x = (np.arange(n) / (2 * n * BLOCK) for n in shape)
    with np.errstate(divide="ignore"):
        return np.asarray(1 / np.hypot(along_y[:, None], along_x[None, :]))
