"""What a joint fit says of its own errors: formal errors of stars and images, differences from the reference catalogue, words."""

import copy
import json
import logging

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.spatial import cKDTree

from calibration.errors import JointCalibrationError
from calibration.joint.io.outputs import catalogues, write_outputs
from calibration.joint.io.references import read_catalogue
from calibration.joint.joint import JointFit
from exposure.header.text_cards import read_cards
from simulation.focal_plane import MosaicSettings, MosaicSurvey, simulate_mosaic
from tasks.sphere import unit_vectors
from tests.support.joint_conditions import sky_error_mas
from tests.support.mosaics import config, summaries, survey

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy")


def fit(s: MosaicSurvey, references=None, **values):
    references = s.references if references is None else references
    values = {"doPhotometry": False} | values
    return JointFit(config(**values), references, references).run(s.sources, summaries(s), s.camera)


def dec_pulls(s: MosaicSurvey, stars) -> np.ndarray:
    tree = cKDTree(unit_vectors(s.truth.ra.to_numpy(), s.truth.dec.to_numpy()))
    _, index = tree.query(unit_vectors(stars.ra.to_numpy(), stars.dec.to_numpy()))
    return 3.6e6 * (stars.dec.to_numpy() - s.truth.dec.to_numpy()[index]) / np.sqrt(stars.dec_var.to_numpy())


def test_errors_of_stars_hold_where_references_are_few():
    """With some 15 reference stars the maps' errors are larger than those of the stars' measurements, and common to neighbours."""
    pulls = []
    for seed in range(20, 26):
        s = simulate_mosaic(MosaicSettings(seed, 2, 3, outliers=0.0))
        result = fit(s, s.references.nlargest(60, "z_flux"), astrometryVisitOrder=3)
        pulls.append(dec_pulls(s, result.stars))
    # six fits with a few common terms each: the rms is known to about 15 %
    assert 0.7 < np.sqrt(np.median(np.concatenate(pulls) ** 2) / 0.455) < 1.4


def test_a_step_of_the_reference_catalogue_is_seen(caplog):
    s = survey()
    good = fit(s)
    assert good.metrics["reference_field_significance"] < 5.0
    assert good.metrics["absolute_rms_mas"] < 3.0
    references = s.references.copy()
    half = references.coord_ra > np.radians(150.1)
    references.loc[half, "coord_dec"] += np.radians(0.1 / 3600)
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fit(s, references)
    m = result.metrics
    # chips take most of a step that lies between them, as dithers are a minute of arc: what lies across the step tells
    assert m["reference_field_significance"] > 10.0
    assert m["reference_field_rms_mas"] > 1.0
    assert m["absolute_rms_mas"] > 1.5 * good.metrics["absolute_rms_mas"]
    assert "differ from the reference catalogue by a field over the sky" in caplog.text
    assert len(result.reference_field) > 10


@pytest.mark.parametrize("model", ["constrainedMagnitude", "constrainedFlux"])
def test_a_step_of_the_reference_fluxes_is_seen(model, caplog):
    s = survey(5)
    values = {"doAstrometry": False, "doPhotometry": True, "photometryModel": model, "photometryVisitOrder": 3}
    good = fit(s, **values)
    assert abs(good.metrics["photometry_reference_field_significance"]) < 5.0
    assert good.metrics["photometry_reference_field_rms_mmag"] < 2.0
    references = s.references.copy()
    references.loc[references.coord_ra > np.radians(150.14), "z_flux"] *= 10 ** (-0.4 * 0.2)
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fit(s, references, **values)
    assert result.metrics["photometry_reference_field_significance"] > 10.0
    assert 2.0 < result.metrics["photometry_reference_field_rms_mmag"] < 100.0
    assert np.isfinite(result.photometry_reference_field.d_mag).all()
    assert any("fluxes differ from the reference catalogue" in r.getMessage() for r in caplog.records)


def test_few_stars_are_marked_and_their_errors_hold(caplog):
    """Five stars a chip on two visits: what they leave open is in the formal error, and a large one is said."""
    marked = 0
    for seed in range(3):
        s = simulate_mosaic(MosaicSettings(seed, 2, 9, 5.0))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
            result = fit(s)
        table = result.image_quality.set_index(["visit", "detector"])
        for key, wcs in result.outputWcs.items():
            error, row = sky_error_mas(s, key, wcs), table.loc[key]
            assert error < 5e3 * row.astrometry_formal_error
            assert error < 60.0 or row.astrometry_weak  # 0.36 px
        weak = int(table.astrometry_weak.sum())
        assert ("are held by few stars" in caplog.text) == (weak > 0)
        assert result.metrics["astrometry_weak_ccdImages"] == weak
        marked += weak
    assert marked


@pytest.mark.parametrize("arcsec", [4.0, 10.0])
@pytest.mark.parametrize("number", [1, 4])
def test_headers_that_are_seconds_of_arc_off_are_brought_back(arcsec, number):
    s = survey()
    made = copy.copy(s)
    made.headers = {key: header.copy() for key, header in s.headers.items()}
    visits = sorted({v for v, _ in s.headers})
    for (v, _), header in made.headers.items():
        if v in visits[:number]:
            header["CRVAL2"] += arcsec / 3600
    result = fit(made)
    assert result.metrics["converged"]
    assert len(result.outputWcs) == len(s.headers)
    assert max(sky_error_mas(s, key, wcs) for key, wcs in result.outputWcs.items()) < 10.0


