"""A smooth background: a mesh of robust sky values, interpolated by bicubic splines (SEP)."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import sep

from exposure.mask import plane_bits, usable_pixels
from exposure.threads import in_bands
from tasks.arrays import F32, F64, Flags
from tasks.compiled import compiled
from tasks.reprs import short_repr

if TYPE_CHECKING:
    from exposure.exposure import Exposure

__all__ = ["Background", "estimate_background", "subtract_level", "subtract_mesh", "subtract_plane"]

BLOCKS = 16  # along each side, whose medians tell whether the sky is a steep plane
SAMPLES = 1024  # pixels along the shorter side that a coarse mesh is made from


@dataclass(frozen=True)
class Background:
    """Background of one image: full-size maps, made when they are asked for, and the two global numbers."""

    mesh: Any
    global_level: float
    global_rms: float

    __repr__ = short_repr

    @cached_property
    def level(self) -> F32:
        """The sky at each pixel."""
        return np.asarray(self.mesh.back(dtype=np.float32))

    @cached_property
    def rms(self) -> F32:
        """Its standard deviation at each pixel."""
        return np.asarray(self.mesh.rms(dtype=np.float32))

    def take_off(self, image: F32) -> None:
        """Subtract the sky from the image it was estimated on, in place, row by row: no map of it is made."""
        if image.flags.c_contiguous and image.dtype == np.float32 and image.dtype.isnative:
            self.mesh.subfrom(image)
        else:
            image -= self.level


def estimate_background(image: F32, bad: Flags | None = None, mesh: int = 64, filter_size: int = 3) -> Background:
    """Estimate sky level and rms per mesh cell with clipped statistics.

    Parameters
    ----------
    image
        Shape (height, width); NaN pixels count as bad.
    bad
        Pixels to leave out.
    mesh
        Cell side in px; reduced for small images.
    filter_size
        Median filter over the cells.
    """
    mask = ~np.isfinite(image)
    complete = not mask.any()  # then a copy is not needed
    if bad is not None:
        mask |= bad
    side = int(max(8, min(mesh, min(image.shape) // 4)))
    data = np.ascontiguousarray(image if complete else np.where(mask, np.float32(0), image), dtype=np.float32)
    cells = sep.Background(data, mask=mask, bw=side, bh=side, fw=filter_size, fh=filter_size)
    return Background(cells, float(cells.globalback), float(cells.globalrms))


def subtract_plane(exposure: "Exposure", mesh: int) -> None:
    """Take a steep plane off in place, zero in the middle: over a cell of `mesh` px a mode needs a sky that is nearly flat.

    One that rises by less than the noise of a pixel over a cell is left; so is an image of less than two pixels a block.
    """
    height, width = exposure.image.shape
    step = max(1, min(height, width) // 512)
    some = exposure.image[::step, ::step].astype(np.float64)
    good = np.isfinite(some) & (exposure.mask[::step, ::step] & np.int32(plane_bits(["NO_DATA", "BAD", "SAT"])) == 0)
    rows, columns = some.shape[0] // BLOCKS, some.shape[1] // BLOCKS
    if min(rows, columns) < 2:
        return
    box = np.where(good, some, np.nan)[: rows * BLOCKS, : columns * BLOCKS]
    parts = box.reshape(BLOCKS, rows, BLOCKS, columns).transpose(0, 2, 1, 3).reshape(BLOCKS * BLOCKS, -1)
    filled = np.isfinite(parts).mean(1) > 0.5
    if filled.sum() < BLOCKS:
        return
    parts = parts[filled]
    level = np.nanmedian(parts, axis=1)
    y, x = (v.ravel()[filled] for v in np.mgrid[:BLOCKS, :BLOCKS])
    along_x, along_y = _slopes((x + 0.5) * columns * step, (y + 0.5) * rows * step, level)
    # differences of neighbours: what a slope adds to them is small
    noise = 1.4826 * float(np.nanmedian(np.abs(np.diff(box, axis=1)))) / np.sqrt(2)
    if np.hypot(along_x, along_y) * mesh > noise:
        exposure.image -= (along_x * (np.arange(width) - (width - 1) / 2)).astype(np.float32)
        exposure.image -= (along_y * (np.arange(height) - (height - 1) / 2)).astype(np.float32)[:, None]


def _slopes(x: F64, y: F64, level: F64) -> tuple[float, float]:
    """Return the slopes of the plane through levels, those left out that are 5 sigma off."""
    terms, use = np.column_stack([np.ones(x.size), x, y]), np.ones(x.size, np.bool_)
    for _ in range(3):
        fit = np.linalg.lstsq(terms[use], level[use])[0]
        rest = np.abs(level - terms @ fit)
        use = rest <= 5 * 1.4826 * np.median(rest[use]) + 1e-9 * np.abs(level).max()
    return float(fit[1]), float(fit[2])


def subtract_mesh(exposure: "Exposure", mesh: int, *excluded: str) -> None:
    """Take the sky of a coarse mesh off in place; pixels without data stay as they are.

    Parameters
    ----------
    mesh
        Cell side in px. Large images are sampled: every n-th pixel of every n-th row is enough for large cells.
    excluded
        Planes whose pixels are left out of the estimate.
    """
    step = max(1, min(exposure.image.shape) // SAMPLES)
    part = (slice(None, None, step), slice(None, None, step))
    image, variance = exposure.image[part], exposure.variance[part]
    bad = ~usable_pixels(image, variance, exposure.mask[part], plane_bits(["NO_DATA", *excluded]))
    subtract_level(exposure, estimate_background(image, bad, max(mesh // step, 8)).level, step)


def subtract_level(exposure: "Exposure", level: F32, step: int) -> None:
    """Take a map off in place that is known at every `step`-th pixel of every `step`-th row, bilinear between those.

    Pixels without data (``NO_DATA``) stay as they are.
    """
    bits = np.int32(plane_bits(["NO_DATA"]))
    in_bands(
        lambda first, last: _subtract(exposure.image, exposure.mask, bits, level, step, first, last), exposure.height
    )


@compiled
def _subtract(image: Any, mask: Any, bits: Any, level: Any, step: int, first: int, last: int) -> None:
    width = image.shape[1]
    rows = np.zeros((3, width), np.float32)
    above, below, rise = rows[0], rows[1], rows[2]
    current = -2
    for y in range(first, last):
        k = min(y // step, level.shape[0] - 1)
        if k != current:
            if k == current + 1:
                above, below = below, above
            else:
                _interpolate_row(level[k], step, above)
            _interpolate_row(level[min(k + 1, level.shape[0] - 1)], step, below)
            for x in range(width):
                rise[x] = below[x] - above[x]
            current = k
        f = np.float32((y - k * step) / step)
        pixels, flags = image[y], mask[y]
        for x in range(width):
            value = pixels[x]
            pixels[x] = value - (above[x] + f * rise[x]) if flags[x] & bits == 0 else value


@compiled
def _interpolate_row(coarse: Any, step: int, out: Any) -> None:
    """Write to `out` the levels `coarse`, `step` px apart, interpolated linearly."""
    last = coarse.shape[0] - 1
    for i in range(last + 1):
        start, slope = coarse[i], (coarse[min(i + 1, last)] - coarse[i]) / np.float32(step)
        part = out[i * step : (i + 1) * step]
        for q in range(part.shape[0]):
            part[q] = start + np.float32(q) * slope
