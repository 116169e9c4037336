"""The focal plane as a picture: where each detector sits, and the colour of what it did."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from service.settings import Settings

__all__ = ["Tile", "metric_names", "mosaic"]

SHADES = 9  # of a metric, from low to high
SIDE = 100.0  # units of the picture along its longer side


@dataclass(frozen=True)
class Tile:
    """One detector: the corners of its outline in units of the picture (y down), its middle, its look and its words."""

    detector: int
    outline: str
    x: float
    y: float
    height: float
    look: str
    label: str
    link: str | None


def metric_names(visits: list[dict[str, Any]]) -> list[str]:
    """Return what tiles can be coloured by beside the state: numbers of quality, counts, seconds."""
    names: dict[str, None] = {}
    for v in visits:
        for group in ("metrics", "counts"):
            names.update(dict.fromkeys(k for k, x in (v[group] or {}).items() if isinstance(x, int | float)))
    return ["seconds", *sorted(names, key=str.lower)]


def value_of(visit: dict[str, Any], name: str) -> float | None:
    """Return a number of a ccdVisit by its name."""
    if name == "seconds":
        return float(sum(visit["seconds"].values())) if visit["seconds"] else None
    for group in ("metrics", "counts"):
        value = (visit[group] or {}).get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def mosaic(
    settings: Settings, visits: list[dict[str, Any]], detectors: list[int], colour: str
) -> tuple[list[Tile], tuple[float, float], tuple[float, float] | None]:
    """Return the tiles of one visit.

    Parameters
    ----------
    visits
        Its ccdVisits.
    detectors
        Every detector that the instrument is known to have.
    colour
        ``state``, or one of `metric_names`.

    Returns
    -------
    tiles, (width, height), (low, high)
        The last is the range of a metric, None for states.
    """
    outlines, extent = _layout(tuple(detectors), settings.camera)
    of = {v["detector"]: v for v in visits}
    values = {d: value_of(v, colour) for d, v in of.items()} if colour != "state" else {}
    finite = [x for x in values.values() if x is not None and np.isfinite(x)]
    limits = (min(finite), max(finite)) if finite else None
    tiles = []
    for detector, corners in outlines.items():
        look, label = _look(of.get(detector), colour, values.get(detector), limits)
        link = None if detector not in of else f"/visit/{of[detector]['visit']}/{detector}"
        middle = corners.mean(axis=0)
        points = " ".join(f"{x:.2f},{y:.2f}" for x, y in corners)
        height = float(np.ptp(corners[:, 1]))
        tiles.append(Tile(detector, points, float(middle[0]), float(middle[1]), height, look, label, link))
    return tiles, extent, limits


def _look(
    visit: dict[str, Any] | None, colour: str, value: float | None, limits: tuple[float, float] | None
) -> tuple[str, str]:
    if visit is None:
        return "state-absent", "never came"
    state = str(visit["state"])
    if colour == "state":
        why = f": {visit['code']}" if visit["code"] and state != "done" else ""
        return f"state-{state}", f"{state.replace('_', ' ')}{why}"
    if value is None or limits is None or not np.isfinite(value):
        return "state-absent", f"no {colour}; {state.replace('_', ' ')}"
    low, high = limits
    shade = 0 if high == low else min(SHADES - 1, int(SHADES * (value - low) / (high - low)))
    return f"shade-{shade}", f"{colour} {value:.4g}"


@lru_cache(maxsize=8)
def _layout(
    detectors: tuple[int, ...], camera: Path | None
) -> tuple[dict[int, np.ndarray[Any, Any]], tuple[float, float]]:
    """Return the corners (4, 2) of each detector; as the camera file says, else in rows by number."""
    corners = {} if camera is None else _from_camera(camera)
    if not set(detectors) <= set(corners):
        corners = _in_rows(detectors)
    points = np.concatenate(list(corners.values()))
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scale = SIDE / float(span.max())
    out = {d: (c - low) * scale for d, c in corners.items()}
    for c in out.values():
        c[:, 1] = span[1] * scale - c[:, 1]  # up on the sky is up on the screen
    return out, (float(span[0] * scale), float(span[1] * scale))


def _from_camera(path: Path) -> dict[int, np.ndarray[Any, Any]]:
    from exposure.camera import Camera

    out = {}
    for number, detector in Camera.read(path).detectors.items():
        x0, y0, width, height = detector.bbox
        x, y = detector.to_focal([x0, x0 + width, x0 + width, x0], [y0, y0, y0 + height, y0 + height])
        out[number] = np.stack([x, y], axis=1)
    return out


def _in_rows(detectors: tuple[int, ...]) -> dict[int, np.ndarray[Any, Any]]:
    n = len(detectors)
    widths = range(int(np.ceil(np.sqrt(n))), int(np.ceil(np.sqrt(2 * n))) + 1)
    across = min(widths, key=lambda width: (-n % width, width))  # with the fewest empty places
    square = np.array([[0.03, 0.03], [0.97, 0.03], [0.97, 0.97], [0.03, 0.97]])
    return {d: square + np.array([k % across, -(k // across)]) for k, d in enumerate(detectors)}
