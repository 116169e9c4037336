"""Registration of two images against each other: what is left after their WCS, or all of it where there is none.

Stars are matched by position, their displacements fitted by a polynomial whose order the data pay for, and the template
is resampled along it. A shift that is the same everywhere costs nothing here and much in the kernel.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from diffim.errors import DifferencingError
from diffim.pixels.masked_image import MaskedImage
from diffim.pixels.warp import nodes, resample
from exposure import Exposure, SkyWcs
from exposure.field import chebyshev_terms
from exposure.stamps import windowed_centroids
from exposure.stars import Stars
from exposure.threads import in_threads
from tasks.arrays import F32, F64, I64, Box, nearest_pixels

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

__all__ = [
    "Displacement",
    "StarShifts",
    "displacement_at_stars",
    "fit_displacement",
    "match_lists",
    "moved_wcs",
    "register_stars",
    "resampled",
]

TERMS_PAY = (0, 9, 24, 60)  # least number of stars for a displacement of order 0, 1, 2, 3
CLIP = 3.5
MOVED = 0.1  # px: less is no motion of its own
FLOOR = 0.01  # px: better than that no centroid is trusted


@dataclass(frozen=True)
class StarShifts:
    """Stars that both images have, one row a star.

    Parameters
    ----------
    x, y
        Frame positions in the image, shape (N,), px.
    dx, dy
        Position in the template minus that in the image, shape (N,), px.
    error
        One-sigma error of dx and of dy, shape (N,), px.
    row
        Row of the star in the table that was given, shape (N,).
    """

    x: F64
    y: F64
    dx: F64
    dy: F64
    error: F64
    row: I64


@dataclass(frozen=True)
class Displacement:
    """Where a star of the image lies in the template: (x, y) + sum_k c_k p_k(x, y), Chebyshev on `box`.

    Parameters
    ----------
    coefficients
        c_k along x and y, shape (K, 2), px.
    box
        x0, y0, width, height of the region of the fit, px.
    rms
        Size of the displacement over the box, px.
    scatter
        Robust scatter of the stars about it along one axis, px.
    """

    coefficients: F64
    order: int
    box: Box
    rms: float
    scatter: float
    n_stars: int

    def at(self, x: ArrayLike, y: ArrayLike) -> tuple[F64, F64]:
        """Return the positions (x, y) in the template of positions in the image, px, in the shape of `x`."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        moved = chebyshev_terms(self.order, self.box, x.ravel(), y.ravel()) @ self.coefficients
        return x + moved[:, 0].reshape(x.shape), y + moved[:, 1].reshape(x.shape)


def fit_displacement(x: F64, y: F64, dx: F64, dy: F64, error: F64, box: Box, top: int = 3) -> Displacement:
    """Fit the displacements of stars robustly; the order rises while it improves the Bayesian information criterion.

    Parameters
    ----------
    x, y, dx, dy
        Positions and displacements, each of shape (N,), px.
    error
        One-sigma error of a displacement along one axis, shape (N,), px; `FLOOR` is added in quadrature.
    box
        Region over which the polynomials run: x0, y0, width, height, px.
    top
        Highest order.

    Raises
    ------
    DifferencingError
        Fewer than three stars.
    """
    n = x.size
    if n < 3:
        raise DifferencingError(f"{n} stars are common to image and template, need 3 to register them")
    move = np.stack([dx, dy], axis=1)
    weight = 1 / np.hypot(error, FLOOR)
    best: tuple[int, F64, float] | None = None
    best_score = np.inf
    for order in range(top + 1):
        if n < TERMS_PAY[order]:
            break
        design = chebyshev_terms(order, box, x, y)
        use = np.hypot(*(move - np.median(move, axis=0)).T) < 5.0
        for _ in range(5):
            w = weight[use, None]
            coefficients = np.linalg.lstsq(design[use] * w, move[use] * w, rcond=None)[0]
            pull = np.hypot(*((move - design @ coefficients) * weight[:, None]).T)
            level = max(float(np.median(pull[use])) / 1.1774, 1.0)  # median of a Rayleigh distribution
            use = pull < CLIP * level
        chi2 = float((np.minimum(pull, CLIP * level) ** 2).sum()) / level**2
        score = 2 * n * 2 * np.log(level) + chi2 + 2 * design.shape[1] * np.log(2 * n)
        if score < best_score:
            rest = (move - design @ coefficients)[use]
            scatter = 1.4826 * float(np.median(np.abs(rest - np.median(rest, axis=0))))
            best_score, best = score, (order, coefficients, scatter)
    if best is None:
        raise DifferencingError("the displacements of the stars are not finite")
    order, coefficients, scatter = best
    displacement = Displacement(coefficients, order, box, 0.0, scatter, n)
    return replace(displacement, rms=_size(displacement))


