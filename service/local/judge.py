"""Alerts against the truth of a simulation: completeness, purity, one object per star."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from tasks.sphere import unit_vectors

__all__ = ["judge"]

MATCH_ARCSEC = 1.0
EDGE_PX = 12.0


def judge(truth: pd.DataFrame, alerts: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """Compare alerts with the truth table (kind, id, ra, dec, x, y, flux, visit, detector).

    Returns
    -------
    verdict : `dict`
        n_alerts, n_false, purity, n_bright, completeness (isolated transients whose true flux is at least 10 times the
        typical PSF flux error of the visit), single_object, ``matched`` (one row per alert).
    """
    rows = [{**a["diaSource"], "isSolar": a["diaObject"] is None} for a in alerts]
    sources = pd.DataFrame(rows)
    if sources.empty:
        return {
            "n_alerts": 0,
            "n_false": 0,
            "purity": np.nan,
            "n_bright": 0,
            "completeness": 0.0,
            "single_object": np.nan,
            "matched": sources,
        }
    changing = truth[truth.kind.isin(["transient", "variable", "asteroid"])]
    parts, bright, seen = [], 0, 0
    radius = 2 * np.sin(np.radians(MATCH_ARCSEC / 3600) / 2)
    for key, group in sources.groupby(["visit", "detector"]):
        t = changing[(changing.visit == key[0]) & (changing.detector == key[1])].reset_index(drop=True)
        tree = cKDTree(unit_vectors(t.ra, t.dec))
        near = tree.query(unit_vectors(group.ra, group.dec), distance_upper_bound=radius)
        distance, index = np.asarray(near[0]), np.asarray(near[1])
        ok = np.isfinite(distance)
        part = group.assign(trueKind="", trueId="", trueFlux=np.nan)
        part.loc[ok, "trueKind"] = t.kind.to_numpy()[index[ok]]
        part.loc[ok, "trueId"] = t["id"].to_numpy()[index[ok]]
        part.loc[ok, "trueFlux"] = t.flux.to_numpy()[index[ok]]
        parts.append(part)
        expected = _bright_isolated(t, truth, key, float(group.psfFluxErr.median()), size)
        bright += len(expected)
        seen += len(set(expected) & set(part.trueId[part.trueKind == "transient"]))
    matched = pd.concat(parts, ignore_index=True)
    real = matched[matched.trueKind != ""]
    fixed = real[real.trueKind != "asteroid"]
    objects = fixed.groupby(["trueKind", "trueId"]).diaObjectId.agg(lambda ids: ids.value_counts().iloc[0] / len(ids))
    return {
        "n_alerts": len(matched),
        "n_false": int((matched.trueKind == "").sum()),
        "purity": len(real) / len(matched),
        "n_bright": bright,
        "completeness": seen / bright if bright else float("nan"),
        "single_object": float(objects.mean()) if len(objects) else float("nan"),
        "matched": matched,
    }


def _bright_isolated(t: pd.DataFrame, truth: pd.DataFrame, key: Any, error: float, size: int) -> list[str]:
    """Return ids of transients of S/N >= 10 away from the edge and from bright stars."""
    inside = t.x.between(EDGE_PX, size - EDGE_PX) & t.y.between(EDGE_PX, size - EDGE_PX)
    chosen = t[(t.kind == "transient") & (t.flux >= 10 * error) & inside]
    if chosen.empty:
        return []
    here = truth[(truth.visit == key[0]) & (truth.detector == key[1]) & truth.kind.isin(["star", "variable"])]
    stars = here[here.flux > 0.3 * chosen.flux.min()]
    distance, index = cKDTree(stars[["x", "y"]]).query(chosen[["x", "y"]], k=1)
    brighter = stars.flux.to_numpy()[np.minimum(index, len(stars) - 1)] > 0.3 * chosen.flux.to_numpy()
    return list(chosen["id"][~((distance < 10) & brighter)])
