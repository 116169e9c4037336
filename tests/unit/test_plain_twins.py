"""The plain twins of functions with vector instructions: they are the oracles of these, and take over from them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffim.pixels import llvm_vectors
from diffim.pixels.direct_convolution import BLOCK_SHAPE, NarrowKernel, convolve_directly, convolve_plainly
from diffim.pixels.interpolation import LANES, TABLE, interpolate, interpolate_plainly, weigh, weigh_plainly
from exposure.interpolation import STEPS
from tasks.compiled import compiled

ROOT = Path(__file__).parents[2]
WIDTH = 40  # px of the image that is interpolated


@compiled
def both(pairs, columns, rows, steps, fractions, table, vectors, plain):
    """Interpolate at points of an image, with vector instructions and without."""
    wx, wy = np.empty(2 * LANES, np.float32), np.empty(2 * LANES, np.float32)
    px, py = np.empty(2 * LANES, np.float32), np.empty(2 * LANES, np.float32)
    for n in range(columns.shape[0]):
        weigh(table, steps[n, 0], fractions[n], wx, 0)
        weigh(table, steps[n, 1], fractions[n], wy, 0)
        weigh_plainly(table, steps[n, 0], fractions[n], px, 0)
        weigh_plainly(table, steps[n, 1], fractions[n], py, 0)
        start = rows[n] * WIDTH + columns[n]
        vectors[n, 0], vectors[n, 1] = interpolate(pairs, start, WIDTH, wx, wy, 0)
        plain[n, 0], plain[n, 1] = interpolate_plainly(pairs, start, WIDTH, px, py, 0)


def test_interpolated_sums_are_those_of_the_plain_loops_and_of_numpy():
    rng = np.random.default_rng(4)
    pairs = rng.gamma(2, 3, (30, WIDTH, 2)).astype(np.float32)
    n = 500
    columns, rows = rng.integers(0, WIDTH - LANES, n), rng.integers(0, 30 - 6, n)
    steps, fractions = rng.integers(0, STEPS, (n, 2)), rng.random(n, np.float32)
    vectors, plain = np.empty((n, 2), np.float32), np.empty((n, 2), np.float32)
    both(pairs.ravel(), columns, rows, steps, fractions, TABLE.ravel(), vectors, plain)
    np.testing.assert_allclose(vectors, plain, rtol=3e-7)
    for k in range(n):
        wx, wy = (TABLE[s] + fractions[k] * (TABLE[s + 1] - TABLE[s]).astype(np.float64) for s in steps[k])
        part = pairs[rows[k] : rows[k] + 6, columns[k] : columns[k] + LANES].astype(np.float64)
        assert vectors[k, 0] == pytest.approx(wy[:6] @ part[..., 0] @ wx, rel=3e-6, abs=3e-6)  # terms of either sign
        assert vectors[k, 1] == pytest.approx(wy[:6] ** 2 @ part[..., 1] @ wx**2, rel=3e-6)


@pytest.mark.parametrize("shape", [BLOCK_SHAPE, (61, 130)])
@pytest.mark.parametrize("sigma", [0.1, 0.8, 1.7])
def test_direct_sums_are_those_of_the_plain_loop(shape, sigma):
    g = np.arange(31) - 15
    stamp = np.exp(-0.5 * (g[:, None] ** 2 + (g[None, :] - 0.3) ** 2) / sigma**2).astype(np.float32)
    narrow = NarrowKernel.of(stamp)
    window = np.random.default_rng(5).gamma(2, 3, (100, 160)).astype(np.float32)
    out, plain = np.zeros_like(window), np.zeros_like(window)
    convolve_directly(window, 9 - narrow.side // 2, *shape, narrow.weights, out)
    convolve_plainly(window, 9 - narrow.side // 2, *shape, narrow.weights, plain)
    np.testing.assert_allclose(out, plain, rtol=3e-7)


def test_the_version_of_llvmlite_is_the_locked_one():
    locked = [line.split()[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "llvmlite==" in line]
    assert locked[0] == f"llvmlite=={llvm_vectors.LLVMLITE}"
    assert llvm_vectors.AVAILABLE


def test_with_another_llvmlite_the_twins_take_over(tmp_path):
    script = """
import importlib.metadata, json
own = importlib.metadata.version
importlib.metadata.version = lambda name: "0.1" if name == "llvmlite" else own(name)
from diffim.pixels import direct_convolution as d, interpolation as l, llvm_vectors as v
import numpy as np
k = d.NarrowKernel.of(np.full((3, 3), 1 / 9, np.float32))
out = np.zeros((8, 200), np.float32)
k.convolve(np.ones((20, 200), np.float32), 4, *d.BLOCK_SHAPE, out)
print(json.dumps([v.AVAILABLE, l.weigh is l.weigh_plainly, l.interpolate is l.interpolate_plainly,
                  len(d.convolve_plainly.signatures), len(d.convolve_directly.signatures), float(out[0, 0])]))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    reply = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    *switched, value = json.loads(reply.stdout)
    assert switched == [False, True, True, 1, 0]
    assert value == pytest.approx(1, rel=1e-6)
