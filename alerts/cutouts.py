"""Cutouts of alerts as FITS: image (nJy), variance, mask, PSF, with a local TAN WCS.

The header of an image is prepared once, with places for the numbers; a cutout fills them in and appends its pixels, so
that no FITS library runs per alert.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from exposure import Exposure
from exposure.mask import PLANES, plane_bits
from exposure.photometry import psf_images

__all__ = ["CutoutMaker", "cutout_sides"]

MIN_SIDE, MAX_SIDE = 30, 102
_CARD, _BLOCK = 80, 2880


def cutout_sides(bbox_sizes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sides of cutouts: those of the footprints, within 30..102 px."""
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


def _padding(size: int) -> bytes:
    return b"\0" * (-size % _BLOCK)


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
        return next(self.cut_all(np.array([x]), np.array([y]), np.array([side])))

    def cut_all(
        self, x: NDArray[np.float64], y: NDArray[np.float64], sides: NDArray[np.int64]
    ) -> Iterator[bytes | None]:
        """Yield the FITS bytes of the cutout around each frame position, None where the position is off the image.

        Parts beyond the edge are NaN with infinite variance and NO_DATA. Where the PSF is not defined there is no
        PSFIMAGE.

        Parameters
        ----------
        x, y
            Shape (N,), frame positions in px.
        sides
            Shape (N,), sides of the squares in px.
        """
        e = self.exposure
        inside = e.contains(x, y)
        places = np.flatnonzero(inside)
        corners = np.floor(np.stack([x, y], axis=1)[places] - sides[places, None] / 2 + 1).astype(np.int64)
        numbers = self._numbers(x[places], y[places], corners)
        assert e.photo_calib is not None
        scales = e.photo_calib.at(x[places], y[places]).astype(np.float32) if places.size else np.zeros(0, np.float32)
        psfs = self._psfs(x[places], y[places])
        at = 0
        for ok, side in zip(inside.tolist(), sides.tolist(), strict=True):
            if not ok:
                yield None
                continue
            psf = None if psfs is None else psfs[at]
            yield self._fits(int(corners[at, 0]), int(corners[at, 1]), side, numbers[at], scales[at], psf)
            at += 1

    def _numbers(
        self, x: NDArray[np.float64], y: NDArray[np.float64], corners: NDArray[np.int64]
    ) -> list[tuple[float, ...]]:
        if not x.size:
            return []
        wcs = self.exposure.require_wcs()
        ra, dec = wcs.pixel_to_sky(x, y)
        cd = wcs.jacobian(x, y).reshape(-1, 4)
        pixel = np.stack([x, y], axis=1) - corners + 1
        columns = np.column_stack([pixel, ra, dec, cd]).tolist()
        return [(*row, x0 - 1, y0 - 1) for row, (x0, y0) in zip(columns, corners.tolist(), strict=True)]

    def _psfs(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.floating] | None:
        model = self.exposure.psf
        if model is None or self.psf == "none" or not x.size:
            return None
        if self.psf == "average":
            at = np.array(model.average_position())
            one = psf_images(model, at[:1], at[1:]).astype(">f4")
            return np.broadcast_to(one, (x.size, *one.shape[1:]))
        return psf_images(model, x, y).astype(">f4")

    def _fits(
        self, x0: int, y0: int, side: int, numbers: tuple[float, ...], scale: np.float32, psf: NDArray[np.floating] | None
    ) -> bytes:  # fmt: skip
        primary, uncert, mask_head = _heads(side, float(self.rotation))
        image, variance, mask = self._pixels(x0, y0, side)
        padding = _padding(4 * side * side)
        parts = [
            (primary % numbers).encode("ascii"), (image * scale).astype(">f4").tobytes(), padding,
            uncert, (variance * (scale * scale)).astype(">f4").tobytes(), padding,
            mask_head, mask.astype(">i4").tobytes(), padding,
        ]  # fmt: skip
        if psf is not None and np.isfinite(psf[0, 0]):
            raw = psf.tobytes()
            parts += [_psf_head(psf.shape[0]), raw, _padding(len(raw))]
        return b"".join(parts)

    def _pixels(
        self, x0: int, y0: int, side: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        e = self.exposure
        ax, ay = x0 - e.origin[0], y0 - e.origin[1]
        lo_x, hi_x, lo_y, hi_y = max(ax, 0), min(ax + side, e.width), max(ay, 0), min(ay + side, e.height)
        inner = (slice(lo_y, hi_y), slice(lo_x, hi_x))
        if hi_x - lo_x == side and hi_y - lo_y == side:
            return e.image[inner], e.variance[inner], e.mask[inner]
        image = np.full((side, side), np.nan, np.float32)
        variance = np.full((side, side), np.inf, np.float32)
        mask = np.full((side, side), plane_bits(["NO_DATA"]), np.int32)
        part = (slice(lo_y - ay, hi_y - ay), slice(lo_x - ax, hi_x - ax))
        image[part], variance[part], mask[part] = e.image[inner], e.variance[inner], e.mask[inner]
        return image, variance, mask
