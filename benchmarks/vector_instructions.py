"""LLVM's vector instructions against OpenCV and numba: ``python -m benchmarks.vector_instructions [--repeat 100] [--json]``.

Two functions of `diffim.pixels` give vector instructions themselves: the direct sums over narrow kernels and the
interpolation. Each is run in turn with its rivals on the same numbers; given are the medians, the quartiles of the paired
ratios, and whether the results are equal to the bit. What wins by less than `WORTH` over the best rival is not worth its code.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from diffim.pixels.direct_convolution import PADDING, NarrowKernel, convolve_directly, convolve_plainly
from diffim.pixels.interpolation import LANES, TABLE, interpolate, interpolate_plainly, weigh, weigh_plainly
from exposure.interpolation import STEPS
from tasks.arrays import F32
from tasks.compiled import compiled

WORTH = 1.3
TILE, MARGIN = 192, 20  # px
POINTS, CELL, WIDTH = 1 << 15, 32, 512


def paired(rivals: dict[str, Callable[[], Any]], repeat: int) -> dict[str, list[float]]:
    """Return the seconds of each of several functions, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for run in range(repeat + 1):
        for name, function in rivals.items():
            start = time.perf_counter()
            function()
            if run:  # the first run compiles
                seconds[name].append(time.perf_counter() - start)
    return seconds


def row(case: str, own: str, seconds: dict[str, list[float]], equal: dict[str, bool]) -> dict[str, Any]:
    """Return medians in microseconds and how much longer the best rival takes, with the quartiles of the pairs."""
    medians = {name: float(np.median(s)) for name, s in seconds.items()}
    best = min((name for name in medians if name != own), key=medians.__getitem__)
    ratios = np.array(seconds[best]) / np.array(seconds[own])
    low, middle, high = (round(float(q), 2) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
    return {
        "case": case,
        "microseconds": {name: round(1e6 * m, 1) for name, m in medians.items()},
        "best_rival": best,
        "ratio": middle,
        "quartiles": [low, high],
        "worth": middle >= WORTH,
        "equal_bytes": equal,
    }


def narrow_sums(sigma: float, repeat: int) -> dict[str, Any]:
    """Compare the sums over a Gaussian kernel on one tile."""
    grid = np.arange(31) - 15
    stamp = np.exp(-0.5 * (grid[:, None] ** 2 + (grid[None, :] - 0.3) ** 2) / sigma**2).astype(np.float32)
    narrow = NarrowKernel.of(stamp)
    if narrow is None:
        raise ValueError(f"a kernel of sigma {sigma} is not narrow")
    window = np.random.default_rng(1).gamma(2, 3, (256, 256)).astype(np.float32)
    half, weights = narrow.side // 2, np.ascontiguousarray(narrow.weights[PADDING : PADDING + narrow.side])
    low, wide = MARGIN - half, TILE + 2 * half
    out = {name: np.zeros_like(window) for name in ("llvm", "numba", "opencv")}

    def filter_2d() -> F32:
        part, result = window[low : low + wide, low : low + wide], out["opencv"][:wide, :wide]
        return np.asarray(cv2.filter2D(part, cv2.CV_32F, weights, result), np.float32)[half : half + TILE, half:][
            :, :TILE
        ]

    rivals: dict[str, Callable[[], Any]] = {
        "llvm": lambda: convolve_directly(window, low, TILE, TILE, narrow.weights, out["llvm"]),
        "numba": lambda: convolve_plainly(window, low, TILE, TILE, narrow.weights, out["numba"]),
        "opencv": filter_2d,
    }
    seconds, own = paired(rivals, repeat), out["llvm"][:TILE, :TILE]
    equal = {
        "numba": np.array_equal(own, out["numba"][:TILE, :TILE]),
        "opencv": np.array_equal(own, filter_2d()),
    }
    return row(f"narrow_sums_{narrow.side}", "llvm", seconds, equal)


@compiled
def _vectors(pairs: Any, starts: Any, steps: Any, fraction: Any, table: Any, out: Any) -> None:
    wx, wy = np.empty(2 * CELL * LANES, np.float32), np.empty(2 * CELL * LANES, np.float32)
    for n in range(0, starts.shape[0], CELL):
        for k in range(CELL):
            weigh(table, steps[n + k, 0], fraction[n + k], wx, k)
            weigh(table, steps[n + k, 1], fraction[n + k], wy, k)
        for k in range(CELL):
            out[n + k, 0], out[n + k, 1] = interpolate(pairs, starts[n + k], WIDTH, wx, wy, k)


@compiled
def _plain(pairs: Any, starts: Any, steps: Any, fraction: Any, table: Any, out: Any) -> None:
    wx, wy = np.empty(2 * CELL * LANES, np.float32), np.empty(2 * CELL * LANES, np.float32)
    for n in range(0, starts.shape[0], CELL):
        for k in range(CELL):
            weigh_plainly(table, steps[n + k, 0], fraction[n + k], wx, k)
            weigh_plainly(table, steps[n + k, 1], fraction[n + k], wy, k)
        for k in range(CELL):
            out[n + k, 0], out[n + k, 1] = interpolate_plainly(pairs, starts[n + k], WIDTH, wx, wy, k)


def interpolation(repeat: int) -> dict[str, Any]:
    """Compare the interpolation of an image and its variance; OpenCV's Lanczos has another kernel and no variance."""
    rng = np.random.default_rng(2)
    pairs = rng.gamma(2, 3, (WIDTH, WIDTH, 2)).astype(np.float32)
    columns, rows = np.arange(POINTS) % 256 + 10, np.arange(POINTS) // 256 + 20
    steps, fraction = rng.integers(0, STEPS, (POINTS, 2)), rng.random(POINTS, np.float32)
    starts, flat, table = rows * WIDTH + columns, pairs.ravel(), TABLE.ravel()
    out = {name: np.empty((POINTS, 2), np.float32) for name in ("llvm", "numba")}
    x, y = (a.astype(np.float32).reshape(-1, 256) for a in (columns + 2.5, rows + 2.5))
    planes = [np.ascontiguousarray(pairs[..., k]) for k in range(2)]
    rivals: dict[str, Callable[[], Any]] = {
        "llvm": lambda: _vectors(flat, starts, steps, fraction, table, out["llvm"]),
        "numba": lambda: _plain(flat, starts, steps, fraction, table, out["numba"]),
        "opencv_other_kernel": lambda: [cv2.remap(p, x, y, cv2.INTER_LANCZOS4) for p in planes],
    }
    seconds = paired(rivals, repeat)
    return row(f"interpolation_{POINTS}_points", "llvm", seconds, {"numba": np.array_equal(out["llvm"], out["numba"])})


def main() -> None:
    """Print the table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = [narrow_sums(sigma, arguments.repeat) for sigma in (0.35, 0.55, 0.8, 1.1, 1.4, 1.7, 2.0)]
    for entry in [*rows, interpolation(arguments.repeat)]:
        print(json.dumps(entry) if arguments.json else "  ".join(f"{k} {v}" for k, v in entry.items()), flush=True)


if __name__ == "__main__":
    main()
