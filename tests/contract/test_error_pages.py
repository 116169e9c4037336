"""Every error code has a page that says what to do, and every page a code."""

import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest

from service.errors import OTHER_CODES, help_path
from service.workers.outcomes import NOT_ITS_FAULT, RESOURCE
from tasks.errors import AlertProdError, NoWork, TransientError
from tools.remedies import KEPT, written

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "errors"
ROOMS = (
    "tasks",
    "exposure",
    "diffim",
    "forced",
    "association",
    "alerts",
    "apdb",
    "calibration",
    "middleware",
    "service",
    "alertprod",
    "alertprod_client",
)


def classes():
    """All error classes of the project; every module is loaded, so that none is missed."""
    for room in ROOMS:
        package = importlib.import_module(room)
        for module in pkgutil.walk_packages(package.__path__, f"{room}."):
            importlib.import_module(module.name)
    found, new = set(), [AlertProdError]
    while new:
        found |= set(new)
        new = [s for c in new for s in c.__subclasses__() if s not in found]
    return [c for c in found if c.__module__.partition(".")[0] in ROOMS]


@pytest.fixture(scope="module")
def codes():
    return {c.code for c in classes()} | set(OTHER_CODES)


def test_every_code_has_a_page_and_every_page_a_code(codes):
    pages = {p.stem for p in PAGES.glob("*.md")} - {"README"}
    assert sorted(codes - pages) == []
    assert sorted(pages - codes) == []
    assert all((ROOT / help_path(code)).is_file() for code in codes)


def test_every_page_says_what_it_means_how_it_looks_and_what_to_do(codes):
    for code in codes:
        text = (PAGES / f"{code}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {code}\n"), code
        assert re.search(r"```\n[^`]*\b" + code + r"\b|```\n[^`]*Error|```\n[^`]*\.errors\.", text), code
        assert len(text.split()) > 25, code


BY_ITSELF = re.compile(
    r"retried|tried again|looked at again|the caller decides|left out|queued again|nothing is lost|ends with status|no failure", re.IGNORECASE
)  # fmt: skip


def test_every_page_says_what_happens_by_itself_and_what_to_do(codes):
    texts = {code: (PAGES / f"{code}.md").read_text(encoding="utf-8") for code in sorted(codes)}
    assert [code for code, text in texts.items() if not BY_ITSELF.search(text)] == []
    assert [code for code, text in texts.items() if "What to do:\n\n- " not in text] == []


def test_pages_agree_with_what_a_worker_does():
    alone = {p.stem for p in PAGES.glob("*.md") if "**alone** in its worker" in p.read_text(encoding="utf-8")}
    assert alone == set(RESOURCE)
    for code in NOT_ITS_FAULT:
        assert re.search(r"none of\s+`ALERTPROD_ATTEMPTS`", (PAGES / f"{code}.md").read_text(encoding="utf-8")), code
    for kind in (k for k in classes() if issubclass(k, NoWork)):
        assert "the visit ends as `no_work`" in (PAGES / f"{kind.code}.md").read_text(encoding="utf-8"), kind
    for kind in (k for k in classes() if issubclass(k, TransientError)):
        assert "Not retried: the same input fails again" not in (PAGES / f"{kind.code}.md").read_text(
            encoding="utf-8"
        ), kind


def test_the_index_names_every_page_once(codes):
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\((\w+)\.md\)", index)
    assert sorted(named) == sorted(codes)


def test_links_of_the_pages_lead_somewhere():
    for page in PAGES.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).resolve().exists(), (page.name, target)


def test_the_pages_of_the_service_say_what_the_documentation_says_to_do(codes):
    assert KEPT.read_text(encoding="utf-8") == written(), "python tools/remedies.py"
    kept = json.loads(written())
    assert set(kept) == codes
    assert all(len(text) > 10 for text in kept.values())
    assert kept["wcs_missing"].startswith("Solve the field and write the WCS into the header (CTYPE1, CRVAL1")
