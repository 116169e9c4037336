"""Tables of positions as people write them: every one is read as meant, or refused with column and row."""

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import Latitude, Longitude, SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table

from forced.errors import BadPositions
from service.processing.positions import read_positions

RA, DEC = np.array([150.025, 10.5]), np.array([-2.5, 45.25])  # 10h00m06s, 0h42m00s; -2d30m, +45d15m
BIG = 169813006680588318  # a float would round it


def written(folder, text, name="p.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def same(table, ids=(1, 2)):
    assert list(table.columns) == ["id", "ra", "dec"]
    assert table.id.tolist() == list(ids)
    assert table.ra.to_numpy() == pytest.approx(RA, abs=1e-9)
    assert table.dec.to_numpy() == pytest.approx(DEC, abs=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "id,ra,dec\n1,150.025,-2.5\n2,10.5,45.25\n",
        "ID, RA, DEC\n1, 150.025, -2.5\n2, 10.5, 45.25\n",
        "RAJ2000;DEJ2000;Name\n150.025;-2.5;1\n10.5;45.25;2\n",
        "ID\tRA_ICRS\tDE_ICRS\n1\t150.025\t-2.5\n2\t10.5\t45.25\n",
        "id ra dec\n1 150.025 -2.5\n2 10.5 45.25\n",
        "id|ra|dec\n1|10:00:06|-02:30:00\n2|0:42:00|+45:15:00\n",
        "id,ra,dec\n1,10:00:06.00,-2:30:00.0\n2,00:42:00,45:15\n",
        "id,ra,dec\n1,10 00 06,-02 30 00\n2,00 42 00,+45 15 00\n",
        "id,ra,dec\n1,10h00m06.0s,-2d30m00s\n2,0h42m0s,45\u00b015\u203200\u2033\n",
        "id,ra,dec\n1,150d01m30s,\u22122:30:00\n2,10d30m,45.25\n",
        "id,ra,dec\n1,-209.975,-2.5\n2,370.5,45.25\n".replace("370.5", "10.5"),
        "id,ra_hours,dec_deg\n1,10.001666666666667,-2.5\n2,0.7,45.25\n",
        "id,ra (deg),dec (deg)\n1,150.025,-2.5\n2,10.5,45.25\n",
        "# made by hand\nid,right ascension,declination\n1,150.025,-2.5\n2,10.5,45.25\n",
        "\ufeffid,ra,dec\r\n1,150.025,-2.5\r\n2,10.5,45.25\r\n",
        '"id","ra","dec","note"\n1,150.025,-2.5,"a, b"\n2,10.5,45.25,\n',
        "id,decl,ra\n1,-2.5,150.025\n2,45.25,10.5\n",
    ],
)
def test_text_tables(tmp_path, text):
    same(read_positions(written(tmp_path, text)))


@pytest.mark.parametrize("suffix", ["fits", "fits.gz", "ecsv", "vot", "parquet", "csv", "csv.gz"])
def test_every_format_gives_the_same(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    kind = np.int32 if suffix == "vot" else np.uint64  # VOTables know no unsigned integers of 64 bits
    table = Table({"id": np.array([1, 2], kind), "ra": RA, "dec": DEC})
    if suffix == "csv.gz":
        table.to_pandas().to_csv(path, index=False)
    elif suffix == "parquet":
        table.to_pandas().to_parquet(path)
    else:
        formats = {"vot": "votable", "ecsv": "ascii.ecsv", "csv": "ascii.csv"}
        table.write(path, format=formats.get(suffix, "fits"))
    read = read_positions(path)
    same(read)
    assert read.id.dtype == np.int64


def test_units_of_the_file_are_honoured(tmp_path):
    for k, (ra, dec) in enumerate(
        [
            (RA / 15 * u.hourangle, DEC * u.deg),
            (np.radians(RA) * u.rad, DEC * 3600 * u.arcsec),
            (RA * 60 * u.arcmin, DEC * u.deg),
        ]
    ):
        for suffix in ("ecsv", "fits"):
            path = tmp_path / f"p{k}.{suffix}"
            ra = Table({"ra": MaskedColumn(RA / 15, unit="h")})["ra"] if (k, suffix) == (0, "fits") else ra
            QTable({"id": [1, 2], "ra": ra, "dec": dec}).write(path)
            same(read_positions(path))
    sexagesimal = fits.BinTableHDU(
        Table({"id": [1, 2], "ra": ["10:00:06", "0:42:00"], "dec": ["-2:30:00", "45:15:00"]})
    )
    sexagesimal.header["TUNIT2"], sexagesimal.header["TUNIT3"] = '"h:m:s"', '"d:m:s"'
    sexagesimal.writeto(tmp_path / "vizier.fits")
    same(read_positions(tmp_path / "vizier.fits"))
    degrees = Table({"id": [1, 2], "ra": MaskedColumn(["150:01:30", "10:30:00"], unit="deg"), "dec": DEC})
    degrees.write(tmp_path / "degrees.ecsv")
    same(read_positions(tmp_path / "degrees.ecsv"))


def test_columns_of_coordinates_are_brought_to_icrs(tmp_path):
    galactic = SkyCoord(RA * u.deg, DEC * u.deg).galactic
    QTable({"id": [1, 2], "where": galactic}).write(tmp_path / "p.ecsv")
    same(read_positions(tmp_path / "p.ecsv"))
    QTable({"id": [1, 2], "ra": Longitude(RA, u.deg), "dec": Latitude(DEC, u.deg)}).write(tmp_path / "a.ecsv")
    same(read_positions(tmp_path / "a.ecsv"))


def test_names_in_binary_tables(tmp_path):
    names = ["TOI-123 b", "M31"]
    Table({"Name": names, "RAJ2000": RA, "DEJ2000": DEC}).write(tmp_path / "p.fits")
    pd.DataFrame({"NAME": names, "RA": RA, "Dec": DEC}).to_parquet(tmp_path / "p.parquet")
    Table({"name": names, "ra": RA, "dec": DEC}).write(tmp_path / "p.vot", format="votable")
    for path in tmp_path.iterdir():
        same(read_positions(path), names)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([BIG, -BIG], [BIG, -BIG]), ([2**64 - 1, 5], [2**64 - 1, 5]), (["TOI-123 b", "M31"], ["TOI-123 b", "M31"]),
        (["007", "8"], ["007", "8"]), ([1.0, 2.0], None), ([2**64, 1], [str(2**64), "1"]),
    ],
)  # fmt: skip
def test_ids_keep_every_digit(tmp_path, ids, expected):
    path = tmp_path / "p.csv"
    pd.DataFrame({"id": pd.Series(ids, dtype=object), "ra": RA, "dec": DEC}).to_csv(path, index=False)
    assert read_positions(path).id.tolist() == (expected or ["1.0", "2.0"])
    if all(isinstance(i, int) and abs(i) < 2**63 for i in ids):
        for dtype in (np.int64,):
            Table({"id": np.array(ids, dtype), "ra": RA, "dec": DEC}).write(tmp_path / "p.fits", overwrite=True)
            assert read_positions(tmp_path / "p.fits").id.tolist() == expected