def _size(d: Displacement) -> float:
    """Return the rms of a displacement over its box, px."""
    x0, y0, width, height = d.box
    gx, gy = (a.ravel() for a in np.meshgrid(np.linspace(x0, x0 + width, 20), np.linspace(y0, y0 + height, 20)))
    moved = chebyshev_terms(d.order, d.box, gx, gy) @ d.coefficients
    return float(np.sqrt((moved**2).sum(1).mean()))


def displacement_at_stars(
    science: Exposure, template: Exposure, stars: Stars, fwhm: float, reach: float = 3.0
) -> StarShifts:
    """Return the shifts of the stars whose windowed centroids converge within `reach` px of their position in both images."""
    x, y = stars.x, stars.y
    if x.size == 0:
        return StarShifts(x, y, x.copy(), y.copy(), x.copy(), np.zeros(0, np.int64))
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    side = 2 * int(2.5 * fwhm + reach) + 7

    def centroids(e: Exposure) -> tuple[F64, F64, F64]:
        stamps, variances = MaskedImage.of(e, "BAD", "SAT").stamps(ix, iy, side)
        moved = windowed_centroids(stamps, x - ix, y - iy, max(fwhm / 2.3548, 0.8))
        return moved[:, 0] + ix, moved[:, 1] + iy, 0.6 * fwhm * _relative_error(stamps, variances, moved, fwhm)

    (xs, ys, own_error), (xt, yt, other_error) = in_threads(centroids, (science, template))
    error = np.hypot(own_error, other_error)
    ok = np.isfinite(xs + xt + ys + yt) & (error < 0.3)
    ok &= (np.hypot(xs - x, ys - y) < reach) & (np.hypot(xt - x, yt - y) < reach)
    return StarShifts(xs[ok], ys[ok], (xt - xs)[ok], (yt - ys)[ok], error[ok], np.flatnonzero(ok))


