"""What the maps of the images of a visit have in common, where each image has few reference stars of its own.

A term of the map of an image is that of its header, plus a smooth function of where the image lies in the visit, plus what a
distortion of the whole visit, of higher degree than such functions, makes of it there, plus its own deviation. How wide all are
is told by all images together, degree by degree (empirical Bayes: the fixed point of
MacKay 1992, Neural Computation 4, 415, eq. 5.7, for the marginal likelihood of the mixed model of Henderson 1975, Biometrics
31, 423). An image with few stars then falls back on what the others show, one with many follows its stars.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from calibration.joint.data import Images
from calibration.joint.matching.stars import Associated
from calibration.joint.model.astrometry import Layout
from calibration.joint.model.basis import design, n_terms, square_nodes, term_degrees
from calibration.joint.model.frames import gnomonic
from calibration.joint.model.linearise import Frames
from tasks.arrays import F64, I64, Flags
from tasks.sphere import unit_vectors

__all__ = ["Expected", "HeaderMaps", "TiedStars", "expected_images", "expected_maps"]

_LEAST_IMAGES = 8  # of a visit, with stars: fewer tell no width
_LEAST_STARS = 3  # of an image that counts as one with stars
_IMAGES_PER_TERM = 4  # of the smooth functions
_STARS_PER_COLUMN = 4
_STARS_PER_DISTORTION, _MOST_DEGREE = 12, 7  # of the distortion of the visit
_MOST_STARS = 100  # of an image: with more it needs no help
_LEAST_SCALE = 1e-3  # of the variances
_ROUNDS = 40
_SETTLED = 0.02  # change of a width that ends the rounds
_SOFT = 2.5  # sigma beyond which a star counts less
_NARROWEST, _WIDEST = 1e-4, 1e5  # arcsec
_AT_FIRST = 0.3, 30.0  # arcsec: widths of deviations and of smooth functions
_LEAST_VARIANCE = 1e-10  # arcsec^2
_BEGINNING = 5  # rounds in which weights go by the typical star: else widths grow until wrong matches fit
_FAR, _GONE = 6.0, 1e-6  # sigma beyond which it counts no more
_SMALL = 1e-3  # arcsec: what becomes of narrower widths is the same


@dataclass(frozen=True)
class HeaderMaps:
    """The maps of the I images of one visit by their headers.

    Parameters
    ----------
    order
        Their total degree.
    terms
        (I, T, 2) of scaled pixels u, v: arcsec in the tangent plane of the visit.
    """

    order: int
    terms: F64


@dataclass(frozen=True)
class TiedStars:
    """The measurements of a visit that have a reference star.

    Parameters
    ----------
    image
        (N,) index of the image.
    scaled
        (N, 2) scaled pixels u, v.
    place
        (N, 2) where the reference star is, arcsec in the tangent plane of the visit.
    variance
        (N,) of measurement and reference star together, per axis, arcsec^2.
    """

    image: I64
    scaled: F64
    place: F64
    variance: F64


@dataclass(frozen=True)
class Expected:
    """What is expected of the maps of a visit's images.

    Parameters
    ----------
    terms
        (I, T, 2) arcsec.
    weight
        (I, T) inverse variance, in units of the variances of the stars.
    """

    terms: F64
    weight: F64


def expected_maps(headers: HeaderMaps, stars: TiedStars) -> Expected | None:
    """Return what the images of a visit say of each other's maps; None where they are too few for that."""
    n = len(headers.terms)
    rich = int((np.bincount(stars.image, minlength=n) >= _LEAST_STARS).sum())
    columns = min(rich / _IMAGES_PER_TERM, stars.image.size / (_STARS_PER_COLUMN * n_terms(headers.order)))
    order = max((k for k in range(headers.order + 1) if n_terms(k) <= columns), default=-1)
    if rich < _LEAST_IMAGES or order < 0:
        return None
    return _Mixed(headers, stars, order).solve()


class _Round(NamedTuple):
    """What one round of the mixed model gives.

    Parameters
    ----------
    coefficients, covariance
        (C, 2) of the functions that all images share, and their covariance (C, C).
    own, own_variance
        (I, T, 2) deviations of the images, and their variances (I, T).
    residual, leverage
        (I, K, 2) and (I, K) of the stars.
    """

    coefficients: F64
    covariance: F64
    own: F64
    own_variance: F64
    residual: F64
    leverage: F64


