"""Raw measurements to DiaSource rows, and what is thrown away before association."""

import numpy as np
import pandas as pd
import pytest

from apdb import columns_of
from association.standardize import FilterRules, filter_dia_sources, standardize
from diffim.detection.peaks import footprint_edges
from exposure import PhotoCalib
from exposure.apcorr import PSF_FLUX, ApCorrMap
from exposure.field import ChebyshevField
from tests.support.exposures import make_exposure


def raw_table(n, image):
    rng = np.random.default_rng(n)
    x0, y0 = image.origin
    out = pd.DataFrame({"id": 1000 + np.arange(n), "x": x0 + rng.uniform(20, 60, n), "y": y0 + rng.uniform(20, 60, n)})
    for name in ("psf", "science", "ap", "trail", "dipoleMean", "dipoleDiff", "template"):
        out[f"{name}InstFlux"], out[f"{name}InstFluxErr"] = rng.uniform(50, 100, n), rng.uniform(1, 2, n)
    for name in (
        "xErr",
        "yErr",
        "psfChi2",
        "psfLnL",
        "extendedness",
        "dipoleChi2",
        "dipoleLengthPixels",
        "dipoleAnglePixels",
        "significance",
    ):
        out[name] = rng.uniform(0.1, 1, n)
    out["x_y_Cov"], out["trailLengthPixels"], out["trailAnglePixels"] = 0.01, 1.5, 0.3
    out["trailLengthErrPixels"], out["trailAngleErrPixels"] = 0.25, 0.02
    for suffix in ("", "PSF"):
        out[f"ixx{suffix}"], out[f"iyy{suffix}"], out[f"ixy{suffix}"] = 3.0, 4.0, 0.5
    out["trailNdata"], out["trailChi2"] = 500, 480.0
    out["psfNdata"], out["dipoleNdata"], out["bboxSize"], out["bboxWidth"], out["bboxHeight"] = 600, 0, 18, 12, 9
    for name in (
        "isDipole",
        "dipoleFitAttempted",
        "isNegative",
        "centroid_flag",
        "pixelFlags_crCenter",
        "sky_source",
        "pixelFlags_high_varianceCenterAll",
        "pixelFlags",
        "trail_flag",
        "trail_flag_off_image",
        "trail_flag_edge",
        "trail_flag_suspect_long_trail",
    ):
        out[name] = False
    return out


@pytest.fixture
def image():
    e = make_exposure()
    e.photo_calib = PhotoCalib(2.5)
    e.ap_corr = ApCorrMap({PSF_FLUX: ChebyshevField.constant(1.1, e.bbox)})
    return e


def test_rows_have_all_columns_units_and_constants(image):
    raw = raw_table(6, image)
    raw.loc[0, "significance"] = np.nan
    raw["pixelFlags_crCenter"] = [False, True, False, False, True, False]
    t = standardize(raw, image, 61000.5)
    assert list(t.columns) == [c.name for c in columns_of("DiaSource")]
    assert all(t[c.name].dtype == c.dtype for c in columns_of("DiaSource") if c.dtype.kind != "O")
    assert (
        list(t.diaSourceId) == list(raw.id) and (t.visit == image.key[0]).all() and (t.detector == image.key[1]).all()
    )
    for name in ("diaObjectId", "ssObjectId", "parentDiaSourceId"):
        assert (t[name] == 0).all()
    assert (t.band == image.band).all() and (t.timeProcessedMjdTai == 61000.5).all() and (t.bboxSize == 18).all()
    assert (t.midpointMjdTai == image.visit_info.midpoint_mjd_tai).all()
    assert np.isnan(t.snr[0]) and t.snr[1] == pytest.approx(raw.significance[1])
    for name, column, factor in (
        ("psf", "psfFlux", 2.75),
        ("science", "scienceFlux", 2.75),
        ("ap", "apFlux", 2.75),
        ("trail", "trailFlux", 2.75),
        ("template", "templateFlux", 1.0),
    ):
        for suffix in ("", "Err"):
            assert t[f"{column}{suffix}"].to_numpy() == pytest.approx(raw[f"{name}InstFlux{suffix}"] * factor, rel=1e-6)
    ra, dec = image.require_wcs().pixel_to_sky(raw.x.to_numpy(), raw.y.to_numpy())
    assert np.array_equal(t.ra, ra) and np.array_equal(t.dec, dec)
    assert list(t.pixelFlags_crCenter) == list(raw.pixelFlags_crCenter) and not t.glint_trail.any()


