"""The version has one source, the lock agrees with what is asked for, decisions and fragments are where they are said to be."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tools import check_lock

ROOT = Path(__file__).parents[2]


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_every_version_is_that_of_pyproject():
    """The command, the package and the HTTP API read the installed one; the chart is written by hand."""
    want = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    said = subprocess.run(
        [sys.executable, "-P", "-m", "service.commands.main", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    chart, values = (yaml.safe_load(text(f"helm/alertprod/{name}.yaml")) for name in ("Chart", "values"))
    got = {
        "installed": version("alertprod"),
        "command": said,
        "chart": chart["version"],
        "app": chart["appVersion"],
        "image": values["image"]["tag"],
    }
    assert got == dict.fromkeys(got, want), "after a change of the version: make setup, and helm/alertprod"


def test_no_module_writes_the_version_again():
    want = re.escape(version("alertprod"))
    written = re.compile(rf"alertprod[ =/-]*{want}|__version__ *= *[\"']")
    packages = tomllib.loads(text("pyproject.toml"))["tool"]["mypy"]["packages"]
    paths = (path for room in packages for path in (ROOT / room).rglob("*.py"))
    assert [str(p) for p in paths if written.search(p.read_text(encoding="utf-8"))] == []


def test_the_lock_agrees_with_what_is_asked_for():
    assert check_lock.differences() == []


def test_the_lock_check_finds_what_differs(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["one>=2", "two", "three"]\noptional-dependencies = {dev = ["Four[x]"]}\n'
    )
    via = "\n    # via alertprod (pyproject.toml)"
    (tmp_path / "requirements.lock").write_text(
        f"one==1.9 \\\n    --hash=sha256:0{via}\ntwo==1{via}\nfour[x]==3 \\\n    --hash=sha256:0{via}\n"
        f"five==1 \\\n    --hash=sha256:0{via}\n"
    )
    assert check_lock.differences(tmp_path) == [
        "three is not in requirements.lock",
        "one is locked to 1.9; pyproject.toml asks for one>=2",
        "two has no hashes in requirements.lock",
        "five is in requirements.lock, and pyproject.toml no longer asks for it",
    ]


def test_the_baseline_of_benchmarks_is_a_commit():
    assert re.fullmatch(r"[0-9a-f]{40}\n", text("benchmarks/BASELINE"))


def test_fragments_have_a_kind_that_is_written():
    kinds = {kind["directory"] for kind in tomllib.loads(text("pyproject.toml"))["tool"]["towncrier"]["type"]}
    names = [p.name for p in (ROOT / "changelog.d").glob("*.md") if p.name != "README.md"]
    assert [n for n in names if n.split(".")[-2] not in kinds] == []


@pytest.mark.parametrize("path", sorted(p.name for p in (ROOT / "docs" / "decisions").glob("[0-9]*.md")))
def test_every_decision_is_listed_and_has_its_parts(path):
    parts = [line for line in text(f"docs/decisions/{path}").splitlines() if line.startswith("#")]
    assert parts[0].startswith(f"# {int(path[:4])}. ")
    assert parts[1:] == ["## Context", "## Decision", "## Consequences"]
    assert f"decisions/{path}" in text("docs/architecture.md")


def test_hooks_and_workflow_run_what_is_there():
    hooks = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    programs = [hook["entry"].split() for hook in hooks]
    assert all(Path(sys.executable).with_name(Path(p[0]).name).exists() for p in programs)
    steps = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]["test"]["steps"]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", s["uses"]) for s in steps if "uses" in s)
    targets = set(re.findall(r"^([\w-]+):", text("Makefile"), re.MULTILINE))
    made = {s["run"].split()[1] for s in steps if s.get("run", "").startswith("make ")}
    assert made <= targets
