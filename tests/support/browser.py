"""The system's browser for tests of pages: headless, without a profile, and what is asked of every page."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

__all__ = ["WIDTHS", "axe_violations", "browser", "checked_page", "overflow", "until"]

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parents[2] / "service" / "pages" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (390, 1280, 2560)  # phone, desk, wall
# Each window of Chromium loads pages of its own for its address bar, four times the work of one of ours; the others are those that
# Playwright switches off: the last list counts
_WITHOUT = (
    "WebUIOmniboxPopup", "WebUIOmniboxFullPopup", "WebUIOmniboxAimPopup", "PreloadTopChromeWebUI", "PaintHolding", "MediaRouter",
    "AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades", "HttpsFirstBalancedModeAutoEnable",
    "LensOverlay", "ThirdPartyStoragePartitioning", "AvoidCorsURLLoaderRestartOnRedirect", "OptimizationHints",
    "NetworkTimeServiceQuerying", "AimEnabled", "PreconnectToSearch",
)  # fmt: skip
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-features=" + ",".join(_WITHOUT),
]  # fmt: skip


@contextmanager
def browser() -> Iterator:
    """Yield a browser; the test is skipped where the machine has none, or the tools of the pages were not fetched."""
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    if not AXE.exists():
        pytest.skip("no axe-core: tools/fetch_assets.sh fetches it with npm")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as drive:
        program = drive.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield program
        program.close()


@contextmanager
def checked_page(program, url: str, **context) -> Iterator:
    """Yield a page of a fresh context; nothing may have left the host, no script failed, when it is closed."""
    host = urlsplit(url).netloc
    left, wrong = [], []

    def watch(route):
        if urlsplit(route.request.url).netloc in ("", host):
            route.continue_()
        else:
            left.append(route.request.url)
            route.abort()

    with program.new_context(base_url=url, **context) as place:
        page = place.new_page()
        page.route("**/*", watch)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        yield page
        page.unroute_all(behavior="ignoreErrors")
    assert left == []
    assert wrong == []


def axe_violations(page) -> list[str]:
    """Return what axe-core finds against WCAG 2.2 A and AA: rule and the first element."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    rules = json.dumps(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"])
    found = page.evaluate(f"async () => (await axe.run(document, {{runOnly: {rules}}})).violations")
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary'][:300]}" for v in found]


def until(page, expression: str, timeout_s: float = 20.0, every_ms: float = 50.0) -> None:
    """Wait until an expression is true in a page: asked from outside, as the policy of pages lets nothing be evaluated inside.

    Raises
    ------
    AssertionError
        It did not become true in time.
    """
    deadline = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {expression}"
        page.wait_for_timeout(every_ms)


def overflow(page) -> int:
    """Return by how many px the page is wider than its window, once what is drawn anew had time for it."""
    with suppress(AssertionError):
        until(page, "document.documentElement.scrollWidth <= innerWidth", 3.0)
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")
