"""Bring images with a rough WCS onto the reference stars before stars are matched: a shift, then an affine map.

A visit that is too far off for that, by minutes of arc, by degrees of turn, or mirrored, is looked for as a whole.
"""

import logging
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from calibration.joint.data import ARCSEC, Images, tangent_frames
from calibration.joint.matching.association import match_pairs, offsets_to_reference
from calibration.joint.matching.far_headers import MATCH, FarMap, find_visit, matched_share, plane
from tasks.arrays import F64, I64

__all__ = ["Registration", "register"]

log = logging.getLogger("alertprod.jointcal")

_GOOD = 0.15  # arcsec: a WCS this close needs no affine map
_RADII = (1.5, 1.0, 0.6)  # arcsec, of the matches of the affine fits
_LEAST = 7  # matches of an affine fit
_WEAK = 0.8  # of the matched share of the best visit: a visit below it is looked for from far away
_LOST = 0.5  # of the same: a visit below it is not registered
_POOR = 0.1  # matched share below which a visit is looked for, however poor the others are
_GAIN = 0.02  # of the detections, that a map from far away must match beside what matched before
_CHANCE = 3.0  # times the share that matches by chance: below it a visit is not registered
_FOUND = 0.5  # of the reference stars with a detection around them: a deep visit that is registered
_AROUND = 30.0  # arcsec
_TELLING = 15  # expected matches that tell that a visit is not registered


@dataclass
class Registration:
    """Corrections of directions by the input WCS, image by image.

    Parameters
    ----------
    offset
        (I, 3) added to unit vectors.
    centre
        (I, 3) direction of each image's middle; the affine maps are about it, in its tangent plane.
    affine
        (I, 2, 3) arcsec: constant, and change per arcsec east and north.
    lost
        Ids of the visits that no correction brings onto the reference stars.
    """

    offset: F64
    centre: F64
    affine: F64
    lost: list[int] = field(default_factory=list)

    @classmethod
    def nothing(cls, n: int) -> "Registration":
        """Return that of n images which lie on the reference stars as they are."""
        return cls(np.zeros((n, 3)), np.tile([1.0, 0.0, 0.0], (n, 1)), np.zeros((n, 2, 3)))

    def apply(self, vectors: F64, image: "I64 | int") -> F64:
        """Return corrected directions (..., 3); `image` is (...) or one number for all."""
        out = vectors + self.offset[image]
        affine = self.affine[image]
        if not affine.any():
            return np.asarray(out)
        east, north = tangent_frames(np.broadcast_to(self.centre[image], out.shape))
        u, v = (out * east).sum(-1) / ARCSEC, (out * north).sum(-1) / ARCSEC
        terms = np.stack([np.ones_like(u), u, v], axis=-1)
        moved = np.einsum("...ij,...j->...i", affine, terms) * ARCSEC
        out = out + moved[..., :1] * east + moved[..., 1:] * north
        return np.asarray(out / np.linalg.norm(out, axis=-1, keepdims=True))

    def take(self, index: I64) -> "Registration":
        """Return that of some images; `index` is (K,)."""
        return Registration(self.offset[index], self.centre[index], self.affine[index], self.lost)


def register(
    images: Images, image: I64, vectors: F64, brightness: F64, reference: F64, match_cut: float
) -> Registration:
    """Find the corrections that bring the detections of each image onto the reference stars.

    Directions are (N, 3) for detections on `image` (N,) and (K, 3) for reference stars; the larger `brightness` (N,)
    the better. A shift comes from votes within `match_cut` arcsec. Where what is left is more than a sixth of an arcsec
    (no distortion in the header), an affine map per image follows, from matches that get closer as it gets better.
    Visits that hardly match then are looked for from far away; those that are not found are named in the result.
    """
    out = _from_near(images, image, vectors, brightness, reference, match_cut)
    if len(reference) >= _LEAST:
        _from_far(out, images, image, vectors, brightness, reference)
    return out


