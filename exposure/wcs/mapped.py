"""WCS that are more than a FITS header can say: composed polynomial maps, and SIP approximations of anything."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from astropy.io.fits import Header
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from exposure.errors import WcsMissing
from exposure.wcs.sky_wcs import Pair, SkyWcs
from exposure.wcs.terms import WcsTerms
from tasks.arrays import F64, Box

__all__ = ["ComposedWcs", "PolynomialMap", "SipFit", "sip_approximation"]

_CROSS = np.array([[0.0, 1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, -1.0]])


@dataclass(frozen=True)
class PolynomialMap:
    """Two Chebyshev series on scaled input: out_k = sum_ij c[k, j, i] T_i(u) T_j(v), u = (x - centre) / half."""

    coefficients: F64  # (2, ny, nx)
    centre: tuple[float, float] = (0.0, 0.0)
    half: tuple[float, float] = (1.0, 1.0)

    def __call__(self, x: F64, y: F64) -> tuple[F64, F64]:
        """Map points."""
        u, v = (x - self.centre[0]) / self.half[0], (y - self.centre[1]) / self.half[1]
        along_x = chebyshev.chebval(u, self.coefficients.transpose(2, 1, 0))  # (ny, 2, ...)
        out = chebyshev.chebval(v, along_x, tensor=False)
        return np.asarray(out[0], np.float64), np.asarray(out[1], np.float64)


class ComposedWcs(SkyWcs):
    """Pixels through polynomial maps to a tangent plane (arcsec) to the sky.

    Parameters
    ----------
    maps
        Applied in this order; the last gives arcsec east and north in the tangent plane.
    tangent
        (ra, dec) degrees of the tangent point.
    bbox
        x0, y0, width, height of the image: where the inverse starts from.
    """

    def __init__(self, maps: "list[PolynomialMap]", tangent: tuple[float, float], bbox: Box) -> None:
        self.maps, self.tangent, self.bbox = list(maps), (float(tangent[0]), float(tangent[1])), bbox
        self.origin = (0, 0)

    @cached_property
    def _linear(self) -> SkyWcs:
        """The TAN WCS that touches this one at the middle of the image; made when it is first needed."""
        x0, y0, width, height = self.bbox
        return local_linear(self, x0 + (width - 1) / 2, y0 + (height - 1) / 2)

    @property
    def terms(self) -> WcsTerms:  # type: ignore[override]
        """Those of the TAN WCS that touches this one at the middle of the image."""
        return self._linear.terms

    def _forward(self, x: F64, y: F64) -> tuple[F64, F64]:
        for step in self.maps:
            x, y = step(x, y)
        return x, y

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> Pair:
        """Return (ra, dec) in degrees of frame pixel positions."""
        return deproject(*self._forward(np.asarray(x, np.float64), np.asarray(y, np.float64)), self.tangent)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> Pair:
        """Return frame pixel positions by Newton's method; NaN where the sky position has none."""
        return invert(self, self._linear, np.asarray(ra, np.float64), np.asarray(dec, np.float64))

    def to_header(self, origin: tuple[int, int] = (0, 0)) -> Header:
        """Return the cards of the TAN-SIP approximation."""
        return sip_approximation(self, self.bbox).wcs.to_header(origin)

    def shifted(self, dx: float, dy: float) -> "ComposedWcs":
        """Return the WCS for pixels that lie (dx, dy) further than this one says."""
        first = self.maps[0]
        moved = PolynomialMap(first.coefficients, (first.centre[0] + dx, first.centre[1] + dy), first.half)
        x0, y0, width, height = self.bbox
        return ComposedWcs([moved, *self.maps[1:]], self.tangent, (round(x0 + dx), round(y0 + dy), width, height))

    def to_json(self) -> str:
        """Return the whole map as JSON."""
        return json.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the whole map as plain lists and numbers."""
        return {
            "tangent_deg": self.tangent, "bbox": self.bbox, "unit": "arcsec in the tangent plane",
            "basis": "sum_ij c[k][j][i] T_i(u) T_j(v), u = (x - centre) / half",
            "maps": [
                {"centre": m.centre, "half": m.half, "coefficients": m.coefficients.tolist()} for m in self.maps
            ],
        }  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> "ComposedWcs":
        """Read what `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ComposedWcs":
        """Read what `to_dict` made."""
        maps = [
            PolynomialMap(np.array(m["coefficients"], np.float64), tuple(m["centre"]), tuple(m["half"]))
            for m in raw["maps"]
        ]
        return cls(maps, tuple(raw["tangent_deg"]), tuple(raw["bbox"]))


def deproject(xi: F64, eta: F64, tangent: tuple[float, float]) -> Pair:
    """Return (ra, dec) in degrees of tangent-plane places in arcsec (gnomonic)."""
    r0, d0 = np.radians(tangent)
    x, y = np.radians(np.asarray(xi) / 3600.0), np.radians(np.asarray(eta) / 3600.0)
    along = np.cos(d0) - y * np.sin(d0)
    ra = r0 + np.arctan2(x, along)
    dec = np.arctan2(np.sin(d0) + y * np.cos(d0), np.hypot(x, along))
    return np.degrees(ra) % 360.0, np.degrees(dec)


def project(ra: ArrayLike, dec: ArrayLike, tangent: tuple[float, float]) -> tuple[F64, F64]:
    """Return tangent-plane places in arcsec; NaN on the far side of the sky."""
    r, d = np.radians(np.asarray(ra, np.float64) - tangent[0]), np.radians(np.asarray(dec, np.float64))
    d0 = np.radians(tangent[1])
    cosine = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(r)
    cosine = np.where(cosine > 0.1, cosine, np.nan)
    xi = np.cos(d) * np.sin(r) / cosine
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(r)) / cosine
    return np.degrees(xi) * 3600.0, np.degrees(eta) * 3600.0


def local_matrix(wcs: Any, x: float, y: float) -> tuple[tuple[float, float], F64]:
    """Return (ra, dec) at a pixel and the matrix (2, 2) of a WCS there, arcsec per pixel.

    Raises
    ------
    WcsMissing
        The WCS is singular or not finite there.
    """
    return _matrix_of(*wcs.pixel_to_sky(x + _CROSS[0], y + _CROSS[1]))


def _matrix_of(ra: F64, dec: F64) -> tuple[tuple[float, float], F64]:
    """The matrix from the sky places of a pixel and its four neighbours, in the order of `_CROSS`."""
    sky = (float(ra[0]), float(dec[0]))
    xi, eta = project(ra, dec, sky)
    matrix = np.array([[xi[1] - xi[2], xi[3] - xi[4]], [eta[1] - eta[2], eta[3] - eta[4]]]) / 2.0
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) == 0:
        raise WcsMissing("the WCS is singular or not finite at the middle of its image")
    return sky, matrix


def local_linear(wcs: Any, x: float, y: float) -> SkyWcs:
    """Return the TAN WCS that touches any WCS at one pixel."""
    sky, matrix = local_matrix(wcs, x, y)
    return SkyWcs.tan((x, y), sky, matrix / 3600.0)


def invert(wcs: SkyWcs, linear: SkyWcs, ra: F64, dec: F64, rounds: int = 30) -> Pair:
    """Invert ``wcs.pixel_to_sky`` by steps of a linear WCS near it; NaN where it does not converge to 1e-6 px."""
    tangent = linear.terms.crval
    matrix = np.linalg.inv(linear.terms.cd * 3600.0)
    xi, eta = project(ra, dec, tangent)
    cx, cy = linear.reference_pixel
    x, y = cx + matrix[0, 0] * xi + matrix[0, 1] * eta, cy + matrix[1, 0] * xi + matrix[1, 1] * eta
    miss = np.full(np.shape(x), np.inf)
    for _ in range(rounds):
        at = project(*wcs.pixel_to_sky(x, y), tangent)
        dxi, deta = xi - at[0], eta - at[1]
        dx, dy = matrix[0, 0] * dxi + matrix[0, 1] * deta, matrix[1, 0] * dxi + matrix[1, 1] * deta
        x, y = x + dx, y + dy
        miss = np.hypot(dx, dy)
        if not np.any(miss > 1e-8):
            break
    good = miss < 1e-6
    return np.where(good, x, np.nan), np.where(good, y, np.nan)


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
            ("CTYPE1", "RA---TAN-SIP", ""), ("CTYPE2", "DEC--TAN-SIP", ""), ("CUNIT1", "deg", ""), ("CUNIT2", "deg", ""),
            ("CRPIX1", self.origin[0] - first[0] + 1.0, ""), ("CRPIX2", self.origin[1] - first[1] + 1.0, ""),
            ("CRVAL1", self.sky[0], ""), ("CRVAL2", self.sky[1], ""), ("RADESYS", "ICRS", ""),
        ]  # fmt: skip
        out += [(f"CD{i + 1}_{j + 1}", float(self.cd[i, j]), "") for i in range(2) for j in range(2)]
        for name, table in zip(("A", "B", "AP", "BP"), self.powers, strict=True):
            out.append((f"{name}_ORDER", order, ""))
            out += [
                (f"{name}_{p}_{q}", float(table[p, q]), "")
                for p in range(order + 1) for q in range(order + 1 - p) if table[p, q] != 0.0
            ]  # fmt: skip
        return out


def sip_approximation(wcs: Any, bbox: Box, order: int = 5, points: int = 14) -> SipFit:
    """Fit a TAN-SIP WCS with inverse terms to any WCS over a box, by linear least squares.

    Raises
    ------
    WcsMissing
        The WCS is not finite over the box.
    """
    u, v, cx, cy = _grid(bbox, points)
    ra, dec = wcs.pixel_to_sky(np.concatenate([_CROSS[0], u]) + cx, np.concatenate([_CROSS[1], v]) + cy)
    sky, matrix = _matrix_of(ra[:5], dec[:5])
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
        (round(cx), round(cy)), sky, cd, (a, b, ap, bp), float(sky_miss.max()),
        float(np.hypot(*back.T).max()),
    )  # fmt: skip


@lru_cache(maxsize=8)
def _grid_inverse(bbox: Box, order: int, points: int) -> tuple[F64, F64]:
    """Design and pseudo-inverse of the forward terms on the grid of a box: all chips of a camera share them."""
    u, v, _, _ = _grid(bbox, points)
    design = _design(u, v, order, 2)[0]
    return design, np.asarray(np.linalg.pinv(design), np.float64)


def _grid(bbox: Box, points: int) -> tuple[F64, F64, float, float]:
    """Offsets from the middle pixel of the nodes of a box, and that pixel."""
    x0, y0, width, height = bbox
    cx, cy = float(x0 + (width - 1) // 2), float(y0 + (height - 1) // 2)
    nodes = 0.5 * (1 - np.cos(np.pi * (np.arange(points) + 0.5) / points))  # Chebyshev nodes: no overshoot at the edges
    gx, gy = (a.ravel() for a in np.meshgrid(x0 - 0.5 + width * nodes, y0 - 0.5 + height * nodes))
    return gx - cx, gy - cy, cx, cy


def _design(u: F64, v: F64, order: int, least: int) -> tuple[F64, list[tuple[int, int]], float]:
    """Terms u^p v^q with least <= p + q <= order of scaled offsets, their powers, and the scale."""
    scale = max(float(np.abs(u).max()), float(np.abs(v).max()), 1.0)
    pairs = [(p, q) for p in range(order + 1) for q in range(order + 1 - p) if p + q >= least]
    pu, pv = (np.vander(w / scale, order + 1, increasing=True).T for w in (u, v))
    p, q = np.array(pairs).T
    return np.ascontiguousarray((pu[p] * pv[q]).T), pairs, scale


def _powers_fit(
    u: F64, v: F64, values: F64, order: int, least: int, known: "tuple[F64, F64] | None" = None
) -> tuple[list[F64], F64]:
    """Return tables [p, q] of u^p v^q with least <= p + q <= order for each column of values, and what is left."""
    design, pairs, scale = _design(u, v, order, least)
    solved = _least_squares(design, values) if known is None else known[1] @ values
    powers = np.array(pairs)
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
