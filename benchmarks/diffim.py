"""Speed and quality of differencing on pairs with truth: ``python -m benchmarks.diffim [--size 4096] [--seeds 1] [--json]``.

One object per case and seed. Times are of a warm process (the first run, which compiles, is left out). With
``--hotpants BINARY`` that program runs on the same pixels; with ``--sfft PYTHON`` the package of that name, of that
interpreter (on the CPU it needs 11 GB for 2048 x 2048: use ``--size 2048`` or less).

residual_A_B   std of D / sigma where the static sky has a per-pixel S/N of A to B, over that on empty sky; 1 = photon noise
completeness   of transients of optimal S/N 5-10 and 10-20, after flags;  false: detections without a transient, after flags
bias, pull     forced PSF fluxes at the true positions: median of flux / truth - 1 at S/N > 20, robust std of the pulls below
"""

import argparse
import json
import resource
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from astropy.io import fits
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks.pairs import Pair, make_pair
from diffim import ImageDifferenceTask
from exposure import Exposure, load_instrument
from exposure.photometry import forced_psf_photometry
from exposure.psf_width import psf_fwhm
from exposure.quantiles import scatter_about
from exposure.threads import in_threads
from service.pairs.prepare import kernel_candidates, subtract_sky
from service.startup import reuse_memory
from tasks import make_task


def subtract(pair: Pair, detection: bool, repeat: int) -> tuple[Any, list[float]]:
    """Run the task `repeat` + 1 times; returns the last result and the seconds of all runs but the first."""
    seconds, result, rules = [], None, load_instrument("generic")
    for _ in range(repeat + 1):
        start = time.perf_counter()
        science, template = pair.science.copy(), pair.template.copy()
        in_threads(partial(subtract_sky, rules=rules), (science, template))
        stars = kernel_candidates(science, rules)
        result = make_task(ImageDifferenceTask, {"doDetection": detection}).run(science, stars, template)
        seconds.append(time.perf_counter() - start)
    return result, seconds[1:]


def judge(pair: Pair, difference: Exposure, sources: pd.DataFrame | None) -> dict[str, float]:
    """Score a difference in science counts."""
    d, v = difference.image, difference.variance
    ok = difference.good("BAD", "SAT", "CR", "SAT_TEMPLATE", "SUSPECT")
    ok[:30], ok[-30:], ok[:, :30], ok[:, -30:] = False, False, False, False
    for x, y in zip(pair.truth.x.astype(int), pair.truth.y.astype(int), strict=True):
        ok[max(y - 20, 0) : y + 21, max(x - 20, 0) : x + 21] = False
    z = d / np.sqrt(np.maximum(v, 1e-30))
    peak = pair.model / np.sqrt(v)
    sky = ok & (pair.model < 1)
    level = float(z[sky].std())
    out = {"sky_std": level}
    for low, high in ((5, 20), (20, 100), (100, 1e9)):
        here = ok & (peak >= low) & (peak < high)
        name = f"residual_{low}_{high:.0f}" if high < 1e9 else f"residual_{low}"
        out[name] = float(z[here].std()) / level if here.sum() > 50 else float("nan")
    both = sky[:, 1:] & sky[:, :-1]
    out["lag1"] = float(np.mean((z[:, 1:] * z[:, :-1])[both])) / level**2
    t, psf = pair.truth, difference.require_psf()
    fluxes = forced_psf_photometry(d, v, psf, t.x, t.y)
    snr = (t.flux / fluxes.instFluxErr).to_numpy()
    detections = {} if sources is None else _detections(t, snr, sources)
    return out | _photometry(t, snr, fluxes, difference) | detections


def _photometry(
    t: pd.DataFrame, snr: NDArray[np.float64], table: pd.DataFrame, difference: Exposure
) -> dict[str, float]:
    flagged = difference.flagged("BAD", "SAT", "CR", "SAT_TEMPLATE", "SUSPECT")
    clean = ~flagged[t.y.round().astype(int), t.x.round().astype(int)]
    ratio, pull = (table.instFlux / t.flux).to_numpy() - 1, ((table.instFlux - t.flux) / table.instFluxErr).to_numpy()
    bright, faint = clean & (snr > 20), clean & (snr < 20)
    scatter = scatter_about(pull[faint], np.median(pull[faint]))
    return {"bias": float(np.median(ratio[bright])), "pull": scatter}


def _detections(t: pd.DataFrame, snr: NDArray[np.float64], sources: pd.DataFrame) -> dict[str, float]:
    good = sources[~(sources.pixelFlags_suspect | sources.pixelFlags_crCenter | sources.pixelFlags_badCenter)]
    tree = cKDTree(good[["x", "y"]])
    seen = tree.query(t[["x", "y"]], distance_upper_bound=3.0)[0] < 3
    false = cKDTree(t[["x", "y"]]).query(good[["x", "y"]])[0] > 5
    out = {"false": float(false.sum())}
    for low, high in ((5, 10), (10, 20)):
        here = (snr >= low) & (snr < high)
        out[f"completeness_{low}_{high}"] = float(seen[here].mean()) if here.any() else float("nan")
    return out


