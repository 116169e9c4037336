"""DiaObject summary columns: group operations over all sources of the updated objects, all bands at once.

Rows are put in order of cell (object and band) and time once; one compiled pass over the cells gives the default columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from association.errors import AssociationError
from association.statistics.multiband import multiband_periods
from association.statistics.optional import BAND_PLUGINS, OBJECT_PLUGINS
from tasks import object_statistics as kernels
from tasks.arrays import F64, I64
from tasks.lacking import blanked, without_lacking
from tasks.object_statistics import BANDS, CELL_COLUMNS

__all__ = ["BANDS", "DEFAULT_PLUGINS", "MULTIBAND", "OPTIONAL_PLUGINS", "forced_means", "summarize"]

_BAND_COLUMNS = {
    "ap_meanFlux": ("psfFluxMean", "psfFluxMeanErr", "psfFluxNdata"), "ap_sigmaFlux": ("psfFluxSigma",),
    "ap_minMaxFlux": ("psfFluxMin", "psfFluxMax"), "ap_maxSlopeFlux": ("psfFluxMaxSlope",),
    "ap_meanErrFlux": ("psfFluxErrMean",), "ap_meanTotFlux": ("scienceFluxMean", "scienceFluxMeanErr"),
}  # fmt: skip
DEFAULT_PLUGINS = ("ap_meanPosition", "ap_nDiaSources", *_BAND_COLUMNS)
MULTIBAND = "ap_lombScarglePeriodogramMulti"
OPTIONAL_PLUGINS = (*BAND_PLUGINS, *OBJECT_PLUGINS)
_NEEDS_MEAN = ("ap_chi2Flux", "ap_stetsonJ")


@dataclass(frozen=True)
class _Rows:
    """Sources in order of cell, time and id: codes of object and cell, where the cells begin, and their columns."""

    table: pd.DataFrame
    order: I64
    objects: I64
    cells: I64
    begin: I64

    def __getitem__(self, name: str) -> F64:
        values: F64 = self.table[name].to_numpy(np.float64)[self.order]
        return values


def summarize(
    diaObjects: pd.DataFrame,
    diaSources: pd.DataFrame,
    diaForcedSources: pd.DataFrame | None = None,
    plugins: str | Sequence[str] = "default",
) -> pd.DataFrame:
    """Recompute the summary columns of objects from all of their sources.

    Parameters
    ----------
    diaObjects
        Stored (or new) objects: diaObjectId, ra, dec, nDiaSources, first/lastDiaSourceMjdTai.
    diaSources
        History and new sources; the new ones have ``isNew`` True where the column exists, else all count as known. Fluxes
        that lack light (`tasks.lacking.SOURCE_FLAGS`) have no part in the statistics of fluxes.
    diaForcedSources
        Gives {band}_fpFluxMean when present.
    plugins
        ``default``; ``all``; or names out of `DEFAULT_PLUGINS`, `OPTIONAL_PLUGINS` and `MULTIBAND`. The multi-band
        periodogram costs five times as much as all others together: it is computed only where it is named.

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
    codes = np.asarray(out.index.get_indexer(pd.Index(diaSources.diaObjectId)), np.int64)
    sources, codes = diaSources[codes >= 0], codes[codes >= 0]
    if "ap_meanPosition" in names:
        _positions(out, sources, codes)
    if "ap_nDiaSources" in names:
        _counts(out, sources, codes)
    rows = _in_order(without_lacking(sources), codes, len(out))
    wanted = [c for n in names for c in _BAND_COLUMNS.get(n, ())]
    columns: dict[str, NDArray[Any]] = {}
    if wanted or set(names) & set(_NEEDS_MEAN):
        columns = _default_columns(rows, len(out), wanted)
    columns |= _optional_columns(out, sources, rows, names, columns)
    out = _joined(out, columns)
    if diaForcedSources is not None:
        forced_means(out, diaForcedSources)
    return out


def _plugin_names(plugins: str | Sequence[str]) -> tuple[str, ...]:
    if plugins in ("default", "all"):
        return DEFAULT_PLUGINS if plugins == "default" else (*DEFAULT_PLUGINS, *OPTIONAL_PLUGINS)
    names = tuple([plugins] if isinstance(plugins, str) else plugins)
    unknown = set(names) - {*DEFAULT_PLUGINS, *OPTIONAL_PLUGINS, MULTIBAND}
    if unknown:
        raise AssociationError(f"unknown summary plugins {sorted(unknown)}")
    lacking = [n for n in names if n in _NEEDS_MEAN]
    if lacking and "ap_meanFlux" not in names:
        raise AssociationError(f"{', '.join(lacking)} need the means of ap_meanFlux, which was not asked for")
    return names


def _joined(out: pd.DataFrame, columns: dict[str, NDArray[Any]]) -> pd.DataFrame:
    """Return the frame with columns replaced or appended (at once: one by one would cost a copy each)."""
    kept = out.drop(columns=[c for c in columns if c in out.columns])
    return pd.concat([kept, pd.DataFrame(columns, index=out.index)], axis=1)


def _time_order(rows: pd.DataFrame, codes: I64, count: int) -> I64:
    """Return the order of rows that every sum keeps, whatever order they came in."""
    keys = ("midpointMjdTai", "visit", "detector", "diaSourceId", "diaForcedSourceId")
    present = [rows[c].to_numpy() for c in keys if c in rows]
    return kernels.in_order(codes, count, *present) if present else np.arange(len(rows), dtype=np.int64)


