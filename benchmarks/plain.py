"""`alertprod diff` on a plain pair as cameras write it: ``python -m benchmarks.plain [--size 4096] [--repeat 5] [--sources]``.

Two frames of one image HDU each: 16-bit integers (BZERO 32768), a TAN WCS, nothing else. The template is turned by 3 degrees
and shifted, so it is warped. Whole processes are timed, from the command to the written difference; the first run, which
compiles, is left out. Printed: seconds (median, least), peak memory of the process, and how the transients were found.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits
from scipy.spatial import cKDTree

from exposure import MoffatPsf, SkyWcs
from simulation.render import add_points

SCALE_DEG, SKY, GAIN, READ_NOISE = 0.4 / 3600, 900.0, 1.5, 6.0


def _wcs(size: int, turn_deg: float, shift: tuple[float, float]) -> SkyWcs:
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    crpix = ((size - 1) / 2 + shift[0], (size - 1) / 2 + shift[1])
    return SkyWcs.tan(crpix, (150.0, 2.0), SCALE_DEG * np.array([[-c, s], [s, c]]))


def _frame(path: Path, wcs: SkyWcs, sources: pd.DataFrame, fwhm: float, size: int, rng: np.random.Generator) -> None:
    """Write one frame in counts: Poisson noise of light and sky, read noise, whole numbers."""
    image = np.full((size, size), SKY)
    psf = MoffatPsf((fwhm, 0.0, 0.0, 0.0, 0.0, 0.0), 3.3, 41, (0, 0, size, size), (0.0,) * 4, (0.0,) * 4)
    x, y = wcs.sky_to_pixel(sources.ra.to_numpy(), sources.dec.to_numpy())
    add_points(image, psf, x, y, sources.flux.to_numpy())
    counts = rng.normal(image, np.sqrt(image / GAIN + (READ_NOISE / GAIN) ** 2))
    data = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
    fits.PrimaryHDU(data, wcs.to_header((0, 0))).writeto(path)


def make_plain_pair(folder: Path, size: int, seed: int) -> pd.DataFrame:
    """Write new.fits and old.fits; returns the transients of the new one (x, y, flux)."""
    rng = np.random.default_rng(seed)
    new, old = _wcs(size, 0.0, (0.0, 0.0)), _wcs(size, 3.0, (11.3, -7.8))
    n, m = int(10_000 * (size / 4096) ** 2), max(int(300 * (size / 4096) ** 2), 6)
    reach = 0.75 * size  # the turned frame sees a little more
    x, y = size / 2 + rng.uniform(-reach, reach, (2, 4 * n))
    flux = np.minimum(300.0 * rng.uniform(1e-4, 1, 4 * n) ** (-1 / 0.7), 2e5)
    ra, dec = new.pixel_to_sky(x, y)
    static = pd.DataFrame({"ra": ra, "dec": dec, "flux": flux})
    tx, ty = rng.uniform(200, size - 200, (2, m))
    truth = pd.DataFrame({"x": tx, "y": ty, "flux": 10 ** rng.uniform(3.2, 4.3, m)})
    sky = new.pixel_to_sky(tx, ty)
    changed = pd.DataFrame({"ra": sky[0], "dec": sky[1], "flux": truth.flux})
    _frame(folder / "new.fits", new, pd.concat([static, changed]), 3.2, size, rng)
    _frame(folder / "old.fits", old, static, 2.8, size, rng)
    return truth


def _run(folder: Path, sources: bool) -> tuple[float, float]:
    """Return the seconds of one process, and the most memory that it had, MB."""
    words = [
        "diff",
        "new.fits",
        "old.fits",
        "-o",
        "difference.fits",
        *(["--sources", "found.parquet"] if sources else []),
    ]
    said = folder / "said.txt"
    start = time.perf_counter()
    with said.open("w") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("alertprod")), *words], cwd=folder, stdout=out, stderr=out
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(said.read_text())
    return time.perf_counter() - start, used.ru_maxrss / 1024


def _found(folder: Path, truth: pd.DataFrame) -> dict[str, float]:
    table = pd.read_parquet(folder / "found.parquet")
    near, which = cKDTree(table[["x", "y"]]).query(truth[["x", "y"]])
    seen = near < 2
    ratio = table.psfInstFlux.to_numpy()[which[seen]] / truth.flux.to_numpy()[seen] - 1
    false = cKDTree(truth[["x", "y"]]).query(table[["x", "y"]])[0] > 5
    return {
        "transients": len(truth),
        "found": int(seen.sum()),
        "bias": float(np.median(ratio)),
        "false": int((false & (table.reliability > 0.5)).sum()),
    }


def main() -> None:
    """Print one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sources", action="store_true")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = make_plain_pair(folder, a.size, a.seed)
        seconds, peaks = zip(*[_run(folder, a.sources) for _ in range(a.repeat + 1)][1:], strict=True)
        _run(folder, True)
        row: dict[str, Any] = {"size": a.size, "median_s": np.median(seconds), "least_s": min(seconds)}
        row |= {"peak_mb": max(peaks)} | _found(folder, truth)
    print(json.dumps({k: round(float(v), 4) for k, v in row.items()}))


if __name__ == "__main__":
    main()
