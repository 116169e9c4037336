"""The same numbers on every processor, and from templates that differ in the last digit.

A child process goes the whole way with other kernels of linear algebra (of numpy and of scipy), other vector instructions
of numpy and OpenCV, and code that numba makes for an older processor; the variables are set for the child alone.
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from tests.support.whole_way import SCENES, architectures, processor, run_scene

ROOT = Path(__file__).parents[3]
WIDE = "avx512f" in [name for name, has in llvm.get_host_cpu_features().items() if has]


def other_processor(own: list[str]) -> dict[str, str]:
    """Return the environment of a process whose arithmetic is that of a processor of another kind."""
    used = {name.split()[1] for name in own}
    blas = next(
        name for name in ("Haswell", "Sandybridge", "Nehalem") if name not in used and (WIDE or name != "Haswell")
    )
    newest = ["X86_V4", "AVX512_ICL", "AVX512_SPR"] if WIDE else ["X86_V3"]
    found = processor()["numpy"]
    return {
        "OPENBLAS_CORETYPE": blas,
        "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX",
        "NPY_DISABLE_CPU_FEATURES": " ".join(name for name in newest if name in found),
        "NUMBA_CPU_NAME": "haswell" if WIDE else "nehalem",
        "NUMBA_CPU_FEATURES": "",
    }


def run_child(arguments: list[str]) -> None:
    env = os.environ | other_processor(architectures())
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def here():
    return {name: run_scene(scene) for name, scene in SCENES.items()}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    if not architectures():
        pytest.skip("the linear algebra of this machine is not OpenBLAS")
    target = tmp_path_factory.mktemp("child") / "numbers.pickle"
    run_child(["-m", "tests.support.whole_way", str(target)])
    return pickle.loads(target.read_bytes())


def largest_pull(one: pd.DataFrame, other: pd.DataFrame, flux: str) -> float:
    """Return by how many of its errors a flux differs at most; where one is missing the other must be."""
    a, b, error = one[flux].to_numpy(), other[flux].to_numpy(), one[f"{flux}Err"].to_numpy()
    assert np.array_equal(np.isnan(a), np.isnan(b))
    return float(np.nanmax(np.abs(a - b) / error))


def assert_same(one, other, sigma: float) -> None:
    """Assert that two runs have one list of sources, with fluxes that differ by at most so many sigma."""
    assert len(one.sources) == len(other.sources)
    # nothing of what decides has a place twice: 12 transients and a few residuals of stars, px apart
    distance, row = cKDTree(other.sources[["x", "y"]]).query(one.sources[["x", "y"]])
    assert len(set(row)) == len(row)
    assert distance.max() < 0.01
    paired = other.sources.iloc[row]
    assert (one.sources.isNegative.to_numpy() == paired.isNegative.to_numpy()).all()
    for flux in ("psfInstFlux", "scienceInstFlux", "templateInstFlux"):
        assert largest_pull(one.sources, paired, flux) < sigma
    assert largest_pull(one.forced, other.forced, "base_PsfFlux_instFlux") < sigma


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SCENES)
def test_another_processor_finds_the_same_sources_and_fluxes(here, there, name, capsys):
    child, numbers = there
    with capsys.disabled():
        print(f"\n{name}: here {json.dumps(processor())}\n{' ' * len(name)}  child {json.dumps(child)}")
    assert len(child["BLAS"]) == len(architectures()) == 2
    assert not set(child["BLAS"]) & set(architectures())
    assert child["numba"] != processor()["numba"]
    assert len(here[name].sources) >= 8  # of 12 transients
    assert_same(here[name], numbers[name], 0.02)
    assert numbers[name].report["spatialKernelSum"] == pytest.approx(here[name].report["spatialKernelSum"], rel=1e-6)


@pytest.mark.parametrize("name", SCENES)
def test_the_last_digit_of_the_template_decides_nothing(here, name):
    assert_same(here[name], run_scene(SCENES[name], template_noise=1e-7), 0.1)


@pytest.mark.timeout(300)
def test_the_parts_of_the_kernel_fit_hold_on_another_processor():
    run_child(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/unit/diffim/test_kernel_checklist.py"])
