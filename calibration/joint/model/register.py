"""Bring images with a rough WCS onto the reference stars before stars are matched: a shift, then an affine map."""

from dataclasses import dataclass

import numpy as np

from calibration.joint.model.association import match_pairs, offsets_to_reference
from calibration.joint.model.data import ARCSEC, Images, tangent_frames
from tasks.arrays import F64, I64

__all__ = ["Registration", "register"]

_GOOD = 0.15  # arcsec: a WCS this close needs no affine map
_RADII = (1.5, 1.0, 0.6)  # arcsec, of the matches of the affine fits
_LEAST = 7  # matches of an affine fit


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
    """

    offset: F64
    centre: F64
    affine: F64

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
        return np.asarray(out + moved[..., :1] * east + moved[..., 1:] * north)

    def take(self, index: I64) -> "Registration":
        """Return that of some images; `index` is (K,)."""
        return Registration(self.offset[index], self.centre[index], self.affine[index])


def register(
    images: Images, image: I64, vectors: F64, brightness: F64, reference: F64, match_cut: float
) -> Registration:
    """Find the corrections that bring the detections of each image onto the reference stars.

    Directions are (N, 3) for detections on `image` (N,) and (K, 3) for reference stars; the larger `brightness` (N,)
    the better. A shift comes from votes within `match_cut` arcsec. Where what is left is more than a sixth of an arcsec
    (no distortion in the header), an affine map per image follows, from matches that get closer as it gets better.
    """
    n = len(images)
    offset, votes = offsets_to_reference(vectors, image, n, brightness, reference, match_cut)
    for visit in np.unique(images.visit):
        of = images.visit == visit
        voted = of & (votes > 0)
        if voted.any():  # an image without votes moves like the others of its visit
            offset[of & (votes == 0)] = np.median(offset[voted], axis=0)
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