class _Mixed:
    """The mixed model: what all images share, deviations of the images, noise.

    Shared are C functions: the products of the terms of the place within an image, along the axes of the sky, as chips may be
    turned against each other, and the S smooth functions of where the image lies; then the terms of a distortion of the visit
    that these do not hold. The deviations are in the terms of the maps themselves. Stars stand in slots, K of each image.
    """

    def __init__(self, headers: HeaderMaps, stars: TiedStars, order: int) -> None:
        self.headers = headers
        n = len(headers.terms)
        self.degree = term_degrees(headers.order).sum(1)
        by_image = _best(stars)
        image, scaled = stars.image[by_image], stars.scaled[by_image]
        count = np.bincount(image, minlength=n)
        self.slot = (image, np.arange(image.size) - (np.cumsum(count) - count)[image])
        self.shape = (n, int(count.max()))
        corner = np.array([-1.0, 1.0])
        at_middle, at_corners = (
            design(headers.order, corner[:1] * 0, corner[:1] * 0),
            design(headers.order, *np.meshgrid(corner, corner)),
        )
        self.middle = (at_middle @ headers.terms)[:, 0]
        self.reach = float(np.abs(at_corners @ headers.terms - self.middle[:, None]).max())
        self.far = max(float(np.abs(self.middle).max()), 1.0)
        self.smooth = design(order, *(self.middle / self.far).T)
        self.most = max(
            (k for k in range(_MOST_DEGREE + 1) if n_terms(k) * _STARS_PER_DISTORTION <= image.size), default=0
        )
        degree = term_degrees(self.most).sum(1)
        self.higher = degree > order  # the smooth functions hold the others
        smooth = np.add.outer((order + 1) * self.degree, term_degrees(order).sum(1)).ravel()
        self.group = np.concatenate([smooth, smooth.max() + degree[self.higher] - order])
        basis = design(headers.order, *scaled.T)
        by_header = np.einsum("nt,nta->na", basis, headers.terms[image])
        self.basis, self.shared = self._in_slots(basis), self._in_slots(self._shared(by_header, image))
        self.off = self._in_slots(stars.place[by_image] - by_header)
        self.weight = self._in_slots(1.0 / stars.variance[by_image])

    def _in_slots(self, values: F64) -> F64:
        """Return values (N, ...) of the stars in the slots of their images (I, K, ...), zero in the others."""
        out = np.zeros(self.shape + values.shape[1:])
        out[self.slot] = values
        return out

    def _shared(self, places: F64, image: I64) -> F64:
        """Return the shared functions (N, C) at places (N, 2), arcsec in the plane of the visit, on images (N,)."""
        local = design(self.headers.order, *((places - self.middle[image]) / self.reach).T)
        product = (local[:, :, None] * self.smooth[image, None, :]).reshape(len(places), -1)
        distortion = design(self.most, *(places / (self.far + self.reach)).T)[:, self.higher]
        return np.concatenate([product, distortion], axis=1)

    def solve(self) -> Expected:
        """Find the widths of the deviations, and with them what is expected of each map."""
        soft, scale = np.ones(self.shape), 1.0
        width, wide = (
            np.full(int(group.max()) + 1, first**2)
            for group, first in zip((self.degree, self.group), _AT_FIRST, strict=True)
        )
        used = self.weight > 0
        for k in range(_ROUNDS):
            weight, before = soft * self.weight / scale, width
            now = self._round(weight, width, wide)
            width = _widths(now.own, now.own_variance, np.broadcast_to(self.degree, now.own_variance.shape), width)
            wide = _widths(now.coefficients, np.diagonal(now.covariance), self.group, wide)
            chi2 = weight * (now.residual**2).sum(2)
            scale *= float(chi2.sum() / max(2 * (soft * (1.0 - now.leverage))[used].sum(), 1.0))
            scale = max(scale, _LEAST_SCALE)
            square = chi2 / soft
            if k < _BEGINNING:
                soft = 1.0 / np.maximum(square / max(float(np.median(square[used])), 1e-12), 0.25)
                continue
            sigma = np.sqrt(square / np.maximum(1.0 - now.leverage, 0.1) / 2)
            soft = np.where(sigma > _FAR, _GONE, np.minimum(1.0, _SOFT / np.maximum(sigma, 1e-9)) ** 2)
            if np.abs(np.sqrt(width / before) - 1.0)[before > _SMALL**2].max(initial=0.0) < _SETTLED:
                break
        return self._expected(now, width, scale)

    def _round(self, weight: F64, width: F64, wide: F64) -> _Round:
        """Solve the model for weights of the stars (I, K), arcsec^-2, and squared widths of the deviations by degree and of the
        shared functions by group.
        """
        basis, shared, off = self.basis, self.shared, self.off
        weighted = basis * weight[:, :, None]
        by_own, by_shared = _products(weighted, basis), _products(weighted, shared)
        inverse: F64 = np.asarray(np.linalg.inv(by_own + np.diag(1.0 / width[self.degree])), np.float64)
        own_right = _products(weighted, off)
        follow = inverse @ by_shared  # what the own terms take of the shared functions
        rest = shared - basis @ follow
        weighted = (shared * weight[:, :, None]).reshape(-1, shared.shape[2])
        matrix = weighted.T @ rest.reshape(weighted.shape)
        right = weighted.T @ off.reshape(-1, 2) - np.einsum("itc,ita->ca", follow, own_right, optimize=True)
        covariance: F64 = np.asarray(
            np.linalg.inv(0.5 * (matrix + matrix.T) + np.diag(1.0 / wide[self.group])), np.float64
        )
        solved = covariance @ right
        own = inverse @ own_right - follow @ solved
        variance = np.einsum("itt->it", inverse) + _squares(follow, covariance)
        leverage = weight * (_squares(basis, inverse) + _squares(rest, covariance))
        residual = off - shared @ solved - basis @ own
        return _Round(solved, covariance, own, variance, residual, leverage)

    def _expected(self, now: _Round, width: F64, scale: float) -> Expected:
        """Write what is shared in the terms of the maps."""
        headers = self.headers
        nodes = design(headers.order, *square_nodes())
        n = len(headers.terms)
        image = np.repeat(np.arange(n), len(nodes))
        shared = self._shared((nodes @ headers.terms).reshape(-1, 2), image).reshape(n, len(nodes), -1)
        terms = np.linalg.pinv(nodes) @ shared
        variance = width[self.degree] + _squares(terms, now.covariance)
        return Expected(headers.terms + terms @ now.coefficients, scale / variance)


