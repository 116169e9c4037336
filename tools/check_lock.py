"""Say where requirements.lock and pyproject.toml differ: ``python tools/check_lock.py``; exits with 1 where they do.

Every dependency, and those of the extras ``dev``, ``docs`` and ``batch``, must be pinned, with hashes, to a version that its specifier allows,
and nothing else may be there for the project's own sake. Nothing is fetched.
"""

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["differences", "locked", "wanted"]

ROOT = Path(__file__).parents[1]
OWN = "alertprod (pyproject.toml)"


def wanted(root: Path = ROOT) -> dict[str, Requirement]:
    """Return what pyproject.toml asks for, by canonical name."""
    document = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    texts = [
        *project["dependencies"],
        *(t for extra in ("dev", "docs", "batch") for t in project["optional-dependencies"].get(extra, [])),
    ]
    here = document.get("tool", {}).get("uv", {}).get("sources", {})  # of this repository: nothing to pin
    return {canonicalize_name(r.name): r for r in map(Requirement, texts) if r.name not in here}


def locked(root: Path = ROOT) -> dict[str, tuple[str, bool, bool]]:
    """Return version, whether it has hashes, and whether the project itself asks for it, by canonical name."""
    text = (root / "requirements.lock").read_text(encoding="utf-8")
    out = {}
    for block in re.split(r"\n(?=[a-zA-Z0-9])", text.strip()):
        name, version = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s\\;]+)", block).groups()  # type: ignore[union-attr]
        out[canonicalize_name(name)] = (version, "--hash=sha256:" in block, OWN in block)
    return out


def differences(root: Path = ROOT) -> list[str]:
    """Return one sentence for every difference."""
    asked, pinned = wanted(root), locked(root)
    out = [f"{name} is not in requirements.lock" for name in sorted(asked.keys() - pinned.keys())]
    for name, (version, hashes, own) in pinned.items():
        if not hashes:
            out.append(f"{name} has no hashes in requirements.lock")
        if own and name not in asked:
            out.append(f"{name} is in requirements.lock, and pyproject.toml no longer asks for it")
        if name in asked and not asked[name].specifier.contains(version, prereleases=True):
            out.append(f"{name} is locked to {version}; pyproject.toml asks for {asked[name]}")
    return out


if __name__ == "__main__":
    problems = differences()
    print("\n".join(problems) or "requirements.lock agrees with pyproject.toml")
    sys.exit(bool(problems))
