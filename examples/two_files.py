"""What changed between two FITS images: a table, the difference and its pictures.

    python -m examples.two_files NEW OLD OUT

Writes ``difference.fits``, ``sources.csv`` and pictures into OUT, and prints the sources that can be trusted.
"""

import sys
from pathlib import Path

import alertprod

SHOWN = ("ra", "dec", "x", "y", "flux", "fluxErr", "snr", "mag", "reliability")


def main(new: Path, old: Path, out: Path) -> int:
    """Subtract, write, print; returns how many sources can be trusted."""
    out.mkdir(parents=True, exist_ok=True)
    difference = alertprod.subtract(new, old)
    difference.write(out / "difference.fits", sources=out / "sources.csv")
    difference.plot(out)
    good = difference.sources[difference.sources.reliability > 0.5]
    print(difference)
    print(good[[name for name in SHOWN if name in good]].to_string(index=False))
    return len(good)


if __name__ == "__main__":
    print(f"{main(*(Path(p) for p in sys.argv[1:4]))} sources with a reliability above 0.5")