def _squares(rows: F64, covariance: F64) -> F64:
    """Return r^T C r of the rows (I, K, C) of each image; C is (C, C), or one matrix for each image."""
    return np.asarray(((rows @ covariance) * rows).sum(-1))


def _best(stars: TiedStars) -> I64:
    """Return the measurements (M,) with the smallest errors of each image, at most `_MOST_STARS`, image after image."""
    order = np.lexsort((stars.variance, stars.image))
    image = stars.image[order]
    return np.asarray(order[np.arange(order.size) - np.searchsorted(image, image) < _MOST_STARS])


def _widths(values: F64, variance: F64, group: I64, before: F64) -> F64:
    """Return the squared widths (G,) of groups of values (..., 2) around zero, whose variances are (...) where the squared
    widths were `before`.
    """
    telling = np.bincount(group.ravel(), (1.0 - variance / before[group]).ravel(), before.size)
    squares = np.bincount(group.ravel(), (values**2).sum(-1).ravel(), before.size)
    return np.asarray(np.clip(squares / np.maximum(2.0 * telling, 1e-3), _NARROWEST**2, _WIDEST**2))


def _products(left: F64, right: F64) -> F64:
    """Return left^T right of each image: (I, K, S) and (I, K, T) to (I, S, T)."""
    return np.asarray(left.transpose(0, 2, 1) @ right)


def expected_images(
    images: Images, layout: Layout, frames: Frames, associated: Associated, pedestal: float, header: Flags
) -> Mapping[int, tuple[F64, F64]]:
    """Return terms (T, 2) and inverse variances (T,) that are expected of the maps of images, by index; none of the images of
    visits that are too small to say.

    Parameters
    ----------
    pedestal
        px^2, added to the variances of positions.
    header
        Which terms (T,) are taken from the input WCS.
    """
    m, reference = associated.measurements, associated.stars.reference[associated.stars.of_measurement]
    tied = np.flatnonzero(reference >= 0)
    out: dict[int, tuple[F64, F64]] = {}
    for visit in np.unique(images.visit):
        of = np.flatnonzero(images.visit == visit)
        headers = HeaderMaps(
            layout.outer_order, np.array([_header(images, layout, frames, int(i), header) for i in of])
        )
        part = tied[np.isin(m.image[tied], of)]
        stars = _tied(headers, layout, frames, associated, (part, reference[part], of), pedestal)
        found = expected_maps(headers, stars) if part.size else None
        if found is not None:
            out |= {int(i): (found.terms[k], found.weight[k]) for k, i in enumerate(of)}
    return out


def _header(images: Images, layout: Layout, frames: Frames, image: int, header: Flags) -> F64:
    """Return the map of an image by its input WCS, (T, 2): its terms `header`, zero in the others."""
    u, v = square_nodes()
    centre, half = layout.centre[image], layout.half[image]
    vectors = unit_vectors(*images.wcs[image].pixel_to_sky(centre[0] + u * half[0], centre[1] + v * half[1]))
    out = np.zeros((n_terms(layout.outer_order), 2))
    basis = design(layout.outer_order, u, v)[:, header]
    out[header] = np.linalg.lstsq(basis, gnomonic(vectors, frames, image), rcond=None)[0]
    return out


def _tied(
    headers: HeaderMaps,
    layout: Layout,
    frames: Frames,
    associated: Associated,
    which: tuple[I64, I64, I64],
    pedestal: float,
) -> TiedStars:
    """Return the measurements of a visit that have a reference star; `which` are their indices (N,), those of their reference
    stars (N,), and the images of the visit (I,).
    """
    m, references = associated.measurements, associated.references
    part, reference, of = which
    image = m.image[part]
    scaled = (np.stack([m.x[part], m.y[part]], 1) - layout.centre[image]) / layout.half[image]
    place = gnomonic(references.vector[reference], frames, int(of[0]))  # images of a visit have one tangent plane
    number = np.searchsorted(of, image)
    first = term_degrees(layout.outer_order).sum(1) == 1
    size = np.sqrt(np.abs(np.linalg.det(headers.terms[:, first])) / layout.half[of].prod(1))  # arcsec per px
    variance = size[number] ** 2 * (0.5 * (m.vx[part] + m.vy[part]) + pedestal)
    variance += 0.5 * (references.error[reference] ** 2).sum(1)
    return TiedStars(number, scaled, place, np.maximum(variance, _LEAST_VARIANCE))
