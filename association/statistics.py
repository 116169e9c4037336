"""DiaObject summary columns: vectorised group operations over all sources of the updated objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apdb.htm import unit_vectors
from association.errors import AssociationError
from association.optional_statistics import BAND_PLUGINS, OBJECT_PLUGINS

__all__ = ["BANDS", "DEFAULT_PLUGINS", "OPTIONAL_PLUGINS", "forced_means", "summarize"]

BANDS = ("u", "g", "r", "i", "z", "y")
DEFAULT_PLUGINS = (
    "ap_meanPosition", "ap_nDiaSources", "ap_meanFlux", "ap_sigmaFlux", "ap_minMaxFlux", "ap_maxSlopeFlux",
    "ap_meanErrFlux", "ap_meanTotFlux",
)  # fmt: skip
OPTIONAL_PLUGINS = (*BAND_PLUGINS, *OBJECT_PLUGINS)
_NEEDS_MEAN = ("ap_chi2Flux", "ap_stetsonJ")
_USED = (
    "diaObjectId", "diaSourceId", "band", "midpointMjdTai", "ra", "dec", "raErr", "decErr", "ra_dec_Cov", "psfFlux",
    "psfFluxErr", "scienceFlux", "scienceFluxErr", "isNew", "flags",
)  # fmt: skip


def summarize(
    diaObjects: pd.DataFrame, diaSources: pd.DataFrame, diaForcedSources: pd.DataFrame | None = None,
    plugins: str | Sequence[str] = "default",
) -> pd.DataFrame:  # fmt: skip
    """Recompute the summary columns of objects from all of their sources.

    Parameters
    ----------
    diaObjects
        Stored (or new) objects: diaObjectId, ra, dec, nDiaSources, first/lastDiaSourceMjdTai.
    diaSources
        History and new sources; the new ones have ``isNew`` True where the column exists, else all count as known.
    diaForcedSources
        Gives {band}_fpFluxMean when present.
    plugins
        ``default``, ``all``, or names out of `DEFAULT_PLUGINS` and `OPTIONAL_PLUGINS`.

    Returns
    -------
    table : `pandas.DataFrame`
        Indexed by diaObjectId. Bands without data have NULLs and Ndata 0.

    Raises
    ------
    AssociationError
        An unknown plugin, one that needs means that nobody computes, or an object that occurs twice.
    """
    names = _plugin_names(plugins)
    out = diaObjects.set_index("diaObjectId").copy()
    if not out.index.is_unique:
        raise AssociationError("an object id occurs twice")
    flags = [c for c in diaSources.columns if "flag" in c.lower()] if "ap_diaObjectFlag" in names else []
    sources = diaSources[[c for c in diaSources.columns if c in _USED or c in flags]]
    sources = sources[sources.diaObjectId.isin(out.index)]
    if "ap_meanPosition" in names:
        _positions(out, sources)
    if "ap_nDiaSources" in names:
        _counts(out, sources)
    for band in BANDS:
        _band_columns(out, sources[sources.band == band], band, names)
    out = _optional(out, sources, names)
    if diaForcedSources is not None:
        forced_means(out, diaForcedSources)
    return out


def _plugin_names(plugins: str | Sequence[str]) -> tuple[str, ...]:
    if plugins in ("default", "all"):
        return DEFAULT_PLUGINS if plugins == "default" else (*DEFAULT_PLUGINS, *OPTIONAL_PLUGINS)
    names = tuple([plugins] if isinstance(plugins, str) else plugins)
    unknown = set(names) - set(DEFAULT_PLUGINS) - set(OPTIONAL_PLUGINS)
    if unknown:
        raise AssociationError(f"unknown summary plugins {sorted(unknown)}")
    lacking = [n for n in names if n in _NEEDS_MEAN]
    if lacking and "ap_meanFlux" not in names:
        raise AssociationError(f"{', '.join(lacking)} need the means of ap_meanFlux, which was not asked for")
    return names


def _positions(out: pd.DataFrame, sources: pd.DataFrame) -> None:
    """Inverse-variance mean direction, its errors and covariance (equal weights where a source has no errors)."""
    s = sources[np.isfinite(sources.ra) & np.isfinite(sources.dec)]
    if s.empty:
        return
    error2 = 0.5 * (s.raErr.to_numpy(np.float64) ** 2 + s.decErr.to_numpy(np.float64) ** 2)
    typical = np.nanmedian(error2) if np.isfinite(error2).any() else 1.0
    weight = 1.0 / np.where(np.isfinite(error2) & (error2 > 0), error2, typical)
    vectors = unit_vectors(s.ra, s.dec) * weight[:, None]
    sums = pd.DataFrame(vectors, columns=["x", "y", "z"]).assign(id=s.diaObjectId.to_numpy(), w=weight)
    total = sums.groupby("id").sum()
    norm = np.sqrt(total.x**2 + total.y**2 + total.z**2)
    _fill(
        out, "ra", pd.Series(np.degrees(np.arctan2(total.y.to_numpy(), total.x.to_numpy())) % 360.0, index=total.index)
    )
    _fill(out, "dec", pd.Series(np.degrees(np.arcsin(np.clip(total.z / norm, -1, 1))), index=total.index))
    for column in ("raErr", "decErr"):
        e = s[column].to_numpy(np.float64)
        inverse = np.where(np.isfinite(e) & (e > 0), 1 / np.where(e > 0, e, 1) ** 2, 0)
        summed = pd.Series(inverse).groupby(s.diaObjectId.to_numpy()).sum()
        _fill(out, column, 1 / np.sqrt(summed.where(summed > 0)))
    n = s.groupby("diaObjectId").size()
    covariance = s.groupby("diaObjectId").ra_dec_Cov.mean() / n
    _fill(out, "ra_dec_Cov", covariance)


def _fill(out: pd.DataFrame, column: str, values: "pd.Series[Any]") -> None:
    """Set the values that are known and keep the others, in the column's own type."""
    known = values.reindex(out.index)
    out[column] = known.where(known.notna(), out[column]).astype(out[column].dtype)


