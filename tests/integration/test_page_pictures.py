"""Pages look as they did: fixed data against kept pictures (``ALERTPROD_NEW_PICTURES=1`` makes them anew).

What is looked at most in three widths and two themes, the others once in each width and in both themes.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import shift

from apdb.schema.partitions import ensure_months
from service.api.app import create_app
from service.pages import streams
from service.pages.assets import available
from service.pages.objects.compass import compass_svg
from service.settings import load_settings
from tasks.local_server import free_port
from tests.support.browser import WIDTHS, browser, until
from tests.support.databases import copied_database
from tests.support.page_pictures import different, picture_of, read_picture, write_picture
from tests.support.page_rows import OBJECT, PLACE, READERS, Followed, cutout, store_rows
from tests.support.serving import running

KEPT = Path(__file__).parents[1] / "pictures"
MOST = 0.005  # of the pixels of a page
HEIGHTS = {390: 844, 1280: 900, 2560: 1440}
PAGES = {
    "night": ("/", None), "visit": ("/visit/2001/0", None), "object": (f"/object/{OBJECT}", "#curve[data-painted]"),
    "streams": ("/streams", "#readers h2 .count"), "trends": ("/trends?metric=seeingArcsec&against=airmass", None),
    "sky": ("/sky", "#sky[data-drawn]"),
}  # fmt: skip
ALL = tuple((width, theme) for width in WIDTHS for theme in ("light", "dark"))
LESS = ((390, "light"), (1280, "dark"), (2560, "light"))
OTHERS = {
    "why": (f"/why?visit=2007&detector=0&ra={PLACE[0]}&dec={PLACE[1]}", "ol.walk"), "solar": ("/solar", None),
    "scan": ("/scan?by=newest", None), "database": ("/database", None), "search": ("/search?q=150.05+2.2&radius=600", None),
    "keys": ("/keys", None), "readers": ("/streams/readers", None),
}  # fmt: skip
# how large tables are, and which partitions lack today, is another at any time
LEVELLED = "document.querySelectorAll('#live td, #live tbody th').forEach((cell) => { cell.textContent = 'as it is'; })"
# what says the time of now
STILL = "footer, #triplet { visibility: hidden } *, *::before { caret-color: transparent !important; transition: none !important }"


@pytest.fixture(scope="module")
def chromium():
    if not (available("inter.woff2") and available("uplot.min.js")):
        pytest.skip("no letters of our own: tools/fetch_assets.sh fetches them with npm")
    with browser() as program:
        yield program


@pytest.fixture(scope="module")
def address(chromium, template_database, tmp_path_factory):
    """The API on a database that holds the same rows whenever and wherever."""
    folder = tmp_path_factory.mktemp("pages")
    with copied_database(template_database) as uri:
        settings = load_settings(
            database_uri=uri, upload_dir=folder / "uploads", template_dir=folder / "templates",
            archive_dir=str(folder / "alerts"), port=free_port(),
        )  # fmt: skip
        app = create_app(settings)
        app.state.viewer = Followed()
        with app.state.resources.database.session() as connection:
            ensure_months(connection, 61001.5)
            store_rows(connection)
        with running(app, settings) as served:
            yield served


@pytest.fixture(autouse=True)
def known_readers(monkeypatch):
    """The broker is not asked."""
    monkeypatch.setattr(streams, "_ask_broker", lambda shared: (READERS, ""))
    monkeypatch.setattr(streams, "_LAGS", streams._Lags())


@pytest.fixture(scope="module")
def still(chromium, address):
    """A page on which nothing tells the time."""
    with chromium.new_context(base_url=address, bypass_csp=True, reduced_motion="reduce") as place:
        place.add_init_script(
            "addEventListener('DOMContentLoaded', () => { const s = document.createElement('style'); "
            f"s.textContent = {STILL!r}; document.head.append(s); }})"
        )
        page = place.new_page()
        page.route("**/stamps/*", _give_cutout)
        yield page


@pytest.mark.parametrize("name", [*PAGES, *OTHERS])
def test_a_page_looks_as_it_did_in_every_width_and_theme(still, name, tmp_path):
    path, ready = {**PAGES, **OTHERS}[name]
    shown, wrong = 0, []
    for width, theme in ALL if name in PAGES else LESS:
        still.emulate_media(color_scheme=theme)
        if shown != width:
            still.set_viewport_size({"width": width, "height": HEIGHTS[width]})
            still.goto(path, timeout=60_000)
            _wait(still, ready)
            if name == "database":
                still.evaluate(LEVELLED)
            shown = width
        seen, kept = picture_of(still.screenshot()), KEPT / f"{name}-{width}-{theme}.webp"
        if os.environ.get("ALERTPROD_NEW_PICTURES"):
            write_picture(seen, kept)
        share = float(different(seen, read_picture(kept)).mean())
        if share > MOST:
            write_picture(seen, tmp_path / kept.name)
            wrong.append(f"{kept.name}: {100 * share:.2f} % differ from {tmp_path / kept.name}")
    assert wrong == []


def _give_cutout(route):
    which = route.request.url.rpartition("/")[2].partition(".")[0]
    if which == "compass":
        route.fulfill(body=compass_svg((63, 63), np.diag([-5e-5, 5e-5])), content_type="image/svg+xml")
        return
    route.fulfill(body=cutout(which), content_type="image/png")


def _wait(page, ready):
    page.wait_for_load_state("load")
    if ready:
        page.wait_for_selector(ready, timeout=60_000)
    until(page, "[...document.images].every((i) => i.complete && (i.naturalWidth > 0 || !i.src))")
    until(page, "document.fonts.status === 'loaded' && document.fonts.check('16px Inter')")


def test_a_block_that_moved_is_seen_on_a_page(still):
    still.set_viewport_size({"width": 1280, "height": HEIGHTS[1280]})
    still.emulate_media(color_scheme="light")
    still.goto("/")
    _wait(still, None)
    kept = read_picture(KEPT / "night-1280-light.webp")
    for block in (".facts", ".card:has(#plane-h)", ".card:has(#steps-h)"):
        still.evaluate(f"document.querySelector('{block}').style.transform = 'translateY(12px)'")
        assert different(picture_of(still.screenshot()), kept).mean() > MOST, block
        still.evaluate(f"document.querySelector('{block}').style.transform = ''")


def test_magnitudes_tell_what_is_fainter_than_the_template_from_an_upper_limit(still):
    still.set_viewport_size({"width": 1280, "height": HEIGHTS[1280]})
    still.goto(f"/object/{OBJECT}")
    _wait(still, "#curve[data-painted]")
    still.click("#curve-tools [data-set='y=mag']")
    n = np.arange(1, 46)
    flux, error = 4000 * np.sin(0.3 * n) + 300 * (n % 3), 150  # as they were stored
    fainter, limits = int((flux <= -3 * error).sum()), int((np.abs(flux) < 3 * error).sum())
    said = f"45 detections and 0 forced of 45 points, {fainter} fainter than the template, {limits} upper limits"
    assert said in still.inner_text("#curve-note")
    still.click("#curve-tools [data-flag='fainter']")
    assert f"{45 - fainter} detections" in still.inner_text("#curve-note")


def test_letters_that_are_smoothed_otherwise_are_the_same_and_kept_pictures_are_small():
    kept = sorted(KEPT.glob("*.webp"))
    assert len(kept) == len(PAGES) * len(ALL) + len(OTHERS) * len(LESS)
    assert sum(p.stat().st_size for p in kept) < 10_000_000
    picture = read_picture(KEPT / "night-1280-light.webp")
    for part in (0.15, -0.15):  # 0.3 px of a window
        moved = np.clip(shift(picture.astype(float), (part, part, 0), order=1, mode="nearest"), 0, 255).astype(np.uint8)
        assert different(moved, picture).mean() <= MOST
