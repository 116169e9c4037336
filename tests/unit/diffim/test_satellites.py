"""The satellite filter service, played by a server of this test: what is asked, and what becomes of each answer."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from diffim.errors import NoDiaSourcesError, SatelliteServiceError
from diffim.measurement.satellite_filter import allowed_sources
from tests.support.difference_scene import scene, subtract
from tests.support.exposures import make_exposure


class _Service(BaseHTTPRequestHandler):
    answer: ClassVar[object] = []
    status: ClassVar[int] = 200
    known: ClassVar[set[int]] = set()
    asked: ClassVar[list[tuple[str, dict]]] = []

    def do_PUT(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        status, reply = self.status, {"allow_list": self.answer}
        if self.path.endswith("/visit_cache"):
            self.known.add(body["visit_id"])
            status, reply = 200, {}
        elif status == 200 and body["visit_id"] not in self.known:
            status = 404
        if status == 200 and self.answer == "some" and "diasources" in body:
            reply = {"allow_list": [s["diasource_id"] for s in body["diasources"]][:1]}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Service.status, _Service.known, _Service.asked = 200, set(), []
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def table(image):
    x0, y0 = image.origin
    return pd.DataFrame(
        {"x": x0 + np.array([20.0, 40.0, 60.0]), "y": y0 + np.array([30.0, 30.0, 30.0]), "bboxSize": [10, 12, 14]}
    )


@pytest.mark.parametrize(("answer", "allowed"), [([5, 7], [1, 0, 1]), ([5, 6, 7, 99], [1, 1, 1]), ([], [0, 0, 0])])
def test_some_all_or_none_are_allowed(service, answer, allowed):
    image, _Service.answer = make_exposure(), answer
    got = allowed_sources(service, image, table(image), np.array([5, 6, 7]))
    assert got.tolist() == [bool(a) for a in allowed]
    paths = [path for path, _ in _Service.asked]
    assert paths == ["/diasource_allow_list", "/visit_cache", "/diasource_allow_list"]  # the visit was new to it
    question = _Service.asked[0][1]
    assert (question["visit_id"], question["detector_id"]) == image.key and question["historical"] is False
    assert [s["diasource_id"] for s in question["diasources"]] == [5, 6, 7]
    corner = question["diasources"][0]["bbox"][0]
    ra, dec = image.require_wcs().pixel_to_sky(image.origin[0] + 15.0, image.origin[1] + 25.0)
    assert corner == pytest.approx([float(ra), float(dec)])
    cached = _Service.asked[1][1]
    assert cached["exposure_end_mjd"] - cached["exposure_start_mjd"] == pytest.approx(
        image.visit_info.exposure_time / 86400, rel=1e-4
    )


def test_a_service_that_fails_is_an_error(service):
    image = make_exposure()
    for status, answer in ((500, []), (200, "nonsense"), (200, None)):
        _Service.status, _Service.answer = status, answer
        with pytest.raises(SatelliteServiceError, match="satellite filter"):
            allowed_sources(service, image, table(image), np.array([5, 6, 7]))
    with pytest.raises(SatelliteServiceError):
        allowed_sources("http://127.0.0.1:9", image, table(image), np.array([5, 6, 7]))
    assert allowed_sources("http://127.0.0.1:9", image, table(image)[:0], np.zeros(0, np.int64)).size == 0


def test_the_task_keeps_what_is_allowed_and_says_when_nothing_is_left(service):
    science, stars = scene(2.4, 3.0, 1)
    template, _ = scene(2.0, 3.0, 2, pad=20)
    for x, y in ((60.0, 70.0), (150.0, 200.0)):
        ys, xs = np.mgrid[:256, :256]
        science.image += (9000 * np.exp(-0.5 * ((xs - x) ** 2 + (ys - y) ** 2) / 2.4**2) / (2 * np.pi * 2.4**2)).astype(
            "f4"
        )
    everything = subtract(science, template, stars)[1].diaSources
    assert len(everything) >= 2
    _Service.answer = "some"
    kept = subtract(science, template, stars, satelliteFilterUrl=service)[1].diaSources
    assert kept["id"].tolist() == everything["id"].tolist()[:1]
    _Service.answer = []
    assert len(subtract(science, template, stars, satelliteFilterUrl=service)[1].diaSources) == 0
    with pytest.raises(NoDiaSourcesError, match="no source is left"):
        subtract(science, template, stars, satelliteFilterUrl=service, raiseOnNoDiaSources=True)
