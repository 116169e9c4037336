"""What alerts are built of."""

import numpy as np
import pandas as pd

from alerts.packets.build import AlertInputs
from apdb import columns_of
from tests.support.exposures import make_exposure

__all__ = ["frame_with", "inputs"]


def frame_with(table, n):
    rng = np.random.default_rng(0)
    out = {}
    for c in columns_of(table):
        kind = c.dtype.kind
        out[c.name] = (
            rng.normal(size=n).astype(c.dtype)
            if kind == "f"
            else rng.integers(1, 50, n).astype(c.dtype)
            if kind == "i"
            else rng.uniform(size=n) < 0.5
            if kind == "b"
            else np.full(n, "r", object)
        )
    times = {name: 61000 + np.tanh(values) for name, values in out.items() if name.endswith("MjdTai")}
    return pd.DataFrame(out | times | ({"ra": 150 + out["ra"]} if "ra" in out else {}))


def inputs():
    e = make_exposure()
    s = frame_with("DiaSource", 3)
    s["diaSourceId"], s["diaObjectId"], s["ssObjectId"] = [11, 12, 13], [1, 2, 0], [0, 0, 77]
    s["x"], s["y"], s["bboxSize"] = [12380.2, 12346.0, 12300.0], [67915.7, 67891.0, 67900.0], [20, 40, 500]
    s.loc[0, "trailFlux"] = np.nan
    o = frame_with("DiaObject", 2).assign(diaObjectId=[1, 2], nDiaSources=[3, 1])
    h = frame_with("DiaSource", 2).assign(diaObjectId=[1, 1], diaSourceId=[5, 6], midpointMjdTai=[1.0, 2.0])
    f = frame_with("DiaForcedSource", 2).assign(diaObjectId=[1, 2], diaForcedSourceId=[3, 4])
    ss = frame_with("SSSource", 1).assign(diaSourceId=13)
    return AlertInputs(s, o, h, f.iloc[:0], f, ss, e, e, e)