def test_errors_moments_and_angles_are_on_the_sky(image):
    raw = raw_table(3, image)
    t = standardize(raw, image, 61000.5)
    wcs, scale = image.require_wcs(), image.pixel_scale_arcsec()
    j = wcs.jacobian(raw.x.to_numpy(), raw.y.to_numpy())[0]
    c = np.array([[raw.xErr[0] ** 2, 0.01], [0.01, raw.yErr[0] ** 2]])
    sky = j @ c @ j.T
    assert [t.raErr[0], t.decErr[0], t.ra_dec_Cov[0]] == pytest.approx(
        [sky[0, 0] ** 0.5, sky[1, 1] ** 0.5, sky[0, 1]], rel=1e-5
    )
    assert t.ixx[0] + t.iyy[0] == pytest.approx(7.0 * scale**2, rel=0.05)
    assert t.trailLength[0] == pytest.approx(1.5 * scale, rel=1e-3)
    # along the angle from the source, one pixel away
    ra, dec = wcs.pixel_to_sky(*(raw[n][:1].to_numpy() + f(0.3) for n, f in (("x", np.cos), ("y", np.sin))))
    bearing = np.degrees(np.arctan2((ra - t.ra[0]) * np.cos(np.radians(t.dec[0])), dec - t.dec[0])) % 180
    assert t.trailAngle[0] == pytest.approx(bearing[0], abs=0.01)
    assert t.trailLengthErr[0] == pytest.approx(0.25 * scale, rel=1e-3)
    assert t.trailAngleErr[0] == pytest.approx(np.degrees(0.02), rel=1e-5)


def test_footprint_side_is_bounded_by_box_and_reach():
    boxes = np.array([[10, 10, 9, 5], [10, 10, 9, 5], [0, 0, 1, 1]])
    sides = footprint_edges(boxes, np.array([14.0, 10.0, 0.0]), np.array([12.0, 12.0, 0.0]))
    assert list(sides) == [8, 16, 1]  # twice the reach from the centroid, at most twice the longer side


def test_each_filter_alone_and_all_together(image):
    """32 sources: 15 pass, 13 are rejected, 4 are trailed."""
    raw = raw_table(32, image)
    raw.loc[[0, 1, 2], "sky_source"] = True
    raw.loc[[3, 4], "centroid_flag"] = True
    raw.loc[[5, 6], "pixelFlags_crCenter"] = True
    raw.loc[[7], "pixelFlags_high_varianceCenterAll"] = True
    raw.loc[[8, 9, 10, 11, 12], "scienceInstFlux"] = -10.0
    raw.loc[[13, 14], "trailLengthPixels"] = 500.0
    raw.loc[[15], "trail_flag_off_image"] = True
    raw.loc[[16], ["trail_flag_edge", "trail_flag_suspect_long_trail"]] = True
    raw.loc[[17], "trail_flag_edge"] = True  # neither alone
    raw.loc[[18], "trail_flag_suspect_long_trail"] = True
    raw.loc[[19], "scienceInstFlux"] = np.nan
    before = raw.copy()
    table = standardize(raw, image, 61000.5)
    split = filter_dia_sources(raw, table, image.pixel_scale_arcsec())
    assert (len(split.good), len(split.rejected), len(split.trailed)) == (15, 13, 4)
    assert list(split.trailed.diaSourceId) == [1013, 1014, 1015, 1016]
    pd.testing.assert_frame_equal(raw, before)
    loose = FilterRules(bad_flags=(), min_direct_snr=-1e9, max_trail_arcsec_per_s=1e9, remove_sky_sources=False)
    alone = filter_dia_sources(raw, table, image.pixel_scale_arcsec(), loose)
    assert len(alone.rejected) == 0 and len(alone.trailed) == 2  # off the image; long and at the edge
    raw.loc[[0], "trail_flag_off_image"] = True
    both = filter_dia_sources(raw, table, image.pixel_scale_arcsec())
    assert 1000 in set(both.rejected.diaSourceId) & set(both.trailed.diaSourceId)


def test_box_counts_only_where_no_trail_was_measured_and_by_its_diagonal(image):
    scale, limit = image.pixel_scale_arcsec(), 36000 / 3600 / 24 * image.visit_info.exposure_time
    raw = raw_table(4, image)
    side = limit / scale
    raw[["bboxWidth", "bboxHeight"]] = [
        [0.8 * side, 0.8 * side],
        [0.8 * side, 0.8 * side],
        [0.9 * side, 0.1 * side],
        [2 * side, 1],
    ]
    raw["trail_flag"] = [True, False, True, True]
    split = filter_dia_sources(raw, standardize(raw, image, 61000.5), scale)
    assert list(split.trailed.diaSourceId) == [1000, 1003]
    raw["trail_flag"] = False
    raw["trailLengthPixels"] = [0.99 * side, 1.01 * side, np.nan, 0.0]
    split = filter_dia_sources(raw, standardize(raw, image, 61000.5), scale)
    assert list(split.trailed.diaSourceId) == [1001]
