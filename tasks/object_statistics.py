"""Statistics of objects from the rows of their sources: arrays in, arrays out, each sum in one order.

The association adds a visit's sources with them, the database makes objects anew with them when rows are taken back: the same
rows give the same bytes both ways.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tasks.arrays import F64, I64
from tasks.bands import BANDS
from tasks.compiled import compiled
from tasks.sphere import unit_vectors, within_turn

__all__ = [
    "BANDS",
    "CELL_COLUMNS",
    "HISTORY_DAYS",
    "CellRows",
    "MeanPositions",
    "cell_statistics",
    "cells_of",
    "forced_means",
    "in_order",
    "mean_positions",
    "rows_by_cell",
]

CELL_COLUMNS = (
    "psfFluxMean", "psfFluxMeanErr", "psfFluxNdata", "psfFluxSigma", "psfFluxMin", "psfFluxMax", "psfFluxMaxSlope",
    "psfFluxErrMean", "scienceFluxMean", "scienceFluxMeanErr",
)  # fmt: skip
HISTORY_DAYS = 360.0  # of the rows that means are made of, back from the last detection


def in_order(objects: I64, count: int, times: ArrayLike, *ties: ArrayLike) -> I64:
    """Return an order, shape (N,), in which the rows of each object are in order of time, equal times by the ties.

    Rows that come in such an order stay as they are.

    Parameters
    ----------
    objects
        Object of each row, 0 to `count` - 1; rows of others (-1) may be anywhere.
    """
    mjd = np.asarray(times, np.float64)
    if _ascending(objects, mjd, np.full(count, -np.inf)):
        return np.arange(len(mjd), dtype=np.int64)
    by_time = np.argsort(mjd, kind="stable")
    if _ascending(objects[by_time], mjd[by_time], np.full(count, -np.inf)):  # no object has a time twice
        return by_time
    return np.asarray(np.lexsort([*(np.asarray(k) for k in reversed(ties)), mjd]), np.int64)


@compiled
def _ascending(objects: I64, times: F64, last: F64) -> bool:
    """Whether each time is later than the one before of the same object; `last`, shape (objects,), is scratch space."""
    for k in range(objects.size):
        if objects[k] >= 0:
            if not times[k] > last[objects[k]]:
                return False
            last[objects[k]] = times[k]
    return True


def cells_of(objects: I64, bands: "pd.Series[str] | NDArray[np.object_]") -> I64:
    """Return the cell (object and band) of rows, -1 where the object (a code, -1 for none) or the band is none of ours."""
    band = np.asarray(pd.Index(BANDS).get_indexer(pd.Index(bands)), np.int64)
    return np.where((band >= 0) & (objects >= 0), objects * len(BANDS) + band, -1)


@dataclass(frozen=True)
class CellRows:
    """Numbers of rows in order of cell, those of a cell in their order; shape (cells + 1,) where each cell begins."""

    order: I64
    begin: I64


def rows_by_cell(rows: I64, cells: I64, count: int) -> CellRows:
    """Sort `rows`, numbers of rows in order of time, by their cell out of `count`."""
    return CellRows(*_by_cell(rows, cells, count))


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


@compiled
def cell_statistics(begin: I64, flux: F64, err: F64, time: F64, science: F64, science_err: F64) -> F64:
    """Return (cells, 10) statistics in the order of `CELL_COLUMNS`; NaN where there are none."""
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


@dataclass(frozen=True)
class MeanPositions:
    """Of each object, shape (N,): position (deg), its errors (deg, RA on the sky) and covariance (deg**2); NaN for none."""

    ra: F64
    dec: F64
    raErr: F64
    decErr: F64
    ra_dec_Cov: F64


def mean_positions(objects: I64, count: int, ra: F64, dec: F64, ra_err: F64, dec_err: F64, cov: F64) -> MeanPositions:
    """Return inverse-variance mean directions, their errors and covariances.

    Parameters
    ----------
    objects
        Object of each row, 0 to `count` - 1, shape (rows,); sums are made in the order of the rows.
    ra, dec
        Finite positions, deg, shape (rows,).
    ra_err, dec_err, cov
        Their errors and covariances (deg, deg**2). A source without errors weighs as the mean variance of its object's others,
        1 where none has any.
    """

    def summed(values: F64) -> F64:
        return np.asarray(np.bincount(objects, weights=values, minlength=count), np.float64)

    with np.errstate(invalid="ignore", divide="ignore"):
        variance = 0.5 * (ra_err**2 + dec_err**2)
        finite = np.isfinite(variance) & (variance > 0)
        typical = summed(np.where(finite, variance, 0.0)) / summed(finite.astype(np.float64))
        typical = np.where(np.isfinite(typical), typical, 1.0)
        weight = 1.0 / np.where(finite, variance, typical[objects])
        x, y, z = (summed(v * weight) for v in unit_vectors(ra, dec).T)
        norm = np.sqrt(x**2 + y**2 + z**2)
        mean_ra = np.where(norm > 0, within_turn(np.degrees(np.arctan2(y, x))), np.nan)
        mean_dec = np.degrees(np.arcsin(np.clip(z / norm, -1, 1)))
        held = np.isfinite(cov)
        mean_cov = (
            summed(np.where(held, cov, 0.0)) / summed(held.astype(np.float64)) / np.bincount(objects, None, count)
        )
        errors = _mean_error(objects, count, ra_err), _mean_error(objects, count, dec_err)
    return MeanPositions(mean_ra, mean_dec, *errors, mean_cov)


def _mean_error(objects: I64, count: int, errors: F64) -> F64:
    """Return the error of the weighted mean of each object's values, NaN where no row has an error."""
    finite = np.isfinite(errors) & (errors > 0)
    inverse = np.where(finite, 1 / np.where(finite, errors, 1.0) ** 2, 0.0)
    total = np.bincount(objects, weights=inverse, minlength=count)
    return np.where(total > 0, 1 / np.sqrt(total), np.nan)


def forced_means(cells: I64, count: int, flux: F64, err: F64) -> tuple[F64, F64]:
    """Return inverse-variance means and their errors, shape (objects, bands), NaN for none.

    Parameters
    ----------
    cells
        Cell of each row as `cells_of`, shape (rows,); sums are made in the order of the rows.
    count
        Number of objects.
    flux, err
        Fluxes and errors, nJy, shape (rows,).
    """
    ok = (cells >= 0) & np.isfinite(flux) & np.isfinite(err) & (err > 0)
    w, size = 1 / err[ok] ** 2, count * len(BANDS)
    total = np.bincount(cells[ok], weights=w, minlength=size)
    summed = np.bincount(cells[ok], weights=w * flux[ok], minlength=size)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, error = summed / total, np.where(total > 0, 1 / np.sqrt(total), np.nan)
    return mean.reshape(count, len(BANDS)), error.reshape(count, len(BANDS))
