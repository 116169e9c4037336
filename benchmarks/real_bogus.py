"""Real or bogus on real images: ``python -m benchmarks.real_bogus [--rounds 6] [--json]``.

The DECam frames of two seasons, each season subtracted from the other, with injected transients (the PSF of the frame, photon
noise of their own light) of S/N 6 to 40. What lies within 3 px of one is real; every other detection counts as bogus, also
real variables. One object: area under the ROC curve, bogus kept and completeness at thresholds; and for each frame the
scatter of difference / sigma on sky and on bright stars.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from calibration import ReferenceStars
from calibration.characterize import characterize
from diffim import ImageDifferenceTask, TemplateStore
from exposure import Exposure, load_instrument
from service.processing.build_template import template_from_frames
from tasks import make_task

DATA = Path(__file__).parents[2] / "shared" / "data" / "decam_two_seasons"
PAIRS = (("18", "04"), ("04", "18"))
EACH = 40
F64 = NDArray[np.float64]


def inject(e: Exposure, rng: np.random.Generator) -> tuple[F64, F64]:
    """Add transients to an image; returns their positions."""
    x, y = rng.uniform(25, e.width - 25, EACH), rng.uniform(25, e.height - 25, EACH)
    stamps = e.require_psf().image_at(x + e.origin[0], y + e.origin[1]).astype(np.float64)
    sky = float(np.nanmedian(e.variance))
    area = 1 / (stamps**2).sum((1, 2))
    flux = rng.uniform(6, 40, EACH) * np.sqrt(sky * area)
    half = stamps.shape[-1] // 2
    gain = max(float(e.metadata.get("gain", 1.0)), 1e-6)
    for stamp, f, ix, iy in zip(
        stamps, flux, np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int), strict=True
    ):
        here = (slice(max(iy - half, 0), iy + half + 1), slice(max(ix - half, 0), ix + half + 1))
        cut = stamp[max(half - iy, 0) :, max(half - ix, 0) :][: e.image[here].shape[0], : e.image[here].shape[1]]
        counts = f * cut
        e.image[here] += (counts + rng.normal(0, np.sqrt(np.maximum(counts, 0) / gain))).astype(np.float32)
        e.variance[here] += (np.maximum(counts, 0) / gain).astype(np.float32)
    return x + e.origin[0], y + e.origin[1]


def frame_quality(d: Exposure, matched: NDArray[np.float32], stars: pd.DataFrame) -> dict[str, float]:
    """Scatter of difference / sigma on sky, and within 4 px of bright stars: median star and worst (one that moved)."""
    z = d.image / np.sqrt(np.maximum(d.variance, 1e-30))
    clean = d.mask == 0
    faint = np.abs(matched) < 3 * np.sqrt(np.maximum(d.variance, 0))
    yy, xx = np.mgrid[: z.shape[0], : z.shape[1]]
    each = []
    for sx, sy in zip(stars.x - d.origin[0], stars.y - d.origin[1], strict=True):
        here = clean & ((xx - sx) ** 2 + (yy - sy) ** 2 < 16)
        if here.sum() > 30:
            each.append(float(np.sqrt(np.mean(z[here] ** 2))))
    return {"sky": float(z[clean & faint].std()), "stars": float(np.median(each)), "worst_star": max(each)}


def judge(real: F64, bogus: F64) -> dict[str, Any]:
    """Return the ROC in numbers."""
    auc = float((real[:, None] > bogus[None, :]).mean() + 0.5 * (real[:, None] == bogus[None, :]).mean())
    rows = [
        {
            "threshold": t,
            "completeness": round(float((real >= t).mean()), 3),
            "bogus": round(float((bogus >= t).mean()), 3),
        }
        for t in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    return {"real": int(real.size), "bogus": int(bogus.size), "auc": round(auc, 4), "at": rows}


def run(rounds: int) -> dict[str, Any]:
    """Return the numbers of all frames and rounds."""
    rules = load_instrument("decam")
    real: list[F64] = []
    bogus: list[F64] = []
    frames: dict[str, Any] = {}
    for template, science in PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            chosen = template_from_frames(Path(folder), "t", sorted(DATA.glob(f"DEC-OBS{template}*.fits")), rules)
            store = TemplateStore(Path(folder))
            for path in sorted(DATA.glob(f"DEC-OBS{science}*.fits")):
                e = Exposure.read_fits(path, rules)
                characterize(e, rules, ReferenceStars(chosen.stars()))
                stars = e.sources[(e.sources.snr > 50) & ~e.sources.flagged & e.sources.isolated]
                bare = make_task(ImageDifferenceTask).run(e.copy(), e.sources, store.fetch(chosen, e))
                frames[path.name] = frame_quality(bare.subtractedExposure, bare.matchedExposure.image, stars)
                for k in range(rounds):
                    changed = e.copy()
                    x, y = inject(changed, np.random.default_rng([k, *map(ord, path.name)]))
                    t = make_task(ImageDifferenceTask).run(changed, e.sources, store.fetch(chosen, e)).diaSources
                    distance, _ = cKDTree(np.column_stack([x, y])).query(t[["x", "y"]].to_numpy())
                    p = t.reliability.to_numpy(np.float64)
                    real.append(p[distance < 3])
                    bogus.append(p[distance > 8])
    return judge(np.concatenate(real), np.concatenate(bogus)) | {"frames": frames}


def main() -> None:
    """Print the object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    result = run(a.rounds)
    print(json.dumps(result) if a.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
