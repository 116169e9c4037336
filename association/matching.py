"""Matching of DiaSources to DiaObjects: likelihood scores on the tangent plane, one-to-one assignment of least cost."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from association.errors import AssociationError, DuplicateRecords
from tasks.arrays import F64, I64, Flags
from tasks.sphere import chord_arcsec, unit_vectors

__all__ = ["Association", "associate", "pair_scores"]

SIGMA_FLOOR_ARCSEC = 0.05
SIGMA_FALLBACK_ARCSEC = 0.2
NO_MATCH = 1.01  # radii that a source without object costs, where distances are compared


@dataclass(frozen=True)
class Association:
    """Which source belongs to which object.

    Parameters
    ----------
    diaSources
        The sources that have a position, in their order, with ``diaObjectId`` filled (0: none).
    nUpdatedDiaObjects, nUnassociatedDiaObjects
        Objects that got a source, and those that did not.
    """

    diaSources: pd.DataFrame
    nUpdatedDiaObjects: int
    nUnassociatedDiaObjects: int


def associate(
    diaSources: pd.DataFrame,
    diaObjects: pd.DataFrame,
    radius_arcsec: float = 1.0,
    *,
    sigma_floor_arcsec: float = SIGMA_FLOOR_ARCSEC,
    fallback_sigma_arcsec: float = SIGMA_FALLBACK_ARCSEC,
) -> Association:
    """Give each source the object that it belongs to.

    Parameters
    ----------
    diaSources
        diaSourceId, ra, dec (deg), optionally raErr, decErr (deg on the sky).
    diaObjects
        diaObjectId, ra, dec, optionally errors.
    radius_arcsec
        The sole gate; scores only rank.
    sigma_floor_arcsec, fallback_sigma_arcsec
        As in `pair_scores`.

    Returns
    -------
    result : `Association`
        Independent of the order of the rows.

    Raises
    ------
    AssociationError
        Ids that are no integers.
    DuplicateRecords
        An id of a source, or of an object, that occurs twice.
    """
    _check_ids(diaSources, diaObjects)
    for ids_given, what in ((diaSources.diaSourceId, "the input"), (diaObjects.diaObjectId, "the objects")):
        again = ids_given[ids_given.duplicated()]
        if len(again):
            raise DuplicateRecords(f"{len(again)} ids (first: {int(again.iloc[0])}) are twice in {what}")
    out = _with_position(diaSources).copy()
    ids = np.zeros(len(out), dtype=diaObjects.diaObjectId.to_numpy().dtype if len(diaObjects) else np.int64)
    pairs, is_likelihood = _scored(
        out, diaObjects, radius_arcsec, sigma_floor_arcsec / 3600, fallback_sigma_arcsec / 3600
    )
    if len(pairs):
        refuse = pairs.score.max() + 1 if is_likelihood else NO_MATCH * np.radians(radius_arcsec / 3600)
        chosen = _assign(pairs, float(refuse))
        position = pd.Series(np.arange(len(out)), index=out.diaSourceId.to_numpy())
        ids[position[pairs.diaSourceId.to_numpy()[chosen]].to_numpy()] = pairs.diaObjectId.to_numpy()[chosen]
    out["diaObjectId"] = ids
    updated = int((ids != 0).sum())
    return Association(out, updated, len(diaObjects) - updated)


def pair_scores(
    diaSources: pd.DataFrame,
    diaObjects: pd.DataFrame,
    radius_arcsec: float = 1.0,
    *,
    sigma_floor_arcsec: float = SIGMA_FLOOR_ARCSEC,
    fallback_sigma_arcsec: float = SIGMA_FALLBACK_ARCSEC,
) -> pd.DataFrame:
    """Return every (source, object) pair within the radius with its score, lower is better.

    With errors in both tables the score is the negative log likelihood of the offset on the tangent plane at the
    source, 0.5 (dxi^2/V_xi + deta^2/V_eta) + 0.5 ln(V_xi V_eta) in degrees; otherwise the chord distance. Missing errors
    count as the fallback; the root of a variance is never less than the floor. The score ranks as the likelihood ratio of
    Sutherland & Saunders 1992, MNRAS 259, 413, for a constant density of unrelated objects.

    Returns
    -------
    table : `pandas.DataFrame`
        diaSourceId, diaObjectId, separation (arcsec), score; sorted by the two ids.

    Raises
    ------
    AssociationError
        Ids that are no integers.
    """
    _check_ids(diaSources, diaObjects)
    floor, fallback = sigma_floor_arcsec / 3600, fallback_sigma_arcsec / 3600
    return _scored(_with_position(diaSources), diaObjects, radius_arcsec, floor, fallback)[0]


def _check_ids(diaSources: pd.DataFrame, diaObjects: pd.DataFrame) -> None:
    for frame, name in ((diaSources, "diaSourceId"), (diaObjects, "diaObjectId")):
        if len(frame) and frame[name].dtype.kind not in "iu":
            raise AssociationError(f"{name} must be of an integer type, got {frame[name].dtype}")


def _with_position(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have a position."""
    finite = np.isfinite(frame.ra.to_numpy(np.float64)) & np.isfinite(frame.dec.to_numpy(np.float64))
    return frame if finite.all() else frame[finite]


