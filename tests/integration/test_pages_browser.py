"""The dashboard in a real browser, on a service that has processed a part of a small survey."""

import re

import pytest

from service.access.policy import PAGES
from service.api.app import create_app
from service.local.campaign import post_visits, wait_finished, wait_published
from service.pages.assets import available
from service.settings import load_settings
from tasks.local_server import free_port
from tests.support.browser import WIDTHS, axe_violations, browser, checked_page, overflow, until
from tests.support.databases import copied_database
from tests.support.serving import running
from tests.support.shared_stack import SharedStack
from tests.support.survey import messages, science, survey_settings

SHOWN_MS = 20_000


@pytest.fixture(scope="module")
def chromium():
    with browser() as program:
        yield program


READY = {  # what is there when a page has got all that comes after it
    "/visit/{visit}/{detector}": "#plates", "/visit/{visit}/{detector}/images": "#plates", "/why": "ol.walk",
    "/why/answer": "ol.walk", "/sky": "#sky[data-drawn]", "/streams": "#readers h2 .count",
}  # fmt: skip


@pytest.fixture(scope="module")
def populated(chromium, survey, template_database, kafka, tmp_path_factory):
    """A service with two visits that are done, their differences stored, and one that failed; not without a browser."""
    products = tmp_path_factory.mktemp("products")
    with copied_database(template_database) as uri:
        servers = {"database_uri": uri, "kafka_brokers": kafka.brokers}
        with SharedStack(survey_settings(survey, **servers, attempts=1, products_dir=products)) as stack:
            done = messages(science(survey).iloc[:4])
            missing = {**done[2], "science": str(survey / "missing.fits"), "visit": 1090}
            replies = post_visits(stack, [*done, missing])
            wait_finished(stack, [(r["visit"], r["detector"]) for r in replies], 300)
            wait_published(stack)
            yield stack


@pytest.fixture(scope="module")
def places(populated):
    """Addresses of every page on this survey by how they are routed."""
    with populated.database.session() as connection:
        row = connection.execute(
            'SELECT s."diaObjectId", s.ra, s.dec, s.visit, s.detector, floor(s."midpointMjdTai" - 0.5)::int FROM "DiaSource" s '
            'JOIN "DiaObjectLast" o USING ("diaObjectId") ORDER BY o."nDiaSources" DESC, s."midpointMjdTai" DESC LIMIT 1'
        ).fetchone()
    number, ra, dec, visit, detector, night = row
    return {
        "/": "/",
        "/night/{night}": f"/night/{night}?colour=seconds",
        "/visit/{visit}/{detector}": f"/visit/{visit}/{detector}?mask=true",
        "/visit/{visit}/{detector}/images": f"/visit/{visit}/{detector}/images",
        "/object/{object_id}": f"/object/{number}",
        "/why": f"/why?visit={visit}&detector={detector}&ra={ra}&dec={dec}",
        "/why/answer": f"/why/answer?visit={visit}&detector={detector}&ra={ra}&dec={dec}",
        "/sky": "/sky",
        "/trends": "/trends?metric=seeingArcsec&against=airmass",
        "/solar": "/solar",
        "/scan": "/scan?by=brightest",
        "/streams": "/streams",
        "/streams/readers": "/streams/readers",
        "/search": f"/search?q={ra}+{dec}&radius=60",
        "/database": "/database",
        "/keys": "/keys",
    }


@pytest.mark.parametrize("route", PAGES)
def test_a_page_stays_here_fits_every_window_and_is_accessible(chromium, populated, places, route):
    with checked_page(chromium, populated.url) as page:
        answer = page.goto(places[route], timeout=60_000)
        assert answer.status == 200
        page.wait_for_load_state("load")
        if route in READY:
            page.wait_for_selector(READY[route], timeout=60_000)
        assert page.title().endswith("alertprod")
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                assert overflow(page) <= 0, (theme, width)
            page.set_viewport_size({"width": 1280, "height": 900})
            assert axe_violations(page) == [], theme


