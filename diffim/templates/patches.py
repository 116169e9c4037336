"""Patches of a coadd, which may belong to several tracts, on the pixels of one image."""

from collections.abc import Sequence

import cv2
import numpy as np

from diffim.errors import MismatchError, NoTemplateCoverage
from diffim.pixels.interpolation import A
from diffim.pixels.warp import warp_exposure
from diffim.templates.coadd_psf import LEAST_WEIGHT, union_psf
from exposure import Exposure, PhotoCalib, SkyWcs
from exposure.mask import plane_bits
from exposure.quantiles import block_medians
from tasks.arrays import F32, I32, Box, Flags

__all__ = ["BORDER", "merge_patches"]

HIGH_VARIANCE, HIGH_VARIANCE_MESH, HIGH_VARIANCE_FRACTION = 4.0, 32, 0.1  # of the usual; px; unmasked pixels needed
PSF_CELL, LEAST_CELLS, MOST_CELLS = 150, 6, 16  # px, number along a side: of the grid of PSFs
EDGE = A  # px from its end within which a patch that is resampled lacks pixels
BORDER = 40  # px around the science box: more than half of the largest kernel plus that of the decorrelation


def merge_patches(science: Exposure, patches: Sequence[Exposure], border: int = BORDER) -> Exposure:
    """Return patches of a coadd (of any number of tracts) warped to the pixels of an image, grown by `border` px.

    Where patches overlap they are averaged with weights 1/sigma; the variance is the weighted mean, since overlapping
    patches share data. At the edge of a patch, where the sums of the resampling lack pixels, another one counts alone. The PSF
    is the union of theirs. ``metadata["patches"]`` lists the indices of those that contributed.

    Raises
    ------
    MismatchError
        Patches of several bands or of different calibrations.
    NoTemplateCoverage
        No patch overlaps the image, or none has a valid pixel there.
    """
    bands, calibs = {p.band for p in patches}, [p.photo_calib for p in patches]
    if len(bands) > 1 or any(c != calibs[0] for c in calibs):
        raise MismatchError(
            f"patches of one template must have one band and one calibration, got bands {sorted(bands)}",
            **science.where,
        )
    wcs = science.require_wcs()
    x0, y0, width, height = science.bbox
    box = (x0 - border, y0 - border, width + 2 * border, height + 2 * border)
    shape = (box[3], box[2])
    used = []
    weight, image, variance = (np.zeros(shape, np.float32) for _ in range(3))
    mask = np.zeros(shape, np.int32)
    for k, tile in enumerate(patches):
        part = _overlap(tile, wcs, box)
        if part is None:
            continue
        warped = warp_exposure(tile, wcs, part)
        here = (
            slice(part[1] - box[1], part[1] - box[1] + part[3]),
            slice(part[0] - box[0], part[0] - box[0] + part[2]),
        )
        good = warped.good()
        if good.any():
            used.append(k)
        w = np.where(good, 1 / np.sqrt(np.where(good, warped.variance, 1)), 0).astype(np.float32)
        w[_beside(~good, EDGE)] *= LEAST_WEIGHT
        weight[here] += w
        image[here] += w * np.where(good, warped.image, 0)
        variance[here] += w * np.where(good, warped.variance, 0)
        mask[here] |= np.where(good, warped.mask, 0)
    if not used:
        raise NoTemplateCoverage("No patches found: none overlaps the image", **science.where)
    empty = weight <= 0
    with np.errstate(invalid="ignore", divide="ignore"):
        image, variance = np.where(empty, 0, image / weight), np.where(empty, 0, variance / weight)
    mask[empty] = plane_bits(["NO_DATA"])
    _mark_high_variance(variance, mask)
    psfs = [(p.psf, p.require_wcs(), p.bbox, 1.0) for p in patches if p.psf is not None]
    size = max((p[0].size for p in psfs), default=31)
    cells = int(np.clip(np.ceil(max(width, height) / PSF_CELL), LEAST_CELLS, MOST_CELLS))
    psf = union_psf(psfs, wcs, box, cells, size)
    return Exposure(
        image,
        variance,
        mask,
        origin=(box[0], box[1]),
        wcs=wcs,
        psf=psf,
        photo_calib=calibs[0] or PhotoCalib(1.0),
        visit_info=science.visit_info,
        band=patches[0].band,
        physical_filter=science.physical_filter,
        metadata={"patches": used},
    )


def _beside(where: Flags, reach: int) -> Flags:
    """Return the pixels (height, width) within a box of `reach` px around those of `where`."""
    side = 2 * reach + 1
    return np.asarray(cv2.dilate(where.view(np.uint8), np.ones((side, side), np.uint8)) > 0)


def _mark_high_variance(variance: F32, mask: I32) -> None:
    """Set HIGH_VARIANCE where the variance, smoothed by a mesh of medians, is far above that of most of the template."""
    empty = (mask & np.int32(plane_bits(["NO_DATA", "BAD", "EDGE"]))) != 0
    if (~empty).mean() < HIGH_VARIANCE_FRACTION:
        return
    height, width = (max(s // HIGH_VARIANCE_MESH, 1) for s in variance.shape)
    rows, columns = (np.linspace(0, s, n + 1).astype(int) for s, n in zip(variance.shape, (height, width), strict=True))
    mesh = np.full((height, width), np.nan, np.float32)
    block_medians(variance, ~empty, rows, columns, 1, mesh)
    usual = float(np.nanmedian(mesh))
    high = np.nan_to_num(mesh, nan=usual) > HIGH_VARIANCE * usual
    if high.any():
        level = cv2.resize(np.nan_to_num(mesh, nan=usual), variance.shape[::-1], interpolation=cv2.INTER_LINEAR)
        mask[(level > HIGH_VARIANCE * usual) & ~empty] |= np.int32(plane_bits(["HIGH_VARIANCE"]))


def _overlap(tile: Exposure, wcs: SkyWcs, box: Box) -> Box | None:
    """Return the part of `box` that a tile reaches, from positions along the tile's edge; None where there is none."""
    x0, y0, width, height = tile.bbox
    t = np.linspace(0, 1, 9)
    ex = np.concatenate([x0 + t * width, x0 + t * width, np.full(9, x0), np.full(9, x0 + width)])
    ey = np.concatenate([np.full(9, y0), np.full(9, y0 + height), y0 + t * height, y0 + t * height])
    x, y = wcs.sky_to_pixel(*tile.require_wcs().pixel_to_sky(ex, ey))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return box  # seen from far away on the sphere: let the warp decide pixel by pixel
    low_x, high_x = max(box[0], int(x.min()) - 2), min(box[0] + box[2], int(x.max()) + 3)
    low_y, high_y = max(box[1], int(y.min()) - 2), min(box[1] + box[3], int(y.max()) + 3)
    return (low_x, low_y, high_x - low_x, high_y - low_y) if low_x < high_x and low_y < high_y else None