def test_unsigned_and_float_ids_of_binary_tables(tmp_path):
    big = np.array([2**63 + 5, 7], np.uint64)
    Table({"id": big, "ra": RA, "dec": DEC}).write(tmp_path / "p.fits")
    assert read_positions(tmp_path / "p.fits").id.tolist() == big.tolist()
    Table({"id": [1.0, 2.0], "ra": RA, "dec": DEC}).write(tmp_path / "f.fits")
    assert read_positions(tmp_path / "f.fits").id.tolist() == [1, 2]
    Table({"id": [float(BIG), 2.0], "ra": RA, "dec": DEC}).write(tmp_path / "r.fits")
    with pytest.raises(BadPositions, match=r"r\.fits: column id: row 1 .*rounded"):
        read_positions(tmp_path / "r.fits")
    frame = pd.DataFrame({"id": pd.array([BIG, None], dtype="Int64"), "ra": RA, "dec": DEC})
    frame.to_parquet(tmp_path / "m.parquet")
    with pytest.raises(BadPositions, match=r"column id: row 2 .*no value"):
        read_positions(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,ra,dec\n", "no position"),
        ("", "empty"),
        ("id,ra,dec\n1,150,2\n2,,3\n", r"column ra: row 2 .*no value"),
        ("id,ra,dec\n1,150,nan\n", r"column dec: row 1 .*no value"),
        ("id,ra,dec\n1,150,91\n2,3,4\n", r"column dec: row 1 \('91'\) is outside"),
        ("id,ra,dec\n1,1e6,9\n", r"column ra: row 1 .*outside"),
        ("id,ra,dec\n1,inf,9\n", r"column ra: row 1"),
        ("id,ra,dec\n1,25:00:00,9\n", r"column ra: row 1 .*hours"),
        ("id,ra,dec\n1,10:61:00,9\n", r"column ra: row 1 .*60 minutes"),
        ("id;ra;dec\n1;150,5;2,5\n", r"column ra: row 1 \('150,5'\) is no angle"),
        ("id,ra,dec\n1,north,9\n", r"column ra: row 1 \('north'\) is no angle"),
        ("id,ra,dec\n1,10:00:00,10h\n", r"column dec: row 1"),
        ("id,ra,dec\n5,1,2\n5,3,4\n", r"column id: row 2 \('5'\) came before"),
        ("id,ra,dec\n,1,2\n", r"column id: row 1 .*no value"),
        ("ra,dec\n1,2\n", "no column of ids"),
        ("id,dec\n1,2\n", r"no column of right ascensions .*'id', 'dec'"),
        ("id,ra,glat\n1,2,3\n", "no column of declinations"),
        ("id,RA,Ra,dec\n1,2,3,4\n", "two columns of right ascensions"),
    ],
)
def test_what_cannot_be_used_names_file_column_and_row(tmp_path, text, said):
    with pytest.raises(BadPositions, match=said) as caught:
        read_positions(written(tmp_path, text))
    assert str(caught.value).startswith("p.csv")
    assert caught.value.code == "positions"


def test_files_that_are_no_tables(tmp_path):
    fits.PrimaryHDU(np.zeros((4, 4), np.float32)).writeto(tmp_path / "image.fits")
    with pytest.raises(BadPositions, match="holds no table"):
        read_positions(tmp_path / "image.fits")
    with pytest.raises(BadPositions, match="does not exist"):
        read_positions(tmp_path / "none.csv")
    for name in ("p.parquet", "p.vot", "p.csv", "p.ecsv"):
        with pytest.raises(BadPositions, match="p"):
            read_positions(written(tmp_path, bytes(range(256)), name))


def test_the_unit_hour_is_no_unit_of_a_declination(tmp_path):
    QTable({"id": [1, 2], "ra": RA * u.deg, "dec": DEC / 15 * u.hourangle}).write(tmp_path / "p.ecsv")
    with pytest.raises(BadPositions, match="column dec: 'hourangle' is no unit"):
        read_positions(tmp_path / "p.ecsv")
