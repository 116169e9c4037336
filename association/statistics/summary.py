"""DiaObject summary columns: group operations over all sources of the updated objects, all bands at once.

Rows are put in order of cell (object and band) and time once; one compiled pass over the cells gives the default columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apdb.schema.columns import BANDS
from association.errors import AssociationError
from association.statistics.multiband import multiband_periods
from association.statistics.optional import BAND_PLUGINS, OBJECT_PLUGINS
from tasks.arrays import F64, I64
from tasks.compiled import compiled
from tasks.sphere import unit_vectors, within_turn

__all__ = ["BANDS", "DEFAULT_PLUGINS", "MULTIBAND", "OPTIONAL_PLUGINS", "forced_means", "summarize"]

# columns of each plugin, in the order in which `_cell_statistics` gives them
_BAND_COLUMNS = {
    "ap_meanFlux": ("psfFluxMean", "psfFluxMeanErr", "psfFluxNdata"), "ap_sigmaFlux": ("psfFluxSigma",),
    "ap_minMaxFlux": ("psfFluxMin", "psfFluxMax"), "ap_maxSlopeFlux": ("psfFluxMaxSlope",),
    "ap_meanErrFlux": ("psfFluxErrMean",), "ap_meanTotFlux": ("scienceFluxMean", "scienceFluxMeanErr"),
}  # fmt: skip
_ALL_BAND_COLUMNS = tuple(c for columns in _BAND_COLUMNS.values() for c in columns)
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
        History and new sources; the new ones have ``isNew`` True where the column exists, else all count as known.
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
    rows = _in_order(sources, codes, len(out))
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


def _in_order(sources: pd.DataFrame, codes: I64, count: int) -> _Rows:
    band = np.asarray(pd.Index(BANDS).get_indexer(pd.Index(sources.band)), np.int64)
    cells = np.where(band >= 0, codes * len(BANDS) + band, -1)
    held = np.flatnonzero(cells >= 0)
    times = sources.midpointMjdTai.to_numpy(np.float64)[held]
    by_time = held[np.lexsort((sources.diaSourceId.to_numpy()[held], times))]
    order, begin = _by_cell(by_time, cells, count * len(BANDS))
    return _Rows(sources, order, codes[order], cells[order], begin)


@compiled
def _by_cell(rows: I64, cells: I64, count: int) -> tuple[I64, I64]:
    """Sort rows by cell, those of a cell staying in order (counting sort); returns them and where each cell begins."""
    begin = np.zeros(count + 1, np.int64)
    for row in rows:
        begin[cells[row] + 1] += 1
    for k in range(count):
        begin[k + 1] += begin[k]
    next_row = begin[:-1].copy()
    out = np.empty(rows.size, np.int64)
    for row in rows:
        out[next_row[cells[row]]] = row
        next_row[cells[row]] += 1
    return out, begin


def _default_columns(rows: _Rows, count: int, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    values = _cell_statistics(
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
            column = values[k :: len(BANDS), _ALL_BAND_COLUMNS.index(name)]
            out[f"{band}_{name}"] = column.astype(np.int32 if name.endswith("Ndata") else np.float32)
    return out


@compiled
def _cell_statistics(begin: I64, flux: F64, err: F64, time: F64, science: F64, science_err: F64) -> F64:
    """Return (cells, 10) statistics in the order of the columns; NaN where there are none."""
    out = np.full((begin.size - 1, 10), np.nan)
    for cell in range(begin.size - 1):
        w = wf = total = errors = sw = swf = 0.0
        n = n_flux = n_err = 0
        low, high, slope = np.inf, -np.inf, -np.inf
        last = -1
        for k in range(begin[cell], begin[cell + 1]):
            f, e = flux[k], err[k]
            if np.isfinite(f) and np.isfinite(e) and e > 0:
                w += 1 / e**2
                wf += f / e**2
                n += 1
            if not np.isnan(e):
                errors += e
                n_err += 1
            if not np.isnan(f):
                total += f
                n_flux += 1
                low, high = min(low, f), max(high, f)
            if np.isfinite(f) and np.isfinite(time[k]):
                if last >= 0 and time[k] > time[last]:  # points at equal times have no slope
                    slope = max(slope, (f - flux[last]) / (time[k] - time[last]))
                last = k
            s, se = science[k], science_err[k]
            if np.isfinite(s) and np.isfinite(se) and se > 0:
                sw += 1 / se**2
                swf += s / se**2
        out[cell, 2] = n
        if n:
            out[cell, 0], out[cell, 1] = wf / w, np.sqrt(1 / w)
        if n_flux:
            out[cell, 4], out[cell, 5] = low, high
        if n_flux > 1:
            mean, squares = total / n_flux, 0.0
            for k in range(begin[cell], begin[cell + 1]):
                if not np.isnan(flux[k]):
                    squares += (flux[k] - mean) ** 2
            out[cell, 3] = np.sqrt(squares / (n_flux - 1))
        if slope > -np.inf:
            out[cell, 6] = slope
        if n_err:
            out[cell, 7] = errors / n_err
        if sw > 0:
            out[cell, 8], out[cell, 9] = swf / sw, np.sqrt(1 / sw)
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
    good = np.isfinite(sources.ra.to_numpy(np.float64)) & np.isfinite(sources.dec.to_numpy(np.float64))
    s, codes, n = sources[good], codes[good], len(out)
    if s.empty:
        return
    errors = {c: _values(s, c) for c in ("raErr", "decErr")}
    error2 = 0.5 * (errors["raErr"] ** 2 + errors["decErr"] ** 2)
    typical = np.nanmedian(error2) if np.isfinite(error2).any() else 1.0
    weight = 1.0 / np.where(np.isfinite(error2) & (error2 > 0), error2, typical)
    vectors = unit_vectors(s.ra, s.dec)
    x, y, z = (np.bincount(codes, weights=vectors[:, k] * weight, minlength=n) for k in range(3))
    norm = np.sqrt(x**2 + y**2 + z**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        _fill(out, "ra", np.where(norm > 0, within_turn(np.degrees(np.arctan2(y, x))), np.nan))
        _fill(out, "dec", np.degrees(np.arcsin(np.clip(z / norm, -1, 1))))
        for column, e in errors.items():
            inverse = np.where(np.isfinite(e) & (e > 0), 1 / np.where(e > 0, e, 1) ** 2, 0)
            summed = np.bincount(codes, weights=inverse, minlength=n)
            _fill(out, column, np.where(summed > 0, 1 / np.sqrt(summed), np.nan))
        covariance = _values(s, "ra_dec_Cov")
        has_covariance = np.isfinite(covariance)
        total = np.bincount(codes[has_covariance], weights=covariance[has_covariance], minlength=n)
        mean = total / np.bincount(codes[has_covariance], minlength=n)
        _fill(out, "ra_dec_Cov", mean / np.bincount(codes, minlength=n))


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


def forced_means(out: pd.DataFrame, forced: pd.DataFrame) -> None:
    """Set {band}_fpFluxMean and its error from forced photometry (in place, `out` indexed by diaObjectId)."""
    codes = np.asarray(out.index.get_indexer(pd.Index(forced.diaObjectId)), np.int64)
    band = np.asarray(pd.Index(BANDS).get_indexer(pd.Index(forced.band)), np.int64)
    f, e = forced.psfFlux.to_numpy(np.float64), forced.psfFluxErr.to_numpy(np.float64)
    ok = (codes >= 0) & (band >= 0) & np.isfinite(f) & np.isfinite(e) & (e > 0)
    cells, w = codes[ok] * len(BANDS) + band[ok], 1 / e[ok] ** 2
    total = np.bincount(cells, weights=w, minlength=len(out) * len(BANDS))
    flux = np.bincount(cells, weights=w * f[ok], minlength=len(out) * len(BANDS))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, error = flux / total, np.where(total > 0, 1 / np.sqrt(total), np.nan)
    for k, name in enumerate(BANDS):
        out[f"{name}_fpFluxMean"] = mean[k :: len(BANDS)].astype(np.float32)
        out[f"{name}_fpFluxMeanErr"] = error[k :: len(BANDS)].astype(np.float32)
