"""Visits whose headers are far off: found on the reference stars by votes over turn, mirror image and offset.

Around the middle of one image a wrong scale of a few percent or a wrong turn of a degree moves stars by a few arcsec only,
so that a plain count of offsets finds the image; what all images of the visit say is then one affine map about the middle
of the visit. The count is that of Groth (1986, AJ 91, 1244) reduced to a known scale.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from calibration.joint.data import ARCSEC, tangent_frames
from tasks.arrays import F64, I64

__all__ = ["FarMap", "find_visit", "matched_share"]

MATCH = 1.5  # arcsec: a detection this close to a reference star is matched
_ORIENTATIONS = [
    np.array([[c * mirror, -s], [s * mirror, c]])
    for mirror in (1.0, -1.0)
    for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))
]
_ENOUGH = 0.3  # of the detections that match: no other orientation is tried
_TURNS = np.radians(np.arange(-5.0, 5.01, 0.5))
_BIN = 6.0  # arcsec, side of the cells that offsets are counted in
_SPEAKERS = 6  # images of a visit that are tried
_VOTERS = 60  # brightest detections of an image
_REACH_LEAST = 90.0  # arcsec
_REACH_SHARE = 0.08  # of the radius of the visit: a turn of 4.5 degrees
_SIGNIFICANCE = 7.0  # sigma of chance: some 1e6 cells are looked at
_RADII = (8.0, 4.0, 2.0, 1.0)  # arcsec, of the matches while the map gets better
_LEAST = 8  # matches


@dataclass(frozen=True)
class FarMap:
    """An affine map about a direction: (u, v) arcsec east and north in its tangent plane to ``matrix @ (1, u, v)``.

    Parameters
    ----------
    centre
        (3,) unit vector.
    matrix
        (2, 3) arcsec.
    """

    centre: F64
    matrix: F64

    def apply(self, vectors: F64) -> F64:
        """Return mapped unit vectors (N, 3)."""
        u = plane(vectors, self.centre)
        moved = (self.matrix[:, 0] + u @ self.matrix[:, 1:].T) * ARCSEC
        east, north = tangent_frames(self.centre[None])
        out = self.centre + moved[:, :1] * east + moved[:, 1:] * north
        return np.asarray(out / np.linalg.norm(out, axis=1)[:, None])


def plane(vectors: F64, centre: F64) -> F64:
    """Return directions (N, 3) in the tangent plane at `centre`: (N, 2) arcsec east and north."""
    east, north = tangent_frames(centre[None])
    along = vectors @ centre
    return np.stack([vectors @ east[0] / along, vectors @ north[0] / along], 1) / ARCSEC


def matched_share(vectors: F64, tree: cKDTree) -> float:
    """Return the share of directions (N, 3) that have a reference star within `MATCH`."""
    distance = tree.query(vectors, distance_upper_bound=MATCH * ARCSEC)[0]
    return float(np.isfinite(distance).mean()) if len(vectors) else 0.0


def find_visit(vectors: F64, image: I64, brightness: F64, reference: F64) -> dict[int, FarMap]:
    """Find the affine maps that bring the images of one visit onto the reference stars, from far away.

    One map of all images (a wrong pointing or turn of the camera) is tried first, then one map of each (headers that are
    wrong each about its own middle).

    Parameters
    ----------
    vectors, image, brightness
        (N, 3) directions by the header, (N,) number of the image, (N,) larger for brighter.
    reference
        (K, 3) directions.

    Returns
    -------
    far_maps
        By image; none where no turn and offset stands out from chance.
    """
    centre = vectors.sum(0) / np.linalg.norm(vectors.sum(0))
    u = plane(vectors, centre)
    radius = float(np.hypot(*u.T).max())
    reach = max(_REACH_LEAST, 20.0 + _REACH_SHARE * radius)
    near = reference[reference @ centre > np.cos((1.1 * radius + 2 * reach) * ARCSEC)]
    if len(near) < _LEAST:
        return {}
    sky = _Sky(plane(near, centre), reach)
    images = _brightest(image, brightness)
    common, matches = _common(u, images, sky)
    if matches > _ENOUGH * len(u):
        return {name: FarMap(centre, common) for name in images if common is not None}
    every = np.arange(len(u))
    alone = {}
    for name, of in images.items():
        matrix, number = _alone(u, of, every[image == name], sky)
        if matrix is not None:
            alone[name] = FarMap(centre, matrix), number
    if sum(number for _, number in alone.values()) > matches:
        return {name: far_map for name, (far_map, _) in alone.items()}
    return {} if common is None else {name: FarMap(centre, common) for name in images}


class _Sky:
    """Reference stars (K, 2) in a tangent plane, arcsec, and how far away they are looked for."""

    def __init__(self, positions: F64, reach: float) -> None:
        self.positions, self.reach, self.tree = positions, reach, cKDTree(positions)


def _common(u: F64, images: dict[int, I64], sky: _Sky) -> tuple[F64 | None, int]:
    """Return the map (2, 3) of all detections (N, 2) that matches most of them, told by a few images, and how many."""
    best: tuple[F64 | None, int] = None, 0
    everything = np.arange(len(u))
    few = sorted(images.values(), key=len, reverse=True)[:_SPEAKERS]
    for orientation in _ORIENTATIONS:
        turned = u @ orientation.T
        for of in few:
            voted = _vote(turned[of], sky)
            if voted is None:
                continue
            matrix, number = _refined(turned, sky, voted, (of, everything))
            if number > best[1]:
                best = np.column_stack([matrix[:, 0], matrix[:, 1:] @ orientation]), number
        if best[1] > _ENOUGH * len(u):
            break
    return best


def _alone(u: F64, voters: I64, of: I64, sky: _Sky) -> tuple[F64 | None, int]:
    """Return the map (2, 3) of one image's detections `of`, turned about their own middle, and how many match."""
    best: tuple[F64 | None, int] = None, 0
    middle = u[voters].mean(0)
    for orientation in _ORIENTATIONS:
        turned = (u - middle) @ orientation.T + middle
        voted = _vote(turned[voters], sky)
        if voted is None:
            continue
        matrix, number = _refined(turned, sky, voted, (voters, of))
        if number > best[1]:
            linear = matrix[:, 1:] @ orientation
            best = np.column_stack([matrix[:, 0] + matrix[:, 1:] @ (middle - orientation @ middle), linear]), number
        if best[1] > _ENOUGH * of.size:
            break
    return best