def _in_order(sources: pd.DataFrame, codes: I64, count: int) -> _Rows:
    cells, by_time = kernels.cells_of(codes, sources.band), _time_order(sources, codes, count)
    rows = kernels.rows_by_cell(by_time[cells[by_time] >= 0], cells, count * len(BANDS))
    return _Rows(sources, rows.order, codes[rows.order], cells[rows.order], rows.begin)


def _default_columns(rows: _Rows, count: int, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    values = kernels.cell_statistics(
        rows.begin,
        rows["psfFlux"],
        rows["psfFluxErr"],
        rows["midpointMjdTai"],
        rows["scienceFlux"],
        rows["scienceFluxErr"],
    )
    out: dict[str, NDArray[Any]] = {}
    for k, band in enumerate(BANDS):
        for name in wanted:
            column = values[k :: len(BANDS), CELL_COLUMNS.index(name)]
            out[f"{band}_{name}"] = column.astype(np.int32 if name.endswith("Ndata") else np.float32)
    return out


def _optional_columns(
    out: pd.DataFrame, sources: pd.DataFrame, rows: _Rows, names: Sequence[str], columns: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the columns of the optional statistics."""
    chosen = [n for n in names if n in BAND_PLUGINS]
    more: dict[str, NDArray[Any]] = {}
    count, bands = len(out), len(BANDS)
    mean = np.full(count * bands, np.nan)
    for k, band in enumerate(BANDS):
        if f"{band}_psfFluxMean" in columns:
            mean[k::bands] = columns[f"{band}_psfFluxMean"]
    for name in chosen:
        for column, values in BAND_PLUGINS[name](rows.cells, count * bands, rows, mean).items():
            more |= {f"{band}_{column}": values[k::bands] for k, band in enumerate(BANDS)}
    if MULTIBAND in names:
        more |= multiband_periods(rows.cells, count, BANDS, rows)
    for name in names:
        if name in OBJECT_PLUGINS:
            more |= OBJECT_PLUGINS[name](out, sources)
    return more


def _positions(out: pd.DataFrame, sources: pd.DataFrame, codes: I64) -> None:
    """Inverse-variance mean direction, its errors and covariance (equal weights where a source has no errors)."""
    ra, dec = (sources[c].to_numpy(np.float64) for c in ("ra", "dec"))
    good = np.isfinite(ra) & np.isfinite(dec)
    order = _time_order(sources, codes, len(out))
    order = order[good[order]]
    if order.size == 0:
        return
    errors = (_values(sources, c)[order] for c in ("raErr", "decErr", "ra_dec_Cov"))
    means = kernels.mean_positions(codes[order], len(out), ra[order], dec[order], *errors)
    for column, values in vars(means).items():
        _fill(out, column, values)


def _values(frame: pd.DataFrame, column: str) -> F64:
    """Return a column's numbers, NaN where the frame has no such column."""
    return frame[column].to_numpy(np.float64) if column in frame else np.full(len(frame), np.nan)


def _fill(out: pd.DataFrame, column: str, values: F64) -> None:
    """Set the values that are known and keep the others, in the column's own type."""
    if column not in out:
        out[column] = np.nan
    out[column] = pd.Series(np.where(np.isfinite(values), values, out[column].to_numpy()), out.index).astype(
        out[column].dtype
    )


def _counts(out: pd.DataFrame, sources: pd.DataFrame, codes: I64) -> None:
    """True totals: what is stored plus the new sources (the window holds 360 days only)."""
    n = len(out)
    if "isNew" not in sources:
        out["nDiaSources"] = np.bincount(codes, minlength=n)
    else:
        new = sources.isNew.to_numpy(bool)
        out["nDiaSources"] = out.nDiaSources.fillna(0).to_numpy(np.int64) + np.bincount(codes[new], minlength=n)
    times = sources.midpointMjdTai.to_numpy(np.float64)
    first, last = np.full(n, np.nan), np.full(n, np.nan)
    np.fmin.at(first, codes, times)
    np.fmax.at(last, codes, times)
    out["firstDiaSourceMjdTai"] = np.fmin(out.firstDiaSourceMjdTai.to_numpy(np.float64), first)
    out["lastDiaSourceMjdTai"] = np.fmax(out.lastDiaSourceMjdTai.to_numpy(np.float64), last)


def forced_means(out: pd.DataFrame, forced: pd.DataFrame, lacking: pd.DataFrame | None = None) -> None:
    """Set {band}_fpFluxMean and its error from forced photometry (in place, `out` indexed by diaObjectId).

    Fluxes that lack light (`lacking`, keys as of `tasks.lacking.lacking_keys`) have no part in them.
    """
    forced = forced if lacking is None else blanked(forced, lacking)
    codes = np.asarray(out.index.get_indexer(pd.Index(forced.diaObjectId)), np.int64)
    order = _time_order(forced, codes, len(out))
    flux, err = forced.psfFlux.to_numpy(np.float64)[order], forced.psfFluxErr.to_numpy(np.float64)[order]
    mean, error = kernels.forced_means(kernels.cells_of(codes, forced.band)[order], len(out), flux, err)
    for k, name in enumerate(BANDS):
        out[f"{name}_fpFluxMean"] = mean[:, k].astype(np.float32)
        out[f"{name}_fpFluxMeanErr"] = error[:, k].astype(np.float32)
