"""Pixels to sky of a gnomonic WCS with or without SIP terms, without astropy's object, which takes long to load and to make."""

import numpy as np
from numpy.polynomial.polynomial import polyval2d
from numpy.typing import ArrayLike

from exposure.wcs.sky_wcs import Pair, SkyWcs
from exposure.wcs.tangent import PixelToSky, deproject
from exposure.wcs.terms import Table, WcsTerms
from tasks.arrays import F64

__all__ = ["PlainTan", "plain_or_same"]


class PlainTan:
    """Pixels to sky of a TAN or TAN-SIP WCS in ICRS.

    Parameters
    ----------
    terms
        With `WcsTerms.is_plain`.
    origin
        Frame coordinates of the pixel that the WCS calls (0, 0).

    Notes
    -----
    Calabretta & Greisen (2002, A&A 395, 1077), section 5.1.3; Shupe et al. (2005, ASP Conf. Ser. 347, 491), eq. 1.
    """

    def __init__(self, terms: WcsTerms, origin: tuple[int, int]) -> None:
        lng = terms.lng
        self._first = np.asarray(terms.crpix, np.float64) - 1.0 + np.asarray(origin, np.float64)
        self._tangent = (terms.crval[lng], terms.crval[1 - lng])
        self._arcsec = 3600.0 * terms.cd[[lng, 1 - lng]]
        self._powers = None if terms.sip is None else _stacked(terms.sip[0], terms.sip[1])

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> Pair:
        """Return (ra, dec) in degrees of frame pixel positions."""
        u, v = np.asarray(x, np.float64) - self._first[0], np.asarray(y, np.float64) - self._first[1]
        if self._powers is not None:
            du, dv = polyval2d(u, v, self._powers)
            u, v = u + du, v + dv
        m = self._arcsec
        return deproject(m[0, 0] * u + m[0, 1] * v, m[1, 0] * u + m[1, 1] * v, self._tangent)


def plain_or_same(wcs: PixelToSky) -> PixelToSky:
    """Return what gives the same places as `wcs`, quicker where it is plain."""
    if type(wcs) is SkyWcs and wcs.frame is None and wcs.terms.is_plain:
        return PlainTan(wcs.terms, wcs.origin)
    return wcs


def _stacked(first: Table, second: Table) -> F64:
    """Return both tables [p, q] behind each other, (n, n, 2); n is that of the larger one."""
    size = max(len(first), len(second))
    out = np.zeros((size, size, 2))
    for k, table in enumerate((first, second)):
        out[: len(table), : len(table), k] = table
    return out