def _brightest(image: I64, brightness: F64) -> dict[int, I64]:
    """Return the indices of the brightest detections of each image."""
    order = np.lexsort((-brightness, image))
    names, first = np.unique(image[order], return_index=True)
    return {int(n): part[:_VOTERS] for n, part in zip(names, np.split(order, first[1:]), strict=True)}


def _vote(u: F64, sky: _Sky) -> F64 | None:
    """Return the map (2, 3) that most pairs of one image's detections (S, 2) with reference stars (K, 2) agree on."""
    middle = u.mean(0)
    half = float(np.hypot(*(u - middle).T).max())
    reach = sky.reach
    part = sky.positions[sky.tree.query_ball_point(middle, reach + half)]
    if len(part) < _LEAST or len(u) < _LEAST:
        return None
    side = int(2 * reach / _BIN) + 1
    best, matrix = 0.0, None
    for turn in _TURNS:
        c, s = np.cos(turn), np.sin(turn)
        linear = np.array([[c, -s], [s, c]])
        off = (part[None] - ((u - middle) @ linear.T + middle)[:, None]).reshape(-1, 2)
        off = off[(np.abs(off) < reach).all(1)]
        cell = ((off + reach) / _BIN).astype(np.int64)
        count = np.bincount(cell[:, 0] * side + cell[:, 1], minlength=side * side).reshape(side, side)
        blocks = count[:-1, :-1] + count[1:, :-1] + count[:-1, 1:] + count[1:, 1:]
        top = int(blocks.argmax())
        chance = 4.0 * len(off) / side**2
        excess = (float(blocks.flat[top]) - chance) / np.sqrt(max(chance, 1.0))
        if excess > best:
            a, b = np.unravel_index(top, blocks.shape)
            shift = (np.array([a, b]) + 1.0) * _BIN - reach
            best, matrix = excess, np.column_stack([middle - linear @ middle + shift, linear])
    return matrix if best > _SIGNIFICANCE else None


def _refined(u: F64, sky: _Sky, matrix: F64, parts: tuple[I64, ...]) -> tuple[F64, int]:
    """Improve a map (2, 3) by ever closer matches of one part of the detections after the other; count the last part's."""
    for part in parts:
        design = np.column_stack([np.ones(part.size), u[part]])
        for radius in _RADII:
            near = sky.tree.query(design @ matrix.T, distance_upper_bound=radius)
            distance, star = np.asarray(near[0]), np.asarray(near[1])
            hit = np.flatnonzero(np.isfinite(distance))
            if hit.size < _LEAST:
                break
            matrix = _affine(design[hit], sky.positions[star[hit]], matrix)
    matched = np.isfinite(sky.tree.query(design @ matrix.T, distance_upper_bound=MATCH)[0])
    return matrix, int(matched.sum())


def _affine(design: F64, target: F64, matrix: F64) -> F64:
    """Return the map (2, 3) of points (N, 3: 1, u, v) to `target` (N, 2), far ones left out by their own scatter."""
    good = np.ones(len(design), bool)
    for _ in range(4):
        if good.sum() < _LEAST - 2:
            break
        matrix = np.asarray(np.linalg.lstsq(design[good], target[good], rcond=None)[0].T, np.float64)
        off = np.hypot(*(target - design @ matrix.T).T)
        good = off < max(3.0 * float(np.median(off)), 0.05)
    return matrix
