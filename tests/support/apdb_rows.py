"""Rows of a visit as the database takes them."""

import numpy as np
from astropy.time import Time

from apdb.sky.htm import polygon
from tests.support.alert_inputs import frame_with

__all__ = ["REGION", "at", "rows"]


def at(mjd: float) -> Time:
    return Time(mjd, format="mjd", scale="tai")


def rows(n=50, seed=0, visit=1):
    rng = np.random.default_rng(seed)
    o = frame_with("DiaObject", n).assign(
        diaObjectId=2**60 + np.arange(n), ra=150 + rng.normal(0, 0.02, n), dec=2 + rng.normal(0, 0.02, n)
    )
    s = frame_with("DiaSource", n).assign(
        diaSourceId=2**60 + visit * 10**6 + np.arange(n),
        diaObjectId=o.diaObjectId,
        ra=o.ra,
        dec=o.dec,
        visit=visit,
        detector=0,
        midpointMjdTai=61000.1 + visit,
        timeWithdrawnMjdTai=np.nan,
        band="r",
        reliabilityVersion="v1",
    )
    f = frame_with("DiaForcedSource", n).assign(
        diaObjectId=o.diaObjectId,
        visit=visit,
        detector=0,
        band="r",
        ra=o.ra,
        dec=o.dec,
        midpointMjdTai=61000.1 + visit,
        timeWithdrawnMjdTai=np.nan,
        diaForcedSourceId=np.arange(n) + visit * 1000,
    )
    return o, s, f


REGION = polygon([149.8, 150.2, 150.2, 149.8], [1.8, 1.8, 2.2, 2.2])
