"""Pictures of a joint fit image by image: what each keeps of its matches, and how well that fits, on the focal plane."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration.joint.data import Images
from calibration.joint.matching.stars import image_corners
from calibration.joint.visit_quality import by_visit
from exposure.wcs.tangent import project
from tasks.arrays import F64

__all__ = ["draw_images"]

_COLUMNS = 6  # visits of a picture


def draw_images(half: str, table: pd.DataFrame, images: Images, unit: tuple[float, str], path: Path) -> Path:
    """Draw the images of the visits that keep the smallest shares of their matches, at most six.

    Above is the share of its matches that each image keeps, below the rms of what is kept; a cross marks an image that lost
    its data, a dot one that is weak. The scales are those of all images.

    Parameters
    ----------
    half
        ``astrometry`` or ``photometry``.
    table
        Of images, see `calibration.joint.image_quality.by_image`.
    images
        Those that were fitted; the others are counted in the titles.
    unit
        What the rms of the table is multiplied with to be drawn, and the unit that it is in then.
    """
    from matplotlib.figure import Figure

    every = by_visit(table)
    worst = every.sort_values([f"{half}_kept_share", "visit"], kind="stable").visit.to_numpy()[:_COLUMNS]
    figure = Figure(figsize=(1.6 + 3.2 * worst.size, 7.2))
    axes = figure.subplots(2, worst.size, squeeze=False)
    figure.subplots_adjust(left=0.07, right=0.9, bottom=0.08, top=0.88, wspace=0.3, hspace=0.3)
    by_key = _places(images)
    places = [by_key.get(key) for key in zip(table.visit, table.detector, strict=True)]
    rows = (
        (_kept_share(table, half), "kept of what was matched"),
        (unit[0] * table[f"{half}_rms"].to_numpy(np.float64), f"rms of what is kept [{unit[1]}]"),
    )
    for row, (values, label) in zip(axes, rows, strict=True):
        limits = _limits(values)
        for axis, visit in zip(row, worst, strict=True):
            drawn = _draw_visit(axis, table, half, (values, limits), places, int(visit))
        figure.colorbar(drawn, ax=row.tolist(), label=label, fraction=0.04, pad=0.02)
    figure.suptitle(
        f"{half}: {worst.size} of {len(every)} visits, those that keep the smallest shares of their matches"
    )
    figure.savefig(path, dpi=100)
    return path


def _kept_share(table: pd.DataFrame, half: str) -> F64:
    matched = table[f"{half}_matched"].to_numpy(np.float64)
    return np.asarray(np.where(matched > 0, table[f"{half}_kept"] / np.maximum(matched, 1.0), np.nan), np.float64)


def _limits(values: F64) -> tuple[float, float]:
    """Return the ends of a colour scale that shows most values and has some width."""
    good = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(good, [2, 98])) if good.size else (0.0, 1.0)
    return low, max(high, low + 1e-3 * max(abs(low), 1e-3))


def _places(images: Images) -> dict[tuple[int, int], F64]:
    """Return the corners (4, 2) of each image in the tangent plane of the middle of its visit, arcmin, by visit and detector."""
    ra, dec = image_corners(images)
    out = {}
    for visit in np.unique(images.visit):
        of = np.flatnonzero(images.visit == visit)
        bore = images.boresight[of[0]]
        middle = bore if np.isfinite(bore).all() else np.array([ra[of[0], 0], dec[of[0], 0]])
        for i in of:
            out[images.key(int(i))] = np.stack(project(ra[i], dec[i], (float(middle[0]), float(middle[1]))), 1) / 60.0
    return out


def _draw_visit(
    axis: Any,
    table: pd.DataFrame,
    half: str,
    coloured: tuple[F64, tuple[float, float]],
    places: Sequence[F64 | None],
    visit: int,
) -> Any:
    """Draw the images of one visit in the colours of values (I,) between limits, at places; return what has the scale."""
    from matplotlib.collections import PolyCollection

    (values, limits), of_visit = coloured, (table.visit == visit).to_numpy()
    here = [int(i) for i in np.flatnonzero(of_visit) if places[int(i)] is not None]
    corners = [place for i in here if (place := places[i]) is not None]
    drawn = PolyCollection(corners, edgecolors="0.4", linewidths=0.5, cmap="viridis")
    drawn.set_array(np.ma.masked_invalid(values[here]))
    drawn.set_clim(*limits)
    axis.add_collection(drawn)
    for mark, column in (("x", f"{half}_lost"), (".", f"{half}_weak")):
        marked = [c.mean(0) for i, c in zip(here, corners, strict=True) if table[column].iloc[i]]
        if marked:
            axis.plot(*np.transpose(marked), mark, color="tab:red", ms=6)
    axis.autoscale_view()
    axis.invert_xaxis()
    absent = int(of_visit.sum()) - len(here)
    axis.set(title=f"visit {visit}" + (f", {absent} not fitted" if absent else ""), aspect="equal")
    axis.set(xlabel="east [arcmin]", ylabel="north [arcmin]")
    return drawn
