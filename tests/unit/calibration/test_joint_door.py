"""What the inputs of a joint fit say that cannot be so: set right and told, or refused by name."""

import dataclasses
import logging
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from lsst.pex.config import FieldValidationError
from scipy.spatial import cKDTree

from calibration.errors import JointCalibrationError
from calibration.joint.io.columns import plain_numbers
from calibration.joint.io.inputs import gather, images_of
from calibration.joint.joint import JointFit
from exposure.io.exposure_catalog import ExposureRecord
from simulation.focal_plane import MosaicSurvey
from tasks.sphere import unit_vectors
from tests.support.joint_conditions import sky_error_mas
from tests.support.mosaics import config, summaries, survey

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy")


def small() -> MosaicSurvey:
    return survey(6, 3, 2)


def fit(s: MosaicSurvey, given=None, references=None, tables=None, **values):
    references = s.references if references is None else references
    values = {"doPhotometry": False} | values
    return JointFit(config(**values), references, references).run(tables or s.sources, given or summaries(s), s.camera)


def worst(s: MosaicSurvey, result, visits=None) -> float:
    """The largest error of a WCS, in its formal errors."""
    table = result.image_quality.set_index(["visit", "detector"])
    return max(
        sky_error_mas(s, key, wcs) / (1e3 * table.loc[key].astrometry_formal_error)
        for key, wcs in result.outputWcs.items()
        if visits is None or key[0] in visits
    )


def informed(s: MosaicSurvey, visits=None, **values):
    """The summaries, with other visit information in some visits; a callable makes the new value of the old."""
    out = summaries(s)
    for catalogue in out:
        for detector, record in catalogue.records.items():
            info = record.visit_info
            if visits is not None and info.visit not in visits:
                continue
            new = {k: v(getattr(info, k)) if callable(v) else v for k, v in values.items()}
            catalogue.records[detector] = ExposureRecord(
                wcs=record.wcs, photo_calib=record.photo_calib, visit_info=dataclasses.replace(info, **new)
            )
    return out


def said(caplog) -> str:
    return "\n".join(r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("visits", [None, [1002]])
def test_a_boresight_elsewhere_is_not_used(visits, caplog):
    s = small()
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fit(s, informed(s, visits, boresight_ra=0.0, boresight_dec=0.0))
    assert result.converged
    assert len(result.outputWcs) == len(s.headers)
    assert worst(s, result) < 5.0
    assert "RA 0.0000, Dec +0.0000, 150" in said(caplog)
    assert "visit 1002" in said(caplog)


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda mjd: mjd + 2400000.5, "JD"), (lambda mjd: 0.0, "1890"), (lambda mjd: np.inf, "inf")],
)
def test_a_time_that_is_no_mjd_is_refused_by_name(change, words):
    s = small()
    with pytest.raises(JointCalibrationError, match=rf"visit 1002, detector 0 .*{words}"):
        fit(s, informed(s, [1002], midpoint_mjd_tai=change))


def test_an_image_without_a_time_is_left_out_where_stars_move(caplog):
    s = survey(7, 3, 2, motion_mas=8.0)
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fit(s, informed(s, [1004], midpoint_mjd_tai=np.nan))
    assert {v for v, _ in result.outputWcs} == {1000, 1002}
    assert worst(s, result) < 5.0
    assert not result.converged
    assert "2 of 6 images have no time, and reference stars move: left out; give" in said(caplog)
    assert "visit 1004, detector 0" in said(caplog)
    with pytest.raises(JointCalibrationError, match="6 of 6 images have no time"):
        fit(s, informed(s, midpoint_mjd_tai=np.nan))
    motionless = fit(small(), informed(small(), midpoint_mjd_tai=np.nan))
    assert motionless.converged


def test_reference_fluxes_in_another_unit_are_no_success(caplog):
    s = small()
    other = s.references.assign(z_flux=1e-3 * s.references.z_flux, z_fluxErr=1e-3 * s.references.z_fluxErr)
    with caplog.at_level(logging.ERROR, "alertprod.jointcal"):
        result = fit(s, references=other, doAstrometry=False, doPhotometry=True)
    assert not result.converged
    assert result.metrics["photometry_input_offset_mag"] == pytest.approx(-7.5, abs=0.3)
    assert "one of the two is not in nJy" in said(caplog)
    good = fit(s, doAstrometry=False, doPhotometry=True)
    assert good.converged
    assert abs(good.metrics["photometry_input_offset_mag"]) < 0.3


@pytest.mark.parametrize("named", [True, False])
def test_bands_differ_where_filters_have_no_name(named):
    s = small()
    given = summaries(s)
    for catalogue in given[1:] if named else given:
        catalogue.table["physical_filter"] = [""] * len(catalogue.table)
    assert fit(s, given, doAstrometry=False, doPhotometry=True).converged
    given[1].table["band"] = ["g"] * len(given[1].table)
    with pytest.raises(JointCalibrationError, match=r"2 filters \(g, z\)"):
        fit(s, given, doAstrometry=False, doPhotometry=True)


