"""Headers and reference catalogues of a joint fit: what their cards and columns may hold, and what is refused by name."""

import logging

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.time import Time
from scipy.spatial import cKDTree

from calibration.errors import JointCalibrationError
from calibration.joint.config import ReferenceConfig
from calibration.joint.io.files import read_header
from calibration.joint.io.reference_units import epochs_mjd
from calibration.joint.io.references import Wanted, load_references
from calibration.joint.matching.references import Circle
from service.terminal import quiet
from tasks.sphere import unit_vectors

S = 0.2 / 3600
MJD = 60345.0
CARDS = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 1000.5, "CRPIX2": 1000.5, "CRVAL1": 150.0, "CRVAL2": 2.0,
    "CD1_1": -S, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": S, "VISIT": 7, "DETECTOR": 3, "IMAGEW": 2000, "IMAGEH": 1000,
    "CALMEAN": 9.0, "BAND": "r", "FILTER": "r", "MJD-OBS": MJD, "EXPTIME": 30.0,
}  # fmt: skip
MAS = np.radians(1e-3 / 3600)


def header(tmp_path, raw=None, **more):
    path = tmp_path / "h1.hdr"
    hdu = fits.PrimaryHDU()
    hdu.header.update(
        {k: v for k, v in (CARDS | {k.replace("__", "-"): v for k, v in more.items()}).items() if v is not None}
    )
    hdu.writeto(path, overwrite=True)
    content = path.read_bytes()
    for key, text in (raw or {}).items():
        start = content.index(f"{key:<8}=".encode())
        content = content[:start] + text.encode()[:80].ljust(80) + content[start + 80 :]
    path.write_bytes(content)
    return path


def test_one_header_written_in_many_ways_is_one_record(tmp_path):
    row, record = read_header(header(tmp_path))
    x, y = np.array([0.0, 700.0, 1999.0]), np.array([10.0, 999.0, 500.0])
    sky = record.wcs.pixel_to_sky(x, y)
    assert row["bbox_max_x"] == 1999
    assert record.visit_info.midpoint_mjd_tai == pytest.approx(
        float(Time(MJD, format="mjd").tai.mjd) + 15 / 86400, abs=1e-9
    )
    no_cd = {"CD1_1": None, "CD1_2": None, "CD2_1": None, "CD2_2": None}
    old = no_cd | {"PC001001": -1.0, "PC001002": 0.0, "PC002001": 0.0, "PC002002": 1.0, "CDELT1": S, "CDELT2": S}
    arcsec = {"CUNIT1": "arcsec", "CUNIT2": "arcsec", "CRVAL1": 540000.0, "CRVAL2": 7200.0, "CD1_1": -0.2, "CD2_2": 0.2}
    swapped = {
        "CTYPE1": "DEC--TAN",
        "CTYPE2": "RA---TAN",
        "CRVAL1": 2.0,
        "CRVAL2": 150.0,
        "CD1_1": 0.0,
        "CD1_2": S,
        "CD2_1": -S,
        "CD2_2": 0.0,
    }
    for more in (old, arcsec, swapped):
        assert np.abs(np.subtract(read_header(header(tmp_path, **more))[1].wcs.pixel_to_sky(x, y), sky)).max() < 1e-12
    odd = {"FILTER": "FILTER  =                  nan"}
    path = header(tmp_path, {"BAND": "NOTNEED = 1,5"}, BAND="r")
    assert read_header(path)[1].wcs.terms == record.wcs.terms, "through astropy, for the card that is no FITS"
    with pytest.raises(JointCalibrationError, match=r"h1\.hdr.*FILTER"):
        read_header(header(tmp_path, odd))


