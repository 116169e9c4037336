"""Sky coordinates of pixels: TAN, TAN-SIP and TPV through wcslib, vectorised both ways.

Pixel coordinates are 0-based in the frame of the exposure (its origin may be any integer); sky is ICRS degrees.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io.fits import Header
from numpy.typing import ArrayLike, NDArray

from exposure.errors import WcsMissing

if TYPE_CHECKING:  # takes half a second to load: only where there is a WCS
    from astropy.wcs import WCS

__all__ = ["SkyWcs"]

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
_TAN_CARDS = ("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2")
_OTHER_WCS = re.compile("PV|CROTA")


class SkyWcs:
    """A celestial WCS in the pixel frame of an exposure.

    Parameters
    ----------
    wcs
        astropy WCS with two celestial axes.
    origin
        Frame coordinates of the pixel that the WCS calls (0, 0).

    Raises
    ------
    WcsMissing
        The WCS is not celestial or not finite.
    """

    def __init__(self, wcs: "WCS", origin: tuple[int, int] = (0, 0)) -> None:
        plain = wcs.naxis == 2 and wcs.wcs.lng == 0 and wcs.wcs.lat == 1
        celestial = wcs if plain else wcs.celestial  # which copies; and many programs make hundreds of these
        if celestial.naxis != 2 or not wcs.has_celestial:
            raise WcsMissing("the header has no celestial WCS: CTYPE1/CTYPE2 must be a RA/DEC pair")
        self._wcs = celestial
        self.origin = (int(origin[0]), int(origin[1]))
        scale = np.abs(np.linalg.det(celestial.pixel_scale_matrix))
        if not np.isfinite(scale) or scale <= 0:
            raise WcsMissing("the WCS has a singular or non-finite CD matrix")

    def __repr__(self) -> str:
        ra, dec = self._wcs.wcs.crval
        kind = " ".join(self._wcs.wcs.ctype)
        return f"<SkyWcs {kind}, RA {ra:.5f} Dec {dec:+.5f} at pixel {np.round(self.reference_pixel, 2).tolist()}>"

    @classmethod
    def from_header(cls, header: Header, origin: tuple[int, int] = (0, 0)) -> "SkyWcs":
        """Read the WCS of a FITS header; the header's pixel (1, 1) is `origin`."""
        from astropy.wcs import WCS, FITSFixedWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            try:
                wcs = WCS(header)
            except Exception as error:
                raise WcsMissing(f"the WCS of the header cannot be read: {error}") from error
        if not wcs.has_celestial:
            raise WcsMissing("the header has no celestial WCS: CTYPE1/CTYPE2 must be a RA/DEC pair")
        return cls(wcs, origin)

    @classmethod
    def tan(cls, crpix: Sequence[float], crval: Sequence[float], cd: ArrayLike) -> "SkyWcs":
        """Return a TAN WCS; `crpix` is 0-based in the frame, `crval` degrees, `cd` degrees per pixel."""
        from astropy.wcs import WCS

        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crpix = [crpix[0] + 1.0, crpix[1] + 1.0]
        wcs.wcs.crval = list(crval)
        wcs.wcs.cd = np.asarray(cd, dtype=np.float64)
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.set()
        return cls(wcs)

    @classmethod
    def tan_sip(
        cls,
        crpix: Sequence[float],
        crval: Sequence[float],
        cd: ArrayLike,
        powers: "Sequence[NDArray[np.float64]] | None",
    ) -> "SkyWcs":
        """Return a TAN-SIP WCS; `powers` holds A, B, AP, BP (the last two may be missing), `crpix` as for `tan`."""
        made = cls.tan(crpix, crval, cd)
        if powers is None:
            return made
        from astropy.wcs import Sip

        made._wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
        inverse = (powers[2], powers[3]) if len(powers) == 4 else (None, None)
        made._wcs.sip = Sip(powers[0], powers[1], *inverse, np.asarray(made._wcs.wcs.crpix, np.float64))
        made._wcs.wcs.set()
        return made

    @classmethod
    def from_cards(cls, cards: Mapping[str, Any]) -> "SkyWcs | None":
        """Read TAN and TAN-SIP from plain cards; None for anything else (see `from_header`)."""
        kinds = (str(cards.get("CTYPE1", "")), str(cards.get("CTYPE2", "")))
        sip = kinds == ("RA---TAN-SIP", "DEC--TAN-SIP")
        plain = kinds == ("RA---TAN", "DEC--TAN")
        if not (sip or plain) or cards.get("RADESYS", "ICRS") != "ICRS" or cards.get("LONPOLE", 180.0) != 180.0:
            return None
        if any(map(_OTHER_WCS.match, cards)) or any(k not in cards for k in _TAN_CARDS):
            return None
        if any(f"CD{i}_{j}" in cards for i in (1, 2) for j in (1, 2)):
            cd = [[float(cards.get(f"CD{i}_{j}", 0.0)) for j in (1, 2)] for i in (1, 2)]
        else:
            scale = [float(cards.get(f"CDELT{i}", 1.0)) for i in (1, 2)]
            cd = [[scale[i - 1] * float(cards.get(f"PC{i}_{j}", float(i == j))) for j in (1, 2)] for i in (1, 2)]
        powers = _sip_tables(cards) if sip else None
        crpix = (float(cards["CRPIX1"]) - 1.0, float(cards["CRPIX2"]) - 1.0)
        return cls.tan_sip(crpix, (float(cards["CRVAL1"]), float(cards["CRVAL2"])), cd, powers)

    @classmethod
    def fitted(cls, x: ArrayLike, y: ArrayLike, ra: ArrayLike, dec: ArrayLike, order: int = 3) -> "SkyWcs":
        """Return the TAN-SIP WCS of the given order that fits pairs of frame pixels and sky positions (degrees) best."""
        from astropy.coordinates import SkyCoord  # half a second to import, and few programs fit a WCS
        from astropy.wcs.utils import fit_wcs_from_points

        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        origin = (round(float(x.min())), round(float(y.min())))
        sky = SkyCoord(np.asarray(ra, np.float64), np.asarray(dec, np.float64), unit="deg")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = fit_wcs_from_points((x - origin[0], y - origin[1]), sky, projection="TAN", sip_degree=order)
        return cls(wcs, origin)

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> Pair:
        """Return (ra, dec) in degrees of frame pixel positions."""
        x = np.asarray(x, dtype=np.float64) - self.origin[0]
        y = np.asarray(y, dtype=np.float64) - self.origin[1]
        ra, dec = self._wcs.all_pix2world(x, y, 0)
        return np.asarray(ra) % 360.0, np.asarray(dec)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> Pair:
        """Return frame pixel positions; NaN where the sky position has none."""
        from astropy.wcs import NoConvergence, WcsError

        ra, dec = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
        if ra.size == 0:
            return np.zeros(ra.shape), np.zeros(ra.shape)
        try:
            x, y = self._wcs.all_world2pix(ra, dec, 0, quiet=True)
        except (WcsError, NoConvergence, ValueError):
            x = y = np.full(ra.shape, np.nan)
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        far = ~self._same_hemisphere(ra, dec)
        return np.where(far, np.nan, x + self.origin[0]), np.where(far, np.nan, y + self.origin[1])

    def _same_hemisphere(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
        """A gnomonic projection shows the far side of the sky mirrored: refuse it."""
        r0, d0 = np.radians(self._wcs.wcs.crval)
        r, d = np.radians(ra), np.radians(dec)
        cosine = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(r - r0)
        return np.asarray(cosine > 0.1)

    def jacobian(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Return the local matrices, shape (..., 2, 2), degrees per pixel: [[dRA cos dec/dx, /dy], [dDec/dx, /dy]]."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        h = 0.5
        out = np.empty((*x.shape, 2, 2))
        for k, (dx, dy) in enumerate(((h, 0.0), (0.0, h))):
            r1, d1 = self.pixel_to_sky(x + dx, y + dy)
            r0, d0 = self.pixel_to_sky(x - dx, y - dy)
            wrapped = (r1 - r0 + 180.0) % 360.0 - 180.0
            out[..., 0, k] = wrapped * np.cos(np.radians(0.5 * (d0 + d1))) / (2 * h)
            out[..., 1, k] = (d1 - d0) / (2 * h)
        return out

    def pixel_scale_arcsec(self, x: ArrayLike = 0.0, y: ArrayLike = 0.0) -> NDArray[np.float64]:
        """Return sqrt(|det J|) in arcsec per pixel."""
        return np.asarray(3600.0 * np.sqrt(np.abs(np.linalg.det(self.jacobian(x, y)))))

    def shifted(self, dx: float, dy: float) -> "SkyWcs":
        """Return the WCS for pixels that lie (dx, dy) further than this one says."""
        moved = self._wcs.deepcopy()
        moved.wcs.crpix = [moved.wcs.crpix[0] + dx, moved.wcs.crpix[1] + dy]
        moved.wcs.set()
        return SkyWcs(moved, self.origin)

    def affine_corrected(self, matrix: ArrayLike, offset: ArrayLike) -> "SkyWcs":
        """Return the WCS after the pixel map p_true = matrix (p - c) + c + offset was found, c = reference pixel.

        ``pixel_to_sky`` of the result at p equals that of this WCS at p_true.
        """
        moved = self._wcs.deepcopy()
        m, t = np.asarray(matrix, dtype=np.float64), np.asarray(offset, dtype=np.float64)
        if moved.sip is not None:
            moved.wcs.crpix = np.asarray(moved.wcs.crpix) - t
            if moved.sip is not None:
                moved.sip.crpix[:] = moved.wcs.crpix
            return SkyWcs(moved, self.origin)
        cd = moved.pixel_scale_matrix @ m
        moved.wcs.cd = cd
        if moved.wcs.has_pc():
            moved.wcs.pc, moved.wcs.cdelt = np.eye(2), [1.0, 1.0]
            moved.wcs.cd = cd
        moved.wcs.crpix = np.asarray(moved.wcs.crpix) - np.linalg.solve(m, t)
        moved.wcs.set()
        return SkyWcs(moved, self.origin)

    @property
    def reference_pixel(self) -> NDArray[np.float64]:
        """Frame coordinates of CRPIX (0-based)."""
        return np.asarray(np.asarray(self._wcs.wcs.crpix, dtype=np.float64) - 1.0 + np.asarray(self.origin))

    def to_header(self, origin: tuple[int, int] = (0, 0)) -> Header:
        """Return FITS cards for an array whose first pixel is `origin` in the frame."""
        moved = self._wcs.deepcopy()
        delta = np.asarray(self.origin) - np.asarray(origin)
        moved.wcs.crpix = np.asarray(moved.wcs.crpix) + delta
        if moved.sip is not None:
            moved.sip.crpix[:] = np.asarray(moved.sip.crpix) + delta
        header = moved.to_header(relax=True)
        return header

    def same_as(self, other: "SkyWcs", x: ArrayLike, y: ArrayLike, tol_pixel: float = 1e-3) -> bool:
        """Return whether both give the same sky at the positions, to `tol_pixel` pixels."""
        ra, dec = self.pixel_to_sky(x, y)
        xo, yo = other.sky_to_pixel(ra, dec)
        miss: Any = np.hypot(xo - np.asarray(x), yo - np.asarray(y))
        return bool(np.all(miss < tol_pixel))


def _sip_tables(cards: Mapping[str, Any]) -> list[NDArray[np.float64]] | None:
    """Return the tables A, B and, where they are given, AP, BP; None without forward terms."""
    names = ["A", "B"] + (["AP", "BP"] if "AP_ORDER" in cards and "BP_ORDER" in cards else [])
    if "A_ORDER" not in cards or "B_ORDER" not in cards:
        return None
    out = []
    for name in names:
        order = int(cards[f"{name}_ORDER"])
        table = np.zeros((order + 1, order + 1))
        for p in range(order + 1):
            for q in range(order + 1 - p):
                table[p, q] = float(cards.get(f"{name}_{p}_{q}", 0.0))
        out.append(table)
    return out
