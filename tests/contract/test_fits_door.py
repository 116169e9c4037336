"""FITS that others wrote comes in through one function; headers become a WCS in one module."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("tasks", "exposure", "diffim", "forced", "association", "alerts", "apdb", "calibration", "middleware", "service",
         "simulation", "migrations", "alertprod")  # fmt: skip
# what opens FITS by itself, and where it stands: files that this project has just written, and the door
DOORS = {
    r"\bfits\.open\(": {"exposure/io/opening.py", "exposure/io/writing.py", "exposure/io/native.py"},
    r"\b(?:fits\.)?get(?:data|header|val)\(": set(),
    r"\bCCDData\.read\(": set(),
    r"\bfitsio\b": set(),
    r"[^.\w]WCS\(\w*header": {
        "exposure/wcs/sky_wcs.py",
        "exposure/wcs/cards.py",
        "exposure/wcs/frames.py",
        "exposure/wcs/terms.py",
    },
    r"\bTable\.read\(\w*path(?:, hdu=\d)?\)": set(),
}


def sources():
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("pattern", DOORS)
def test_no_room_opens_fits_beside_the_door(pattern):
    found = {name for name, text in sources() if re.search(pattern, text)}
    assert found <= DOORS[pattern]


def test_the_door_itself_is_found():
    assert any(re.search(r"\bfits\.open\(", text) for name, text in sources() if name == "exposure/io/opening.py")
