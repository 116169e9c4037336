"""Where the headers have each chip in the focal plane, against the camera file: a file that is wrong of one chip bends the
maps of whole visits.
"""

import logging

import numpy as np

from calibration.joint.model.basis import design, n_terms
from tasks.arrays import F64, I64

__all__ = ["shifts_by_headers"]

log = logging.getLogger("alertprod.jointcal")
_NAMED = 10
_FAR = 0.5  # of what the camera file is trusted to
_LEAST_CHIPS = 5  # of a visit that tell one of them from an offset, a scale and a turn of all
_ROUNDS = 20
_SETTLED = 0.01  # of the largest shift: what is far off is told by then
_HEADER = 1.0  # px to which headers say where chips sit beside each other


def shifts_by_headers(
    order: int, layout: tuple[I64, I64, int], focal: F64, sky: F64, detectors: I64, pixel: F64, trusted: float
) -> F64:
    """Return by how much chips sit elsewhere than the camera file says, by the headers of most visits.

    In each visit a polynomial from the focal plane to the sky and one shift of each chip are fitted to the headers together:
    a polynomial that follows one chip would bend inside the others.

    Parameters
    ----------
    order
        Of the polynomial, at the most.
    layout
        Index of the visit (I,) and of the chip (I,) of each image, and how many chips, the first of all, visits share: what the
        others are moved by is told by one visit, and taken however small.
    focal
        (C, N, 2) places in the focal plane of the nodes of each chip, by the camera file.
    sky
        (I, N, 2) where the headers have the nodes of each image, in the tangent plane of its visit.
    detectors, pixel
        (C,) numbers of the chips, and the size of their pixels in the unit of `focal`.
    trusted
        px to which the camera file is trusted; shifts smaller than half of it are none.

    Returns
    -------
    shifts
        (C, 2), in the unit of `focal`; zero where the file is right or nothing tells. Others are warned of.
    """
    visit, chip, n_shared = layout
    n_visits = int(visit.max()) + 1
    shift = np.full((n_visits, len(focal), 2), np.nan)
    for v in range(n_visits):
        of = np.flatnonzero(visit == v)
        if of.size >= _LEAST_CHIPS:
            shift[v, chip[of]] = _of_visit(order, focal[chip[of]], sky[of], float(np.median(pixel)), trusted)
    out = np.zeros((len(focal), 2))
    told = np.isfinite(shift).any((0, 2))
    out[told] = np.nanmedian(shift[:, told], axis=0)
    own = np.arange(len(focal)) >= n_shared
    far = (np.hypot(*out.T) / pixel > _FAR * trusted) & ~own
    if 3 * far.sum() > n_shared:  # then headers are rough
        return np.zeros_like(out)
    if far.any():
        listed = ", ".join(
            f"detector {detectors[c]}: {np.hypot(*out[c]) / pixel[c]:.0f} px" for c in np.flatnonzero(far)[:_NAMED]
        )
        log.warning(
            "%d chips sit elsewhere by the headers than the camera file says, by more than %g px (half of "
            "chipPositionPrior): they start where the headers have them (%s)",
            int(far.sum()),
            _FAR * trusted,
            listed,
        )
    return np.where((far | own)[:, None], out, 0.0)


def _of_visit(order: int, focal: F64, sky: F64, pixel: float, trusted: float) -> F64:
    """Return the shifts (K, 2) of the K chips of one visit whose nodes lie at (K, N, 2) in the focal plane and on the sky."""
    k, n = focal.shape[:2]
    while order > 1 and n_terms(order) > 2 * k:
        order -= 1
    flat, target = focal.reshape(-1, 2), sky.reshape(-1, 2)
    linear = np.linalg.lstsq(np.column_stack([np.ones(len(flat)), flat]), target, rcond=None)[0][1:].T
    basis = np.linalg.qr(design(order, flat[:, 0], flat[:, 1]))[0]
    indicator = np.repeat(np.eye(k), n, axis=0)
    free = indicator - basis @ (basis.T @ indicator)
    moved = np.linalg.solve(free.T @ free + (_HEADER / trusted) ** 2 * np.eye(k), free.T @ target)
    return _odd(np.asarray(moved @ np.linalg.inv(linear).T, np.float64), np.asarray(focal.mean(1), np.float64))


def _odd(shift: F64, place: F64) -> F64:
    """Return shifts (K, 2) of chips without the offset, scale and turn that those of most have in common: headers that are
    wrong each about its own middle, or the pointing.
    """
    k = len(shift)
    centre = place - place.mean(0)
    terms = np.zeros((2 * k, 4))
    terms[:k, 0] = terms[k:, 1] = 1.0
    terms[:k, 2], terms[k:, 2] = centre.T
    terms[:k, 3], terms[k:, 3] = -centre[:, 1], centre[:, 0]
    target, weight = shift.T.ravel(), np.ones(k)
    off = shift
    for _ in range(_ROUNDS):  # least absolute deviations: one chip that is far off pulls as little as any
        row = np.sqrt(np.tile(weight, 2))
        solved = np.linalg.lstsq(terms * row[:, None], target * row, rcond=None)[0]
        last, off = off, (target - terms @ solved).reshape(2, k).T
        if np.abs(off - last).max() <= _SETTLED * np.abs(off).max():
            break
        size = np.hypot(*off.T)
        weight = 1.0 / np.maximum(size, 1e-3 * max(float(size.max()), 1e-12))
    return np.asarray(off)
