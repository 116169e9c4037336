"""Hashes of what fixed inputs become: ``python -m benchmarks.fingerprints [--json FILE] [--compare FILE] [SECTION ...]``.

Every input is made from a fixed seed and goes through published names only, so that the same folder runs on an older
tree of the package. One line per item: its name and the first 16 digits of the sha256 of its bytes. ``--json`` writes
the hashes to a file; ``--compare`` reads such a file, names every item that differs, is new or is missing, and then
exits with 1. Sections can be run alone; without any, all run.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from benchmarks.fingerprints import calibration, images, tables
from benchmarks.fingerprints.hashing import Fingerprints, check_one_tree

SECTIONS: dict[str, Callable[[Fingerprints], Any]] = {
    "difference": images.difference, "characterize": images.characterization, "templates": images.templates, "forced": images.forced,
    "sources": images.sources, "association": tables.association, "alerts": tables.alerts, "pipeline": tables.pipeline, "joint": calibration.joint,
    "summary": calibration.summary, "pair": images.pair,
}  # fmt: skip


def compare(now: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """Return one line for every item that differs, is new, or is missing, of the sections that were run."""
    words = {name: "differs" for name in now.keys() & before.keys() if now[name] != before[name]}
    words |= dict.fromkeys(now.keys() - before.keys(), "is new")
    words |= dict.fromkeys(before.keys() - now.keys(), "is missing")
    return [f"{name} {words[name]}" for name in sorted(words)]


def run(names: list[str]) -> dict[str, str]:
    """Run sections and return the hashes by ``SECTION:item``."""
    hashes: dict[str, str] = {}
    for name in names:
        start = time.perf_counter()
        out = Fingerprints()
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            SECTIONS[name](out)
            check_one_tree()
        print(f"{name}: {len(out.hashes)} items, {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        hashes |= {f"{name}:{key}": value for key, value in out.hashes.items()}
    return hashes


def main() -> int:
    """Print the hashes; with ``--compare`` what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--json", type=Path, help="write the hashes to this file")
    parser.add_argument("--compare", type=Path, help="a file that --json wrote")
    options = parser.parse_args()
    unknown = sorted(set(options.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"no section {', '.join(unknown)}")
    names = options.sections or list(SECTIONS)
    hashes = run(names)
    if options.json:
        options.json.write_text(json.dumps(hashes, indent=0), encoding="utf-8")
    if options.compare is None:
        print("\n".join(f"{name} {value}" for name, value in hashes.items()))
        return 0
    before = json.loads(options.compare.read_text(encoding="utf-8"))
    before = {k: v for k, v in before.items() if k.split(":")[0] in names}
    lines = compare(hashes, before)
    print("\n".join(lines) if lines else f"{len(hashes)} items, all equal")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
