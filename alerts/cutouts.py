"""Cutouts of an alert as FITS: image (nJy), variance, mask, PSF, with a local TAN WCS.

The headers are prepared once per image; a cutout only fills in its numbers, so that no FITS library runs per alert.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exposure import Exposure
from exposure.mask import plane_bits
from exposure.photometry import psf_images

__all__ = ["CutoutMaker", "cutout_side"]

MIN_SIDE, MAX_SIDE = 30, 102


def cutout_side(bbox_size: int) -> int:
    """Return the side of a cutout: the footprint's, within 30..102 px."""
    return int(np.clip(bbox_size, MIN_SIDE, MAX_SIDE))


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
    return f"{key:<8}= {text}{' / ' + comment if comment else ''}"[:80].ljust(80)


def _block(cards: list[str]) -> bytes:
    text = "".join(cards) + "END".ljust(80)
    return text.ljust(-(-len(text) // 2880) * 2880).encode("ascii")


def _data(array: NDArray[np.generic], kind: str) -> bytes:
    raw = np.ascontiguousarray(array, dtype=kind).tobytes()
    return raw.ljust(-(-len(raw) // 2880) * 2880, b"\0")


def _axes(shape: tuple[int, ...], bitpix: int, extension: str | None) -> list[str]:
    first = _card("SIMPLE", True, "conforms to FITS standard") if extension is None else _card("XTENSION", "IMAGE")
    cards = [first, _card("BITPIX", bitpix), _card("NAXIS", len(shape))]
    cards += [_card(f"NAXIS{k + 1}", n) for k, n in enumerate(reversed(shape))]
    if extension is None:
        return [*cards, _card("EXTEND", True)]
    return [*cards, _card("PCOUNT", 0), _card("GCOUNT", 1), _card("EXTNAME", extension)]


@dataclass(frozen=True)
class CutoutMaker:
    """Cuts stamps out of one exposure."""

    exposure: Exposure
    rotation: float = 0.0
    with_psf: bool = True

    def cut(self, x: float, y: float, side: int) -> bytes | None:
        """Return the FITS bytes of the cutout around a frame position, None when the position is off the image.

        Parts beyond the edge are NaN with infinite variance and NO_DATA.
        """
        e = self.exposure
        if not bool(e.contains(x, y)):
            return None
        x0, y0 = int(np.floor(x - side / 2 + 1)), int(np.floor(y - side / 2 + 1))
        image, variance, mask = self._pixels(x0, y0, side)
        assert e.photo_calib is not None
        scale = float(e.photo_calib.at(np.array([x]), np.array([y]))[0])
        head = _axes(image.shape, -32, None) + self._wcs_cards(x, y, x0, y0)
        head += [_card("BUNIT", "nJy"), _card("CUTMINX", x0 - 1), _card("CUTMINY", y0 - 1)]
        head += [_card("ROTPA", float(self.rotation), "[deg] boresight rotation")]
        out = _block(head) + _data(image * np.float32(scale), ">f4")
        out += _block([*_axes(image.shape, -32, "UNCERT"), _card("UTYPE", "VAR"), _card("BUNIT", "nJy2")])
        out += _data(variance * np.float32(scale) ** 2, ">f4")
        planes = [_card(f"MP_{n}"[:8], b) for n, b in _PLANE_CARDS]
        out += _block([*_axes(mask.shape, 32, "MASK"), *planes]) + _data(mask, ">i4")
        if self.with_psf and e.psf is not None:
            psf = psf_images(e.psf, np.array([x]), np.array([y]))[0]
            if np.isfinite(psf).all():
                out += _block(_axes(psf.shape, -32, "PSFIMAGE")) + _data(psf, ">f4")
        return out

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

    def _wcs_cards(self, x: float, y: float, x0: int, y0: int) -> list[str]:
        wcs = self.exposure.require_wcs()
        ra, dec = wcs.pixel_to_sky(np.array([x]), np.array([y]))
        cd = wcs.jacobian(np.array([x]), np.array([y]))[0]
        cards = [_card("WCSAXES", 2), _card("CTYPE1", "RA---TAN"), _card("CTYPE2", "DEC--TAN")]
        cards += [_card("CUNIT1", "deg"), _card("CUNIT2", "deg"), _card("RADESYS", "ICRS")]
        cards += [_card("CRPIX1", float(x - x0 + 1)), _card("CRPIX2", float(y - y0 + 1))]
        cards += [_card("CRVAL1", float(ra[0])), _card("CRVAL2", float(dec[0]))]
        return cards + [_card(f"CD{i + 1}_{j + 1}", float(cd[i, j])) for i in range(2) for j in range(2)]


_PLANE_CARDS = [("BAD", 0), ("SAT", 1), ("INTRP", 2), ("CR", 3), ("EDGE", 4), ("NO_DATA", 8)]