def test_the_night_says_which_step_is_slowest_why_a_visit_failed_and_which_detector_never_came(chromium, populated):
    with checked_page(chromium, populated.url) as page:
        page.goto("/")
        steps = page.locator("section", has=page.locator("#steps-h"))
        slowest = steps.locator("tr.marked")
        shares = [
            float(t.split()[0]) for t in steps.locator("tbody td:nth-child(5) span").all_text_contents()
        ]  # seen or not
        assert float(slowest.locator("td:nth-child(5) span").text_content().split()[0]) == max(shares)
        failures = page.locator("section", has=page.locator("#fail-h"))
        assert "1090" in failures.inner_text()
        assert "missing.fits" in failures.inner_text()
        assert "never came" in page.locator("section", has=page.locator("#gaps-h")).inner_text()


def test_links_of_the_first_page_lead_to_what_is_asked_most_within_three_loads(chromium, populated, places):
    object_page = places["/object/{object_id}"]
    with checked_page(chromium, populated.url) as page:
        loads = []
        page.on("request", lambda r: loads.append(r.url) if r.is_navigation_request() else None)

        def begin(words):
            loads.clear()
            page.goto("/")
            page.click(f"nav.ways a:has-text('{words}')")

        begin("Which step is slowest")
        assert page.locator("section", has=page.locator("#steps-h")).locator("tr.marked").is_visible()
        begin("Why did a visit fail")
        page.locator("section", has=page.locator("#fail-h")).locator("a", has_text="1090").click()
        page.locator(".lead", has_text="missing.fits").wait_for(timeout=SHOWN_MS)
        assert len(loads) == 2
        begin("Where is an object")
        page.locator("section", has=page.locator("#new-h")).locator("td a[href^='/object/']").first.click()
        until(page, "(document.querySelector('#triplet img') || {}).naturalWidth > 0")
        assert len(loads) == 3
        begin("Why has a place no alert")
        page.fill("input[name=place]", "{:.5f} {:+.5f}".format(*_beside(populated, object_page)))
        page.click("text=Ask")
        page.locator(".lead", has_text="There is no alert").wait_for(timeout=60_000)
        assert len(loads) == 3
        begin("Which consumer lags")
        page.locator("h2", has_text="Consumers and their lag").locator(".count").wait_for(timeout=60_000)
        assert len(loads) == 2


def _beside(populated, object_page):
    """Return a place 6 arcsec north of an object: within its images, where nothing is stored."""
    with populated.database.session() as connection:
        statement = 'SELECT ra, dec + 6.0 / 3600 FROM "DiaObjectLast" WHERE "diaObjectId" = %s'
        return connection.execute(statement, (int(object_page.rpartition("/")[2]),)).fetchone()


def test_what_is_committed_is_on_the_screen_without_a_reload(chromium, populated):
    with checked_page(chromium, populated.url) as page:
        page.goto("/")
        until(page, "document.getElementById('live-state').textContent.startsWith('live')")
        page.evaluate("window.same = true")
        with populated.database.session() as connection:
            connection.execute(
                'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, "midpointMjdTai", '
                "\"errorCode\", \"errorText\") SELECT 1091, 0, instrument, '{}', '', 'failed', \"midpointMjdTai\", 'no_psf', 'why <b>not</b>' "
                'FROM "VisitLedger" WHERE visit = 1090'
            )
        row = page.locator("section", has=page.locator("#fail-h")).locator("tr", has_text="1091")
        row.wait_for(timeout=SHOWN_MS)
        assert "why <b>not</b>" in row.inner_text()  # escaped
        assert page.evaluate("window.same")  # the page itself stayed


