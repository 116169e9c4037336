"""WCS that the Rubin stack wrote as text of the Starlink AST library, which computes them (``starlink-pyast``)."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exposure.errors import WcsMissing
from exposure.wcs.sky_wcs import Pair, SkyWcs
from exposure.wcs.tangent import local_linear
from tasks.arrays import Box

__all__ = ["AstWcs"]


class AstWcs(SkyWcs):
    """A WCS given as an AST FrameSet.

    Parameters
    ----------
    text
        The FrameSet as AST writes it.
    bbox
        x0, y0, width, height of the image.

    Raises
    ------
    WcsMissing
        The text is no FrameSet.
    """

    def __init__(self, text: str, bbox: Box) -> None:
        import starlink.Ast as Ast

        self.text, self.bbox = text, bbox
        try:
            self._frames = Ast.Channel(text.splitlines()).read()
        except Exception as error:
            raise WcsMissing(f"the WCS is no text that AST can read: {error}") from error
        if self._frames is None:
            raise WcsMissing("the WCS is no AST object")
        x0, y0, width, height = bbox
        linear = local_linear(self, x0 + (width - 1) / 2, y0 + (height - 1) / 2)
        super().__init__(linear.terms, linear.origin)

    def _tran(self, a: ArrayLike, b: ArrayLike, forward: bool) -> Pair:
        a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
        if a.size == 0:
            return np.zeros(a.shape), np.zeros(a.shape)
        out = self._frames.tran([a.ravel(), b.ravel()], forward)
        return out[0].reshape(a.shape), out[1].reshape(a.shape)

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> Pair:
        """Return (ra, dec) in degrees of frame pixel positions."""
        ra, dec = self._tran(x, y, True)
        return np.degrees(ra) % 360.0, np.degrees(dec)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> Pair:
        """Return frame pixel positions; NaN where the sky position has none."""
        x, y = self._tran(np.radians(ra), np.radians(dec), False)
        far = ~self._same_hemisphere(np.asarray(ra, np.float64), np.asarray(dec, np.float64)) | (np.abs(x) > 1e300)
        return np.where(far, np.nan, x), np.where(far, np.nan, y)

    def to_header(self, origin: tuple[int, int] = (0, 0)) -> Any:
        """Return the cards of the TAN-SIP approximation."""
        from exposure.wcs.sip import sip_approximation

        return sip_approximation(self, self.bbox).wcs.to_header(origin)