def hotpants(binary: str, pair: Pair, mask: NDArray[np.int32]) -> tuple[dict[str, float], float]:
    """Run hotpants on the same pixels with its usual options; returns scores, outside of a mask, and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {k: Path(folder) / f"{k}.fits" for k in ("s", "t", "d", "n")}
        fits.writeto(paths["s"], pair.science.image)
        fits.writeto(paths["t"], pair.template.image)
        start = time.perf_counter()
        subprocess.run(
            [
                binary,
                "-inim",
                paths["s"],
                "-tmplim",
                paths["t"],
                "-outim",
                paths["d"],
                "-oni",
                paths["n"],
                "-iu",
                "90000",
                "-tu",
                "117000",
                "-il",
                "-1000",
                "-tl",
                "-1000",
                "-n",
                "i",
                "-r",
                "10",
                "-rss",
                "15",
                "-ko",
                "2",
                "-bgo",
                "1",
            ],
            check=True,
            capture_output=True,
            timeout=900,
        )
        seconds = time.perf_counter() - start
        image, noise = (np.ascontiguousarray(fits.getdata(paths[k]), np.float32) for k in ("d", "n"))
    difference = pair.science.copy()
    difference.image, difference.variance, difference.mask = image, noise**2, mask
    return judge(pair, difference, None), seconds


_SFFT = """
import sys, time
from sfft.CustomizedPacket import Customized_Packet
folder, half = sys.argv[1], int(sys.argv[2])
start = time.perf_counter()
Customized_Packet.CP(
    FITS_REF=folder + "/t.fits", FITS_SCI=folder + "/s.fits", FITS_mREF=folder + "/mt.fits", FITS_mSCI=folder + "/ms.fits",
    ForceConv="REF", GKerHW=half, FITS_DIFF=folder + "/d.fits", KerPolyOrder=2, BGPolyOrder=2, ConstPhotRatio=True,
    BACKEND_4SUBTRACT="Numpy", NUM_CPU_THREADS_4SUBTRACT=1, VERBOSE_LEVEL=0)
print("seconds", time.perf_counter() - start)
"""


def sfft(python: str, pair: Pair, mask: NDArray[np.int32]) -> tuple[dict[str, float], float, float]:
    """Run SFFT (NumPy back end, one thread) on the same pixels; returns scores outside of a mask, seconds and peak GB.

    As its authors ask, the fit sees sources only: everything else is zero in the masked pair.
    """
    rules = load_instrument("generic")
    science, template = pair.science.copy(), pair.template.copy()
    for e in (science, template):
        subtract_sky(e, rules)
    box = science.bbox
    planes = {"s": science.image, "t": template.cutout(*box).image}
    bad = ~(science.good("BAD", "SAT", "CR") & template.cutout(*box).good("BAD", "SAT"))
    light = cv2.dilate((pair.model > 3 * np.sqrt(science.variance)).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    # a source that has bad pixels is left out whole: a star cut in two is worse for the fit than one less
    parts = cv2.connectedComponents(light.astype(np.uint8))[1]
    near_bad = cv2.dilate(bad.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    spoilt = np.isin(parts, np.unique(parts[near_bad])) | near_bad
    half = int(np.clip(2 * max(psf_fwhm(e.require_psf(), box) for e in (science, template)), 2, 20))
    with tempfile.TemporaryDirectory() as folder:
        for name, image in planes.items():
            clean = np.where(bad, 0, image).astype(np.float32)
            fits.writeto(Path(folder) / f"{name}.fits", clean.T)  # its arrays are [x, y]
            fits.writeto(Path(folder) / f"m{name}.fits", np.where(light & ~spoilt, clean, 0).T.astype(np.float32))
        done = subprocess.run(
            ["/usr/bin/time", "-f", "peak %M", python, "-c", _SFFT, folder, str(half)],
            check=True,
            capture_output=True,
            text=True,
            timeout=3000,
        )
        image = np.ascontiguousarray(np.asarray(fits.getdata(Path(folder) / "d.fits"), np.float32).T)
    seconds = float(done.stdout.split("seconds")[-1].split()[0])
    peak = float(done.stderr.split("peak")[-1].split()[0]) / 1e6
    ratio = float(np.nansum(planes["s"][light & ~spoilt]) / np.nansum(planes["t"][light & ~spoilt]))
    difference = science.copy()
    difference.image, difference.mask = image, mask
    difference.variance = science.variance + np.float32(ratio**2) * template.cutout(*box).variance
    return judge(pair, difference, None), seconds, peak


def main() -> None:
    """Print one object per case and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cases", default="AB")
    parser.add_argument("--hotpants", help="binary to run on the same pixels")
    parser.add_argument("--sfft", help="python interpreter that has the package sfft")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    reuse_memory()  # as job processes do
    for case in a.cases:
        for seed in range(1, a.seeds + 1):
            pair = make_pair(case, a.size, seed)
            bare, seconds = subtract(pair, False, a.repeat)
            del bare
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            whole, all_seconds = subtract(pair, True, 1)
            row = {
                "case": f"diffim_{case}",
                "size": a.size,
                "seed": seed,
                "subtract_s": float(np.median(seconds)),
                "subtract_detect_measure_s": all_seconds[0],
                "peak_mb": peak,
            }
            row |= judge(pair, whole.subtractedExposure, whole.diaSources)
            rows, mask = [row], whole.subtractedExposure.mask  # all programs are judged on the same pixels
            if a.hotpants:
                scores, wall = hotpants(a.hotpants, pair, mask)
                rows.append({"case": f"hotpants_{case}", "size": a.size, "seed": seed, "subtract_s": wall, **scores})
            if a.sfft:
                scores, wall, gigabytes = sfft(a.sfft, pair, mask)
                row = {
                    "case": f"sfft_{case}",
                    "size": a.size,
                    "seed": seed,
                    "subtract_s": wall,
                    "peak_mb": 1e3 * gigabytes,
                }
                rows.append(row | scores)
            for r in rows:
                rounded = {k: round(x, 4) if isinstance(x, float) else x for k, x in r.items()}
                print(json.dumps(rounded) if a.json else "  ".join(f"{k} {x}" for k, x in rounded.items()), flush=True)


if __name__ == "__main__":
    main()
