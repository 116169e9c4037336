"""What lies over a cutout: a bar of so many arcsec, and where north and east are."""

import numpy as np

from tasks.arrays import F64

__all__ = ["compass_svg"]

BAR = 0.4  # of the side, at most
STEPS_ARCSEC = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
ARROW = 0.11  # of the side


def compass_svg(side: tuple[int, int], matrix: F64) -> str:
    """Return the drawing, as large as a cutout whose first row is at the bottom.

    Parameters
    ----------
    side
        Width and height of the cutout, px.
    matrix
        Degrees to the east and to the north of a px along x and along y, shape (2, 2).
    """
    width, height = side
    size = min(width, height)
    scale = 3600 * float(np.sqrt(abs(np.linalg.det(matrix))))  # arcsec
    length = max((s for s in STEPS_ARCSEC if s <= BAR * size * scale), default=STEPS_ARCSEC[0])
    east, north = np.linalg.inv(matrix).T.astype(np.float64)
    x0, y0, words = 0.05 * width, 0.95 * height, f"{length:g}\u2033"
    lines = f"M{x0:.2f} {y0:.2f}h{length / scale:.2f}" + "".join(_arrow(v, width, height) for v in (north, east))
    letters = "".join(_letter(n, v, width, height) for n, v in (("N", north), ("E", east)))
    text = f'<text x="{x0:.2f}" y="{y0 - 0.03 * size:.2f}">{words}</text>{letters}'
    look = f'fill="none" stroke-linecap="round" font-family="sans-serif" font-size="{0.09 * size:.2f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{4 * width}" height="{4 * height}" {look}>'
        f'<path stroke="#000" stroke-width="{0.025 * size:.2f}" d="{lines}"/><path stroke="#ffe08a" stroke-width="{0.011 * size:.2f}" d="{lines}"/>'
        f'<g fill="#ffe08a" stroke="#000" stroke-width="{0.02 * size:.2f}" paint-order="stroke">{text}</g></svg>'
    )


def _ends(vector: F64, width: int, height: int, reach: float) -> tuple[float, float, float, float]:
    """Return where arrows begin, and what lies `reach` sides from there along a vector of px; y is downwards in the drawing."""
    along = reach * min(width, height) * vector / np.hypot(*vector)
    x, y = 0.76 * width, 0.26 * height
    return x, y, x + float(along[0]), y - float(along[1])


def _arrow(vector: F64, width: int, height: int) -> str:
    x, y, to_x, to_y = _ends(vector, width, height, ARROW)
    return f"M{x:.2f} {y:.2f}L{to_x:.2f} {to_y:.2f}"


def _letter(name: str, vector: F64, width: int, height: int) -> str:
    _, _, x, y = _ends(vector, width, height, 1.5 * ARROW)
    return f'<text x="{x:.2f}" y="{y + 0.03 * min(width, height):.2f}" text-anchor="middle">{name}</text>'