def _scored(
    sources: pd.DataFrame, objects: pd.DataFrame, radius_arcsec: float, floor: float, fallback: float
) -> tuple[pd.DataFrame, bool]:
    """Return the pairs of `pair_scores`, and whether their scores are likelihoods (errors in degrees)."""
    columns = ["diaSourceId", "diaObjectId", "separation", "score"]
    s, o = sources.sort_values("diaSourceId"), _with_position(objects).sort_values("diaObjectId")
    if s.empty or o.empty:
        types = zip(columns, ("i8", "i8", "f8", "f8"), strict=True)
        return pd.DataFrame({c: pd.Series(dtype=t) for c, t in types}), False
    p, q = unit_vectors(s.ra, s.dec), unit_vectors(o.ra, o.dec)
    near = cKDTree(p).sparse_distance_matrix(cKDTree(q), np.radians(radius_arcsec / 3600), output_type="ndarray")
    order = np.lexsort((near["j"], near["i"]))
    i, j = near["i"][order].astype(np.int64), near["j"][order].astype(np.int64)
    chord = np.linalg.norm(p[i] - q[j], axis=1)
    out = pd.DataFrame({"diaSourceId": s.diaSourceId.to_numpy()[i], "diaObjectId": o.diaObjectId.to_numpy()[j]})
    out["separation"] = chord_arcsec(chord)
    is_likelihood = _has_errors(s) and _has_errors(o)
    out["score"] = _likelihood(s, o, i, j, p, q, floor, fallback) if is_likelihood else chord
    return out, is_likelihood


def _has_errors(frame: pd.DataFrame) -> bool:
    """Return whether there is a finite positive error in both directions."""
    return all(c in frame and bool(_known(frame[c].to_numpy(np.float64)).any()) for c in ("raErr", "decErr"))


def _known(error: F64) -> Flags:
    return np.isfinite(error) & (error > 0)


def _variance(frame: pd.DataFrame, column: str, fallback: float) -> F64:
    error = frame[column].to_numpy(np.float64)
    return np.where(_known(error), error, fallback) ** 2


def _likelihood(
    s: pd.DataFrame,
    o: pd.DataFrame,
    i: I64,
    j: I64,
    p: F64,
    q: F64,
    floor: float,
    fallback: float,
) -> F64:
    ra, dec = np.radians(s.ra.to_numpy()[i]), np.radians(s.dec.to_numpy()[i])
    east = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)], axis=1)
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], axis=1)
    xi = np.degrees(np.einsum("ij,ij->i", q[j], east))
    eta = np.degrees(np.einsum("ij,ij->i", q[j], north))
    v_xi, v_eta = (
        np.maximum(_variance(s, name, fallback)[i] + _variance(o, name, fallback)[j], floor**2)
        for name in ("raErr", "decErr")
    )
    return np.asarray(0.5 * (xi**2 / v_xi + eta**2 / v_eta) + 0.5 * np.log(v_xi * v_eta))


def _assign(pairs: pd.DataFrame, refuse: float) -> I64:
    """Return the rows of the pairs of the assignment of least total cost.

    Pairs without competition are taken at once, as no match costs more than any of them; the rest goes to the sparse
    solver, where every source also has a private "no match" edge of the cost `refuse`. Ties fall to the smaller source id,
    then object id.
    """
    source = np.unique(pairs.diaSourceId.to_numpy(), return_inverse=True)[1]
    target = np.unique(pairs.diaObjectId.to_numpy(), return_inverse=True)[1]
    alone = (np.bincount(source)[source] == 1) & (np.bincount(target)[target] == 1)
    rest = np.flatnonzero(~alone)
    if rest.size == 0:
        return np.flatnonzero(alone)
    score = pairs.score.to_numpy()[rest]
    # the solver drops zeros, and the tie-breaks below must be small against differences of scores of any unit
    unit = max(refuse - score.min(), np.finfo(np.float64).tiny)
    cost, refused = (score - score.min()) / unit + 1.0, 2.0
    rows_of, row = np.unique(source[rest], return_inverse=True)
    columns_of, column = np.unique(target[rest], return_inverse=True)
    n, m = rows_of.size, columns_of.size
    tie = 1e-10 * (np.arange(rest.size) + 1) / rest.size
    matrix = coo_matrix(
        (
            np.concatenate([cost + tie, np.full(n, refused)]),
            (np.concatenate([row, np.arange(n)]), np.concatenate([column, m + np.arange(n)])),
        ),
        shape=(n, m + n),
    ).tocsr()
    won_row, won_column = min_weight_full_bipartite_matching(matrix)
    partner = np.full(n, -1)
    partner[won_row] = won_column
    taken = partner[row] == column
    return np.sort(np.concatenate([np.flatnonzero(alone), rest[taken]]))