def test_what_comes_before_a_page_listens_or_while_it_renews_itself_is_seen_and_no_press_is_lost(chromium, populated):
    def come(visit):
        with populated.database.session() as connection:
            connection.execute(
                'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, "midpointMjdTai", "errorCode") '
                "SELECT %s, 0, instrument, '{}', '', 'failed', \"midpointMjdTai\", 'no_psf' FROM \"VisitLedger\" WHERE visit = 1090",
                (visit,),
            )

    def late(route, visit):
        """Let something come while a request is on its way: before it for the stream, behind it for the page."""
        answer = None if "/live" in route.request.url else route.fetch()
        come(visit)
        page.wait_for_timeout(1500)
        route.continue_() if answer is None else route.fulfill(response=answer)

    def row(visit):
        return page.locator("section", has=page.locator("#fail-h")).locator("tr", has_text=str(visit))

    press = "b = document.createElement('button'); b.setAttribute('hx-post', '/v1/dead-letters/0/requeue'); document.body.append(b); b.click();"
    with checked_page(chromium, populated.url) as page:
        page.route("**/htmx*", lambda route: (page.wait_for_timeout(1000), route.continue_()), times=1)
        page.route("**/live", lambda route: late(route, 1092), times=1)
        page.goto("/")
        with page.expect_request("**/v1/dead-letters/0/requeue", timeout=SHOWN_MS):
            page.evaluate(f"{{ let {press} }}")
        row(1092).wait_for(timeout=SHOWN_MS)
        page.route(f"{populated.url}/", lambda route: late(route, 1094), times=1)
        come(1093)
        row(1094).wait_for(timeout=SHOWN_MS)


def test_without_the_service_the_page_says_that_it_is_old(chromium, populated):
    with checked_page(chromium, populated.url) as page:
        page.route("**/live", lambda route: route.abort())
        page.goto("/")
        page.wait_for_selector("#notice:not([hidden])", timeout=SHOWN_MS)
        assert "No connection to the service" in page.locator("#notice").inner_text()


def test_the_light_curve_is_walked_by_keys_and_shows_the_cutouts_of_a_detection(chromium, populated, places):
    if not available("uplot.min.js"):
        pytest.skip("no uPlot: tools/fetch_assets.sh fetches it with npm")
    with checked_page(chromium, populated.url) as page:
        page.goto(places["/object/{object_id}"])
        page.wait_for_selector("#curve[data-painted]", timeout=SHOWN_MS)
        assert float(page.get_attribute("#curve", "data-painted")) < 1000
        page.focus("#curve")
        page.keyboard.press("Home")
        first = page.inner_text("#trip-what")
        page.keyboard.press("ArrowRight")
        second = page.inner_text("#trip-what")
        mjds = [float(re.search(r"MJD ([\d.]+)", text)[1]) for text in (first, second)]
        assert mjds[0] <= mjds[1]
        assert first != second
        page.click("button[data-set='y=mag']")
        page.click("button[data-set='of=science']")
        page.keyboard.press("Tab")
        loaded = "[...document.querySelectorAll('#triplet img')].every((i) => i.complete && i.naturalWidth > 0)"
        page.goto(places["/object/{object_id}"])
        until(page, loaded)
        page.click("#trip-blink")
        assert page.locator("#triplet figure:visible").count() == 1
        page.click("#trip-blink")
        assert page.locator("#triplet figure:visible").count() == 3
        film = page.request.get(page.get_attribute("#trip-gif", "href"))
        assert film.headers["content-type"] == "image/gif"
        assert film.body().startswith(b"GIF89a")


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (r"/curve[^/]*js", "#notice >> text=could not be loaded"),
        (r"/uplot[^/]*js", "#notice >> text=could not be loaded"),
        (r"/v1/objects/\d+/curve", "#curve-note >> text=could not be read"),
    ],
)
def test_a_curve_that_does_not_arrive_is_the_picture_for_readers_without_scripts(
    chromium, populated, places, lost, said
):
    if not available("uplot.min.js"):
        pytest.skip("no uPlot: tools/fetch_assets.sh fetches it with npm")
    with checked_page(chromium, populated.url) as page:
        page.route(re.compile(lost), lambda route: route.abort())
        page.goto(places["/object/{object_id}"])
        page.wait_for_selector(said, timeout=SHOWN_MS)
        assert page.locator("#curve svg.plot circle").count() > 1
        assert not page.is_visible("#curve-tools")


