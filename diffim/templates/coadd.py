"""The coadd of registered exposures on one tile: inverse variance, outliers clipped, PSF and variance."""

from collections.abc import Sequence

import cv2
import numpy as np

from diffim.pixels.warp import GRID, position_grid, warp_exposure
from diffim.templates.coadd_psf import LEAST_WEIGHT, PsfInput, edge_depth, fading_psf
from diffim.templates.tiling import Tile
from exposure import Exposure, PhotoCalib, Psf
from exposure.mask import plane_bits
from exposure.psf import fwhm_of
from tasks.arrays import F32, Flags

__all__ = ["coadd_tile"]

PSF_CELLS, FINE_CELLS = 4, 16  # along a side of a tile: where PSFs are turned, and of the coadd
PLAY, SEEING = 0.5, 1.3  # of a star's light by which frames of one seeing may differ; of what their seeing makes of it


def coadd_tile(tile: Tile, exposures: Sequence[Exposure]) -> Exposure | None:
    """Return the coadd in nJy, or None when no exposure has a pixel on the tile.

    Each exposure has one weight, the inverse of its median variance, so that stars and sky have the same PSF; towards its edges it
    fades (`edge_depth`), so that no star has two. A pixel that differs from the median of the stack by more than 5 sigma, and
    by more than its seeing makes of stars, is left out; where one is, the PSF is not that of the model (``INEXACT_PSF``).
    """
    box = (0, 0, tile.size, tile.size)
    warped, weights, psfs = [], [], []
    for exposure in exposures:
        part = warp_exposure(exposure, tile.wcs, box)
        part_calib = _calibration_map(exposure, tile, part)
        part.image *= part_calib
        part.variance *= part_calib**2
        good = part.good("BAD", "CR")
        if not good.any():
            continue
        weight = 1.0 / float(np.median(part.variance[good][:: max(1, good.sum() // 20_000)]))
        warped.append(part)
        weights.append(np.float32(weight) * _fading(exposure, tile))
        psfs.append((exposure.require_psf(), exposure.require_wcs(), exposure.bbox, weight))
    if not warped:
        return None
    return _combine(tile, warped, np.stack(weights), psfs)


def _fading(exposure: Exposure, tile: Tile) -> F32:
    """Return the weight of an exposure that fades towards its edges on the tile's pixels, shape (size, size)."""
    gx, gy = position_grid(tile.wcs, (0, 0, tile.size, tile.size), exposure.require_wcs())
    at_nodes = np.nan_to_num(edge_depth(gx, gy, exposure.bbox), nan=-1.0)
    node_position = np.arange(tile.size) / GRID
    between = [np.maximum(1 - np.abs(node_position[:, None] - np.arange(n)[None, :]), 0.0) for n in at_nodes.shape]
    return np.asarray(np.clip(between[0] @ at_nodes @ between[1].T, LEAST_WEIGHT, 1.0), np.float32)


def _calibration_map(exposure: Exposure, tile: Tile, part: Exposure) -> F32 | np.float32:
    """Return nJy per unit on the tile's pixels, shape (size, size): a number where the calibration is constant."""
    calib = exposure.require_photo_calib()
    if calib.variation is None:
        return np.float32(calib.mean)
    nodes = np.linspace(0, tile.size - 1, 33)
    gx, gy = np.meshgrid(nodes, nodes)
    sx, sy = exposure.require_wcs().sky_to_pixel(*tile.wcs.pixel_to_sky(gx.ravel(), gy.ravel()))
    x0, y0, width, height = exposure.bbox
    values = calib.at(np.clip(sx, x0, x0 + width - 1), np.clip(sy, y0, y0 + height - 1)).reshape(gx.shape)
    return np.asarray(
        cv2.resize(values.astype(np.float32), (part.width, part.height), interpolation=cv2.INTER_CUBIC), np.float32
    )


def _combine(tile: Tile, warped: list[Exposure], weights: F32, psfs: list[PsfInput]) -> Exposure:
    """Return the weighted mean of warped exposures, weights of shape (N, size, size), without outliers."""
    stack = np.stack([w.image for w in warped])
    use = np.stack([w.good("BAD", "CR") for w in warped])
    if len(warped) >= 3:
        use &= ~_outliers(stack, use, warped, [p[0] for p in psfs])
    # beside a cosmic ray of the only frame the pixels around it tell as much as there is to know
    use |= ~use.any(axis=0) & np.stack([w.good("BAD") for w in warped])
    w = np.where(use, weights, 0).astype(np.float32)
    total = w.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        image = np.where(use, stack, 0)
        image = np.sum(w * image, axis=0) / total
        variance = (
            sum(
                (wi**2 * np.where(ui, p.variance, 0) for wi, ui, p in zip(w, use, warped, strict=True)),
                start=np.zeros_like(total),
            )
            / total**2
        )
    mask = np.zeros(image.shape, np.int32)
    for ui, part in zip(use, warped, strict=True):
        mask |= np.where(ui, part.mask & np.int32(plane_bits(["SAT", "SUSPECT", "INJECTED", "INJECTED_CORE"])), 0)
    covered = weights > 2 * LEAST_WEIGHT * weights.max(axis=(1, 2), keepdims=True)
    mask[(covered & ~use).any(axis=0)] |= np.int32(plane_bits(["INEXACT_PSF"]))
    empty = total <= 0
    mask[empty] = plane_bits(["NO_DATA"])
    image[empty] = variance[empty] = np.nan
    size = max(p[0].size for p in psfs)
    psf = fading_psf(psfs, tile.wcs, (0, 0, tile.size, tile.size), PSF_CELLS, FINE_CELLS, size)
    return Exposure(
        image.astype(np.float32),
        variance.astype(np.float32),
        mask,
        wcs=tile.wcs,
        psf=psf,
        photo_calib=PhotoCalib(1.0, source="plane"),
        band=warped[0].band,
        physical_filter=warped[0].physical_filter,
    )


def _outliers(stack: F32, use: Flags, warped: list[Exposure], psfs: Sequence[Psf]) -> Flags:
    """Return where a pixel stands out of the stack (N, size, size): cosmic rays, asteroids, satellites; stars stay.

    Stars differ from frame to frame by the seeing: in their cores by as much as the peaks of the PSFs do, in their wings by more
    than they are bright there, but by less than they are one FWHM further in.
    """
    middle = _median(stack, use)
    peaks, widths = np.array([_peak_and_width(psf) for psf in psfs]).T
    side = 2 * int(np.ceil(widths.max())) + 1
    brightness = cv2.dilate(np.nan_to_num(middle).astype(np.float32), np.ones((side, side), np.uint8))
    out = np.zeros(stack.shape, dtype=bool)
    for k, part in enumerate(warped):
        share = PLAY + SEEING * abs(peaks[k] / np.median(peaks) - 1)
        with np.errstate(invalid="ignore"):
            limit = 5 * np.sqrt(part.variance) + np.float32(share) * np.maximum(brightness, 0)
            odd = np.abs(stack[k] - middle) > limit
        out[k] = cv2.dilate(odd.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # with the wings of a track
    return out


def _peak_and_width(psf: Psf) -> tuple[float, float]:
    """Return the brightest pixel of a PSF and its FWHM (px) in the middle of its frame."""
    x, y = psf.average_position()
    return float(psf.kernel_at(x, y).max()), float(fwhm_of(psf.moments_at(x, y))[0])


def _median(stack: F32, use: Flags) -> F32:
    """Return the median of the used values of each pixel, NaN where none is."""
    ordered = np.sort(np.where(use, stack, np.float32(np.inf)), axis=0)
    n = use.sum(axis=0)
    low, high = np.maximum((n - 1) // 2, 0)[None], np.minimum(n // 2, len(stack) - 1)[None]
    middle = 0.5 * (np.take_along_axis(ordered, low, 0)[0] + np.take_along_axis(ordered, high, 0)[0])
    middle[n == 0] = np.nan
    return np.asarray(middle, np.float32)
