"""From detections and reference stars to the stars of a fit."""

import logging
from dataclasses import dataclass, replace

import numpy as np
from lsst.sphgeom import Angle, Box, ConvexPolygon, LonLat, UnitVector3d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from calibration.errors import JointCalibrationError
from calibration.joint.data import ARCSEC, Images, Measurements, Stars
from calibration.joint.matching.association import friends_of_friends, match_pairs, typical_separation
from calibration.joint.matching.references import Circle, References
from calibration.joint.matching.register import Registration, register
from tasks.arrays import F64, I64
from tasks.sphere import sky_positions, unit_vectors

__all__ = ["Associated", "associate", "bounding_circle", "image_corners", "split_stars", "without_untied"]

log = logging.getLogger("alertprod.jointcal")
_LEAST_TIED = 3  # stars with a reference: offset, turn and scale
_NAMED = 5
_LEAST_RADIUS = 0.5  # arcsec: proper motion between visits must not split a star


def image_corners(images: Images) -> tuple[F64, F64]:
    """Return (ra, dec) of the corners of all images, each (I, 4), degrees."""
    ra, dec = np.empty((len(images), 4)), np.empty((len(images), 4))
    for i, wcs in enumerate(images.wcs):
        x0, y0, w, h = images.bbox[i]
        ra[i], dec[i] = wcs.pixel_to_sky(
            np.array([x0, x0 + w - 1, x0 + w - 1, x0]) + np.array([-0.5, 0.5, 0.5, -0.5]),
            np.array([y0, y0, y0 + h - 1, y0 + h - 1]) + np.array([-0.5, -0.5, 0.5, 0.5]),
        )
    return ra, dec


def bounding_circle(images: Images) -> Circle:
    """Return a circle that holds all images: that around the corners of their box in RA and Dec.

    Right across RA 0; where the box would hold a pole, the circle goes around the images' own corners.
    """
    ra, dec = (a.ravel() for a in image_corners(images))
    box = Box()
    for lon, lat in zip(ra, dec, strict=True):  # corners of images: few
        box.expandTo(LonLat.fromDegrees(lon, lat))
    high = np.abs(dec).max() > 89.0 or box.getWidth().asDegrees() > 170.0
    if high:
        points = [UnitVector3d(*v) for v in unit_vectors(ra, dec)]
    else:
        across, along = box.getLon(), box.getLat()
        points = [
            UnitVector3d(LonLat(a, b)) for a in (across.getA(), across.getB()) for b in (along.getA(), along.getB())
        ]
    try:
        circle = ConvexPolygon.convexHull(points).getBoundingCircle()
        circle.expandTo(points[0])
        centre = circle.getCenter()
        return Circle(np.array([centre.x(), centre.y(), centre.z()]), float(circle.getOpeningAngle().asDegrees()))
    except (ValueError, RuntimeError):
        vectors = np.array([[p.x(), p.y(), p.z()] for p in points])
        middle = vectors.sum(0) / np.linalg.norm(vectors.sum(0))
        return Circle(middle, float(Angle(float(np.arccos(np.clip(vectors @ middle, -1, 1)).max())).asDegrees()))


@dataclass
class Associated:
    """Stars, their measurements in their order, and how many groups were matched."""

    stars: Stars
    measurements: Measurements
    references: References
    registration: Registration
    matched: int


def associate(
    images: Images,
    measurements: Measurements,
    references: References,
    match_cut: float,
    least: int,
    minimum_warnings: tuple[int, int] = (0, 0),
    registered: bool = False,
) -> Associated:
    """Group detections into stars and match these to the reference stars.

    Every image is first moved onto the reference stars (by votes, at most `match_cut` arcsec), so that the
    radius of the matches is that of what scatter remains, not that of the worst pointing. `registered`: they lie there already.

    Raises
    ------
    JointCalibrationError
        No star is left, or none of them has a reference star.
    """
    if registered:
        registration, vectors = Registration.nothing(len(images)), unit_vectors(*measurements.sky(images))
    else:
        registration, vectors = _registered(images, measurements, references, match_cut)
    if registration.lost:
        measurements, vectors = _without_lost(images, measurements, vectors, registration.lost)
    order, group, count = _grouped(images, measurements, vectors, match_cut)
    matched = count.size
    total: F64 = np.stack([np.bincount(group, vectors[order, k]) for k in range(3)], axis=1).astype(np.float64)
    mean: F64 = total / np.linalg.norm(total, axis=1)[:, None]
    reference = _match_references(mean, references, match_cut)
    good = (reference >= 0) | (count >= least)
    # neighbours on the sky stand together: blocks of stars touch few detectors
    ordered = np.lexsort((mean[:, 2], mean[:, 1], np.round(mean[:, 0] * 500), np.round(mean[:, 2] * 500)))
    ordered = ordered[good[ordered]]
    rank = np.full(matched, -1, np.int64)
    rank[ordered] = np.arange(ordered.size)
    kept = rank[group] >= 0
    chosen = order[kept][np.argsort(rank[group[kept]], kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(count[ordered])])
    ra, dec = sky_positions(mean[ordered])
    stars = Stars(ra, dec, offsets.astype(np.int64), reference[ordered])
    if not len(stars):
        raise JointCalibrationError(
            f"No stars in the fittedStarList: of {matched} groups none has {least} measurements or a reference star"
        )
    tied = int((stars.reference >= 0).sum())
    if tied < _LEAST_TIED:
        number = "none" if not tied else f"only {tied}"
        raise JointCalibrationError(
            f"{number} of {len(references)} reference stars matches one of {matched} stars within {match_cut} arcsec, "
            f"and {_LEAST_TIED} are the least that say where the field is: check the input WCS and matchCut, or take a "
            "deeper reference catalogue"
        )
    out = Associated(stars, measurements.take(chosen), references, registration, matched)
    _warn_few(images, out, *minimum_warnings)
    return out


