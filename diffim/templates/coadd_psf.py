"""PSFs of coadds and warps: weighted means of input PSFs, turned by the local Jacobian."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import affine_transform

from exposure import GridPsf, Psf, PsfUndefined, SkyWcs
from tasks.arrays import F64, Box

__all__ = ["PsfInput", "union_psf"]

PsfInput = tuple[Psf, SkyWcs, Box, float]  # model, WCS of its frame, box that it covers, weight


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
    x0, y0, width, height = box
    gx = x0 + (np.arange(cells) + 0.5) * width / cells - 0.5
    gy = y0 + (np.arange(cells) + 0.5) * height / cells - 0.5
    mx, my = (a.ravel() for a in np.meshgrid(gx, gy))
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


def _turn(stamp: F64, matrix: F64, size: int) -> F64:
    """Resample a stamp: output pixel o (from the centre) takes the input at matrix @ o."""
    flipped = matrix[::-1, ::-1]  # (x, y) -> (row, column)
    centre_in, centre_out = np.full(2, stamp.shape[0] // 2), np.full(2, size // 2)
    offset = centre_in - flipped @ centre_out
    out = affine_transform(stamp, flipped, offset=offset, output_shape=(size, size), order=3, mode="constant")
    return np.asarray(out * abs(np.linalg.det(matrix)))
