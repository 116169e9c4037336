"""WCS that the Rubin stack wrote as text of the Starlink AST library, which computes them (``starlink-pyast``)."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exposure.errors import WcsMissing
from exposure.wcs.sky_wcs import Pair, SkyWcs
from exposure.wcs.tangent import local_linear
from tasks.arrays import F64, Box

__all__ = ["AstWcs", "ast_text"]


class _Lines(list[str]):
    """Takes what an AST channel writes, line by line."""

    def astsink(self, line: str) -> None:
        self.append(line)


def ast_text(ast_object: Any) -> str:
    """Return an AST object as the text that AST reads again, without comments (it cannot read all of its own)."""
    import starlink.Ast as Ast

    lines = _Lines()
    Ast.Channel(None, lines, "Comment=0").write(ast_object)
    return "\n".join(lines)


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

    def shifted(self, dx: float, dy: float) -> "AstWcs":
        """Return the WCS for pixels that lie (dx, dy) further than this one says; its distortion moves with them."""
        x0, y0, width, height = self.bbox
        return self._of_pixels(np.eye(2), np.array([-dx, -dy]), (round(x0 + dx), round(y0 + dy), width, height))

    def affine_corrected(self, matrix: ArrayLike, offset: ArrayLike) -> "AstWcs":
        """Return the WCS after the pixel map p_true = matrix (p - c) + c + offset was found, c = reference pixel.

        ``pixel_to_sky`` of the result at p equals that of this WCS at p_true.

        Parameters
        ----------
        matrix, offset
            (2, 2), and (2,) in px.
        """
        m = np.asarray(matrix, np.float64)
        centre = self.reference_pixel
        return self._of_pixels(m, centre - m @ centre + np.asarray(offset, np.float64), self.bbox)

    def _of_pixels(self, matrix: F64, offset: F64, bbox: Box) -> "AstWcs":
        """Return the WCS of pixels q that are the pixels p = matrix q + offset of this one."""
        import starlink.Ast as Ast

        to_these = Ast.CmpMap(Ast.MatrixMap(matrix), Ast.ShiftMap(offset), True)
        to_these.invert()
        frames = self._frames.copy()
        frames.remapframe(Ast.BASE, to_these)
        return AstWcs(ast_text(frames), bbox)

    def to_header(self, origin: tuple[int, int] = (0, 0)) -> Any:
        """Return the cards of the TAN-SIP approximation."""
        from exposure.wcs.sip import sip_approximation

        return sip_approximation(self, self.bbox).wcs.to_header(origin)
