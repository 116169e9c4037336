"""docs/security.md: every requirement of OWASP ASVS 5.0 up to level 2 once, every test that it names is there."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

# how many requirements of levels 1 and 2 each section has; within a section they are numbered from 1
SECTIONS = {
    "1.1": 2, "1.2": 9, "1.3": 11, "1.4": 3, "1.5": 2, "2.1": 3, "2.2": 3, "2.3": 4, "2.4": 1, "3.2": 2, "3.3": 4, "3.4": 6, "3.5": 5, "3.7": 2,
    "4.1": 3, "4.2": 1, "4.3": 2, "4.4": 4, "5.1": 1, "5.2": 3, "5.3": 2, "5.4": 3, "6.1": 3, "6.2": 12, "6.3": 4, "6.4": 4, "6.5": 5, "6.6": 3,
    "6.8": 4, "7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 2, "7.6": 2, "8.1": 2, "8.2": 3, "8.3": 1, "8.4": 1, "9.1": 3, "9.2": 4, "10.1": 2,
    "10.2": 2, "10.3": 4, "10.4": 11, "10.5": 5, "10.6": 2, "10.7": 3, "11.1": 2, "11.2": 3, "11.3": 3, "11.4": 4, "11.5": 1, "11.6": 1, "12.1": 3,
    "12.2": 2, "12.3": 4, "13.1": 1, "13.2": 5, "13.3": 2, "13.4": 5, "14.1": 2, "14.2": 4, "14.3": 3, "15.1": 3, "15.2": 3, "15.3": 7, "16.1": 1,
    "16.2": 5, "16.3": 4, "16.4": 3, "16.5": 3, "17.1": 1, "17.2": 4, "17.3": 2,
}  # fmt: skip


def rows():
    """The rows of the table: what they are about, and what is said."""
    found = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if re.match(r"\| \d+\.\d+\.\d+", line)]
    assert all(len(row) == 3 for row in found)
    return [(row[0], row[2]) for row in found]


def expanded(text):
    """``1.2.1, 1.2.3-1.2.5`` as single numbers."""
    for part in text.split(", "):
        first, _, last = part.partition("-")
        section, _, number = first.rpartition(".")
        for k in range(int(number), int(last.rpartition(".")[2] or number) + 1):
            yield f"{section}.{k}"


def test_every_requirement_stands_once():
    wanted = {f"{section}.{k}": 1 for section, n in SECTIONS.items() for k in range(1, n + 1)}
    assert len(wanted) == 253
    assert Counter(number for ids, _ in rows() for number in expanded(ids)) == wanted


def test_every_test_that_is_named_is_there():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)\(", sources))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 40
    assert sorted(named - there) == []


def test_every_row_says_something():
    assert [ids for ids, said in rows() if len(said) < 4] == []


def test_every_setting_that_is_named_is_read():
    from service.settings import NOT_SETTINGS, Settings

    read = {f"ALERTPROD_{name.upper()}" for name in Settings.model_fields} | NOT_SETTINGS
    assert sorted(set(re.findall(r"ALERTPROD_[A-Z_]+", PAGE)) - read) == []
