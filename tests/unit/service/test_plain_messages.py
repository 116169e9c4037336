"""What is said of files that are no visits: no visit number that nobody gave, and a WCS that was left out by its card."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

import alertprod
from exposure import Exposure, VisitInfo, WcsMissing
from exposure.errors import BadPixels, ExposureError, WcsUnsupported
from service.commands.main import app
from tasks.errors import AlertProdError


def plain(path, fill=None, **cards):
    pixels = np.random.default_rng(len(str(path))).normal(100.0, 5.0, (60, 70)).astype(np.float32)
    fits.writeto(path, pixels if fill is None else np.full_like(pixels, fill), fits.Header(cards))
    return path


def half_wcs(path):
    return plain(path, CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRPIX1=1.0, CRPIX2=1.0, CD1_1=1e-4, CD2_2=1e-4)


def test_errors_of_plain_files_name_no_visit(tmp_path):
    """Neither pixels without data nor images without stars: nobody said a visit or a detector."""
    new, old = plain(tmp_path / "new.fits"), plain(tmp_path / "older.fits")
    said = CliRunner().invoke(app, ["diff", str(new), str(old), "-o", str(tmp_path / "d.fits"), "--registered"])
    assert isinstance(said.exception, AlertProdError)  # noise alone: no star
    assert "visit" not in str(said.exception)
    assert "detector" not in str(said.exception)
    with pytest.raises(BadPixels) as caught:
        alertprod.read(plain(tmp_path / "empty.fits", fill=np.nan))
    assert str(caught.value).startswith("empty.fits holds no ")


def test_errors_of_visits_name_them():
    pixels = np.zeros((4, 5), np.float32)
    made = Exposure(pixels, pixels, np.zeros((4, 5), np.int32))
    with pytest.raises(WcsMissing, match=r"^the exposure has no WCS$"):
        made.require_wcs()
    made.visit_info = VisitInfo(visit=7, detector=0, midpoint_mjd_tai=60000.0, exposure_time=30.0, instrument="cam")
    with pytest.raises(WcsMissing, match=r"^visit 7, detector 0: the exposure has no WCS$"):
        made.require_wcs()
    assert made.require_visit_info() is made.visit_info
    with pytest.raises(ExposureError, match=r"^visit 7, detector 0: the exposure has no PSF$"):
        made.require_psf()
    with pytest.raises(ExposureError, match=r"^visit 7, detector 0: the exposure has no photometric calibration$"):
        made.require_photo_calib()
    made.visit_info = None
    with pytest.raises(ExposureError, match=r"^the exposure has no visit info$"):
        made.require_visit_info()


def test_a_wcs_that_cannot_be_used_is_warned_of_with_file_and_card(tmp_path):
    half = half_wcs(tmp_path / "half.fits")
    with pytest.warns(alertprod.WcsUnusable, match=r"half\.fits has half a WCS.*no CRPIX|half\.fits.*CRVAL1") as caught:
        made = alertprod.read(half)
    assert made.wcs is None
    assert caught[0].filename == __file__  # it points to the line of the caller
    with fits.open(half) as hdus, pytest.warns(alertprod.WcsUnusable, match="CRVAL1"):
        alertprod.read(hdus)


def test_where_nothing_is_amiss_nothing_is_said(tmp_path):
    """No WCS at all, one that is given instead, an exposure that was warned of before."""
    half = half_wcs(tmp_path / "half.fits")
    good = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 150.0, "CRVAL2": 2.0,
        "CD1_1": -1e-4, "CD2_2": 1e-4,
    }  # fmt: skip
    with pytest.warns(alertprod.WcsUnusable):
        once = alertprod.read(half)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert alertprod.read(plain(tmp_path / "bare.fits")).wcs is None
        assert alertprod.read(half, wcs=fits.Header(good)).wcs is not None
        assert alertprod.read(once).wcs is None


def test_a_subtraction_says_why_a_wcs_cannot_be_used(tmp_path):
    half, bare = half_wcs(tmp_path / "half.fits"), plain(tmp_path / "bare.fits")
    with pytest.raises(WcsUnsupported, match=r"half\.fits has half a WCS.*registered=True.*register=True"):
        alertprod.subtract(half, bare)
    with pytest.raises(AlertProdError) as caught:  # noise has no stars; the WCS is not needed, and not spoken of
        alertprod.subtract(half, bare, registered=True)
    assert not isinstance(caught.value, WcsMissing)