def test_fifty_reference_stars_are_enough_or_it_is_said():
    s = survey()
    result = fit(s, s.references.nlargest(50, "z_flux"))
    table = result.image_quality.set_index(["visit", "detector"])
    for key, wcs in result.outputWcs.items():
        row = table.loc[key]
        assert row.astrometry_weak or sky_error_mas(s, key, wcs) < 5e3 * row.astrometry_formal_error
    assert not table.astrometry_weak.all()


def test_held_out_stars_without_freedom_judge_nothing():
    """Stars of one visit have as many measurements as places: a chi2 per degree of freedom is none."""
    result = fit(simulate_mosaic(MosaicSettings(1, 1, 12)))
    assert np.isnan(result.metrics["astrometry_validation_chi2_per_ndof"])


def test_a_fit_that_is_far_from_its_errors_is_not_converged(caplog):
    s = survey()
    with caplog.at_level(logging.ERROR, "alertprod.jointcal"):
        result = fit(s, maxReducedChi2=0.5)
    assert not result.converged
    assert "above maxReducedChi2 = 0.5" in caplog.text


def test_a_line_search_comes_to_the_same_place():
    s = survey(1, 2, 3)
    plain, searched = fit(s), fit(s, allowLineSearch=True)
    assert searched.metrics["astrometry_final_chi2"] == pytest.approx(plain.metrics["astrometry_final_chi2"], rel=1e-4)


def test_residuals_are_white_or_it_is_said(caplog):
    s = survey()
    assert abs(fit(s).metrics["astrometry_white_significance"]) < 5.0
    made = copy.copy(s)
    made.sources = [t.copy() for t in s.sources]
    table = made.sources[1]
    table["x"] += 0.15 * np.sin(2 * np.pi * table.y / 2500.0)  # ripples that no map of order 5 follows
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fit(made)
    assert result.metrics["astrometry_white_significance"] > 5.0
    assert f"visit {int(table.visit.iloc[0])}: " in caplog.text


def test_catalogues_of_other_frames_are_refused(tmp_path):
    table = Table({"coord_ra": [1.0], "coord_dec": [0.1]})
    for key, value in (("RADESYS", "FK4"), ("EQUINOX", 1950.0), ("RADESYS", "ICRS"), ("EQUINOX", 2000.0)):
        path = tmp_path / "refs.fits"
        hdu = fits.BinTableHDU(table)
        hdu.header[key] = value
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)
        if value in ("ICRS", 2000.0):
            assert len(read_catalogue(path)) == 1
            continue
        with pytest.raises(JointCalibrationError, match=rf"refs\.fits says {key}=.*ICRS"):
            read_catalogue(path)
    path = tmp_path / "refs.vot"
    table.write(path, format="votable")
    assert len(read_catalogue(path)) == 1
    text = path.read_text().replace("<TABLE", '<COOSYS ID="sys" system="eq_FK5" equinox="J2000"/>\n<TABLE', 1)
    path.write_text(text)
    with pytest.raises(JointCalibrationError, match=r"COOSYS system=EQ_FK5"):
        read_catalogue(path)


@pytest.mark.parametrize("seed", [3, 5])
def test_a_cloud_with_a_sharp_edge_is_told(seed):
    """One magnitude over half of a visit: its zero points are right, or they are not published."""
    s = survey(seed)
    made = copy.copy(s)
    made.sources = [t.copy() for t in s.sources]
    table = made.sources[1]
    visit = int(table.visit.iloc[0])
    for d in np.unique(table.detector):
        of = (table.detector == d).to_numpy()
        fx, fy = s.camera[int(d)].to_focal(table.x.to_numpy()[of], table.y.to_numpy()[of])
        table.loc[of, "apFlux_12_0_instFlux"] *= np.where(fx + 0.4 * fy > 3.0, 10**-0.4, 1.0)
    result = fit(made, doPhotometry=True, doAstrometry=False)
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(50, 2000, 9), np.linspace(50, 4100, 17)))
    off = {}
    for (v, d), calib in result.outputPhotoCalib.items():
        fx, fy = s.camera[d].to_focal(x, y)
        index = [int(t.visit.iloc[0]) for t in s.sources].index(v)
        true = s.optics.scale_mag(s.extra["visits"][index], d, fx, fy) - (v == visit) * (fx + 0.4 * fy > 3.0)
        off[v, d] = 1e3 * float(np.sqrt(np.mean((31.4 - 2.5 * np.log10(calib.at(x, y)) - true) ** 2)))
    assert not result.metrics["converged"]
    assert visit not in {v for v, _ in off}
    assert max(off.values()) < 40.0


