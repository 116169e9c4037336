"""Solar-system objects: which sources are known bodies, and the SSSource rows that say how well they agree."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from apdb import columns_of
from apdb.sky.htm import polygon
from association.designations import pack_designation, ss_object_id, unpack_designation
from exposure import Exposure
from tasks.arrays import F64, I64
from tasks.sphere import unit_vectors

__all__ = [
    "SolarSystemMatches",
    "bodies_on_image",
    "match_solar_system",
    "no_bodies",
    "pack_designation",
    "ss_object_id",
]

AU_PER_DAY_KM_S = 1731.45683670139


def no_bodies() -> pd.DataFrame:
    """Return a table of no bodies."""
    return pd.DataFrame({"ssObjectId": np.zeros(0, np.int64), "designation": [], "ephRa": [], "ephDec": []})


def bodies_on_image(bodies: pd.DataFrame, image: Exposure, error_arcsec: float = 2.0) -> pd.DataFrame:
    """Return the bodies that are predicted to be on an image.

    First those in the sky polygon of the box grown by the error of the predictions (at most 100 px), which keeps a WCS
    without an inverse from mapping far bodies into the box; of these, the ones in the box itself.
    """
    wcs = image.require_wcs()
    padding = min(np.ceil(error_arcsec / image.pixel_scale_arcsec()), 100.0)
    ra, dec = bodies.ephRa.to_numpy(np.float64), bodies.ephDec.to_numpy(np.float64)
    inside = np.asarray(polygon(*image.sky_corners(padding)).contains(np.radians(ra), np.radians(dec)), bool)
    x, y = wcs.sky_to_pixel(ra[inside], dec[inside])
    inside[inside] = image.contains(x, y)
    return bodies[inside].reset_index(drop=True)


@dataclass(frozen=True)
class SolarSystemMatches:
    """Sources and the bodies that they are.

    Parameters
    ----------
    ssoAssocDiaSources
        Matched sources: ``ssObjectId`` set, ``diaObjectId`` 0.
    unAssocDiaSources
        The other sources that have a position.
    associatedSsSources
        SSSource rows of the matched sources, in their order.
    unassociatedSsObjects
        Bodies without a source.
    nAssociatedSsObjects
        Number of matched bodies.
    """

    ssoAssocDiaSources: pd.DataFrame
    unAssocDiaSources: pd.DataFrame
    associatedSsSources: pd.DataFrame
    unassociatedSsObjects: pd.DataFrame
    nAssociatedSsObjects: int


def match_solar_system(
    diaSources: pd.DataFrame, ephemerides: pd.DataFrame, radius_arcsec: float = 1.0
) -> SolarSystemMatches:
    """Match predicted positions to sources, nearest pairs first, one to one.

    Parameters
    ----------
    diaSources
        diaSourceId, ra, dec (deg), diaObjectId; those without a position are left out.
    ephemerides
        ssObjectId, designation, ephRa, ephDec (deg); where they are known ephVmag, and ``helio_*`` and ``topo_*`` vectors
        (au, au/d; ICRS axes).
    radius_arcsec
        Largest separation.
    """
    finite = np.isfinite(diaSources.ra) & np.isfinite(diaSources.dec)
    s = diaSources[finite].reset_index(drop=True)
    e = ephemerides.reset_index(drop=True)
    pairs = _greedy(s, e, np.radians(radius_arcsec / 3600))
    matched = s.loc[pairs[:, 0]].copy()
    matched["ssObjectId"], matched["diaObjectId"] = e.ssObjectId.to_numpy()[pairs[:, 1]], 0
    rest = s.drop(index=pairs[:, 0].tolist())
    return SolarSystemMatches(
        ssoAssocDiaSources=matched,
        unAssocDiaSources=rest,
        associatedSsSources=_ss_sources(matched, e.loc[pairs[:, 1]], pairs[:, 2]),
        unassociatedSsObjects=e.drop(index=pairs[:, 1].tolist()),
        nAssociatedSsObjects=len(pairs),
    )


def _greedy(s: pd.DataFrame, e: pd.DataFrame, radius: float) -> I64:
    """Return rows (source, object, rank): all pairs by distance, each side taken once."""
    if s.empty or e.empty:
        return np.zeros((0, 3), dtype=np.int64)
    p, q = unit_vectors(s.ra, s.dec), unit_vectors(e.ephRa, e.ephDec)
    k = min(8, len(s))
    near: tuple[Any, Any] = cKDTree(p).query(q, k=k, distance_upper_bound=radius)
    distance, index = (np.asarray(a).reshape(len(e), k) for a in near)
    candidates = [
        (float(distance[o, r]), o, int(index[o, r]), r + 1)
        for o in range(len(e))
        for r in range(k)
        if np.isfinite(distance[o, r])
    ]
    out, used_s, used_o = [], set(), set()
    for _, o, i, rank in sorted(candidates):  # a handful of bodies per detector
        if o not in used_o and i not in used_s:
            out.append((i, o, rank))
            used_s.add(i)
            used_o.add(o)
    return np.array(sorted(out), dtype=np.int64).reshape(-1, 3)


def _angle(a: F64, b: F64) -> F64:
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _ss_sources(s: pd.DataFrame, e: pd.DataFrame, rank: I64) -> pd.DataFrame:
    """Return SSSource rows of matched pairs (same order)."""
    out = pd.DataFrame({"diaSourceId": s.diaSourceId.to_numpy(np.int64), "ssObjectId": e.ssObjectId.to_numpy(np.int64)})
    out["designation"] = [unpack_designation(str(name)) for name in e.designation]
    out["ephRa"], out["ephDec"] = e.ephRa.to_numpy(), e.ephDec.to_numpy()
    wrapped = (s.ra.to_numpy() - e.ephRa.to_numpy() + 180) % 360 - 180
    out["ephOffsetRa"] = wrapped * np.cos(np.radians(s.dec.to_numpy())) * 3600
    out["ephOffsetDec"] = (s.dec.to_numpy() - e.ephDec.to_numpy()) * 3600
    out["ephOffset"] = np.hypot(out.ephOffsetRa, out.ephOffsetDec)
    out["diaDistanceRank"] = rank.astype(np.int16)
    out["ephVmag"] = e["ephVmag"].to_numpy() if "ephVmag" in e else np.nan
    _frames(out, s)
    if "topo_x" in e:
        _vectors(out, e)
    for c in columns_of("SSSource"):
        if c.name not in out:
            out[c.name] = np.nan if c.nullable else 0
    return out[[c.name for c in columns_of("SSSource")]]


def _frames(out: pd.DataFrame, s: pd.DataFrame) -> None:
    from astropy import units as u
    from astropy.coordinates import BarycentricTrueEcliptic, SkyCoord

    position = SkyCoord(s.ra.to_numpy() * u.deg, s.dec.to_numpy() * u.deg)
    ecliptic, galactic = position.transform_to(BarycentricTrueEcliptic()), position.galactic
    out["eclLambda"], out["eclBeta"] = ecliptic.lon.deg, ecliptic.lat.deg
    out["galLon"], out["galLat"] = galactic.l.deg, galactic.b.deg


def _vectors(out: pd.DataFrame, e: pd.DataFrame) -> None:
    """Distances, rates and angles from heliocentric and topocentric vectors; true on-sky rates (deg/d)."""
    helio = e[["helio_x", "helio_y", "helio_z"]].to_numpy(np.float64)
    topo = e[["topo_x", "topo_y", "topo_z"]].to_numpy(np.float64)
    hv = e[["helio_vx", "helio_vy", "helio_vz"]].to_numpy(np.float64)
    tv = e[["topo_vx", "topo_vy", "topo_vz"]].to_numpy(np.float64)
    for name, p, v in (("helio", helio, hv), ("topo", topo, tv)):
        r = np.linalg.norm(p, axis=1)
        out[f"{name}Range"] = r
        out[f"{name}RangeRate"] = (p * v).sum(1) / r * AU_PER_DAY_KM_S
        for k, axis in enumerate("xyz"):
            out[f"{name}_{axis}"], out[f"{name}_v{axis}"] = p[:, k], v[:, k] * AU_PER_DAY_KM_S
        out[f"{name}_vtot"] = np.linalg.norm(v, axis=1) * AU_PER_DAY_KM_S
    out["phaseAngle"] = _angle(helio, topo)
    out["elongation"] = _angle(topo - helio, topo)
    ra, dec = np.radians(out.ephRa.to_numpy()), np.radians(out.ephDec.to_numpy())
    east = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)], axis=1)
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], axis=1)
    distance = np.linalg.norm(topo, axis=1)
    out["ephRateRa"] = np.degrees((tv * east).sum(1) / distance)
    out["ephRateDec"] = np.degrees((tv * north).sum(1) / distance)
    out["ephRate"] = np.hypot(out.ephRateRa, out.ephRateDec)
    along = np.where(out.ephRate > 0, out.ephRate, np.nan)
    out["ephOffsetAlongTrack"] = (out.ephOffsetRa * out.ephRateRa + out.ephOffsetDec * out.ephRateDec) / along
    out["ephOffsetCrossTrack"] = (out.ephOffsetDec * out.ephRateRa - out.ephOffsetRa * out.ephRateDec) / along
