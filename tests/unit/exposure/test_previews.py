"""exposure/preview, alerts/preview: small pictures that are right, and text that cannot break out of its cell."""

import base64
import re

import cv2
import numpy as np
import pytest

import alertprod
from alertprod_client.pictures import MASKED_COLOUR
from alerts.consumer import ReceivedAlert
from exposure import Exposure, GridPsf, SkyWcs, VisitInfo
from exposure.mask import plane_bits
from exposure.preview import exposure_html, grey_png
from tests.support.alert_packet import alert_packet

EVIL = "<script>alert('x')</script>\" onload=\"x"


def pictures(html: str) -> list[np.ndarray]:
    """The pictures of a piece of HTML, (height, width, RGB)."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    decoded = [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR) for data in found]
    return [cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in decoded]


def frame(side: int = 200, **more: object) -> Exposure:
    rng = np.random.default_rng(3)
    image = rng.normal(100, 5, (side, side)).astype(np.float32)
    return Exposure(image, np.full_like(image, 25), np.zeros((side, side), np.int32), **more)  # type: ignore[arg-type]


def test_the_picture_has_north_up_sources_bright_and_masked_pixels_in_their_own_colour():
    made = frame()
    made.image[20, 30] = 1e4  # near the bottom: the first row of a FITS image is the lowest
    made.image[150:160, 100:120] = np.nan
    made.set_plane("SAT", np.arange(200)[None, :] * np.ones((200, 1)) < 4)
    (image,) = pictures(made._repr_html_())
    assert image.shape == (200, 200, 3)
    assert image[199 - 20, 30].tolist() == [255, 255, 255]
    assert (image[199 - 155, 105] == MASKED_COLOUR).all()
    assert (image[:, 2] == MASKED_COLOUR).all()
    sky = image[60:100, 60:100]
    assert (sky[..., 0] == sky[..., 2]).all()  # grey
    assert 10 < np.median(sky) < 130


def test_a_signed_picture_is_grey_at_zero():
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 3, (100, 100)).astype(np.float32)
    noise[50, 50], noise[20, 20] = 1e3, -1e3
    image = cv2.imdecode(
        np.frombuffer(grey_png(noise, np.ones(noise.shape, bool), True), np.uint8), cv2.IMREAD_GRAYSCALE
    )
    assert np.median(image) == pytest.approx(127, abs=3)
    assert image[49, 50] == 255
    assert image[79, 20] == 0


@pytest.mark.parametrize("shape", [(4096, 3000), (300, 5000), (1, 1), (257, 255)])
def test_pictures_of_any_size_are_small(shape):
    noise = np.random.default_rng(5).normal(0, 1, shape).astype(np.float32)
    made = Exposure(noise, np.ones(shape, np.float32), np.zeros(shape, np.int32))
    html = made._repr_html_()
    assert len(html) < 100_000
    (image,) = pictures(html)
    assert max(image.shape) <= 256
    empty = Exposure(np.full(shape, np.nan, np.float32), np.ones(shape, np.float32), np.zeros(shape, np.int32))
    assert (pictures(empty._repr_html_())[0] == MASKED_COLOUR).all()


def test_text_of_headers_is_escaped():
    made = frame(band=EVIL, visit_info=VisitInfo(1, 2, 61000.0, 30.0, EVIL), physical_filter=EVIL)
    packet = alert_packet()
    packet["diaSource"]["band"] = EVIL
    packet["diaSourceId"] = EVIL
    for html in (
        made._repr_html_(),
        exposure_html(made, EVIL),
        alertprod.Alert(packet)._repr_html_(),
        alertprod.Alert({"objectId": EVIL})._repr_html_(),
        alertprod.Alert({**packet, "cutoutScience": b"<script>no FITS"})._repr_html_(),
    ):
        assert "<script" not in html
        assert 'onload="' not in html
        assert "&lt;script" in html or "script" not in html
        assert len(html) < 100_000


def test_alerts_show_stamps_facts_and_their_light_curve():
    alert = alertprod.Alert(alert_packet())
    html = alert._repr_html_()
    stamps = pictures(html)
    assert [s.shape for s in stamps] == [(31, 31, 3)] * 3
    assert all((s[-1] == MASKED_COLOUR).all() for s in stamps)  # the row beyond the detector, the lowest
    assert all(s[15, 15, 0] > 200 for s in stamps)
    assert html.count("<circle") == 2
    assert "5000 +- 100 nJy" in html
    received = ReceivedAlert(alert_packet(), "alerts", 3, 99, "7", {})
    assert received._repr_html_() == html
    assert "alerts[3] at 99" in repr(received)
    for made in (
        alert,
        received,
        alertprod.Alert({}),
        alertprod.Alert({"diaSource": {"ra": None}}),
        alertprod.Alert({"candid": 5}),
    ):
        assert len(repr(made)) < 300
        assert "\n" not in repr(made)
        made._repr_html_()


def test_exposures_say_what_they_are_in_one_line():
    wcs = SkyWcs.tan((100.0, 100.0), (10.0, -5.0), np.array([[-1.0, 0], [0, 1.0]]) * 0.2 / 3600)
    psf = GridPsf(np.full((1, 5, 5), np.nan, np.float32), 1, 1, (0, 0, 200, 200))
    made = frame(wcs=wcs, band="r", visit_info=VisitInfo(20260101_00012, 7, 61000.0, 30.0), psf=psf)
    made.mask[:100] = plane_bits(["NO_DATA"])
    assert repr(made) == (
        "<Exposure 200 x 200 px, band r, visit 2026010100012, detector 7, centre RA 10.00003 Dec -5.00003, "
        '0.2"/px, PSF undefined, 50.0 % good, uncalibrated>'
    )
    assert "GridPsf(cube=float32[1x5x5]" in repr(psf)
    nothing = Exposure(*(np.zeros((0, 0), t) for t in (np.float32, np.float32, np.int32)))
    assert repr(nothing) == "<Exposure 0 x 0 px, 0.0 % good, uncalibrated>"
    assert pictures(nothing._repr_html_())[0].shape == (1, 1, 3)
