"""Tables of the sources of a difference: truth on the sky and in nJy, every format, what the documentation says."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table

from exposure import load_instrument
from exposure.instrument import HeaderRule
from service.errors import OutputError
from service.pairs.difference import PairOptions, difference_files
from service.pairs.output_checks import TABLES, check_format
from service.pairs.source_columns import COLUMNS, FLAG_BITS, IMAGE_UNIT
from service.pairs.source_files import _WRITERS, write_sources
from service.pairs.source_table import source_table
from tests.support.pairs import ZEROPOINT, make_pair

DOCS = Path(__file__).parents[3] / "docs" / "differencing.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    truth = make_pair(folder)
    rules = load_instrument("generic").model_copy(
        update={"zeropoint": "header", "zeropoint_value": HeaderRule(key="MAGZP")}
    )
    return difference_files(folder / "new.fits", folder / "old.fits", rules, PairOptions(sources=True)), truth


def nearest(rows, truth):
    apart = np.hypot(rows.x.to_numpy()[:, None] - truth.x, rows.y.to_numpy()[:, None] - truth.y)
    return rows.iloc[apart.argmin(0)].reset_index(drop=True)


def test_positions_and_fluxes_are_those_of_the_truth(made):
    difference, truth = made
    found = nearest(difference.table().rows, truth)
    # five times the errors of the table (noise), and 2 % for the PSF, which is measured on about fifty stars
    assert (np.abs(found.x - truth.x) < 5 * found.xErr).all()
    assert (np.abs(found.dec - truth.dec) < 5 * found.decErr).all()
    assert (np.abs(found.ra - truth.ra) * np.cos(np.radians(2)) < 5 * found.raErr).all()
    njy = truth.flux * 10 ** ((31.4 - ZEROPOINT) / 2.5)
    assert (np.abs(found.flux - njy) < 5 * found.fluxErr + 0.02 * njy).all()
    assert found.flux.equals(found.psfFlux)
    magnitude = ZEROPOINT - 2.5 * np.log10(truth.flux)
    assert (np.abs(found.mag - magnitude) < 5 * found.magErr + 0.02).all()
    assert np.allclose(found.mag, -2.5 * np.log10(found.flux * 1e-9 / 3631), atol=5e-4)  # 31.4 is 31.4001 rounded
    assert np.allclose(found.magErr, 2.5 / np.log(10) * found.fluxErr / found.flux)
    scale = 0.4 / 3600  # degrees per px: a turned grid mixes the errors of x and y, and keeps their sum
    assert np.allclose(found.raErr**2 + found.decErr**2, scale**2 * (found.xErr**2 + found.yErr**2), rtol=1e-3)
    assert np.allclose(found.ixx + found.iyy, 0.16 * (found.ixxPixels + found.iyyPixels), rtol=1e-3)
    assert (found.reliability > 0.5).all()
    assert (found.snr > 20).all()
    assert (found.band == "r").all()
    assert found.midpointMjdTai[0] == pytest.approx(60432.128 + 37 / 86400, abs=1e-3)  # 03:04:20 UTC


def test_the_flags_add_up(made):
    difference, truth = made
    rows = difference.table().rows
    assert nearest(rows, truth)["flags"].tolist()[2] & 64  # in the halo of saturated pixels
    expected = sum(bit * rows[list(names)].any(axis=1) for bit, (names, _) in FLAG_BITS.items())
    assert (rows["flags"] == expected).all()
    assert nearest(rows, truth)["flags"].tolist()[0] == 0


def test_fluxes_of_the_template_are_in_njy_through_the_kernel_where_it_has_no_calibration(made):
    difference, _ = made
    rows = source_table(difference.sources, difference.exposure, template_unit=2.0).rows
    assert np.allclose(rows.templateFlux, rows.templateInstFlux * 2.0 * 10 ** ((31.4 - ZEROPOINT) / 2.5))
    own = difference.table().rows  # the template's header has a zero point of its own
    assert np.allclose(own.templateFlux, own.templateInstFlux * 10 ** ((31.4 - ZEROPOINT) / 2.5))


def test_sources_that_faded_have_no_magnitude(made):
    difference, _ = made
    raw = difference.sources.copy()
    raw["psfInstFlux"] = -raw.psfInstFlux
    rows = source_table(raw, difference.exposure).rows
    assert rows.mag.isna().all()
    assert rows.magErr.isna().all()


def test_without_wcs_and_zero_point_there_are_pixels_and_counts(made):
    difference, _ = made
    bare = difference.exposure.copy()
    bare.wcs = bare.photo_calib = bare.visit_info = None
    bare.band = ""
    table = source_table(difference.sources, bare, unit="adu")
    missing = {"ra", "raErr", "mag", "psfFlux", "ixx", "trailLength", "band", "midpointMjdTai"}
    assert not missing & set(table.rows)
    assert table.rows.flux.equals(table.rows.psfInstFlux)
    assert (table.columns["flux"].unit, table.columns["apInstFlux"].unit) == ("adu", "adu")
    assert source_table(difference.sources, bare).columns["flux"].unit == ""


def read(path):
    """Return a table as columns and their units."""
    suffix = path.suffix
    if suffix == ".csv":
        return pd.read_csv(path), None
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        schema = pq.read_schema(path)
        return pd.read_parquet(path), {f.name: f.metadata[b"unit"].decode() for f in schema}
    table = Table.read(path, format={".vot": "votable", ".ecsv": "ascii.ecsv", ".fits": "fits"}[suffix])
    frame = pd.DataFrame(
        {
            c: np.ma.filled(np.ma.asarray(table[c]), np.nan) if table[c].dtype.kind == "f" else np.asarray(table[c])
            for c in table.colnames
        }
    )
    return frame, {c: "" if table[c].unit is None else str(table[c].unit) for c in table.colnames}


@pytest.mark.parametrize("suffix", [s for s in TABLES if s != ".reg"])
def test_every_format_gives_back_what_was_written(made, tmp_path, suffix):
    from astropy.units import Unit

    table = made[0].table()
    path = tmp_path / f"sources{suffix}"
    write_sources(table, path)
    frame, units = read(path)
    assert list(frame) == list(table.rows)
    for name, values in table.rows.items():
        if values.dtype.kind in "fiub":
            assert np.array_equal(
                frame[name].to_numpy().astype(values.dtype), values.to_numpy(), equal_nan=values.dtype.kind == "f"
            ), name
        else:
            assert [v.decode() if isinstance(v, bytes) else str(v) for v in frame[name]] == [str(v) for v in values]
    if units is not None:
        assert {n: Unit(u) for n, u in units.items()} == {n: Unit(c.unit) for n, c in table.columns.items()}
        assert units["flux"] == "nJy"
    write_sources(table, tmp_path / f"again{suffix.upper()}")  # whatever the case of the letters; the same bytes
    assert (tmp_path / f"again{suffix.upper()}").read_bytes() == path.read_bytes()


def test_a_fits_table_has_units_meanings_and_its_origin(made, tmp_path):
    table = made[0].table()
    write_sources(table, tmp_path / "s.fits")
    with fits.open(tmp_path / "s.fits") as hdus:
        hdus.verify("exception")
        header = hdus["SOURCES"].header
        numbers = {header[f"TTYPE{k}"]: k for k in range(1, header["TFIELDS"] + 1)}
        assert header[f"TUNIT{numbers['raErr']}"] == "deg"
        assert header[f"TCOMM{numbers['mag']}"] == COLUMNS["mag"].meaning
        assert (header["SCIFILE"], header["NSOURCES"]) == ("new.fits", len(table.rows))
        assert hdus["SOURCES"].columns["isDipole"].format == "L"


def test_regions_lie_on_the_sources(made, tmp_path):
    table = made[0].table()
    write_sources(table, tmp_path / "s.reg")
    lines = (tmp_path / "s.reg").read_text().splitlines()
    assert lines[2] == "icrs"
    circles = np.array([re.match(r"circle\((.+),(.+),(.+)\"\)", line).groups() for line in lines[3:]], float)
    assert np.abs(circles[:, 0] - table.rows.ra).max() < 1e-8
    assert np.abs(circles[:, 1] - table.rows.dec).max() < 1e-8
    assert np.allclose(circles[:, 2], 3.2, atol=1e-3)  # 8 px
    assert [line for line in lines[3:] if "color=red" in line] == [
        line for line, sure in zip(lines[3:], table.rows.reliability, strict=True) if sure < 0.5
    ]
    bare = made[0].exposure.copy()
    bare.wcs = None
    write_sources(source_table(made[0].sources, bare), tmp_path / "p.reg")
    lines = (tmp_path / "p.reg").read_text().splitlines()
    assert lines[2] == "image"
    first = re.match(r"circle\((.+),(.+),8.0\)", lines[3]).groups()
    assert float(first[0]) == pytest.approx(table.rows.x[0] + 1, abs=1e-3)  # FITS counts from 1


@pytest.mark.parametrize("suffix", TABLES)
def test_no_source_is_a_table_too(made, tmp_path, suffix):
    difference, _ = made
    table = source_table(difference.sources.iloc[:0], difference.exposure, meta={"PIXSCALE": 0.4})
    assert list(table.rows) == list(difference.table().rows)
    path = tmp_path / f"none{suffix}"
    write_sources(table, path)
    if suffix == ".reg":
        assert "circle" not in path.read_text()
    else:
        frame, _ = read(path)
        assert list(frame) == list(table.rows)
        assert len(frame) == 0


def test_other_suffixes_are_refused():
    assert set(_WRITERS) == set(TABLES)
    for name in ("sources", "sources.txt", "sources.csv.gz"):
        with pytest.raises(OutputError, match=r"\.csv \.ecsv \.fits"):
            check_format(Path(name))


def documented(title):
    """Return the rows of a table of the documentation, as lists of cells."""
    text = DOCS.read_text().split(f"### {title}\n")[1].split("\n#")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


def test_the_documentation_names_every_column_with_its_unit():
    told = {}
    for names, unit, meaning in documented("Columns"):
        for name in re.findall(r"`(\w+)`", names):
            assert name not in told
            told[name] = (unit, meaning)
    shown = {"": "", IMAGE_UNIT: "image"}
    assert told == {name: (shown.get(c.unit, c.unit).replace("**", "^"), c.meaning) for name, c in COLUMNS.items()}
    assert list(told) == list(COLUMNS)


def test_the_documentation_names_every_flag():
    told = {int(bit): (tuple(re.findall(r"`(\w+)`", names)), meaning) for bit, meaning, names in documented("Flags")}
    assert told == dict(FLAG_BITS)
