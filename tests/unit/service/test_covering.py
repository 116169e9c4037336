"""Which image holds a place, and how it lies to those that do not: by pixels that are known."""

import numpy as np
import pytest

from exposure.io.writing import write_exposure
from service.processing.covering import places_on, where_it_lies
from service.settings import load_settings
from tests.support.exposures import make_exposure, tan

GAP = 30  # px between the images of detectors 1 and 2


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Settings, rows of two detectors side by side of one projection, and that projection; 80 x 60 px each."""
    folder = tmp_path_factory.mktemp("images")
    rows, wcs = [], tan().shifted(0, 0)
    for detector, x0 in ((1, 0), (2, 80 + GAP)):
        exposure = make_exposure((x0, 0))
        exposure.wcs = wcs
        write_exposure(exposure, folder / f"{detector}.fits")
        message = {"instrument": "simcam", "science": str(folder / f"{detector}.fits")}
        rows.append({"visit": 7, "detector": detector, "message": message})
    gone = {"visit": 7, "detector": 3, "message": {"instrument": "simcam", "science": str(folder / "3.fits")}}
    settings = load_settings(database_uri="postgresql://x@localhost/x", data_roots=[folder], upload_dir=folder / "up")
    return settings, [*rows, gone], wcs


def asked(images, x, y):
    settings, rows, wcs = images
    ra, dec = (float(v[0]) for v in wcs.pixel_to_sky(np.array([x]), np.array([y])))
    return places_on(settings, rows, ra, dec)


@pytest.mark.parametrize(
    ("x", "holding"), [(40.0, [1]), (79.4, [1]), (79.6, []), (109.4, []), (109.6, [2]), (150.0, [2])]
)
def test_an_image_holds_the_places_within_its_edges(images, x, holding):
    found, unread = asked(images, x, 30.0)
    assert [i.detector for i in found if i.holds] == holding
    assert [u["detector"] for u in unread] == [3]
    assert unread[0]["why"].startswith("fits_unreadable")


def test_a_place_between_two_images_is_said_to_be_there(images):
    found, _ = asked(images, 79.5 + 12.0, 30.0)  # the edge is at 79.5: 12 px beyond it, and 18 before the other
    scale = float(images[2].pixel_scale_arcsec(90.0, 30.0))
    assert [i.arcsec for i in found] == pytest.approx([12 * scale, 18 * scale], rel=1e-3)
    said = where_it_lies(7, found)
    assert said == (
        f"the place lies between detectors 1 and 2 of visit 7: 12.0 px ({12 * scale:.1f} arcsec) beyond the right edge of detector 1, "
        f"18.0 px ({18 * scale:.1f} arcsec) beyond the left edge of detector 2; the images have 80 x 60 px"
    )


def test_a_place_off_all_images_names_the_nearest_edges_and_corners(images):
    said = where_it_lies(7, asked(images, -0.5 - 3.0, 59.5 + 4.0)[0])
    assert said.startswith("the place lies off all 2 images of visit 7, nearest 5.0 px (")
    assert "beyond the upper left corner of detector 1, 113 px" in said
    settings, rows, _ = images
    far = places_on(settings, rows, 330.0, -2.0)[
        0
    ]  # the other side of the sky: the projection has the same pixels there
    assert not any(i.holds for i in far)
    assert "degrees from the middle of detector" in where_it_lies(7, far)