@pytest.mark.parametrize("ids", ["none", "by image"])
def test_fluxes_of_stars_are_right_where_ids_are_not_unique(ids):
    s = small()
    tables = [t.drop(columns="sourceId") for t in s.sources]
    if ids == "by image":
        tables = [g.assign(sourceId=np.arange(len(g))) for t in tables for _, g in t.groupby("detector")]
    stars = fit(s, tables=tables, doPhotometry=True).stars
    place = unit_vectors(stars.ra.to_numpy(), stars.dec.to_numpy())
    _, index = cKDTree(unit_vectors(s.truth.ra.to_numpy(), s.truth.dec.to_numpy())).query(place)
    off = 2.5 * np.log10(stars.flux.to_numpy() / s.truth.flux.to_numpy()[index])
    assert len(stars) > 150
    assert np.isfinite(off).mean() > 0.98
    assert np.nanmax(np.abs(off)) < 0.5  # a source of S/N 10 is right to 0.11 mag, another star is magnitudes off
    assert list(stars.columns[:8]) == ["ra", "dec", "flux", "ra_var", "dec_var", "ra_dec_cov", "flux_var", "n"]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("detect_isPrimary", lambda n: pd.array([pd.NA, *[True] * (n - 1)], dtype="boolean"), ""),
        ("pixelFlags_bad", lambda n: [None, *[False] * (n - 1)], ""),
        ("sizeExtendedness", lambda n: pd.array([pd.NA, *[0.0] * (n - 1)], dtype="Float64"), ""),
        ("parentSourceId", lambda n: pd.array([pd.NA, *[0] * (n - 1)], dtype="Int64"), ""),
        ("xErr", lambda n: pd.array([pd.NA, *[0.02] * (n - 1)], dtype="Float64"), ""),
        ("visit", lambda n: pd.array([pd.NA, *[1002] * (n - 1)], dtype="Int64"), ""),
        ("visit", lambda n: [np.nan, *[1002.0] * (n - 1)], ""),
        ("sourceId", lambda n: [f"s{i}" for i in range(n)], "column sourceId .* no numbers, for example 's0'"),
        ("x", lambda n: ["12px"] * n, "column x .* no numbers, for example '12px'"),
        ("visit", lambda n: ["1002"] * n, "column visit .* no numbers"),
        ("detect_isPrimary", lambda n: ["True"] * n, "column detect_isPrimary .* no flags"),
    ],
)  # fmt: skip
def test_tables_with_columns_of_other_kinds(column, values, words):
    """The first row of a table says nothing, and is left out; what is no number is refused by name."""
    s = small()
    tables = [t.copy() for t in s.sources]
    tables[1][column] = values(len(tables[1]))
    images, every = gather(s.sources, images_of(summaries(s)), config())
    if words:
        with pytest.raises(JointCalibrationError, match=words):
            gather(tables, images, config())
        return
    assert len(gather(tables, images, config())[1]) == len(every) - 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("astrometryReferenceErr", 0.0), ("astrometryReferenceErr", np.nan), ("positionErrorPedestal", np.nan), ("matchCut", np.inf),
        ("photometryErrorPedestal", -0.1), ("photometryFieldPrior", np.inf), ("chipPositionPrior", -1.0), ("outlierRejectSigma", np.nan),
        ("maxWcsError", -1.0), ("maxReducedChi2", np.nan),
    ],
)  # fmt: skip
def test_numbers_of_the_configuration_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(FieldValidationError, match=f"{name} must be"):
        config(**{name: value})


def test_limits_without_an_end_are_off():
    for name in ("maxReducedChi2", "maxWcsError", "maxCalibrationError"):
        assert getattr(config(**{name: np.inf}), name) == np.inf


def test_a_name_of_a_filter_is_not_compared_with_a_band():
    """One visit says the name only, another the band only; two names or two bands are two filters."""
    images = images_of(summaries(small()))
    one = images.visit == 1000
    checked = JointFit(config())._check_filters

    def saying(names: tuple[str, str], bands: tuple[str, str]):
        columns = {"physical_filter": names, "band": bands}
        return dataclasses.replace(images, **{k: np.where(one, *v).tolist() for k, v in columns.items()})

    checked(saying(("HSC-R", ""), ("", "r")))
    checked(saying(("HSC-R", "HSC-R"), ("r", "")))
    checked(saying(("HSC-R", ""), ("r", "r")))
    for names, bands in ((("HSC-R", "HSC-G"), ("", "g")), (("HSC-R", ""), ("r", "g")), (("", ""), ("r", "g"))):
        with pytest.raises(JointCalibrationError, match="2 filters"):
            checked(saying(names, bands))


def test_ids_of_sources_keep_all_their_digits():
    """As integers between None, a column of objects: a float would hold 53 bits of them."""
    ids = [2**60 + 1, None, 2**60 + 3]
    for column in (ids, [None if i is None else Decimal(i) for i in ids], pd.array(ids, dtype="Int64")):
        table = pd.DataFrame({"sourceId": pd.Series(column, dtype=None if hasattr(column, "dtype") else object)})
        assert plain_numbers(table, set()).sourceId.tolist() == [2**60 + 1, -1, 2**60 + 3]
    with pytest.raises(JointCalibrationError, match=r"column sourceId .* more than 63 bits"):
        plain_numbers(pd.DataFrame({"sourceId": pd.Series([2**63, None], dtype=object)}), set())


@pytest.mark.parametrize("model", ["constrainedMagnitude", "simpleMagnitude"])
def test_visits_without_a_reference_star_are_left_out_by_name(model, caplog):
    """Of a second field, two degrees away, the photometric catalogue has nothing."""
    one, two = small(), survey(4, 3, 2, centre=(152.0, 2.2))
    tables = one.sources + [t.assign(visit=t.visit + 1000) for t in two.sources]
    given = summaries(one)
    for catalogue in summaries(two):
        catalogue.table["visit"] = [v + 1000 for v in catalogue.table["visit"]]
        given.append(catalogue)
    both = pd.concat([one.references, two.references], ignore_index=True)
    fitting = JointFit(config(photometryModel=model), both, one.references)
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fitting.run(tables, given, one.camera)
    assert {v for v, _ in result.outputPhotoCalib} == {1000, 1002, 1004}
    assert {v for v, _ in result.outputWcs} == {1000, 1002, 1004, 2000, 2002, 2004}
    assert not result.converged
    assert "stars of visits 2000, 2002, 2004 are tied to no reference star" in said(caplog)
