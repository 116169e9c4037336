"""A survey of one CCD-sized patch for APDB clients: every visit follows from (seed, number) alone.

Objects lie in a box; a visit detects some of them (a few very often, most of them rarely) and opens new ones; forced
photometry follows the objects that were seen last. All columns of the published tables are filled, a third of the
optional ones with NULL.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from lsst.sphgeom import ConvexPolygon
from numpy.typing import NDArray

from apdb import columns_of
from apdb.sky.htm import polygon

__all__ = ["PRESETS", "Patch", "Preset"]

DETECTOR = 7
FIRST_DAY = 61000.0


@dataclass(frozen=True)
class Preset:
    """Sizes of a survey."""

    visits: int
    sources: int
    forced: int
    objects: int
    new_fraction: float = 0.1
    days: float = 345.0


PRESETS = {
    "tiny": Preset(6, 50, 200, 500),
    "A": Preset(200, 500, 2000, 10_000),
    "B": Preset(30, 5000, 10_000, 40_000),
    "C": Preset(200, 50, 300, 1000),
}


class Patch:
    """The patch and its objects; visits must be taken in order."""

    def __init__(
        self, preset: Preset, seed: int = 5, ra: float = 40.0, dec: float = -30.0, first_id: int = 10**12
    ) -> None:
        self.preset = preset
        self._seed = seed
        rng = np.random.default_rng(seed)
        room = preset.objects + preset.visits * preset.sources
        half = 0.11
        self._box = (ra - half / np.cos(np.radians(dec)), ra + half / np.cos(np.radians(dec)), dec - half, dec + half)
        self.ra, self.dec = rng.uniform(*self._box[:2], room), rng.uniform(*self._box[2:], room)
        self.ids = first_id + np.arange(room, dtype=np.int64)
        self._rate = rng.pareto(1.1, room) + 0.05
        self._seen, self._count = np.full(room, -1), np.ones(room, np.int32)
        self._first = np.full(room, FIRST_DAY)
        self.n_objects = preset.objects

    @property
    def region(self) -> ConvexPolygon:
        """The box, a little larger."""
        a, b, c, d = self._box
        return polygon([a - 0.001, b + 0.001, b + 0.001, a - 0.001], [c - 0.001, c - 0.001, d + 0.001, d + 0.001])

    def objects(self, chosen: NDArray[np.int64], mjd: float, rng: np.random.Generator) -> pd.DataFrame:
        """Return rows of DiaObject."""
        return _filled(
            "DiaObject",
            len(chosen),
            rng,
            {
                "diaObjectId": self.ids[chosen],
                "ra": self.ra[chosen],
                "dec": self.dec[chosen],
                "validityStartMjdTai": mjd,
                "validityEndMjdTai": np.nan,
                "nDiaSources": self._count[chosen],
                "firstDiaSourceMjdTai": self._first[chosen],
                "lastDiaSourceMjdTai": mjd,
            },
        )

    def start(self) -> pd.DataFrame:
        """Return the objects that are there before the first visit."""
        return self.objects(np.arange(self.preset.objects), FIRST_DAY, np.random.default_rng([self._seed, 10**6]))

    def visit(self, number: int) -> dict[str, Any]:
        """Return time, detected ids and the three frames of a visit."""
        p, rng = self.preset, np.random.default_rng([self._seed, number])
        mjd = FIRST_DAY + 1 + p.days * number / p.visits
        fresh = round(p.sources * p.new_fraction)
        rate = self._rate[: self.n_objects]
        old = rng.choice(self.n_objects, p.sources - fresh, replace=False, p=rate / rate.sum())
        new = np.arange(self.n_objects, self.n_objects + fresh)
        self._first[new], self.n_objects = mjd, self.n_objects + fresh
        self._count[old] += 1
        chosen = np.sort(np.concatenate([old, new]))
        self._seen[chosen] = number
        followed = np.sort(np.argsort(-self._seen[: self.n_objects], kind="stable")[: p.forced])
        common = {
            "visit": 10**9 + number,
            "detector": DETECTOR,
            "midpointMjdTai": mjd,
            "timeProcessedMjdTai": mjd + 0.001,
            "timeWithdrawnMjdTai": np.nan,
            "band": "r",
        }
        n = len(chosen)
        sources = _filled(
            "DiaSource",
            n,
            rng,
            {
                **common,
                "diaSourceId": (number + 1) * 10**6 + np.arange(n),
                "diaObjectId": self.ids[chosen],
                "ssObjectId": 0,
                "parentDiaSourceId": 0,
                "ra": self.ra[chosen] + rng.normal(0, 2e-5, n),
                "dec": self.dec[chosen] + rng.normal(0, 2e-5, n),
                "reliabilityVersion": "v1",
            },
        )
        m = len(followed)
        forced = _filled(
            "DiaForcedSource",
            m,
            rng,
            {
                **common,
                "diaForcedSourceId": (number + 1) * 10**6 + np.arange(m),
                "diaObjectId": self.ids[followed],
                "ra": self.ra[followed],
                "dec": self.dec[followed],
            },
        )
        objects = self.objects(chosen, mjd, rng)
        return {
            "mjd": mjd,
            "visit": 10**9 + number,
            "detected": self.ids[chosen],
            "objects": objects,
            "sources": sources,
            "forced": forced,
        }


def _filled(table: str, n: int, rng: np.random.Generator, given: dict[str, Any]) -> pd.DataFrame:
    out = {}
    for c in columns_of(table):
        if c.name in given:
            out[c.name] = np.broadcast_to(np.asarray(given[c.name], dtype=c.dtype), n).copy()
            continue
        kind = c.dtype.kind
        if kind == "f":
            values = (rng.standard_normal(n) + (FIRST_DAY if "Mjd" in c.name else 0.0)).astype(c.dtype)
            if c.nullable and c.name not in ("psfFlux",):
                values[rng.random(n) < 0.33] = np.nan
        else:
            values = rng.random(n) < 0.05 if kind == "b" else rng.integers(0, 100, n).astype(c.dtype)
        out[c.name] = values
    return pd.DataFrame(out)
