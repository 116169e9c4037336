"""Orbit catalogues in the Minor Planet Center's formats, and states from orbital elements.

Formats: https://minorplanetcenter.net/iau/info/MPOrbitFormat.html and .../CometOrbitFormat.html
"""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from association.errors import AssociationError
from tasks.arrays import F64
from tasks.compiled import compiled

__all__ = ["OrbitError", "heliocentric_states", "read_comets", "read_mpcorb"]

GM_SUN = 0.01720209895**2  # au^3/d^2: the constant that the elements are defined with
_OBLIQUITY = np.radians(84381.448 / 3600)  # of the ecliptic J2000
_NEEDED = ("q", "e", "i", "node", "argperi", "peri_time", "epoch_mjd")


class OrbitError(AssociationError):
    """An orbit catalogue cannot be read or used."""

    code = "orbits"


class _Lines:
    """Lines of a file of fixed columns; columns are numbered from 1 as in the description of the format."""

    def __init__(self, path: Path, lines: list[bytes], width: int) -> None:
        if not lines:
            raise OrbitError(f"{path} holds no orbit: is it in the Minor Planet Center's format?")
        self._bytes = np.array(lines, f"S{width}").view("S1").reshape(len(lines), width)

    def raw(self, first: int, last: int) -> NDArray[np.bytes_]:
        part = np.ascontiguousarray(self._bytes[:, first - 1 : last])
        return part.view(f"S{last - first + 1}").ravel()

    def text(self, first: int, last: int) -> "pd.Series[str]":
        return pd.Series(np.char.strip(self.raw(first, last)).astype("U"), dtype="str")

    def number(self, first: int, last: int) -> F64:
        return pd.to_numeric(self.text(first, last), errors="coerce").to_numpy(np.float64)


def _open(path: Path) -> list[bytes]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise OrbitError(f"cannot read {path}: {error}") from error
    return [line.rstrip(b"\r") for line in data.split(b"\n")]


def _mjd(year: NDArray[Any], month: NDArray[Any], day: NDArray[Any]) -> F64:
    """Return the MJD of a calendar date; `day` may have a fraction."""
    good = np.isfinite(year) & np.isfinite(month) & np.isfinite(day)
    months = np.where(good, (year - 1970) * 12 + month - 1, 0).astype(np.int64)
    first = months.astype("M8[M]").astype("M8[D]").astype(np.int64)
    return np.where(good, first + 40587 + day - 1, np.nan)


def _packed_epoch(dates: NDArray[np.bytes_]) -> F64:
    """Return the MJD of packed dates such as ``K25BL`` (2025-11-21)."""
    letters = dates.view(np.uint8).reshape(dates.size, 5).astype(np.int64)
    digit = np.where(letters >= ord("A"), letters - ord("A") + 10, letters - ord("0"))
    year = digit[:, 0] * 100 + digit[:, 1] * 10 + digit[:, 2]
    ok = (digit >= 0).all(axis=1)
    return np.where(
        ok, _mjd(np.where(ok, year, 2000), np.where(ok, digit[:, 3], 1), np.where(ok, digit[:, 4], 1)), np.nan
    )


def _with_elements(path: Path, orbits: pd.DataFrame) -> pd.DataFrame:
    """Return the lines that have all elements; a file without any is refused."""
    good = np.isfinite(orbits[list(_NEEDED)].to_numpy(np.float64)).all(axis=1) & (orbits.q > 0) & (orbits.e >= 0)
    if not good.any():
        raise OrbitError(f"no line of {path} holds a whole orbit")
    complete: pd.DataFrame = orbits[good].reset_index(drop=True)
    return complete


def read_mpcorb(path: str | Path) -> pd.DataFrame:
    """Read ``MPCORB.DAT`` or a file of its format (``.gz`` too): osculating elements of minor planets.

    Returns
    -------
    orbits : `pandas.DataFrame`
        One row per body, in order of the file: packed (designation), designation, and elements under the names of the
        alert schema's ``mpc_orbits`` (angles in deg, q and a in au, times as MJD TDB, mean_motion in deg/d, h, g).

    Raises
    ------
    OrbitError
        The file cannot be read, or holds no orbit.
    """
    path = Path(path)
    lines = _open(path)
    rule = next((k for k, line in enumerate(lines[:200]) if line.startswith(b"-----")), -1)
    t = _Lines(path, [line for line in lines[rule + 1 :] if len(line) >= 103], 202)
    e, a, n, mean = t.number(71, 79), t.number(93, 103), t.number(81, 91), t.number(27, 35)
    epoch = _packed_epoch(t.raw(21, 25))
    with np.errstate(divide="ignore", invalid="ignore"):
        since = (mean + 180) % 360 - 180  # the perihelion nearest to the epoch
        peri_time, period = epoch - since / n, 360.0 / n
    return _with_elements(
        path,
        pd.DataFrame(
            {
                "packed": t.text(1, 7),
                "designation": t.text(167, 194),
                "epoch_mjd": epoch,
                "q": a * (1 - e),
                "e": e,
                "i": t.number(60, 68),
                "node": t.number(49, 57),
                "argperi": t.number(38, 46),
                "peri_time": peri_time,
                "a": a,
                "mean_anomaly": mean,
                "mean_motion": n,
                "period": period,
                "h": t.number(9, 13),
                "g": t.number(15, 19),
                "u_param": t.number(106, 106),
                "nobs_total": t.number(118, 122),
                "nopp": t.number(124, 126),
            }
        ),
    )


