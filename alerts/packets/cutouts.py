"""Cutouts of alerts as FITS: image (nJy), variance, mask, PSF, with a local TAN WCS.

The header of an image is prepared once, with places for the numbers; a cutout fills them in and appends its pixels, so
that no FITS library runs per alert.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exposure import Exposure
from exposure.mask import PLANES, plane_bits
from exposure.photometry import psf_images
from tasks.arrays import F32, F64, I32, I64, U8
from tasks.compiled import compiled

__all__ = ["CutoutMaker", "cutout_sides"]

MIN_SIDE, MAX_SIDE = 30, 102
_CARD, _BLOCK = 80, 2880
_NO_DATA = plane_bits(["NO_DATA"])


def cutout_sides(bbox_sizes: Sequence[int] | I64) -> I64:
    """Return the sides of cutouts, shape (N,) in px: those of the footprints, within 30..102 px."""
    return np.clip(np.asarray(bbox_sizes, np.int64), MIN_SIDE, MAX_SIDE)


def _card(key: str, value: object, comment: str = "") -> str:
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, int):
        text = f"{value:>20}"
    elif isinstance(value, float):
        text = f"{value:>20.13G}"
    else:
        quoted = str(value).replace("'", "''")
        text = f"'{quoted:<8}'"
    name = f"{key:<8}= " if len(key) <= 8 else f"HIERARCH {key} = "
    return f"{name}{text}{' / ' + comment if comment else ''}"[:_CARD].ljust(_CARD)


def _block(cards: list[str]) -> str:
    text = "".join(cards) + "END".ljust(_CARD)
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK)


def _blocks(size: int) -> int:
    """Bytes of the FITS blocks that hold so many."""
    return -(-size // _BLOCK) * _BLOCK


def _raw(data: bytes) -> U8:
    return np.frombuffer(data, np.uint8)


def _big_endian(pixels: NDArray[Any]) -> U8:
    """Return the FITS bytes of N images, one line each."""
    return pixels.astype(pixels.dtype.newbyteorder(">"), order="C").reshape(len(pixels), -1).view(np.uint8)


def _defined(psfs: NDArray[np.floating] | None, n: int) -> list[bool]:
    return [True] * n if psfs is None else np.isfinite(psfs[:, 0, 0]).tolist()


class _Planes(NamedTuple):
    """Image and variance (float32) and mask (int32): (height, width) of an exposure, or (N, side, side) of its cutouts."""

    image: F32
    variance: F32
    mask: I32


@compiled
def _cut(source: _Planes, corners: I64, scales: F32, outside: int, cutouts: _Planes) -> None:
    """Copy squares and calibrate them.

    Parameters
    ----------
    source
        Planes of the exposure, in its units.
    corners
        Shape (N, 2): x and y of the lower left pixels in the arrays of the source.
    scales
        Shape (N,): nJy for one unit of the source.
    outside
        Mask of pixels beyond the edge, where the image is NaN and the variance infinite.
    cutouts
        Filled with nJy and nJy^2.
    """
    image, variance, mask = source
    images, variances, masks = cutouts
    height, width = image.shape
    side = images.shape[1]
    for n in range(images.shape[0]):
        x, y, scale = corners[n, 0], corners[n, 1], scales[n]
        i0, i1, j0, j1 = max(-x, 0), min(width - x, side), max(-y, 0), min(height - y, side)
        if i1 - i0 < side or j1 - j0 < side:
            images[n], variances[n], masks[n] = np.nan, np.inf, outside
        for j in range(j0, j1):
            pixels, noise, bits = image[y + j], variance[y + j], mask[y + j]
            for i in range(i0, i1):
                images[n, j, i] = pixels[x + i] * scale
                variances[n, j, i] = noise[x + i] * (scale * scale)
                masks[n, j, i] = bits[x + i]


def _axes(shape: tuple[int, ...], bitpix: int, extension: str | None) -> list[str]:
    first = _card("SIMPLE", True, "conforms to FITS standard") if extension is None else _card("XTENSION", "IMAGE")
    cards = [first, _card("BITPIX", bitpix), _card("NAXIS", len(shape))]
    cards += [_card(f"NAXIS{k + 1}", n) for k, n in enumerate(reversed(shape))]
    if extension is None:
        return [*cards, _card("EXTEND", True)]
    return [*cards, _card("PCOUNT", 0), _card("GCOUNT", 1), _card("EXTNAME", extension)]


_NUMBERS = ("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
_CORNER = ("CUTMINX", "CUTMINY")


@lru_cache(maxsize=256)
def _heads(side: int, rotation: float) -> tuple[str, bytes, bytes]:
    """Return the primary header with %-places for `_NUMBERS` and `_CORNER`, and those of UNCERT and MASK."""
    cards = [*_axes((side, side), -32, None), _card("WCSAXES", 2), _card("CTYPE1", "RA---TAN")]
    cards += [_card("CTYPE2", "DEC--TAN"), _card("CUNIT1", "deg"), _card("CUNIT2", "deg"), _card("RADESYS", "ICRS")]
    cards += [_card("BUNIT", "nJy"), _card("ROTPA", rotation, "[deg] boresight rotation")]
    # the %-places of the numbers
    cards += [f"{key:<8}= " + "\1" * 20 + " " * 50 for key in _NUMBERS]
    cards += [f"{key:<8}= " + "\2" * 20 + " " * 50 for key in _CORNER]
    primary = _block(cards).replace("%", "%%").replace("\1" * 20, "%20.13G").replace("\2" * 20, "%20d")
    uncert = _block([*_axes((side, side), -32, "UNCERT"), _card("UTYPE", "VAR"), _card("BUNIT", "nJy2")])
    planes = [_card(f"MP_{name}", bit) for name, bit in PLANES.items()]
    return primary, uncert.encode("ascii"), _block([*_axes((side, side), 32, "MASK"), *planes]).encode("ascii")


@lru_cache(maxsize=16)
def _psf_head(side: int) -> bytes:
    return _block(_axes((side, side), -32, "PSFIMAGE")).encode("ascii")


@dataclass(frozen=True)
class CutoutMaker:
    """Cuts stamps out of one exposure.

    Parameters
    ----------
    exposure
        Image with WCS, photometric calibration and, where there is one, a PSF.
    rotation
        Boresight rotation in degrees, for the header.
    psf
        ``source`` (the PSF at each source), ``average`` (that of the image) or ``none``.
    """

    exposure: Exposure
    rotation: float = 0.0
    psf: str = "source"

    def cut(self, x: float, y: float, side: int) -> bytes | None:
        """Return one cutout, as `cut_all` does."""
        (stamp,) = self.cut_all(np.array([x]), np.array([y]), np.array([side]))
        return None if stamp is None else bytes(stamp)

    def cut_all(self, x: F64, y: F64, sides: I64) -> list[memoryview | None]:
        """Return the FITS bytes of the cutout around each frame position, None where the position is off the image.

        Parts beyond the edge are NaN with infinite variance and NO_DATA. Where the PSF is not defined there is no
        PSFIMAGE.

        Parameters
        ----------
        x, y
            Shape (N,), frame positions in px.
        sides
            Shape (N,), sides of the squares in px.
        """
        out: list[memoryview | None] = [None] * x.size
        inside = self.exposure.contains(x, y)
        for side in np.unique(sides[inside]).tolist():
            rows = np.flatnonzero(inside & (sides == side))
            for row, stamp in zip(rows.tolist(), self._stamps(x[rows], y[rows], side), strict=True):
                out[row] = stamp
        return out

    def _stamps(self, x: F64, y: F64, side: int) -> Iterator[memoryview]:
        """Yield FITS files of one size: their bytes are the lines of one table, filled column by column."""
        e = self.exposure
        corners = np.floor(np.stack([x, y], axis=1) - side / 2 + 1).astype(np.int64)
        scales = e.require_photo_calib().at(x, y).astype(np.float32)
        shape = (x.size, side, side)
        pixels = _Planes(np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.int32))
        origin = np.array(e.origin, np.int64)
        _cut(_Planes(e.image, e.variance, e.mask), corners - origin, scales, _NO_DATA, pixels)
        primary, uncert, mask_head = _heads(side, float(self.rotation))
        heads = "".join([primary % numbers for numbers in self._numbers(x, y, corners)]).encode("ascii")
        parts = [
            _raw(heads).reshape(x.size, -1),
            _big_endian(pixels.image),
            _raw(uncert),
            _big_endian(pixels.variance),
            _raw(mask_head),
            _big_endian(pixels.mask),
        ]
        without = sum(_blocks(part.shape[-1]) for part in parts)
        psfs = self._psfs(x, y)
        if psfs is not None:
            parts += [_raw(_psf_head(psfs.shape[1])), _big_endian(psfs)]
        offsets = np.cumsum([0, *(_blocks(part.shape[-1]) for part in parts)]).tolist()
        table = np.zeros((x.size, offsets[-1]), np.uint8)
        for offset, part in zip(offsets, parts, strict=False):
            table[:, offset : offset + part.shape[-1]] = part
        for line, psf_is in zip(table, _defined(psfs, x.size), strict=True):
            yield memoryview(line.data) if psf_is else memoryview(line.data)[:without]

    def _numbers(self, x: F64, y: F64, corners: I64) -> list[tuple[float, ...]]:
        wcs = self.exposure.require_wcs()
        ra, dec = wcs.pixel_to_sky(x, y)
        cd = wcs.jacobian(x, y).reshape(-1, 4)
        pixel = np.stack([x, y], axis=1) - corners + 1
        columns = np.column_stack([pixel, ra, dec, cd]).tolist()
        return [(*row, x0 - 1, y0 - 1) for row, (x0, y0) in zip(columns, corners.tolist(), strict=True)]

    def _psfs(self, x: F64, y: F64) -> NDArray[np.floating] | None:
        model = self.exposure.psf
        if model is None or self.psf == "none":
            return None
        if self.psf == "average":
            center = np.array(model.average_position())
            stamp = psf_images(model, center[:1], center[1:])
            return np.broadcast_to(stamp, (x.size, *stamp.shape[1:]))
        return psf_images(model, x, y)
