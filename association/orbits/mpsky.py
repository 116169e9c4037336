"""Ephemerides of an HTTP service that answers as MPSky does.

``GET url?t=MJD&ra=DEG&dec=DEG&radius=DEG&return_elements=extended`` answers with two Arrow tensors, the Chebyshev
coefficients of the bodies' positions (coefficients, 3, bodies) and of the observer's (coefficients, 3), in au relative to
the Sun with ICRS axes as functions of days since tmin, and an Arrow stream with a row per body: name, tmin, tmax (MJD,
TAI), Vmag, ``MPCORB_*``.
"""

from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.polynomial import chebyshev

from association.designations import ss_object_id, unpack_designation
from association.orbits.sources import SourceUnavailable, place_columns
from tasks.arrays import F64

__all__ = ["MpSky"]


class MpSky:
    """A service's answers.

    Parameters
    ----------
    url
        Where the service answers.
    timeout_s
        Seconds after which it counts as unavailable.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._url = url
        self._timeout = timeout_s

    def around(self, mjd_tai: float, ra: float, dec: float, radius_deg: float) -> pd.DataFrame:
        """Return the bodies that the service knows within the radius.

        Raises
        ------
        SourceUnavailable
            It does not answer in time, refuses, or answers something else.
        """
        query: dict[str, Any] = {
            "t": mjd_tai,
            "ra": ra,
            "dec": dec,
            "radius": radius_deg,
            "return_elements": "extended",
        }
        try:
            reply = httpx.get(self._url, params=query, timeout=self._timeout, follow_redirects=True)
            reply.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SourceUnavailable(f"the ephemeris service does not answer: {text}") from error
        try:
            bodies, observer, rows = _read(reply.content)
            return _evaluate(bodies, observer, rows, mjd_tai)
        except (pa.ArrowException, KeyError, ValueError, IndexError, OSError) as error:
            raise SourceUnavailable(f"the ephemeris service's answer is not understood: {error!r}") from error


def _read(content: bytes) -> tuple[F64, F64, pd.DataFrame]:
    with pa.input_stream(memoryview(content)) as stream:
        bodies = pa.ipc.read_tensor(stream).to_numpy()
        observer = pa.ipc.read_tensor(stream).to_numpy()
        with pa.ipc.open_stream(stream) as reader:
            rows = reader.read_all().to_pandas()
    if bodies.ndim != 3 or bodies.shape[1:] != (3, len(rows)) or observer.shape[1:] != (3,):
        raise ValueError(f"polynomials of shape {bodies.shape} and {observer.shape} for {len(rows)} bodies")
    return bodies, observer, rows


def _evaluate(bodies: F64, observer: F64, rows: pd.DataFrame, mjd_tai: float) -> pd.DataFrame:
    """Return places and velocities at a time, of the bodies whose polynomials reach it."""
    tmin = rows.tmin.to_numpy(np.float64)
    good = (tmin <= mjd_tai) & (mjd_tai <= rows.tmax.to_numpy(np.float64))
    bodies, rows, tmin = bodies[:, :, good], rows[good].reset_index(drop=True), tmin[good]
    out = rows[[c for c in rows.columns if str(c).startswith("MPCORB_")]].copy()
    names = rows.name.astype(str)
    since = mjd_tai - tmin
    helio, seen_from = _values(bodies, since), _values(np.repeat(observer[:, :, None], len(rows), axis=2), since)
    out = out.assign(**place_columns(helio, helio - seen_from))
    out["ephVmag"] = rows.Vmag.to_numpy(np.float64) if "Vmag" in rows else np.nan
    out.insert(0, "designation", [unpack_designation(n) for n in names])
    out.insert(0, "ssObjectId", np.array([ss_object_id(n) for n in names], np.int64))
    return out


def _values(coefficients: F64, since: F64) -> F64:
    """Return (N, 6) values and derivatives of (coefficients, 3, N) series, each at its own argument."""
    slopes = chebyshev.chebder(coefficients)
    parts = [chebyshev.chebval(since, c[:, k], tensor=False) for c in (coefficients, slopes) for k in range(3)]
    return np.stack(parts, axis=1)