@pytest.mark.parametrize(
    ("more", "card"),
    [
        ({"MJD__OBS": MJD + 2400000.5}, "MJD-OBS.*looks like a JD"), ({"MJD__OBS": "soon"}, "MJD-OBS"), ({"TIMESYS": "LOCAL"}, "TIMESYS"),
        ({"EXPTIME": -1.0}, "EXPTIME"), ({"EXPTIME": "nan"}, "EXPTIME"), ({"CALMEAN": 0.0}, "CALMEAN"), ({"CALMEAN": None}, "CALMEAN"),
        ({"IMAGEW": 0}, "IMAGEW"), ({"IMAGEH": 10.5}, "IMAGEH"), ({"VISIT": "x"}, "VISIT"), ({"CRVAL1": "10:00:00"}, "CRVAL1"),
        ({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}, "CTYPE1"), ({"CD1_1": 0.0, "CD2_2": 0.0}, "CD1_1"), ({"CUNIT1": "m"}, "CUNIT1"),
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_right_names_file_and_card(tmp_path, more, card):
    with pytest.raises(JointCalibrationError, match=card) as caught:
        read_header(header(tmp_path, **more))
    assert "h1.hdr" in str(caught.value)


def references(**columns):
    ra, dec = np.radians([150.0, 150.01]), np.radians([2.0, 2.01])
    table = pd.DataFrame({
        "coord_ra": ra, "coord_dec": dec, "coord_raErr": MAS, "coord_decErr": MAS, "pm_ra": 500 * MAS, "pm_dec": -300 * MAS,
        "epoch": 57388.5,
    })  # fmt: skip
    return table.assign(**columns)


def loaded(table, need="astrometry"):
    circle = Circle(unit_vectors(np.array([150.0]), np.array([2.0]))[0], 1.0)
    return load_references(table, ReferenceConfig(), circle, Wanted(need, ["r"], MJD))


def test_fluxes_are_no_magnitudes_and_have_errors():
    good = {"r_flux": [1e5, 2e6], "r_fluxErr": [100.0, 0.0]}
    assert len(loaded(references(**good), "photometry")) == 1, "one has no error"
    for column, values in (("r_flux", [18.9, 15.6]), ("r_fluxErr", [0.0, np.nan])):
        with pytest.raises(JointCalibrationError, match=rf"column {column} "):
            loaded(references(**good | {column: values}), "photometry")


def test_a_catalogue_without_a_star_in_the_field_says_where_the_images_look_and_which_cards_say_so():
    elsewhere = references(coord_ra=np.radians([140.0, 140.1]))
    with pytest.raises(JointCalibrationError, match=r"0 of them .*RA 150\.0000, Dec \+2\.0000 deg.*RADESYS, EQUINOX"):
        loaded(elsewhere)
    unusable = references(r_flux=[1e5, -2e6], r_fluxErr=[np.nan, 100.0])
    with pytest.raises(JointCalibrationError, match=r"2 of them .*filters of the catalogue \(r\)") as caught:
        loaded(unusable, "photometry")
    assert "EQUINOX" not in str(caught.value)


def test_epochs_are_mjd_jd_or_years(caplog):
    truth = loaded(references()).vector
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        for epoch in (2016.0, 2457389.0, np.float32(2016.0)):
            # all three are 2016-01-01T12
            assert np.abs(loaded(references(epoch=epoch)).vector - truth).max() < 1e-15
    assert "Julian years" in caplog.text
    assert "JD" in caplog.text
    moved = np.degrees(np.arctan2(truth[0, 1], truth[0, 0])) - 150.0
    assert moved * 3.6e6 * np.cos(np.radians(2.0)) == pytest.approx(500 * (MJD - 57388.5) / 365.25, rel=1e-4)
    assert np.isnan(epochs_mjd(references(epoch=[np.nan, 57388.5]))).tolist() == [True, False]


def test_stars_that_move_have_an_epoch(caplog):
    truth = loaded(references()).vector
    with pytest.raises(JointCalibrationError, match=r"proper motions .* but no finite epoch"):
        loaded(references(epoch=np.nan))
    still = loaded(references(epoch=np.nan, pm_ra=0.0, pm_dec=0.0))
    assert len(still) == 2
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        some = loaded(references(epoch=[np.nan, 57388.5]))
    assert np.array_equal(some.vector, truth[1:])
    assert "1 of 2 reference stars have no epoch: left out" in caplog.text


def test_a_star_without_a_motion_is_known_less_well_the_older_its_place_is(caplog):
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        loaded_stars = loaded(references(pm_ra=[500 * MAS, np.nan], pm_dec=[-300 * MAS, 0.0], pm_raErr=0.1 * MAS))
    years = (MJD - 57388.5) / 365.25
    assert loaded_stars.error[0] == pytest.approx(np.array([np.hypot(1e-3, 0.1e-3 * years), 1e-3]), rel=1e-6)
    assert loaded_stars.error[1] == pytest.approx(np.full(2, np.hypot(1e-3, 10e-3 * years)), rel=1e-6)
    assert not loaded_stars.motion[1].any()
    assert "1 of 2 reference stars have no proper motion" in caplog.text


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"epoch": 16.0}, "epoch"), ({"epoch": [2016.0, 57388.5]}, "epoch"), ({"epoch": "J2016"}, "epoch"),
        ({"pm_ra": 500.0}, "pm_ra.*mas per year"), ({"pm_decErr": 0.1}, "pm_decErr"), ({"coord_ra": [150.0, 150.01]}, "coord_ra.*degrees"),
        ({"coord_dec": [-30.0, 2.0]}, "coord_dec.*degrees"), ({"coord_raErr": 2.0}, "coord_raErr.*mas"), ({"parallax": 3.0}, "parallax"),
    ],
)  # fmt: skip
def test_columns_in_other_units_are_refused_by_name(columns, words):
    with pytest.raises(JointCalibrationError, match=words):
        loaded(references(**columns))


