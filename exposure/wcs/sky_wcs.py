"""Sky coordinates of pixels, vectorised both ways: any celestial FITS WCS through wcslib, brought to ICRS.

Pixel coordinates are 0-based in the frame of the exposure (its origin may be any integer); sky is ICRS degrees.
"""

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io.fits import Header
from numpy.typing import ArrayLike

from exposure.errors import WcsMissing, WcsUnsupported
from exposure.header.cards import Cards, Source
from exposure.wcs.cards import ORIGIN_CARDS, terms_of
from exposure.wcs.frames import SkyFrame, sky_frame
from exposure.wcs.terms import WcsTerms, number_card, sip_tables
from tasks.arrays import F64, Flags

if TYPE_CHECKING:  # takes half a second to load: only where there is a WCS
    from astropy.wcs import WCS

__all__ = ["SkyWcs"]

Pair = tuple[F64, F64]
_GNOMONIC = ("TAN", "TPV")
_INVERSE_MISS_PX = 0.01  # inverses of distortions may converge to another place far outside the image


class SkyWcs:
    """A celestial WCS in the pixel frame of an exposure.

    Parameters
    ----------
    wcs
        What the WCS is made of, or astropy's WCS with two celestial axes.
    origin
        Frame coordinates of the pixel that the WCS calls (0, 0).
    said
        What messages call the file.

    Raises
    ------
    WcsMissing, WcsUnsupported
        The WCS is not celestial, not finite, or of a kind that cannot be brought to ICRS.
    """

    def __init__(self, wcs: "WCS | WcsTerms", origin: tuple[int, int] = (0, 0), said: str = "the WCS") -> None:
        self.terms = wcs if isinstance(wcs, WcsTerms) else _terms_of_astropy(wcs)
        self.origin = (int(origin[0]), int(origin[1]))
        scale = np.abs(np.linalg.det(self.terms.cd))
        if not np.isfinite(scale) or scale <= 0:
            raise WcsMissing("the WCS has a singular or non-finite CD matrix")
        terms = self.terms
        self.frame: SkyFrame | None = sky_frame(terms.prefix, terms.radesys, terms.equinox, said)
        if not terms.is_plain:
            self._wcs = terms.built(said)

    def __getstate__(self) -> dict[str, Any]:
        """Leave astropy's object out: it would not come back to the last bit."""
        return {key: value for key, value in self.__dict__.items() if key != "_wcs"}

    @cached_property
    def _wcs(self) -> "WCS":
        return self.terms.built()

    def __repr__(self) -> str:
        x, y = self.reference_pixel
        return f"<SkyWcs {' '.join(self.terms.ctype)} around {np.round(self.terms.crval, 5).tolist()} at pixel [{x:.2f}, {y:.2f}]>"

    @classmethod
    def from_header(cls, header: Source, origin: tuple[int, int] = (0, 0)) -> "SkyWcs":
        """Read the WCS of a FITS header; the header's pixel (1, 1) is `origin`.

        Raises
        ------
        CardInvalid, WcsMissing, WcsUnsupported
            With the name of the file, where the cards have it, and the card.
        """
        wcs = cls.from_cards(header, origin)
        if wcs is None:
            name = Cards.of(header).name
            raise WcsMissing(f"{name} has no celestial WCS: CTYPE1/CTYPE2 must be a RA/DEC pair")
        return wcs

    @classmethod
    def from_cards(cls, cards: Source, origin: tuple[int, int] = (0, 0)) -> "SkyWcs | None":
        """Read the WCS of cards as `from_header` does; None where the axes are no places on the sky."""
        source = Cards.of(cards)
        terms = terms_of(source)
        if terms is None:
            return None
        if ORIGIN_CARDS[0] in source:
            terms, origin = _own_origin(source, terms, origin)
        return cls(terms, origin, source.name)

    @classmethod
    def tan(cls, crpix: Sequence[float], crval: Sequence[float], cd: ArrayLike) -> "SkyWcs":
        """Return a TAN WCS; `crpix` is 0-based in the frame, `crval` degrees, `cd` degrees per pixel."""
        return cls.tan_sip(crpix, crval, cd, None)

    @classmethod
    def tan_sip(
        cls,
        crpix: Sequence[float],
        crval: Sequence[float],
        cd: ArrayLike,
        powers: "Sequence[F64] | None",
    ) -> "SkyWcs":
        """Return a TAN-SIP WCS; `powers` holds A, B, AP, BP (the last two may be missing), `crpix` as for `tan`."""
        rows = np.asarray(cd, np.float64)
        end = "" if powers is None else "-SIP"
        return cls(
            WcsTerms(
                ctype=(f"RA---TAN{end}", f"DEC--TAN{end}"),
                crpix=(float(crpix[0]) + 1.0, float(crpix[1]) + 1.0),
                crval=(float(crval[0]), float(crval[1])),
                matrix=((float(rows[0, 0]), float(rows[0, 1])), (float(rows[1, 0]), float(rows[1, 1]))),
                sip=None if powers is None else sip_tables(powers),
            )
        )

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
        lon, lat = self._to_native(np.asarray(x, np.float64), np.asarray(y, np.float64))
        if self.frame is not None:
            lon, lat = self.frame.to_icrs(lon, lat)
        return lon % 360.0, lat

    def _to_native(self, x: F64, y: F64) -> Pair:
        """Longitude and latitude in the frame of the header."""
        world = self._wcs.all_pix2world(x - self.origin[0], y - self.origin[1], 0)
        lng = self.terms.lng
        return np.asarray(world[lng], np.float64), np.asarray(world[1 - lng], np.float64)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> Pair:
        """Return frame pixel positions; NaN where the sky position has none."""
        from astropy.wcs import NoConvergence, WcsError

        lon, lat = np.broadcast_arrays(np.asarray(ra, np.float64), np.asarray(dec, np.float64))
        if lon.size == 0:
            return np.zeros(lon.shape), np.zeros(lon.shape)
        if self.frame is not None:
            lon, lat = self.frame.from_icrs(lon, lat)
        world = (lat, lon) if self.terms.lng else (lon, lat)
        try:
            x, y = self._wcs.all_world2pix(*world, 0, quiet=True, tolerance=1e-6)
        except (WcsError, NoConvergence, ValueError):
            x = y = np.full(lon.shape, np.nan)
        x, y = np.asarray(x, np.float64) + self.origin[0], np.asarray(y, np.float64) + self.origin[1]
        bad = ~self._this_side(lon, lat) | ~self._goes_back(x, y, lon, lat)
        return np.where(bad, np.nan, x), np.where(bad, np.nan, y)

    def _same_hemisphere(self, ra: F64, dec: F64) -> Flags:
        """Return whether ICRS positions are on this side of the sky."""
        return self._this_side(*((ra, dec) if self.frame is None else self.frame.from_icrs(ra, dec)))

    def _this_side(self, lon: F64, lat: F64) -> Flags:
        """A gnomonic projection shows the far side of the sky mirrored: refuse it."""
        lng = self.terms.lng
        if self.terms.projection not in _GNOMONIC:
            return np.ones(np.shape(lon), np.bool_)
        r0, d0 = np.radians(self.terms.crval[lng]), np.radians(self.terms.crval[1 - lng])
        r, d = np.radians(lon), np.radians(lat)
        with np.errstate(invalid="ignore"):
            cosine = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(r - r0)
            return np.asarray(cosine > 0.1)

    def _goes_back(self, x: F64, y: F64, lon: F64, lat: F64) -> Flags:
        """Return where the pixels that an iteration found lie at the place asked for."""
        if self.terms.sip is None and self.terms.projection != "TPV":
            return np.ones(np.shape(x), np.bool_)
        with np.errstate(invalid="ignore"):
            there = _vectors(*self._to_native(x, y)) - _vectors(lon, lat)
            scale = np.radians(np.sqrt(np.abs(np.linalg.det(self.terms.cd))))
            return np.asarray(np.sqrt((there**2).sum(-1)) < _INVERSE_MISS_PX * scale)

    def jacobian(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return the local matrices, shape (..., 2, 2), degrees per pixel: [[dRA cos dec/dx, /dy], [dDec/dx, /dy]]."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        h = 0.5
        ra, dec = (np.radians(v) for v in self.pixel_to_sky(x, y))
        east = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)], -1)  # of the middle: right at the poles too
        north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], -1)
        out = np.empty((*x.shape, 2, 2))
        for k, (dx, dy) in enumerate(((h, 0.0), (0.0, h))):
            step = _vectors(*self.pixel_to_sky(x + dx, y + dy)) - _vectors(*self.pixel_to_sky(x - dx, y - dy))
            out[..., 0, k] = np.degrees((step * east).sum(-1)) / (2 * h)
            out[..., 1, k] = np.degrees((step * north).sum(-1)) / (2 * h)
        return out

    def pixel_scale_arcsec(self, x: ArrayLike = 0.0, y: ArrayLike = 0.0) -> F64:
        """Return sqrt(|det J|) in arcsec per pixel."""
        return np.asarray(3600.0 * np.sqrt(np.abs(np.linalg.det(self.jacobian(x, y)))))

    def shifted(self, dx: float, dy: float) -> "SkyWcs":
        """Return the WCS for pixels that lie (dx, dy) further than this one says."""
        return SkyWcs(self.terms.moved(dx, dy), self.origin)

    def affine_corrected(self, matrix: ArrayLike, offset: ArrayLike) -> "SkyWcs":
        """Return the WCS after the pixel map p_true = matrix (p - c) + c + offset was found, c = reference pixel.

        ``pixel_to_sky`` of the result at p equals that of this WCS at p_true.
        """
        return SkyWcs(self.terms.corrected(matrix, offset), self.origin)

    @property
    def reference_pixel(self) -> F64:
        """Frame coordinates of CRPIX (0-based)."""
        return np.asarray(np.asarray(self.terms.crpix, dtype=np.float64) - 1.0 + np.asarray(self.origin))

    def to_header(self, origin: tuple[int, int] = (0, 0)) -> Header:
        """Return FITS cards for an array whose first pixel is `origin` in the frame.

        `from_header` with the same origin gives this WCS back to the last bit: where CRPIX of the array may be
        rounded, four more cards (WCSX0, WCSY0, WCSCRPX1, WCSCRPX2) keep the origin and CRPIX of this WCS.
        """
        delta = (self.origin[0] - int(origin[0]), self.origin[1] - int(origin[1]))
        header = Header()
        for key, value in self.terms.cards(delta):
            header.append(number_card(key, value) if isinstance(value, float) else (key, value))
        if delta != (0, 0):
            kept = (*self.origin, *self.terms.crpix)
            for key, number in zip(ORIGIN_CARDS, kept, strict=True):
                header.append(number_card(key, number) if isinstance(number, float) else (key, number))
        return header

    def same_as(self, other: "SkyWcs", x: ArrayLike, y: ArrayLike, tol_pixel: float = 1e-3) -> bool:
        """Return whether both give the same sky at the positions, to `tol_pixel` pixels."""
        ra, dec = self.pixel_to_sky(x, y)
        xo, yo = other.sky_to_pixel(ra, dec)
        miss: Any = np.hypot(xo - np.asarray(x), yo - np.asarray(y))
        return bool(np.all(miss < tol_pixel))


