"""A map of others, a MOC or a probability map of a gravitational-wave event, against what the survey covers."""

import io
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from apdb import Database, queries
from apdb.errors import BadQuery
from service.subprocesses.children import program
from tasks.arrays import F64, I64

__all__ = ["cells_of_map", "overlap"]

SLACK_S = 20.0  # beyond its processor time
CREDIBLE = 0.9  # of the probability of a map
MOST_CELLS = 50_000
FINEST = 12  # order to which finer cells of a map are made coarser, so that they can be drawn and compared


def cells_of_map(content: bytes) -> tuple[dict[int, I64], str]:
    """Return the cells by order, and what the map is, in words.

    Understood are MOCs as FITS (MOC 2.0: a column UNIQ, or NPIX) or JSON, and multi-order sky maps with PROBDENSITY, of
    which the cells of the smallest area are taken that hold 90 % of the probability.

    Raises
    ------
    BadQuery
        It is none of these.
    """
    if content.lstrip()[:1] == b"{":
        return _from_json(content), "a MOC"
    unique, density = _from_fits(content)
    if (unique < 4).any():
        raise BadQuery("the map holds numbers below 4, which are no cells")
    if density is None:
        return _by_order(unique), "a MOC"
    return _by_order(unique[_credible(unique, density)]), f"the {100 * CREDIBLE:.0f} % credible region of a sky map"


def _from_fits(content: bytes) -> tuple[I64, F64 | None]:
    """Return the columns of a FITS map: a child process opens it, which has limits."""
    from service.pages.survey.map_process import CPU_S, WRONG

    with tempfile.NamedTemporaryFile(suffix=".fits") as file:
        file.write(content)
        file.flush()
        try:
            done = subprocess.run(
                program("service.pages.survey.map_process", file.name),
                capture_output=True,
                timeout=CPU_S + SLACK_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BadQuery("no map: it takes too long to be read") from None
    if done.returncode == WRONG:
        said = done.stdout.decode(errors="replace").strip().replace(Path(file.name).name, "the file")
        raise BadQuery(f"no MOC as FITS or JSON, and no multi-order sky map: {said}")
    if done.returncode:
        raise BadQuery("no map: reading it ended the process that tried")
    with np.load(io.BytesIO(done.stdout)) as columns:
        return columns["unique"], columns.get("density")


def _from_json(content: bytes) -> dict[int, I64]:
    try:
        given = json.loads(content)
        return {int(k): np.unique(np.asarray(v, np.int64)) for k, v in given.items() if v}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadQuery(f"no MOC as JSON: {str(error)[:200]}") from error


def _orders(unique: I64) -> I64:
    return np.asarray((np.frexp(unique.astype(np.float64))[1] - 3) // 2, np.int64)


def _by_order(unique: I64) -> dict[int, I64]:
    orders = _orders(unique)
    return {int(k): np.unique(unique[orders == k] - 4 * 4 ** int(k)) for k in np.unique(orders)}


def _credible(unique: I64, density: F64) -> I64:
    """Return which cells, the densest first, hold the credible part of the probability."""
    area = (np.pi / 3) / 4.0 ** _orders(unique).astype(np.float64)  # sr
    probability = np.nan_to_num(density) * area
    order = np.argsort(-density, kind="stable")
    reached = np.cumsum(probability[order]) / max(float(probability.sum()), 1e-300)
    return order[: int(np.searchsorted(reached, CREDIBLE)) + 1]


def overlap(database: Database, content: bytes) -> dict[str, Any]:
    """Compare a map with the footprint: its area, how much of it is covered, its cells to be drawn.

    Raises
    ------
    BadQuery
        No map, or one with too many cells.
    """
    from apdb.sky.moc import MOC_ORDER, healpix_of_htm
    from service.pages.survey.density import corners_of

    moc, what = cells_of_map(content)
    if any(order < 0 or order > 29 or (c < 0).any() or (c >= 12 * 4**order).any() for order, c in moc.items()):
        raise BadQuery("the map holds cells that are not on the sky")
    moc = _no_finer(moc, FINEST)
    if sum(c.size for c in moc.values()) > MOST_CELLS:
        raise BadQuery(f"the map has more than {MOST_CELLS} cells: make it coarser")
    with database.session() as connection:
        pixels = queries.footprint(connection)
    own = healpix_of_htm(pixels, MOC_ORDER)
    area = {order: c.size * _area(order) for order, c in moc.items()}
    covered = sum(_covered(order, cells, own, MOC_ORDER) for order, cells in moc.items())
    drawn = [corners_of(cells, order) for order, cells in moc.items()]
    whole = float(sum(area.values()))
    return {
        "what": what, "areaSqDeg": round(whole, 3), "coveredSqDeg": round(covered, 3),
        "coveredFraction": round(covered / whole, 4) if whole else 0.0,
        "footprintSqDeg": round(own.size * _area(MOC_ORDER), 3),
        "ra": [r for d in drawn for r in d["ra"]], "dec": [x for d in drawn for x in d["dec"]],
    }  # fmt: skip


def _area(order: int) -> float:
    """Area of a cell, square degrees."""
    return float(np.degrees(np.degrees(np.pi / 3)) / 4.0**order)


def _no_finer(moc: dict[int, I64], finest: int) -> dict[int, I64]:
    out = {order: cells for order, cells in moc.items() if order <= finest}
    fine = [cells >> (2 * (order - finest)) for order, cells in moc.items() if order > finest]
    if fine:
        out[finest] = np.unique(np.concatenate([out.get(finest, np.zeros(0, np.int64)), *fine]))
    return dict(sorted(out.items()))


def _covered(order: int, cells: I64, own: I64, own_order: int) -> float:
    """Return how many square degrees of some cells lie in cells of the footprint."""
    if order >= own_order:
        return float(np.isin(cells >> (2 * (order - own_order)), own).sum()) * _area(order)
    return float(np.isin(own >> (2 * (own_order - order)), cells).sum()) * _area(own_order)