def read_comets(path: str | Path) -> pd.DataFrame:
    """Read ``CometEls.txt``: elements of comets and interstellar objects; columns as of `read_mpcorb`.

    Magnitudes are total: h is the absolute one, slope n gives H + 5 log(delta) + 2.5 n log(r).

    Raises
    ------
    OrbitError
        The file cannot be read, or holds no orbit.
    """
    path = Path(path)
    t = _Lines(path, [line for line in _open(path) if len(line) >= 80], 168)
    epoch = _mjd(t.number(82, 85), t.number(86, 87), t.number(88, 89))
    peri_time = _mjd(t.number(15, 18), t.number(20, 21), t.number(23, 29))
    packed = pd.Series(np.char.strip(t.raw(1, 12)).astype("U"), dtype="str").str.replace(" ", "")
    return _with_elements(
        path,
        pd.DataFrame(
            {
                "packed": packed,
                "designation": t.text(103, 158).str.replace(r"\s*\(.*\)$", "", regex=True),
                "epoch_mjd": np.where(np.isfinite(epoch), epoch, peri_time),
                "q": t.number(31, 39),
                "e": t.number(42, 49),
                "i": t.number(72, 79),
                "node": t.number(62, 69),
                "argperi": t.number(52, 59),
                "peri_time": peri_time,
                "h": t.number(92, 95),
                "g": np.nan,
                "slope": t.number(97, 100),
            }
        ),
    )


@compiled
def _stumpff(z: float) -> tuple[float, float]:
    """Return the Stumpff functions c2, c3."""
    if z > 1e-3:
        s = np.sqrt(z)
        return (1 - np.cos(s)) / z, (s - np.sin(s)) / (z * s)
    if z < -1e-3:
        s = np.sqrt(-z)
        return (1 - np.cosh(s)) / z, (np.sinh(s) - s) / (-z * s)
    return 0.5 - z * (1 / 24 - z * (1 / 720 - z / 40320)), 1 / 6 - z * (1 / 120 - z * (1 / 5040 - z / 362880))


@compiled
def _in_plane(q: F64, e: F64, dt: F64, gm: float, out: F64) -> None:
    """Set `out`, (N, 4), to position (au) and velocity (au/d) in the plane of the orbit, `dt` days after the perihelion.

    The x axis points to the perihelion. Perihelion distances `q` (au), eccentricities `e` and times `dt` (d) have shape (N,).

    Kepler's equation in universal variables from the perihelion, for every conic:
    sqrt(GM) dt = q chi + e chi^3 c3(alpha chi^2), alpha = (1 - e) / q; increasing in chi, so bracketed Newton steps.
    Battin, "An Introduction to the Mathematics and Methods of Astrodynamics", section 4.5.
    """
    root = np.sqrt(gm)
    for k in range(q.size):
        alpha = (1 - e[k]) / q[k]
        t = dt[k]
        if alpha > 0:
            period = 2 * np.pi / (root * alpha**1.5)
            t -= period * np.round(t / period)
        target, sign = root * abs(t), 1.0 if t >= 0 else -1.0
        low, high = 0.0, max(target / q[k], 1e-12)
        chi = min(high, (6 * target / max(e[k], 0.1)) ** (1 / 3))
        for _ in range(200):
            c2, c3 = _stumpff(alpha * chi * chi)
            error = q[k] * chi + e[k] * chi**3 * c3 - target
            if error > 0:
                high = chi
            else:
                low = chi
            step = error / (q[k] + e[k] * chi * chi * c2)  # the derivative is the distance
            new = chi - step
            if not low < new < high:
                new = 0.5 * (low + high)
            if abs(new - chi) <= 1e-15 * abs(new):
                chi = new
                break
            chi = new
        z = alpha * chi * chi
        c2, c3 = _stumpff(z)
        r = q[k] + e[k] * chi * chi * c2
        v0 = root * np.sqrt((1 + e[k]) / q[k])
        out[k, 0] = q[k] - chi * chi * c2
        out[k, 1] = sign * (abs(t) - chi**3 * c3 / root) * v0
        out[k, 2] = sign * root / r * chi * (z * c3 - 1)
        out[k, 3] = (1 - chi * chi * c2 / r) * v0


def heliocentric_states(orbits: pd.DataFrame) -> F64:
    """Return (N, 6) positions (au) and velocities (au/d) at each orbit's epoch, relative to the Sun, ICRS axes."""
    columns = [orbits[c].to_numpy(np.float64) for c in ("q", "e", "epoch_mjd", "peri_time")]
    q, e, dt = columns[0], columns[1], columns[2] - columns[3]
    plane = np.empty((len(orbits), 4))
    _in_plane(q, e, dt, GM_SUN, plane)
    node, w, i = (np.radians(orbits[c].to_numpy(np.float64)) for c in ("node", "argperi", "i"))
    cn, sn, cw, sw, ci, si = np.cos(node), np.sin(node), np.cos(w), np.sin(w), np.cos(i), np.sin(i)
    along = np.stack([cn * cw - sn * sw * ci, sn * cw + cn * sw * ci, sw * si], axis=1)
    across = np.stack([-cn * sw - sn * cw * ci, -sn * sw + cn * cw * ci, cw * si], axis=1)
    c, s = np.cos(_OBLIQUITY), np.sin(_OBLIQUITY)
    to_equator = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    position = (plane[:, :1] * along + plane[:, 1:2] * across) @ to_equator.T
    velocity = (plane[:, 2:3] * along + plane[:, 3:] * across) @ to_equator.T
    return np.concatenate([position, velocity], axis=1)
