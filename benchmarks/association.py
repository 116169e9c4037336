"""Association, statistics and forced photometry: ``python -m benchmarks.association [pairs|statistics|forced|all]``."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from association import associate, summarize

ARCSEC = 1 / 3600


def median_s(work: Callable[[], Any], repeats: int = 5) -> float:
    """Return the median seconds of a call, the first one (which compiles) left out."""
    work()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def pairs() -> list[dict[str, float]]:
    """Association of sources with objects at constant density on the sky: cost against both numbers."""
    out = []
    for n, m in ((1000, 10_000), (10_000, 100_000), (100_000, 1_000_000)):
        rng = np.random.default_rng(n)
        side = np.sqrt(m / 100_000)  # degrees
        ra, dec = 40 + rng.uniform(0, side, m), rng.uniform(0, side, m)
        objects = pd.DataFrame(
            {"diaObjectId": np.arange(1, m + 1), "ra": ra, "dec": dec, "raErr": 0.1 * ARCSEC, "decErr": 0.1 * ARCSEC}
        )
        seen = rng.choice(m, n * 9 // 10, replace=False)
        fresh = n - len(seen)
        sources = pd.DataFrame(
            {
                "diaSourceId": np.arange(10**9, 10**9 + n),
                "diaObjectId": np.zeros(n, np.int64),
                "ra": np.append(ra[seen], 40 + rng.uniform(0, side, fresh)) + rng.normal(0, 0.1 * ARCSEC, n),
                "dec": np.append(dec[seen], rng.uniform(0, side, fresh)) + rng.normal(0, 0.1 * ARCSEC, n),
                "raErr": 0.1 * ARCSEC,
                "decErr": 0.1 * ARCSEC,
            }
        )
        owners = associate(sources, objects).diaSources.diaObjectId.to_numpy()
        right = float((owners[: len(seen)] == seen + 1).mean())
        seconds = median_s(lambda s=sources, o=objects: associate(s, o), 3 if m > 10**5 else 5)
        out.append({"sources": n, "objects": m, "seconds": round(seconds, 3), "right": round(right, 5)})
        print(json.dumps(out[-1]), flush=True)
    return out


def statistics() -> list[dict[str, Any]]:
    """Statistics of 50 000 objects with a million rows in six bands, and of half as many."""
    out = []
    for n, rows in ((25_000, 500_000), (50_000, 1_000_000)):
        rng = np.random.default_rng(n)
        flux, err = rng.normal(500, 50, rows), rng.uniform(30, 60, rows)
        sources = pd.DataFrame(
            {
                "diaObjectId": rng.integers(1, n + 1, rows),
                "diaSourceId": np.arange(rows),
                "midpointMjdTai": rng.uniform(61000, 61360, rows),
                "band": rng.choice(list("ugrizy"), rows),
                "ra": rng.normal(40, ARCSEC, rows),
                "dec": rng.normal(5, ARCSEC, rows),
                "raErr": 1e-5,
                "decErr": 1e-5,
                "ra_dec_Cov": 0.0,
                "psfFlux": flux,
                "psfFluxErr": err,
                "scienceFlux": flux + 100,
                "scienceFluxErr": err,
            }
        )
        objects = pd.DataFrame(
            {
                "diaObjectId": np.arange(1, n + 1),
                "ra": 40.0,
                "dec": 5.0,
                "raErr": 1e-5,
                "decErr": 1e-5,
                "ra_dec_Cov": 0.0,
                "nDiaSources": 0,
                "firstDiaSourceMjdTai": np.nan,
                "lastDiaSourceMjdTai": np.nan,
            }
        )
        for which in ("default", "all"):
            seconds = median_s(lambda s=sources, o=objects, w=which: summarize(o, s, plugins=w), 3)
            out.append({"objects": n, "rows": rows, "plugins": which, "seconds": round(seconds, 2)})
            print(json.dumps(out[-1]), flush=True)
    return out


def forced() -> list[dict[str, Any]]:
    """PSF photometry of positions on a difference and a science image of 4k x 4k."""
    from exposure.photometry import forced_psf_photometry
    from exposure.psf import GaussianPsf

    rng, psf = np.random.default_rng(4), GaussianPsf(1.8, 31)
    images = [rng.normal(0, 10, (4096, 4096)).astype(np.float32) for _ in range(2)]
    variance = np.full((4096, 4096), 100, np.float32)
    out = []
    for n in (10_000, 50_000, 200_000):
        x, y = rng.uniform(20, 4075, n), rng.uniform(20, 4075, n)

        def both(x: Any = x, y: Any = y) -> None:
            for image in images:
                forced_psf_photometry(image, variance, psf, x, y)

        seconds = median_s(both, 3)
        out.append({"positions": n, "seconds": round(seconds, 2), "positions_per_s": round(n / seconds)})
        print(json.dumps(out[-1]), flush=True)
    return out


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "all"
    for name, work in (("pairs", pairs), ("statistics", statistics), ("forced", forced)):
        if chosen in (name, "all"):
            work()