def _registered(images: Images, m: Measurements, references: References, match_cut: float) -> tuple[Registration, F64]:
    """Return how images are moved onto the reference stars, and the moved directions (N, 3) of the measurements."""
    brightness = np.where(np.isfinite(m.flux), m.flux, -(m.vx + m.vy))
    vectors = unit_vectors(*m.sky(images))
    registration = register(images, m.image, vectors, brightness, references.vector, match_cut)
    return registration, registration.apply(vectors, m.image)


def _without_lost(images: Images, m: Measurements, vectors: F64, lost: list[int]) -> tuple[Measurements, F64]:
    """Leave out the visits that lie nowhere on the reference stars, by name."""
    for visit in lost:
        log.warning(
            "visit %d: its %d images cannot be brought onto the reference stars (offset, turn, scale and mirror image were "
            "tried): left out; check CRVAL, CRPIX, CD of its headers",
            visit,
            int((images.visit == visit).sum()),
        )
    keep = ~np.isin(images.visit[m.image], lost)
    if not keep.any():
        raise JointCalibrationError(
            f"none of the visits can be brought onto the reference stars: visits {lost[:10]}; check their headers, and that "
            "the reference catalogue is of this field"
        )
    return m.take(keep), vectors[keep]


def _grouped(images: Images, m: Measurements, vectors: F64, match_cut: float) -> tuple[I64, I64, I64]:
    """Return the measurements that lie in a group, group after group, the group of each, and the size of each group."""
    visit = images.visit[m.image]
    scatter = typical_separation(vectors, visit, match_cut)
    radius = match_cut if not np.isfinite(scatter) else float(np.clip(8 * scatter, _LEAST_RADIUS, match_cut))
    group = friends_of_friends(vectors, visit, min(radius, match_cut))
    order = np.lexsort((m.source_id, m.image, group))
    order = order[group[order] >= 0]
    number, count = np.unique(group[order], return_inverse=True, return_counts=True)[1:]
    return order, number, count


def _match_references(stars: F64, references: References, match_cut: float) -> I64:
    """Return the reference star (M,) of each star (M, 3), -1 where there is none.

    The radius follows the scatter of the matches: at most `match_cut` arcsec.
    """
    out = np.full(len(stars), -1, np.int64)
    i, j = match_pairs(stars, references.vector, match_cut)
    if i.size:
        distance = np.linalg.norm(stars[i] - references.vector[j], axis=1) / ARCSEC
        radius = float(np.clip(8 * np.median(distance), _LEAST_RADIUS, match_cut))
        i, j = match_pairs(stars, references.vector, radius)
        out[i] = j
    return out


def _warn_few(images: Images, a: Associated, least_stars: int, least_references: int) -> None:
    """Say once which images have few stars: not a line per image."""
    measured = np.bincount(a.measurements.image, minlength=len(images))
    with_reference = a.stars.reference[a.stars.of_measurement] >= 0
    referenced = np.bincount(a.measurements.image[with_reference], minlength=len(images))
    for what, have, least in (("measured", measured, least_stars), ("reference", referenced, least_references)):
        few = np.flatnonzero(have < least)
        if few.size:
            worst = few[np.argsort(have[few], kind="stable")[:3]]
            listed = ", ".join(f"visit {images.key(i)[0]} detector {images.key(i)[1]}: {have[i]}" for i in worst)
            log.warning("%d of %d images have fewer than %d %s stars (%s)", few.size, len(images), least, what, listed)


def without_untied(images: Images, a: Associated, parts: I64) -> Associated:
    """Leave out, by name, the groups of images that no star ties to a reference star: nothing says where they are.

    `parts` (I,) is equal for images that one map holds together; stars that several images have link these.
    """
    part = np.unique(parts, return_inverse=True)[1]
    n = int(part.max()) + 1
    star = a.stars.of_measurement
    size = n + len(a.stars)
    links = coo_array((np.ones(star.size), (part[a.measurements.image], n + star)), shape=(size, size))
    group = connected_components(links, directed=False)[1]
    tied = np.zeros(int(group.max()) + 1, bool)
    tied[group[n:][a.stars.reference >= 0]] = True
    keep = tied[group[n:]]
    if keep.all():
        return a
    lost = np.unique(images.visit[a.measurements.image[~keep[star]]])
    log.warning(
        "%d stars of visits %s are tied to no reference star, not even by the stars that visits share: left out; take a reference "
        "catalogue of all of the field",
        int((~keep).sum()),
        ", ".join(str(v) for v in lost[:_NAMED]) + (f" and {lost.size - _NAMED} more" if lost.size > _NAMED else ""),
    )
    offsets = np.concatenate([[0], np.cumsum(np.diff(a.stars.offsets)[keep])])
    stars = Stars(a.stars.ra[keep], a.stars.dec[keep], offsets.astype(np.int64), a.stars.reference[keep])
    return replace(a, stars=stars, measurements=a.measurements.take(keep[star]))


def split_stars(a: Associated, fraction: float) -> tuple[I64, I64]:
    """Return the indices of the stars to fit and of those held out; none of these below 200 stars.

    They are chosen by a hash of their first source's id: the same for any order of the input.
    """
    n = len(a.stars)
    every = np.arange(n)
    if fraction <= 0 or n < 200:
        return every, every[:0]
    first = a.measurements.source_id[a.stars.offsets[:-1]].astype(np.uint64)
    mixed = (first ^ (first >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    held = (mixed >> np.uint64(40)) < np.uint64(int(fraction * 2**24))
    return every[~held], every[held]
