"""PSFs of coadds and warps: weighted means of input PSFs, turned by the local Jacobian."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import affine_transform

from exposure import GridPsf, Psf, PsfUndefined, SkyWcs
from tasks.arrays import F64, Box

__all__ = ["LEAST_WEIGHT", "PsfInput", "edge_depth", "fading_psf", "union_psf"]

PsfInput = tuple[Psf, SkyWcs, Box, float]  # model, WCS of its frame, box that it covers, weight
TAPER, TAPER_SHARE = 256.0, 0.15  # px over which a frame fades in from its edge, at most a share of its shorter side
LEAST_WEIGHT = 1e-3  # at the very edge: what no other frame covers is still there


def edge_depth(x: F64, y: F64, box: Box) -> F64:
    """Return how far frame positions of any shape lie inside a box, in units of that over which a frame fades in from its edge.

    Clipped to `LEAST_WEIGHT` and 1 it is the weight of the frame. Where a frame ends the PSF of a coadd would jump, and a star on
    that line have two; so it changes over many times the width of a star, as slowly as a grid of PSFs can follow.
    """
    x0, y0, width, height = box
    depth = np.minimum(np.minimum(x - x0, x0 + width - 1 - x), np.minimum(y - y0, y0 + height - 1 - y))
    return np.asarray(depth / min(TAPER, TAPER_SHARE * min(width, height)))


def union_psf(inputs: Sequence[PsfInput], target: SkyWcs, box: Box, cells: int, size: int) -> GridPsf:
    """Return the PSF on a grid of `cells` x `cells` over `box`: the mean of the inputs that cover each cell.

    Parameters
    ----------
    inputs
        Models with their WCS, box and weight.
    target
        WCS of the frame of the result.
    box
        x0, y0, width, height in that frame, px.
    size
        Side of the stamps, px, odd.

    Notes
    -----
    Cells that no input covers are NaN ("not defined here").
    """
    mx, my = _centres(box, cells)
    ra, dec = target.pixel_to_sky(mx, my)
    jacobian = target.jacobian(mx, my)
    total = np.zeros((mx.size, size, size))
    weight = np.zeros(mx.size)
    for psf, wcs, (bx, by, bw, bh), w in inputs:
        px, py = wcs.sky_to_pixel(ra, dec)
        with np.errstate(invalid="ignore"):
            inside = np.flatnonzero((px > bx - 0.5) & (px < bx + bw - 0.5) & (py > by - 0.5) & (py < by + bh - 0.5))
        if inside.size == 0:
            continue
        turned = np.linalg.solve(wcs.jacobian(px[inside], py[inside]), jacobian[inside])
        for k, cell in enumerate(inside):  # a few dozen cells, once per template
            try:
                stamp = psf.kernel_at(px[cell], py[cell])[0].astype(np.float64)
            except PsfUndefined:
                continue
            total[cell] += w * _turn(stamp, turned[k], size)
            weight[cell] += w
    with np.errstate(invalid="ignore", divide="ignore"):
        cube = np.where(weight[:, None, None] > 0, total / weight[:, None, None], np.nan)
        cube /= cube.sum(axis=(1, 2), keepdims=True)
    return GridPsf(cube.astype(np.float32), cells, cells, box)


def fading_psf(inputs: Sequence[PsfInput], target: SkyWcs, box: Box, cells: int, fine: int, size: int) -> GridPsf:
    """Return the PSF of frames that fade towards their edges (`edge_depth`) on a grid of `fine` x `fine` over `box`.

    The PSF of each is turned on a grid of `cells` x `cells`, beyond its edge that at the edge, and bilinear between.
    Other parameters and the result are those of `union_psf`.
    """
    (cx, cy), (fx, fy) = _centres(box, cells), _centres(box, fine)
    sky, fine_sky, jacobian = target.pixel_to_sky(cx, cy), target.pixel_to_sky(fx, fy), target.jacobian(cx, cy)
    total, weight = np.zeros((fx.size, size, size)), np.zeros(fx.size)
    for psf, wcs, (bx, by, bw, bh), w in inputs:
        px, py = wcs.sky_to_pixel(*fine_sky)
        with np.errstate(invalid="ignore"):
            inside = (px > bx - 0.5) & (px < bx + bw - 0.5) & (py > by - 0.5) & (py < by + bh - 0.5)
        depth = edge_depth(np.nan_to_num(px), np.nan_to_num(py), (bx, by, bw, bh))
        own = np.where(inside, w * np.clip(depth, LEAST_WEIGHT, 1.0), 0.0)
        if not inside.any():
            continue
        x, y = wcs.sky_to_pixel(*sky)
        x, y = np.clip(x, bx, bx + bw - 1.0), np.clip(y, by, by + bh - 1.0)
        turned = np.linalg.solve(wcs.jacobian(x, y), jacobian)
        stamps = [_turn(s.astype(np.float64), m, size) for s, m in zip(psf.kernel_at(x, y), turned, strict=True)]
        grid = GridPsf(np.asarray(stamps, np.float32), cells, cells, box)
        total += own[:, None, None] * grid.kernel_at(fx, fy)
        weight += own
    with np.errstate(invalid="ignore", divide="ignore"):
        cube = np.where(weight[:, None, None] > 0, total / weight[:, None, None], np.nan)
        cube /= cube.sum(axis=(1, 2), keepdims=True)
    return GridPsf(cube.astype(np.float32), fine, fine, box)


def _centres(box: Box, cells: int) -> tuple[F64, F64]:
    """Return the frame positions (cells^2,) of the middles of `cells` x `cells` cells of a box, x fastest."""
    x0, y0, width, height = box
    gx = x0 + (np.arange(cells) + 0.5) * width / cells - 0.5
    gy = y0 + (np.arange(cells) + 0.5) * height / cells - 0.5
    mx, my = np.meshgrid(gx, gy)
    return mx.ravel(), my.ravel()


def _turn(stamp: F64, matrix: F64, size: int) -> F64:
    """Resample a stamp: output pixel o (from the centre) takes the input at matrix @ o."""
    flipped = matrix[::-1, ::-1]  # (x, y) -> (row, column)
    centre_in, centre_out = np.full(2, stamp.shape[0] // 2), np.full(2, size // 2)
    offset = centre_in - flipped @ centre_out
    out = affine_transform(stamp, flipped, offset=offset, output_shape=(size, size), order=5, mode="constant")
    return np.asarray(out * abs(np.linalg.det(matrix)))