def test_a_click_on_an_image_says_why_there_is_no_alert(chromium, populated, places):
    with checked_page(chromium, populated.url) as page:
        page.goto(places["/visit/{visit}/{detector}"], timeout=60_000)
        picture = page.locator("input[type=image]").last
        picture.wait_for(timeout=SHOWN_MS)
        until(page, "document.querySelectorAll('input[type=image]')[2].getBoundingClientRect().height > 50")
        box = picture.bounding_box()
        page.keyboard.press("m")
        assert page.get_attribute("#detections", "aria-pressed") == "false"
        picture.click(position={"x": box["width"] / 4, "y": box["height"] / 4})
        page.wait_for_selector("ol.walk", timeout=60_000)
        assert page.locator(".stack img").count() == 5
        x, y = _pixel(page)
        assert x == pytest.approx(448 / 4, abs=3)  # from the left
        assert y == pytest.approx(448 * 3 / 4, abs=3)  # from below
        page.goto(f"{places['/visit/{visit}/{detector}']}&part=100,50,200,160", timeout=60_000)
        picture = page.locator("input[type=image]").first
        until(page, "(document.querySelector('input[type=image]') || {}).naturalWidth !== 0", 60)
        picture.wait_for(timeout=SHOWN_MS)
        box = picture.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(200 / 160, rel=0.02)
        picture.click(position={"x": box["width"] / 4, "y": box["height"] / 4})
        page.wait_for_selector("ol.walk", timeout=60_000)
        assert _pixel(page) == (pytest.approx(100 + 200 / 4, abs=3), pytest.approx(50 + 160 * 3 / 4, abs=3))


def test_a_visit_is_there_at_once_and_its_stored_difference_follows(chromium, populated, places):
    with checked_page(chromium, populated.url) as page:
        answer = page.goto(places["/visit/{visit}/{detector}"].partition("?")[0])
        assert "plates" not in answer.text()  # no picture is made before the page is
        page.wait_for_selector("#plates", timeout=60_000)
        assert "as it was stored" in page.inner_text("#images-h")
        assert page.locator("#images .triplet").count() == 0
        page.click("text=subtract again")
        page.wait_for_selector("#images .triplet", timeout=60_000)
        for image in page.locator("#images img").all():
            image.wait_for(timeout=SHOWN_MS)
            assert image.evaluate("(i) => i.decode().then(() => i.naturalWidth)") > 2


def test_the_sky_is_drawn_turned_by_keys_searched_by_a_click_and_compared_with_a_map(chromium, populated, tmp_path):
    footprint = tmp_path / "footprint.json"
    with checked_page(chromium, populated.url) as page:
        page.goto("/sky")
        page.wait_for_selector("#sky[data-drawn]", timeout=SHOWN_MS)
        counted = page.evaluate("fetch('/v1/sky/density').then((a) => a.json())")
        with populated.database.session() as connection:
            (objects,) = connection.execute('SELECT count(*) FROM "DiaObjectLast"').fetchone()
        assert sum(counted["counts"]) == counted["total"] == objects
        page.wait_for_selector(f"#sky[data-points='{objects}']", timeout=SHOWN_MS)
        page.focus("#sky-map")
        before = page.evaluate("document.getElementById('sky-map').toDataURL()")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("+")
        assert page.evaluate("document.getElementById('sky-map').toDataURL()") != before
        page.keyboard.press("0")
        footprint.write_text(page.evaluate("fetch('/v1/footprint?format=json').then((a) => a.text())"))
        page.set_input_files("#moc-form input[type=file]", footprint)
        page.click("#moc-form button")
        page.locator("#moc-said", has_text="(100.0 %)").wait_for(timeout=SHOWN_MS)
        page.locator("#sky-map").click()
        page.wait_for_url("**/search?q=*", timeout=SHOWN_MS)


