"""TAN-SIP approximations of any WCS, with inverse terms and their worst misses (Shupe et al. 2005, ASP Conf. Ser. 347, 491)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from exposure.errors import WcsMissing
from exposure.wcs.sky_wcs import SkyWcs
from exposure.wcs.tangent import CROSS, PixelToSky, matrix_of, project
from tasks.arrays import F64, I64, Box

__all__ = ["SipFit", "sip_approximation"]


@dataclass(frozen=True)
class SipFit:
    """A TAN-SIP WCS (Shupe et al. 2005) and its worst misses over the image.

    Parameters
    ----------
    origin
        Frame pixel of CRPIX.
    sky
        CRVAL, degrees.
    cd
        (2, 2) degrees per pixel.
    powers
        A, B, AP, BP as (order + 1, order + 1) tables [p, q].
    delta_sky, delta_pixel
        Worst forward miss (arcsec), and worst miss of the inverse terms (pixels).
    """

    origin: tuple[int, int]
    sky: tuple[float, float]
    cd: F64
    powers: tuple[F64, F64, F64, F64]
    delta_sky: float
    delta_pixel: float

    @property
    def wcs(self) -> SkyWcs:
        """The WCS itself."""
        return SkyWcs.tan_sip(self.origin, self.sky, self.cd, self.powers)

    def cards(self, first: tuple[int, int]) -> list[tuple[str, Any, str]]:
        """Return header cards for an image whose first pixel is `first` in the frame."""
        order = len(self.powers[0]) - 1
        out: list[tuple[str, Any, str]] = [
            ("CTYPE1", "RA---TAN-SIP", ""),
            ("CTYPE2", "DEC--TAN-SIP", ""),
            ("CUNIT1", "deg", ""),
            ("CUNIT2", "deg", ""),
            ("CRPIX1", self.origin[0] - first[0] + 1.0, ""),
            ("CRPIX2", self.origin[1] - first[1] + 1.0, ""),
            ("CRVAL1", self.sky[0], ""),
            ("CRVAL2", self.sky[1], ""),
            ("RADESYS", "ICRS", ""),
        ]
        out += [(f"CD{i + 1}_{j + 1}", float(self.cd[i, j]), "") for i in range(2) for j in range(2)]
        for name, table in zip(("A", "B", "AP", "BP"), self.powers, strict=True):
            out.append((f"{name}_ORDER", order, ""))
            out += [
                (f"{name}_{p}_{q}", float(table[p, q]), "")
                for p in range(order + 1)
                for q in range(order + 1 - p)
                if table[p, q] != 0.0
            ]
        return out


def sip_approximation(wcs: PixelToSky, bbox: Box, order: int = 5, points: int = 14) -> SipFit:
    """Fit a TAN-SIP WCS with inverse terms to any WCS over a box, by linear least squares.

    Parameters
    ----------
    bbox
        (x0, y0, width, height) in the frame.
    order
        Highest p + q of the terms u^p v^q.
    points
        Chebyshev nodes along each side of the box on which the fit is made.

    Raises
    ------
    WcsMissing
        The WCS is not finite over the box.
    """
    u, v, cx, cy = _grid(bbox, points)
    ra, dec = wcs.pixel_to_sky(np.concatenate([CROSS[0], u]) + cx, np.concatenate([CROSS[1], v]) + cy)
    sky, matrix = matrix_of(ra[:5], dec[:5])
    xi, eta = project(ra[5:], dec[5:], sky)
    if not (np.isfinite(xi).all() and np.isfinite(eta).all()):
        raise WcsMissing("the WCS is not finite over the image: it cannot be approximated")
    cd = matrix / 3600.0
    focal = np.linalg.solve(cd, np.stack([xi, eta]) / 3600.0)
    (a, b), forward = _powers_fit(
        u, v, np.stack([focal[0] - u, focal[1] - v], 1), order, 2, _grid_inverse(bbox, order, points)
    )
    (ap, bp), back = _powers_fit(focal[0], focal[1], np.stack([u - focal[0], v - focal[1]], 1), order, 1)
    sky_miss = 3600.0 * np.hypot(*(cd @ forward.T))
    return SipFit(
        (round(cx), round(cy)),
        sky,
        cd,
        (a, b, ap, bp),
        float(sky_miss.max()),
        float(np.hypot(*back.T).max()),
    )


@lru_cache(maxsize=8)
def _grid_inverse(bbox: Box, order: int, points: int) -> tuple[F64, F64]:
    """Design and pseudo-inverse of the forward terms on the grid of a box: all chips of a camera share them."""
    u, v, _, _ = _grid(bbox, points)
    design = _design(u, v, order, 2)[0]
    return design, np.asarray(np.linalg.pinv(design), np.float64)


@lru_cache(maxsize=8)
def _grid(bbox: Box, points: int) -> tuple[F64, F64, float, float]:
    """Offsets from the middle pixel of the nodes of a box, and that pixel."""
    x0, y0, width, height = bbox
    cx, cy = float(x0 + (width - 1) // 2), float(y0 + (height - 1) // 2)
    nodes = 0.5 * (1 - np.cos(np.pi * (np.arange(points) + 0.5) / points))  # Chebyshev nodes: no overshoot at the edges
    gx, gy = (a.ravel() for a in np.meshgrid(x0 - 0.5 + width * nodes, y0 - 0.5 + height * nodes))
    return gx - cx, gy - cy, cx, cy


def _design(u: F64, v: F64, order: int, least: int) -> tuple[F64, I64, float]:
    """Terms u^p v^q with least <= p + q <= order of scaled offsets, their powers, and the scale."""
    scale = max(float(np.abs(u).max()), float(np.abs(v).max()), 1.0)
    powers = _powers(order, least)
    pu, pv = (np.vander(w / scale, order + 1, increasing=True).T for w in (u, v))
    return np.ascontiguousarray((pu[powers[:, 0]] * pv[powers[:, 1]]).T), powers, scale


@lru_cache(maxsize=8)
def _powers(order: int, least: int) -> I64:
    """Return (p, q) of the terms, (T, 2)."""
    return np.array([(p, q) for p in range(order + 1) for q in range(order + 1 - p) if p + q >= least], np.int64)


def _powers_fit(
    u: F64, v: F64, values: F64, order: int, least: int, solution: "tuple[F64, F64] | None" = None
) -> tuple[list[F64], F64]:
    """Return tables [p, q] of u^p v^q with least <= p + q <= order for each column of values, and what is left."""
    design, powers, scale = _design(u, v, order, least)
    solved = _least_squares(design, values) if solution is None else solution[1] @ values
    tables = []
    for column in solved.T:
        out = np.zeros((order + 1, order + 1))
        out[powers[:, 0], powers[:, 1]] = column / scale ** powers.sum(1)
        tables.append(out)
    return tables, np.asarray(values - design @ solved, np.float64)


def _least_squares(design: F64, values: F64) -> F64:
    """Solve by QR, several times faster than by SVD; by SVD where terms look alike (an image of few columns)."""
    q, r = np.linalg.qr(design)
    diagonal = np.abs(np.diag(r))
    if diagonal.min() > 1e-10 * diagonal.max():
        return np.asarray(np.linalg.solve(r, q.T @ values), np.float64)
    return np.asarray(np.linalg.lstsq(design, values, rcond=None)[0], np.float64)
