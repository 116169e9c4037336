"""What ``alertprod diff`` writes of a DECam pair with a TPV WCS, two years apart."""

import warnings

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from diffim.pictures.difference_pages import draw_subtraction
from exposure import load_instrument
from exposure.io.writing import write_exposure
from service.pairs.difference import PairOptions, difference_files
from service.pairs.source_files import write_sources
from tests.support.real import real_data


def test_a_decam_pair_from_files_to_table_and_pictures(tmp_path):
    folder = real_data("decam_two_seasons")
    new, old = folder / "DEC-OBS18a.mini.fits", folder / "DEC-OBS04a.mini.fits"
    made = difference_files(new, old, load_instrument("decam"), PairOptions(sources=True, pictures=True))
    table = made.table()
    assert 1 <= len(table.rows) < 30
    assert "psfFlux" not in table.rows  # its zero point comes from comparing frames: one pair has none
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ra, dec = WCS(fits.getheader(new)).all_pix2world(table.rows.x, table.rows.y, 0)
    assert np.abs(table.rows.ra - ra).max() < 1e-9
    assert np.abs(table.rows.dec - dec).max() < 1e-9
    write_exposure(made.exposure, tmp_path / "d.fits", cards=made.cards, unit=made.unit)
    with fits.open(tmp_path / "d.fits") as hdus:
        hdus.verify("exception")
        header = hdus[0].header
        assert (header["SCIFILE"], header["TMPFILE"], header["FILTER"]) == (new.name, old.name, "i")
        assert header["MJD-AVG"] < header["TMPMJD"]  # the template is the later one here
    write_sources(table, tmp_path / "s.fits")
    assert {"difference.png", "sources.png", "stars.png"} <= {p.name for p in draw_subtraction(made.subject, tmp_path)}