def test_detections_are_labelled_by_keys_and_the_labels_exported(chromium, populated):
    with checked_page(chromium, populated.url) as page:
        page.goto("/scan?by=brightest")
        first = page.locator(".scanned:not([hidden])")
        source = first.get_attribute("data-source")
        page.keyboard.press("r")
        page.locator("#given-real", has_text="1").wait_for(timeout=SHOWN_MS)
        assert first.get_attribute("data-source") != source
        page.keyboard.press("b")
        page.locator("#given-bogus", has_text="1").wait_for(timeout=SHOWN_MS)
        page.keyboard.press("z")
        page.locator("#given-bogus", has_text="0").wait_for(timeout=SHOWN_MS)
        rows = page.evaluate("fetch('/v1/labels?format=csv').then((a) => a.text())").splitlines()
        assert [r.split(",")[:2] for r in rows] == [["diaSourceId", "label"], [source, "real"]]
        page.goto("/scan?by=brightest")
        assert page.locator(f"[data-source='{source}']").count() == 0


def test_every_association_and_every_visit_is_a_point_that_leads_to_its_visit(chromium, populated, places):
    with populated.database.session() as connection:
        (bodies,) = connection.execute('SELECT count(*) FROM "SSSource"').fetchone()
        (visits,) = connection.execute('SELECT count(*) FROM "VisitQuality"').fetchone()
    assert bodies > 0
    with checked_page(chromium, populated.url, java_script_enabled=False) as page:
        page.goto("/solar")
        assert page.locator("svg.residuals a circle").count() == bodies
        page.goto(places["/trends"])
        assert page.locator("svg.trend circle").count() == visits
        page.goto("/solar")
        page.locator("svg.residuals a").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/visit/*/*", timeout=SHOWN_MS)


def _pixel(page):
    found = re.search(r"pixel \(([\d.]+), ([\d.]+)\)", page.inner_text("#answer-h"))
    return float(found[1]), float(found[2])


def test_keys_lead_to_content_and_search(chromium, populated, places):
    with checked_page(chromium, populated.url) as page:
        page.goto("/")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "find"
        page.keyboard.type(places["/object/{object_id}"].rpartition("/")[2])
        page.keyboard.press("Enter")
        page.wait_for_url("**/object/*", timeout=SHOWN_MS)
        page.keyboard.press("t")
        theme = page.evaluate("document.documentElement.dataset.theme")
        page.goto("/streams")
        assert page.evaluate("document.documentElement.dataset.theme") == theme in ("dark", "light")


def test_without_scripts_every_page_is_read(chromium, populated, places):
    with checked_page(chromium, populated.url, java_script_enabled=False) as page:
        page.goto("/")
        assert "1090" in page.inner_text("main")
        page.goto(places["/object/{object_id}"])
        assert page.locator("svg.plot circle").count() > 1


def test_who_is_not_known_signs_in_with_a_token_and_out_again(chromium, populated, tmp_path):
    token = "b" * 64
    (tmp_path / "token").write_text(token)
    settings = load_settings(
        database_uri=populated.settings.database(), upload_dir=tmp_path / "uploads", access="tokens",
        admin_token_file=tmp_path / "token", port=free_port(),
    )  # fmt: skip
    with running(create_app(settings), settings) as served, checked_page(chromium, served) as page:
        page.goto("/sign-in?next=/%09/evil.example/x")
        page.fill("input[name=token]", token)
        page.click("#sign-in button")
        page.wait_for_url(
            served.rstrip("/") + "/", timeout=SHOWN_MS
        )  # browsers leave the tab out: it would be another host
        page.context.clear_cookies()
        page.goto("/streams?x=1")
        assert page.url.endswith("/sign-in?next=/streams%3Fx%3D1")
        assert axe_violations(page) == []
        page.fill("input[name=token]", "wrong")
        page.click("#sign-in button")
        page.wait_for_selector("#refusal:not([hidden])", timeout=SHOWN_MS)
        page.fill("input[name=token]", token)
        page.click("#sign-in button")
        page.wait_for_url("**/streams?x=1", timeout=SHOWN_MS)
        page.click("#sign-out")
        page.wait_for_url("**/sign-in", timeout=SHOWN_MS)
        page.goto("/")
        assert "/sign-in" in page.url