def _vectors(lon: F64, lat: F64) -> F64:
    """Unit vectors (..., 3) of places in degrees."""
    a, d = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], -1)


def _own_origin(cards: Cards, terms: WcsTerms, origin: tuple[int, int]) -> tuple[WcsTerms, tuple[int, int]]:
    """Return what `to_header` was given, unless something has moved CRPIX since (a part was cut out, say)."""
    if any(key not in cards for key in ORIGIN_CARDS):
        return terms, origin
    own = (cards.integer(ORIGIN_CARDS[0]), cards.integer(ORIGIN_CARDS[1]))
    crpix = (cards.number(ORIGIN_CARDS[2]), cards.number(ORIGIN_CARDS[3]))
    kept = WcsTerms(**{**terms.__dict__, "crpix": crpix})
    moved = kept.moved(own[0] - origin[0], own[1] - origin[1])
    return (kept, own) if moved.crpix == terms.crpix else (terms, origin)


def _terms_of_astropy(wcs: "WCS") -> WcsTerms:
    """Return the terms of an astropy WCS; numbers are exact, those of PV to 12 digits (wcslib gives them no other way)."""
    if not wcs.has_celestial:
        raise WcsMissing("the header has no celestial WCS: CTYPE1/CTYPE2 must be a RA/DEC pair")
    if any(t is not None for t in (wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2)):
        raise WcsUnsupported(
            "the WCS has distortion tables (CPDIS, D2IM), which are not read: resample the image first"
        )
    plain = wcs if wcs.naxis == 2 else wcs.sub([1, 2])
    bare = plain.deepcopy()
    bare.sip = None  # its terms are taken below; astropy would log what it thinks of the CTYPE that goes with them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        terms = terms_of(Cards([bare.to_header(relax=True)], "the WCS"))
    if terms is None:
        raise WcsMissing("the WCS has no celestial axes along the first two pixel axes")
    p, sip = plain.wcs, plain.sip
    rows = p.cd if p.has_cd() else p.get_pc()
    exact: dict[str, Any] = {
        "crpix": tuple(map(float, p.crpix)),
        "crval": tuple(map(float, p.crval)),
        "matrix": tuple(tuple(map(float, row)) for row in rows),
        "cdelt": None if p.has_cd() else tuple(map(float, p.cdelt)),
    }
    if sip is not None:
        forward_only = sip.ap is None or sip.bp is None
        exact["ctype"] = tuple(f"{kind.removesuffix('-SIP')}-SIP" for kind in terms.ctype)
        exact["sip"] = sip_tables([sip.a, sip.b] if forward_only else [sip.a, sip.b, sip.ap, sip.bp])
    return WcsTerms(**{**terms.__dict__, **exact})
