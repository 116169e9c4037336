"""Sky coordinates (ICRS, degrees) of pixels (0-based, frame of the exposure), and back.

In: `cards` reads the celestial WCS of a header in any of the usual dialects into `terms` (the numbers: CRVAL, CD, SIP,
PV), and `frames` turns other sky frames than ICRS. `sky_wcs` holds `SkyWcs`, which computes with them: the class that
everything else takes. Two kinds of `SkyWcs` are more than a header can say: `mapped`, chains of polynomial maps that
joint fits make, and `ast`, the maps that the Rubin stack writes.
Out: `terms` become cards again to the last bit; `sip` approximates the other kinds by TAN-SIP cards.
`tangent` has the geometry of tangent planes that they share.
"""

from exposure.wcs.sky_wcs import SkyWcs

__all__ = ["SkyWcs"]