def test_groups_of_chips_that_share_no_visit_have_a_gauge_each():
    s = survey(5, 4, 6)
    made = copy.copy(s)
    keep = [t.detector < 3 if k < 2 else t.detector >= 3 for k, t in enumerate(s.sources)]
    made.sources = [t[of].reset_index(drop=True) for t, of in zip(s.sources, keep, strict=True)]
    result = fit(made, doPhotometry=True, photometryVisitOrder=2)
    assert result.converged
    assert len(result.outputWcs) == 12
    assert max(sky_error_mas(s, key, wcs) for key, wcs in result.outputWcs.items()) < 15.0
    off = [
        -2.5 * np.log10(float(c.at(*s.camera[d].centre)) / s.zero_points[v, d])
        for (v, d), c in result.outputPhotoCalib.items()
    ]
    assert np.abs(off).max() < 0.02


def test_what_no_detector_measures_is_dropped_and_what_cannot_be_fitted_is_refused(caplog):
    s = survey(3, 2, 2, stars_per_chip=60.0)
    made = copy.copy(s)
    made.sources = [t.copy() for t in s.sources]
    absurd = (("apFlux_12_0_instFlux", 1e300), ("apFlux_12_0_instFluxErr", 1e-300), ("x", 1e300))
    for k, (column, value) in enumerate(absurd):
        made.sources[0].loc[made.sources[0].index[k::20], column] = value
    references = s.references.copy()
    references.loc[references.index[::2], "z_flux"] = 1e300
    result = fit(made, references, doPhotometry=True, photometryVisitOrder=2)
    assert result.converged
    assert "far off their image" in caplog.text
    assert "impossible position errors or fluxes" in caplog.text
    for key, calib in result.outputPhotoCalib.items():
        at_middle = calib.at(*s.camera[key[1]].centre)
        assert abs(2.5 * np.log10(at_middle / s.zero_points[key])) < 0.05
    made.sources = [t.assign(x=0.0) for t in s.sources]
    assert not fit(made, astrometryModel="simple").converged
    made.sources = [t.assign(x=t.x + 1e5) for t in s.sources]
    with pytest.raises(JointCalibrationError, match="pixels of the image"):
        fit(made)


def test_zero_points_of_five_stars_a_chip_are_true_or_marked():
    """Two visits of five stars a chip: a field of order 7 was off by 3.3 mag between them."""
    s = simulate_mosaic(MosaicSettings(6, 2, 9, 5.0))
    result = fit(s, doPhotometry=True, doAstrometry=False)
    table = result.image_quality.set_index(["visit", "detector"])
    assert len(result.outputPhotoCalib) >= 14
    for key, calib in result.outputPhotoCalib.items():
        error = abs(2.5 * np.log10(calib.at(*s.camera[key[1]].centre) / s.zero_points[key]))
        assert error < 0.15  # mag; 40 mmag a star
        assert error < 5 * table.photometry_formal_error[key] or table.photometry_weak[key]


@pytest.mark.parametrize("model", ["constrainedMagnitude", "constrainedFlux"])
def test_errors_of_mean_calibrations_are_those_of_the_fit(model):
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 2047, 31), np.linspace(0, 4175, 31)))
    pulls = []
    for seed in range(100, 106):
        s = simulate_mosaic(MosaicSettings(seed, 3, 4, 30.0))
        result = fit(s, doPhotometry=True, doAstrometry=False, photometryVisitOrder=2, photometryModel=model)
        of = [int(t.visit.iloc[0]) for t in s.sources]
        for (v, d), calib in result.outputPhotoCalib.items():
            true = s.optics.scale_mag(s.extra["visits"][of.index(v)], d, *s.camera[d].to_focal(x, y))
            pulls.append((calib.mean - np.mean(10 ** (0.4 * (31.4 - true)))) / calib.error)
    assert len(pulls) == 72
    assert 0.85 < np.sqrt(np.mean(np.square(pulls))) < 1.15


def test_what_is_weak_is_marked_in_all_that_is_written(tmp_path):
    s = simulate_mosaic(MosaicSettings(6, 3, 9, 12.0))
    result = fit(s, doPhotometry=True)
    tables = {"image_quality": result.image_quality}
    write_outputs(tmp_path / "fit", result.images, result.outputWcs, result.outputPhotoCalib, tables, result.metrics)
    table = result.image_quality.set_index(["visit", "detector"])
    assert 0 < table.photometry_weak.sum() < len(table)
    listed = catalogues(result.outputPhotoCalib, result.images, result.image_quality)
    for key, calib in result.outputPhotoCalib.items():
        visit, detector = key
        weak = bool(table.photometry_weak[key])
        entries = json.loads((tmp_path / f"fit/photoCalib/{visit}.json").read_text())["detectors"]
        entry = next(e for e in entries if e["detector"] == detector)
        assert (entry["weak"], entry["calibrationErr"]) == (weak, pytest.approx(calib.error))
        header = read_cards(tmp_path / f"fit/wcs/{visit}_{detector}.hdr")
        assert (header["CALWEAK"], header["CALERR"]) == (weak, pytest.approx(calib.error))
        rows = listed[visit].table
        assert bool(rows["weak"][rows["id"] == detector][0]) == weak
        assert 0 < calib.error / calib.mean < 1.5 * table.photometry_formal_error[key]