def _from_near(
    images: Images, image: I64, vectors: F64, brightness: F64, reference: F64, match_cut: float
) -> Registration:
    """Register images that are at most `match_cut` arcsec off; see `register`."""
    n = len(images)
    offset = _voted_offsets(images.visit, image, vectors, brightness, reference, match_cut)
    counts = np.maximum(np.bincount(image, minlength=n), 1)
    middle = np.stack([np.bincount(image, vectors[:, k], n) for k in range(3)], axis=1) / counts[:, None]
    length = np.linalg.norm(middle, axis=1)
    centre = np.where(
        length[:, None] > 0, middle / np.where(length > 0, length, 1.0)[:, None], np.array([1.0, 0.0, 0.0])
    )
    out = Registration(offset, centre, np.zeros((n, 2, 3)))
    if not len(reference):
        return out
    moved = vectors + offset[image]
    i, j = match_pairs(moved, reference, match_cut)
    if not i.size or np.median(np.linalg.norm(moved[i] - reference[j], axis=1)) < _GOOD * ARCSEC:
        return out
    for radius in _RADII:
        moved = out.apply(vectors, image)
        i, j = match_pairs(moved, reference, min(radius, match_cut))
        _refine(out, image[i], vectors[i] + offset[image[i]], reference[j])
    return out


def _voted_offsets(visit: I64, image: I64, vectors: F64, brightness: F64, reference: F64, match_cut: float) -> F64:
    """Return the offset (I, 3) of each image by votes, whose visits are (I,).

    An image without votes moves like the others of its visit. A visit without any, where reference stars are few, is moved
    onto the detections of the others.
    """
    n = len(visit)
    offset, votes = offsets_to_reference(vectors, image, n, brightness, reference, match_cut)
    for _ in range(2):
        for v in np.unique(visit):
            of = visit == v
            voted = of & (votes > 0)
            if voted.any():
                offset[of & (votes == 0)] = np.median(offset[voted], axis=0)
        tied = np.isin(visit, visit[votes > 0])
        if tied.all() or not tied.any():
            break
        there = tied[image]
        matched = np.concatenate([reference, vectors[there] + offset[image[there]]])
        left = ~there
        more, some = offsets_to_reference(vectors[left], image[left], n, brightness[left], matched, match_cut)
        offset[~tied], votes[~tied] = more[~tied], some[~tied]
    return offset


def _from_far(out: Registration, images: Images, image: I64, vectors: F64, brightness: F64, reference: F64) -> None:
    """Look for the visits that hardly match, put what is found into `out`, and name what is not."""
    tree = cKDTree(reference)
    visits, of_image = np.unique(images.visit, return_inverse=True)
    visit = of_image[image]
    moved = out.apply(vectors, image)
    share = np.array([matched_share(moved[visit == v], tree) for v in range(visits.size)])
    number = np.bincount(visit, minlength=visits.size)
    chance = np.array([_chance_share(vectors[visit == v], reference) for v in range(visits.size)])
    weak = share < np.maximum(_WEAK * share.max(), np.maximum(_POOR, _CHANCE * chance))
    for v in np.flatnonzero(weak & (share >= _WEAK * share.max())):
        weak[v] = not _references_found(moved[visit == v], reference)
    weak[of_image[_unmatched(moved, image, share[of_image], tree)]] = True
    for v in np.flatnonzero(weak & (number > 0)):
        of = visit == v
        far_maps = find_visit(vectors[of], image[of], brightness[of], reference)
        if not far_maps:
            continue
        before = Registration(out.offset.copy(), out.centre.copy(), out.affine.copy())
        for i, one in far_maps.items():
            _take(out, one, i, vectors[image == i])
        better = matched_share(out.apply(vectors[of], image[of]), tree)
        if (better - share[v]) * number[v] < _GAIN * number[v] + _LEAST:
            out.offset, out.centre, out.affine = before.offset, before.centre, before.affine
            continue
        share[v] = better
        log.warning(
            "visit %d: its headers are far off; found on the reference stars %s", visits[v], _how_far(out, far_maps)
        )
    telling = share.max() * number >= _TELLING
    lost = telling & (share < _LOST * share.max()) & (share <= _CHANCE * chance)
    out.lost = [int(v) for v in visits[lost]]


def _references_found(vectors: F64, reference: F64) -> bool:
    """Return whether the reference stars (K, 3) among the detections (N, 3) of a visit are detected, far more than by chance.

    Of a deep image hardly any detection is a reference star, but of a registered one most reference stars are detections.
    """
    tree = cKDTree(vectors)
    around = np.asarray(tree.query_ball_point(reference, _AROUND * ARCSEC, return_length=True))
    inside = around > 0
    if inside.sum() < _TELLING:
        return False
    found = np.isfinite(tree.query(reference[inside], distance_upper_bound=MATCH * ARCSEC)[0])
    chance = float((1.0 - np.exp(-around[inside] * (MATCH / _AROUND) ** 2)).mean())
    return bool(found.mean() - chance > _FOUND * (1.0 - chance))


