"""Which detections are one star: friends of friends on the sphere, the same for any order of the visits.

Positions are unit vectors, so right ascension 0 and the poles are nowhere special. Detections closer than a radius
are friends; a group that holds two detections of one visit is too large and is split with half the radius, and so on.
What is still mixed at the smallest radius is crowded beyond telling apart, and dropped.
"""

import numpy as np
from scipy.spatial import cKDTree

from calibration.joint.data import ARCSEC
from tasks.arrays import F64, I64, Flags
from tasks.compiled import compiled

__all__ = ["friends_of_friends", "match_pairs", "offsets_to_reference", "typical_separation"]

_LEVELS = 6
_CLOSE = 0.2  # arcsec: images whose nearest reference stars are this close need no votes
_VOTERS = 100  # brightest detections of an image that vote


@compiled
def _root(parent: I64, i: int) -> int:
    """Return the root of the tree that a point is in, and shorten the path to it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def _link(vectors: F64, order: I64, keys: I64, cells: I64, first: I64, side: int, radius2: float, parent: I64) -> None:
    """Join all pairs closer than the radius; points are sorted by cell, cells have the radius as their side."""
    for a in range(order.size):
        i = order[a]
        for dx in range(-1, 2):
            for dy in range(-1, 2):
                for dz in range(-1, 2):
                    key = keys[a] + (dx * side + dy) * side + dz
                    if key > keys[a]:
                        continue  # the other cell finds this pair
                    c = np.searchsorted(cells, key)
                    if c == cells.size or cells[c] != key:
                        continue
                    for b in range(first[c], first[c + 1]):
                        if key == keys[a] and b >= a:
                            break
                        j = order[b]
                        d2 = 0.0
                        for k in range(3):
                            d2 += (vectors[i, k] - vectors[j, k]) ** 2
                        if d2 < radius2:
                            p, q = _root(parent, i), _root(parent, j)
                            if p != q:
                                parent[max(p, q)] = min(p, q)


def _components(vectors: F64, radius: float) -> I64:
    """Return a label per point: points linked by steps below the radius (chord length) share one."""
    side = int(2.0 / radius) + 4
    if side > 2_000_000:  # three coordinates must fit 63 bits
        side = 2_000_000
    cell = np.floor((vectors + 1.0) / max(radius, 2.0 / (side - 4))).astype(np.int64) + 1
    key = (cell[:, 0] * side + cell[:, 1]) * side + cell[:, 2]
    order = np.argsort(key, kind="stable")
    cells, start = np.unique(key[order], return_index=True)
    parent = np.arange(len(vectors))
    _link(vectors, order, key[order], cells, np.append(start, len(key)), side, radius**2, parent)
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return np.asarray(parent)
        parent = above


def friends_of_friends(vectors: F64, visit: I64, radius_arcsec: float) -> I64:
    """Group detections into stars.

    Parameters
    ----------
    vectors
        (N, 3) unit vectors.
    visit
        (N,) a star has at most one detection per visit.
    radius_arcsec
        Detections farther apart are never linked directly.

    Returns
    -------
    group
        (N,) consecutive group numbers from 0; -1 for detections in groups that could not be resolved.
    """
    out = np.full(len(vectors), -1, np.int64)
    left = np.arange(len(vectors))
    given = 0
    for level in range(_LEVELS):
        if not left.size:
            break
        label = _components(vectors[left], radius_arcsec * ARCSEC / 2**level)
        _, label = np.unique(label, return_inverse=True)
        pair = label.astype(np.int64) * (int(visit.max()) + 1) + visit[left]
        _, where, times = np.unique(pair, return_index=True, return_counts=True)
        mixed = np.zeros(int(label.max()) + 1, bool)
        mixed[label[where[times > 1]]] = True
        clean = ~mixed[label]
        names, number = np.unique(label[clean], return_inverse=True)
        out[left[clean]] = given + number
        given += names.size
        left = left[~clean]
    return out


def typical_separation(vectors: F64, visit: I64, radius_arcsec: float, sample: int = 20_000) -> float:
    """Return the median distance (arcsec) from a detection to the nearest one of another visit within the radius; NaN
    without any."""
    step = max(1, len(vectors) // sample)
    chosen = np.argsort(vectors @ np.array([0.57, 0.61, 0.55]), kind="stable")[::step]  # any order but the caller's
    # few of many points are asked for: a tree that is made quickly finds them soon enough
    neighbours = cKDTree(vectors, balanced_tree=False, compact_nodes=False).query(
        vectors[chosen], k=min(4, len(vectors)), distance_upper_bound=radius_arcsec * ARCSEC
    )
    distance, index = np.atleast_2d(neighbours[0]), np.atleast_2d(neighbours[1])
    inside = np.isfinite(distance)
    other = inside & (visit[np.where(inside, index, 0)] != visit[chosen][:, None])
    nearest = np.where(other, distance, np.inf).min(1)
    nearest = nearest[np.isfinite(nearest)]
    return float(np.median(nearest) / ARCSEC) if nearest.size else float("nan")


def match_pairs(vectors: F64, others: F64, radius_arcsec: float) -> tuple[I64, I64]:
    """Return the pairs (i, j) of mutual nearest neighbours closer than the radius, of unit vectors (N, 3) and (M, 3)."""
    if not len(vectors) or not len(others):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    near = cKDTree(others).query(vectors, distance_upper_bound=radius_arcsec * ARCSEC)
    distance, index = np.asarray(near[0]), np.asarray(near[1])
    hit = np.flatnonzero(np.isfinite(distance))
    order = hit[np.lexsort((distance[hit], index[hit]))]
    _, first = np.unique(index[order], return_index=True)
    i = np.sort(order[first])
    return i, np.asarray(index[i], np.int64)


def offsets_to_reference(
    vectors: F64, image: I64, n_images: int, brightness: F64, reference: F64, radius_arcsec: float
) -> tuple[F64, I64]:
    """Find by votes how far each image lies off the reference stars.

    Directions are (N, 3) for detections on `image` (N,) and (K, 3) for reference stars; the larger `brightness` (N,)
    the better. Every pair of a bright detection and a reference star within the radius votes for its offset; the
    densest offset wins where it is no chance.

    Returns
    -------
    offset
        (n_images, 3) vectors to add to the directions; zero where nothing was found.
    votes
        (n_images,) pairs that agree.
    """
    offset, votes = np.zeros((n_images, 3)), np.zeros(n_images, np.int64)
    order = np.lexsort((-brightness, image))
    edges = np.searchsorted(image[order], np.arange(n_images + 1))
    rank = np.arange(order.size) - np.repeat(edges[:-1], np.diff(edges))
    chosen = order[rank < _VOTERS]
    if not chosen.size or not len(reference):
        return offset, votes
    tree = cKDTree(reference)
    near_enough = _already_close(tree, reference, vectors[chosen], image[chosen], offset, votes, radius_arcsec)
    chosen = chosen[~near_enough[image[chosen]]]
    if not chosen.size:
        return offset, votes
    near = np.asarray(tree.query_ball_point(vectors[chosen], radius_arcsec * ARCSEC), object)
    count = np.array([len(k) for k in near])
    if not count.sum():
        return offset, votes
    index = np.concatenate([np.asarray(k, np.int64) for k in near if k])
    which = np.repeat(chosen, count)
    shift = reference[index] - vectors[which]
    edges = np.searchsorted(image[which], np.arange(n_images + 1))  # chosen are sorted by image
    for i in np.flatnonzero(np.diff(edges)):  # one image at a time: votes are few
        offset[i], votes[i] = _densest(shift[edges[i] : edges[i + 1]], radius_arcsec)
    return offset, votes


def _densest(shift: F64, radius_arcsec: float) -> tuple[F64, int]:
    """Return the offset (3,) that most of the votes (N, 3) agree on, and how many do; zero where it may be chance."""
    none = np.zeros(3), 0
    if len(shift) < 3:
        return none
    reach = max(0.3, 0.1 * radius_arcsec) * ARCSEC
    density = np.asarray(cKDTree(shift).query_ball_point(shift, reach, return_length=True))
    best = int(np.argmax(density))
    by_chance = len(shift) * (reach / (radius_arcsec * ARCSEC)) ** 2
    if density[best] < max(3, by_chance + 4 * np.sqrt(by_chance)):
        return none
    agree = np.sqrt(((shift - shift[best]) ** 2).sum(1)) < reach
    return np.median(shift[agree], axis=0), int(agree.sum())


def _already_close(
    tree: cKDTree, reference: F64, vectors: F64, image: I64, offset: F64, votes: I64, radius_arcsec: float
) -> Flags:
    """Return which images (I,) fall on the reference stars as they are; their small offsets and votes are written."""
    nearest = tree.query(vectors, distance_upper_bound=radius_arcsec * ARCSEC)
    separation, star = np.asarray(nearest[0]), np.asarray(nearest[1])
    hit = np.isfinite(separation)
    part, distance = image[hit], separation[hit] / ARCSEC
    count = np.bincount(part, minlength=len(votes))
    order = np.lexsort((distance, part))
    first = np.concatenate([[0], np.cumsum(count)])
    median = np.full(len(votes), np.inf)
    some = count >= 3
    median[some] = distance[order][(first[:-1] + count // 2)[some]]
    close = median < _CLOSE
    shift = reference[star[hit]] - vectors[hit]
    near = (distance < 3 * _CLOSE) & close[part]
    for k in range(3):
        total = np.bincount(part[near], shift[near, k], len(votes))
        offset[close, k] = (total / np.maximum(np.bincount(part[near], minlength=len(votes)), 1))[close]
    votes[close] = count[close]
    return close
