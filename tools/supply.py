"""What the images hold: a bill of materials (CycloneDX), and the licences of all packages.

``python -m tools.supply sbom|licences``. The bill is written to ``dist/sbom-TARGET.json``; licences that do not go with GPL-3.0-or-later
end with status 1. Nothing is fetched: both read the packages that are installed here, those of the locks of the images alone.
"""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

__all__ = ["TARGETS", "bill", "licence_of", "locked", "unfit"]

ROOT = Path(__file__).parents[1]
TARGETS = ("roles", "worker")
# of the Free Software Foundation's list: they may be part of a program under the GPL, version 3 or later
FIT = re.compile(
    r"\b(MIT|BSD|0BSD|ISC|Apache|PSF|Python Software Foundation|MPL|Mozilla Public|LGPL|Lesser General|GPL-?v?3|GPLv3|GPL-3|"
    r"General Public License v3|Unlicense|Zlib|HPND|CC0|Public Domain|Historical Permission)", re.IGNORECASE,
)  # fmt: skip
# what their metadata leave open, as their files say it
LICENCES: dict[str, str] = {}


def locked(target: str) -> dict[str, str]:
    """Return the versions of the lock of a target, by name."""
    text = (ROOT / "deploy" / f"{target}.lock").read_text(encoding="utf-8")
    return {
        canonicalize_name(n): v
        for n, v in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s\\;]+)", text, re.MULTILINE)
    }


def licence_of(name: str) -> str | None:
    """Return the licence that the metadata of a package name, None where it is not installed here."""
    if name in LICENCES:
        return LICENCES[name]
    try:
        data = distribution(name).metadata
    except PackageNotFoundError:
        return None
    classifiers = [c.rpartition(" :: ")[2] for c in data.get_all("Classifier", []) if c.startswith("License ::")]
    given = [data.get("License-Expression"), *classifiers, (data.get("License") or "").strip().split("\n")[0][:100]]
    return "; ".join(dict.fromkeys(g for g in given if g)) or "not said"


def unfit(target: str) -> dict[str, str]:
    """Return the packages of a target whose licence is not known to fit."""
    licences = {name: licence_of(name) for name in locked(target)}
    return {name: text for name, text in licences.items() if text is not None and not FIT.search(text)}


def bill(target: str) -> dict[str, Any]:
    """Return the bill of materials of a target, by the lock's own names, versions and hashes."""
    command = [str(Path(sys.executable).with_name("cyclonedx-py")), "requirements", str(ROOT / "deploy" / f"{target}.lock"),
               "--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "--of", "JSON"]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def main(what: str) -> int:
    """Run a command; returns the exit status."""
    if what == "sbom":
        (ROOT / "dist").mkdir(exist_ok=True)
        for target in TARGETS:
            path, document = ROOT / "dist" / f"sbom-{target}.json", bill(target)
            path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            named = {canonicalize_name(c["name"]): c["version"] for c in document["components"]}
            print(f"{path}: {len(named)} packages")
            if named != locked(target):
                print(f"{path} and deploy/{target}.lock differ", file=sys.stderr)
                return 1
        return 0
    wrong = {}
    for target in TARGETS:
        for name, version in sorted(locked(target).items()):
            print(f"{target}\t{name} {version}\t{licence_of(name) or 'not installed here'}")
        wrong |= unfit(target)
    for name, text in wrong.items():
        print(f"{name}: {text}: does it go with GPL-3.0-or-later?", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