@pytest.mark.parametrize(
    ("column", "value", "words"), [("coord_raErr", 0.5e-3, "arcsec"), ("coord_decErr", 6e-6, "arcsec"), ("pm_ra", 8e-3 / 3600, "degrees or arcsec")]
)  # fmt: skip
def test_units_of_many_rows_are_told_by_what_is_typical(column, value, words):
    many = pd.concat([references(pm_ra=8 * MAS, pm_dec=-8 * MAS)] * 10, ignore_index=True)
    many["coord_ra"] += np.radians(0.02) * np.arange(20)
    assert len(loaded(many)) == 20
    with pytest.raises(JointCalibrationError, match=f"column {column} .* typical row: .*{words}"):
        loaded(many.assign(**{column: value}))
    few = many.copy()
    few.loc[:5, column] = value  # some stars are fast, some places bad
    assert len(loaded(few)) == 20


def test_stars_that_the_catalogue_holds_twice_do_no_harm(caplog):
    """One of two entries that agree is used, none of two that do not; a catalogue of such pairs is refused."""
    step = np.arange(50.0)
    many = pd.concat([references().iloc[:1]] * 50, ignore_index=True).assign(
        coord_ra=np.radians(150.0 + 0.01 * step), pm_ra=0.0, pm_dec=0.0
    )
    copies = many.assign(coord_dec=many.coord_dec + 2 * MAS, coord_decErr=2 * MAS)
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        agreeing = loaded(pd.concat([copies, many], ignore_index=True))
    assert np.array_equal(agreeing.vector, loaded(many).vector), "those with the smaller errors"
    assert "50 more are in the catalogue twice" in caplog.text
    far = copies[:4].assign(coord_dec=many.coord_dec[:4] + 300 * MAS)
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        some = loaded(pd.concat([many, far], ignore_index=True))
    assert np.array_equal(some.vector, loaded(many).vector[4:])
    assert "8 of 54 reference stars have another within 1 arcsec and do not agree" in caplog.text
    for offset in (30, 300, 900):
        with pytest.raises(JointCalibrationError, match="hold its stars more than once"):
            loaded(pd.concat([many, many.assign(coord_dec=many.coord_dec + offset * MAS)], ignore_index=True))


@pytest.mark.parametrize("per_square_degree", [3e5, 1.5e6])
def test_dense_fields_are_no_catalogue_that_holds_its_stars_twice(per_square_degree, caplog):
    """Stars at random places, as a catalogue tells them apart from half an arcsec on; each twice is refused all the same."""
    rng = np.random.default_rng(31)
    side = np.sqrt(5000 / per_square_degree)
    places = rng.uniform(-side / 2, side / 2, (5000, 2)) + np.array([150.0, 2.2])
    plane = places * [np.cos(np.radians(2.2)), 1.0] * 3600
    pairs = cKDTree(plane).query_pairs(0.5, output_type="ndarray")
    places = np.delete(places, np.unique(pairs[:, 1]), axis=0)
    many = pd.concat([references().iloc[:1]] * len(places), ignore_index=True).assign(pm_ra=0.0, pm_dec=0.0)
    many = many.assign(coord_ra=np.radians(places[:, 0]), coord_dec=np.radians(places[:, 1]))
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        used = len(loaded(many))
    assert used > 0.9 * len(many)
    if per_square_degree > 1e6:
        assert used == len(many)
        twice = many.assign(coord_dec=many.coord_dec + 1 * MAS)
        with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
            assert len(loaded(pd.concat([many, twice], ignore_index=True))) == len(many)
        assert f"{len(many)} more are in the catalogue twice" in caplog.text
    for offset in (100, 300, 700):
        with pytest.raises(JointCalibrationError, match="hold its stars more than once"):
            loaded(pd.concat([many, many.assign(coord_dec=many.coord_dec + offset * MAS)], ignore_index=True))


def test_what_libraries_say_stays_off_standard_output(capsys):
    """astropy logs on whatever standard output is then."""
    from astropy import log

    with quiet():
        log.info("logged by astropy")
        print("printed by a library")
    print("the answer")
    told = capsys.readouterr()
    assert told.out == "the answer\n"
    assert "logged by astropy" in told.err and "printed by a library" in told.err
