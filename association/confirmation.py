"""Which detections are alerts: every one, or those of objects that were seen before."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from tasks.arrays import I64, Flags

__all__ = ["older_than", "unconfirmed"]


def unconfirmed(
    sources: pd.DataFrame,
    objects: pd.DataFrame,
    least_sources: int = 1,
    single_snr: float = 0.0,
    history: pd.DataFrame | None = None,
    repeated: Mapping[int, int] | None = None,
) -> Flags:
    """Return, shape (sources,), which stored sources wait for another detection of their object before there is an alert.

    Parameters
    ----------
    sources
        DiaSources of a visit, as stored: diaObjectId, ssObjectId, snr.
    objects
        Their objects as they are after the visit: diaObjectId, nDiaSources.
    least_sources
        Visits with a source of an object that confirm it, this one included; 1: every detection is an alert. Known
        solar-system bodies need no confirmation.
    single_snr
        S/N from which one detection is enough; 0 is off. NaN never is enough.
    history
        Sources of the objects, this visit's included: diaObjectId, visit. Those of one visit count once.
    repeated
        By object, how many sources from before the history are of a visit that has another one.
    """
    counts = objects.set_index("diaObjectId").nDiaSources
    if history is not None and least_sources > 1:
        again = history.duplicated(["diaObjectId", "visit"])
        counts = counts.sub(history.diaObjectId[again].value_counts(), fill_value=0)
    if repeated:
        counts = counts.sub(pd.Series(dict(repeated)), fill_value=0)
    seen = counts.reindex(sources.diaObjectId).fillna(0).to_numpy(np.int64)
    out = (seen < least_sources) & (sources.ssObjectId.to_numpy(np.int64) == 0)
    if single_snr > 0:
        out &= ~(sources.snr.to_numpy(np.float64) >= single_snr)
    return np.asarray(out, np.bool_)


def older_than(history: pd.DataFrame, objects: pd.DataFrame) -> I64:
    """Return the objects, shape (N,), that have more sources (nDiaSources) than the history holds."""
    held = objects.diaObjectId.map(history.diaObjectId.value_counts()).fillna(0)
    return objects.diaObjectId[objects.nDiaSources > held].to_numpy(np.int64)