def _counts(out: pd.DataFrame, sources: pd.DataFrame) -> None:
    """True totals: what is stored plus the new sources (the window holds 360 days only)."""
    new = sources[sources.isNew] if "isNew" in sources else sources.iloc[:0]
    counted = new.groupby("diaObjectId").size().reindex(out.index, fill_value=0)
    if "isNew" not in sources:
        counted = sources.groupby("diaObjectId").size().reindex(out.index, fill_value=0)
        out["nDiaSources"] = counted.astype(np.int64)
    else:
        out["nDiaSources"] = out.nDiaSources.fillna(0).astype(np.int64) + counted
    times = sources.groupby("diaObjectId").midpointMjdTai
    out["firstDiaSourceMjdTai"] = np.fmin(out.firstDiaSourceMjdTai, times.min().reindex(out.index))
    out["lastDiaSourceMjdTai"] = np.fmax(out.lastDiaSourceMjdTai, times.max().reindex(out.index))


def _weighted(out: pd.DataFrame, s: pd.DataFrame, flux: str, target: str, count: str | None = None) -> None:
    f, e = s[flux].to_numpy(np.float64), s[f"{flux}Err"].to_numpy(np.float64)
    ok = np.isfinite(f) & np.isfinite(e) & (e > 0)
    w = 1 / e[ok] ** 2
    part = pd.DataFrame({"id": s.diaObjectId.to_numpy()[ok], "w": w, "wf": w * f[ok], "n": 1}).groupby("id").sum()
    part = part.reindex(out.index)
    out[target] = (part.wf / part.w).astype(np.float32)
    out[f"{target}Err"] = np.sqrt(1 / part.w).astype(np.float32)
    if count:
        out[count] = part.n.fillna(0).astype(np.int32)


def _band_columns(out: pd.DataFrame, s: pd.DataFrame, band: str, names: Sequence[str]) -> None:
    groups = s.groupby("diaObjectId")
    if "ap_meanFlux" in names:
        _weighted(out, s, "psfFlux", f"{band}_psfFluxMean", f"{band}_psfFluxNdata")
    if "ap_sigmaFlux" in names:
        out[f"{band}_psfFluxSigma"] = groups.psfFlux.std(ddof=1).reindex(out.index).astype(np.float32)
    if "ap_minMaxFlux" in names:
        out[f"{band}_psfFluxMin"] = groups.psfFlux.min().reindex(out.index).astype(np.float32)
        out[f"{band}_psfFluxMax"] = groups.psfFlux.max().reindex(out.index).astype(np.float32)
    if "ap_maxSlopeFlux" in names:
        out[f"{band}_psfFluxMaxSlope"] = _max_slope(s).reindex(out.index).astype(np.float32)
    if "ap_meanErrFlux" in names:
        out[f"{band}_psfFluxErrMean"] = groups.psfFluxErr.mean().reindex(out.index).astype(np.float32)
    if "ap_meanTotFlux" in names:
        _weighted(out, s, "scienceFlux", f"{band}_scienceFluxMean")


def _optional(out: pd.DataFrame, sources: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the columns of the optional statistics, joined to what is there."""
    more: dict[str, NDArray[Any]] = {}
    for band in BANDS:
        s = sources[sources.band == band]
        for name in names:
            if name in BAND_PLUGINS:
                more |= {f"{band}_{c}": v for c, v in BAND_PLUGINS[name](out, s, band).items()}
    for name in names:
        if name in OBJECT_PLUGINS:
            more |= OBJECT_PLUGINS[name](out, sources)
    return pd.concat([out, pd.DataFrame(more, index=out.index)], axis=1) if more else out


def _max_slope(s: pd.DataFrame) -> "pd.Series[float]":
    """Steepest rise between consecutive points, nJy/d; points at equal times are left out."""
    ok = s[np.isfinite(s.psfFlux) & np.isfinite(s.midpointMjdTai)]
    ok = ok.sort_values(["diaObjectId", "midpointMjdTai", "diaSourceId"])
    ids = ok.diaObjectId.to_numpy()
    flux, time = ok.psfFlux.to_numpy(np.float64), ok.midpointMjdTai.to_numpy(np.float64)
    same: NDArray[np.bool_] = (ids[1:] == ids[:-1]) & (time[1:] > time[:-1])
    slope = (flux[1:] - flux[:-1])[same] / (time[1:] - time[:-1])[same]
    return pd.Series(slope, index=ids[1:][same], dtype=np.float64).groupby(level=0).max()


def forced_means(out: pd.DataFrame, forced: pd.DataFrame) -> None:
    """Set {band}_fpFluxMean and its error from forced photometry (in place, `out` indexed by diaObjectId)."""
    forced = forced[forced.diaObjectId.isin(out.index)]
    for band in BANDS:
        _weighted(out, forced[forced.band == band], "psfFlux", f"{band}_fpFluxMean")