def _unmatched(vectors: F64, image: I64, share: F64, tree: cKDTree) -> I64:
    """Return the images that match hardly any reference star, where their visits match a share (I,) of theirs."""
    hit = np.isfinite(tree.query(vectors, distance_upper_bound=MATCH * ARCSEC)[0])
    expected = np.bincount(image, minlength=share.size) * share
    return np.flatnonzero((expected >= _TELLING) & (np.bincount(image[hit], minlength=share.size) < 0.3 * expected))


def _chance_share(vectors: F64, reference: F64) -> float:
    """Return the share of directions (N, 3) that would match reference stars (K, 3) scattered at random."""
    if not len(vectors):
        return 0.0
    middle = vectors.sum(0) / np.linalg.norm(vectors.sum(0))
    cosine = float((vectors @ middle).min())
    inside = int((reference @ middle >= cosine).sum())
    solid = 2 * np.pi * max(1.0 - cosine, 1e-12)
    return float(1.0 - np.exp(-inside / solid * np.pi * (MATCH * ARCSEC) ** 2))


def _take(out: Registration, far_map: FarMap, image: int, vectors: F64) -> None:
    """Write a map as one about the middle of an image, whose detections lie at `vectors` (N, 3) by the header."""
    centre = vectors.sum(0) / np.linalg.norm(vectors.sum(0))
    side = float(np.abs(plane(vectors, centre)).max()) + 1.0
    corners = side * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    east, north = tangent_frames(centre[None])
    directions = centre + ARCSEC * (corners[:, :1] * east + corners[:, 1:] * north)
    moved = plane(far_map.apply(directions / np.linalg.norm(directions, axis=1)[:, None]), centre)
    design = np.column_stack([np.ones(4), corners])
    out.offset[image], out.centre[image] = 0.0, centre
    out.affine[image] = np.linalg.lstsq(design, moved - corners, rcond=None)[0].T


def _how_far(out: Registration, far_maps: dict[int, FarMap]) -> str:
    """Return the offset, turn and scale of the maps of the images in words."""
    (dx, a, b), (dy, c, d) = np.median([out.affine[i] for i in far_maps], axis=0) + np.array([[0, 1.0, 0], [0, 0, 1.0]])
    mirrored = a * d < b * c
    turn = np.degrees(np.arctan2(c + b, a - d) if mirrored else np.arctan2(c - b, a + d))
    scale = 100 * (np.sqrt(abs(a * d - b * c)) - 1)
    words = f"{np.hypot(dx, dy):.1f} arcsec away, turned by {turn:+.2f} deg, {scale:+.2f} % in scale"
    return f"{words}{', mirrored' if mirrored else ''} ({len(far_maps)} images)"


def _refine(registration: Registration, image: I64, vectors: F64, reference: F64) -> None:
    """Fit one affine map per image with enough matches; far matches are dropped by their own scatter."""
    order = np.argsort(image, kind="stable")
    edges = np.searchsorted(image[order], np.arange(len(registration.centre) + 1))
    for k in range(len(registration.centre)):  # few matches per image, few images: not worth a batch
        part = order[edges[k] : edges[k + 1]]
        if part.size < _LEAST:
            continue
        east, north = tangent_frames(registration.centre[k][None])
        measured = np.stack([vectors[part] @ east[0], vectors[part] @ north[0]], 1) / ARCSEC
        expected = np.stack([reference[part] @ east[0], reference[part] @ north[0]], 1) / ARCSEC
        design = np.column_stack([np.ones(part.size), measured])
        good = np.ones(part.size, bool)
        solved: F64 = np.zeros((3, 2))
        for _ in range(4):
            if good.sum() < _LEAST - 2:
                break
            solved = np.asarray(np.linalg.lstsq(design[good], (expected - measured)[good], rcond=None)[0], np.float64)
            off = np.hypot(*((expected - measured) - design @ solved).T)
            good = off < max(3.0 * float(np.median(off)), 0.05)
        registration.affine[k] = solved.T