def _relative_error(stamps: F32, variances: F32, centroids: F64, radius: float) -> F64:
    """Return the relative error (N,) of the flux within a circle of `radius` px, infinite where the flux is not positive."""
    g = np.arange(stamps.shape[1]) - stamps.shape[1] // 2
    inside = (g[None, :] - centroids[:, :1])[:, None, :] ** 2 + (g[None, :] - centroids[:, 1:])[
        :, :, None
    ] ** 2 < radius**2
    flux = (stamps * inside).sum((1, 2), dtype=np.float64)
    error = np.sqrt(np.where(inside & np.isfinite(variances), variances, 0).sum((1, 2), dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(flux > 0, error / flux, np.inf)


def register_stars(shifts: StarShifts, box: Box) -> tuple[Displacement, F64]:
    """Fit the displacement of most stars; the second result (N, 2) is how far each moved by itself, 0 for most.

    A star that is off by more than `MOVED` px and five times its error has a motion of its own. Where that is more than
    half of them, or fewer than three are left, it is the displacement that is no polynomial: none is left out.

    Raises
    ------
    DifferencingError
        Fewer than three stars.
    """
    displacement = fit_displacement(shifts.x, shifts.y, shifts.dx, shifts.dy, shifts.error, box)
    u, v = displacement.at(shifts.x, shifts.y)
    rest_x, rest_y = shifts.x + shifts.dx - u, shifts.y + shifts.dy - v
    off = np.hypot(rest_x - np.median(rest_x), rest_y - np.median(rest_y))
    moved = off > np.maximum(MOVED, 5 * shifts.error)
    stay = ~moved
    if not moved.any() or stay.sum() < max(3, 0.5 * stay.size):
        return displacement, np.zeros((stay.size, 2))
    refit = fit_displacement(shifts.x[stay], shifts.y[stay], shifts.dx[stay], shifts.dy[stay], shifts.error[stay], box)
    u, v = refit.at(shifts.x, shifts.y)
    own = np.column_stack([shifts.x + shifts.dx - u, shifts.y + shifts.dy - v])
    return refit, np.where(moved[:, None], own, 0)


def match_lists(
    x: F64, y: F64, other_x: F64, other_y: F64, reach: float = 60.0, radius: float = 4.0
) -> tuple[I64, I64]:
    """Match two lists of pixel positions, brightest first, that differ by a shift of at most `reach` px and little else.

    Parameters
    ----------
    x, y, other_x, other_y
        Positions of the two lists, shapes (N,) and (M,), px.
    radius
        How far the two positions of a pair may be apart after the shift, px.

    Returns
    -------
    first, second
        Indices of the pairs in the two lists, each of shape (P,).

    Raises
    ------
    DifferencingError
        No shift brings three or more, and a fifth of the shorter list, together.
    """
    from scipy.spatial import cKDTree  # a tenth of a second to load

    a, b = np.column_stack([x, y])[:400], np.column_stack([other_x, other_y])[:400]
    tree = cKDTree(b)
    near = tree.query_ball_point(a, reach * np.sqrt(2))
    shifts = np.concatenate([b[k] - a[i] for i, k in enumerate(near) if k] or [np.zeros((0, 2))])
    if len(shifts):
        votes = cKDTree(shifts).query_ball_point(shifts, radius / 2, return_length=True)
        moved = a + shifts[np.hypot(*(shifts - shifts[int(np.argmax(votes))]).T) < radius / 2].mean(0)
        for _ in range(4):  # follow a small rotation or scale outwards
            distance, index = _nearest(tree, moved, radius)
            hit = np.isfinite(distance)
            if hit.sum() < 3:
                break
            design = np.column_stack([a, np.ones(len(a))])
            if hit.sum() >= 6:
                moved = design @ np.linalg.lstsq(design[hit], b[index[hit]], rcond=None)[0]
        distance, index = _nearest(tree, moved, radius)
        hit = np.isfinite(distance)
        if hit.sum() >= max(3, 0.2 * min(len(a), len(b))):
            return np.flatnonzero(hit), index[hit]
    raise DifferencingError(
        f"the {len(a)} and {len(b)} stars of the two images match for no shift up to {reach:.0f} px: give the images a WCS"
    )


def _nearest(tree: "cKDTree", points: F64, radius: float) -> tuple[F64, I64]:
    """Return distance (inf: none within `radius`) and index of the nearest neighbours of points (N, 2)."""
    distance, index = tree.query(points, distance_upper_bound=radius)
    return np.asarray(distance), np.asarray(index, np.int64)


def resampled(template: Exposure, d: Displacement, box: Box | None = None) -> Exposure:
    """Return the template on the pixels of the image (`box`, its own by default), moved by the displacement."""
    box = template.bbox if box is None else box
    moved = resample(template, *d.at(*nodes(box)), box)
    return replace(
        moved,
        wcs=template.wcs,
        psf=template.psf,
        photo_calib=template.photo_calib,
        ap_corr=template.ap_corr,
        metadata=dict(template.metadata),
    )


def moved_wcs(wcs: SkyWcs, d: Displacement) -> SkyWcs:
    """Return a TAN-SIP WCS that gives at the displaced pixel what `wcs` gives at the pixel, to about 1e-3 px."""
    x0, y0, width, height = d.box
    gx, gy = (a.ravel() for a in np.meshgrid(np.linspace(x0, x0 + width, 15), np.linspace(y0, y0 + height, 15)))
    ra, dec = wcs.pixel_to_sky(gx, gy)
    return SkyWcs.fitted(*d.at(gx, gy), ra, dec, order=max(d.order, 2))
