"""The sky of pages without a browser: counts on larger cells, maps of others, residuals, what stands out in a trend."""

import io
import json

import hpgeom
import numpy as np
import pytest
from astropy.table import Table

from apdb.errors import BadQuery
from apdb.sky.moc import moc_of_cells
from service.api.vo.footprint import moc_fits
from service.pages.survey.density import Density, coarser
from service.pages.survey.overlap import cells_of_map
from service.pages.survey.solar import residuals
from service.pages.survey.trends import scatter_of
from service.processing.looking.regions import box_of_region
from tests.support.exposures import make_exposure


def test_counts_on_larger_cells_are_those_of_their_parts():
    rng = np.random.default_rng(5)
    cells, counts = np.unique(rng.integers(1000, 1200, 3000), return_counts=True)
    fine = Density("objects", 8, cells, counts, 3000, False)
    large = coarser(fine, 5)
    assert large.order == 5
    assert large.counts.sum() == 3000
    for cell, count in zip(large.cells, large.counts, strict=True):
        assert count == counts[cells >> 6 == cell].sum()
    most = coarser(fine, 5, most_of_each=True)  # outlines overlap: their sum would count a visit many times
    assert most.counts[0] == counts[cells >> 6 == most.cells[0]].max()


def test_a_moc_is_read_as_fits_and_as_json():
    cells = hpgeom.query_circle(1 << 7, 150.0, 2.0, 3.0, nest=True, lonlat=True)
    moc = moc_of_cells(np.sort(cells), 7)
    for content in (moc_fits(moc, 7), json.dumps({str(k): v.tolist() for k, v in moc.items()}).encode()):
        found, what = cells_of_map(content)
        assert what == "a MOC"
        assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in moc.items()}


def test_of_a_sky_map_the_smallest_area_with_90_percent_is_taken():
    order = 6
    cells = np.arange(12 * 4**order)
    ra, dec = hpgeom.pixel_to_angle(1 << order, cells, nest=True, lonlat=True)
    x = np.cos(np.radians(dec)) * np.cos(np.radians(ra - 40.0))
    density = np.exp(
        (x * np.cos(np.radians(10.0)) + np.sin(np.radians(dec)) * np.sin(np.radians(10.0)) - 1) / np.radians(8.0) ** 2
    )
    out = io.BytesIO()
    Table({"UNIQ": 4 * 4**order + cells, "PROBDENSITY": density}).write(out, format="fits")
    found, what = cells_of_map(out.getvalue())
    assert what.startswith("the 90 % credible region")
    (got,) = found.values()
    inside = density[got].sum() / density.sum()  # cells have equal areas
    assert 0.9 <= inside < 0.9 + density.max() / density.sum()
    # of a Gaussian of sigma 8 degrees 90 % lie within 2.146 sigma: a cap of 920 square degrees
    assert len(got) * 41253 / len(cells) == pytest.approx(41253 / 2 * (1 - np.cos(np.radians(2.146 * 8))), rel=0.03)


@pytest.mark.parametrize("content", [b"", b"no map", b'{"a": 1}', moc_fits({3: np.array([5])}, 3)[:2880]])
def test_what_is_no_map_is_refused(content):
    with pytest.raises(BadQuery):
        cells_of_map(content)


def test_a_residual_to_the_east_lies_to_the_left_and_to_the_north_above():
    row = {"visit": 1, "detector": 2, "designation": "x", "body": 7}
    (dot,), reach = residuals([{**row, "east": 0.4, "north": 0.2}])
    assert reach == 0.5
    assert (dot.x, dot.y) == pytest.approx((-80, -40))
    assert dot.link == "/visit/1/2"


def test_a_visit_far_from_the_others_stands_out_of_a_trend():
    rng = np.random.default_rng(1)
    rows = [
        {"visit": k, "detector": k % 4, "mjd": 61000 + k / 100, "counts": {}, "seconds": {},
         "metrics": {"depth": 20 + rng.normal(0, 0.1), "seeingArcsec": 0.8 + k / 100}}
        for k in range(100)
    ]  # fmt: skip
    rows[40]["metrics"]["depth"] = 22.0
    rows[41]["metrics"] = {}
    scatter = scatter_of(rows, "depth", "seeing")
    assert len(scatter.dots) == 99
    assert [d.visit for d in scatter.dots if d.outlies] == [40]
    assert scatter.sigma == pytest.approx(0.1, rel=0.4)  # of 100 values: 12 % (Rousseeuw & Croux 1993)
    assert scatter_of(rows, "depth", "airmass") is None


def test_the_box_of_a_region_holds_it_and_no_more():
    exposure = make_exposure((0, 0))
    wcs = exposure.require_wcs()

    def sky(x, y):
        ra, dec = wcs.pixel_to_sky(np.array([float(x)]), np.array([float(y)]))
        return float(ra[0]), float(dec[0])

    scale = float(wcs.pixel_scale_arcsec(40.0, 30.0)) / 3600
    assert box_of_region(exposure, [*sky(40, 30), 10.2 * scale]) == (30, 20, 21, 21)
    assert box_of_region(exposure, [*sky(2, 3), 10.2 * scale]) == (0, 0, 13, 14)  # cut at the edges
    assert box_of_region(exposure, [*sky(10, 10), *sky(20, 10), *sky(20, 40), *sky(10, 40)]) == (10, 10, 11, 31)
    assert box_of_region(exposure, [10.0, 10.0, 0.1]) is None
