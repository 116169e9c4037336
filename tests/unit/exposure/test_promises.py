"""Headers are followed before a library counts up to what they say: from extension to extension, whatever these are."""

import gzip
import io
import time

import numpy as np
import pytest
from astropy.io import fits

from exposure.errors import FitsUnreadable
from exposure.io import promises
from exposure.io.opening import open_fits


@pytest.fixture(scope="module")
def mixed():
    """Bytes of a file with an image, an empty extension, tiles, a cube and a table with a heap."""
    pixels = np.arange(3500, dtype=np.int16).reshape(50, 70)
    ragged = fits.Column("r", "PE()", array=np.array([np.ones(3), np.ones(900)], dtype=object))
    hdus = [
        fits.PrimaryHDU(pixels), fits.ImageHDU(), fits.CompImageHDU(pixels), fits.ImageHDU(np.zeros((3, 40, 40))),
        fits.BinTableHDU.from_columns([fits.Column("k", "J", array=[1, 2]), ragged]),
    ]  # fmt: skip
    hdus[3].header.update({f"KEY{k}": k for k in range(400)})  # more than one piece of a header
    out = io.BytesIO()
    fits.HDUList(hdus).writeto(out)
    return out.getvalue()


def test_headers_are_followed_to_the_end_of_the_file(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(promises, "MOST_BEHIND", 0)
    monkeypatch.setattr("exposure.io.unpack.CHUNK", 5000)  # they come in pieces
    path = tmp_path / "a.fits.gz"
    path.write_bytes(gzip.compress(mixed))
    with open_fits(path) as hdus:
        assert len(hdus) == 5
    path.write_bytes(gzip.compress(mixed + bytes(2880)))
    with pytest.raises(FitsUnreadable, match=r"a\.fits\.gz goes on for more than 0 bytes behind its last extension"):
        open_fits(path).__enter__()


@pytest.mark.parametrize(
    "card", ["NAXIS   =            999999999", "ZNAXIS  = +1000 / axes", "TFIELDS =      99999999"]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_axes_without_number_are_refused_in_any_extension_before_they_are_counted(mixed, tmp_path, card, compressed):
    key = f"{card[:8]}=".encode()
    at = mixed.rindex(key)
    raw = mixed[:at] + f"{card:80}".encode() + mixed[at + 80 :]
    path = tmp_path / "bomb.fits"
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    began = time.process_time()
    with pytest.raises(FitsUnreadable, match=rf"bomb\.fits promises {card.split()[0]}=\d+, more than the 999"):
        open_fits(path).__enter__()
    assert time.process_time() - began < 0.5


def test_what_promises_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("exposure.io.opening.MAX_PIXELS", 1000)
    header = fits.Header({"SIMPLE": True, "BITPIX": 8, "NAXIS": 2, "NAXIS1": 100, "NAXIS2": 100}).tostring().encode()
    (tmp_path / "a.fits").write_bytes(gzip.compress(header + bytes(3000)))
    with pytest.raises(FitsUnreadable, match="promises more than the 8000 bytes"):
        open_fits(tmp_path / "a.fits").__enter__()


def test_a_header_without_end_is_not_read_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(promises, "LONGEST_HEADER", 50_000)
    (tmp_path / "a.fits").write_bytes(b"SIMPLE  =                    T".ljust(80) + b"COMMENT ".ljust(80) * 36_000)
    with pytest.raises(FitsUnreadable, match="does not end within 50000 bytes"):
        open_fits(tmp_path / "a.fits").__enter__()


def test_extensions_without_number_are_refused(mixed, tmp_path, monkeypatch):
    (tmp_path / "a.fits").write_bytes(mixed)
    monkeypatch.setattr(promises, "MOST_HDUS", 5)
    with open_fits(tmp_path / "a.fits"):
        pass
    monkeypatch.setattr(promises, "MOST_HDUS", 4)
    with pytest.raises(FitsUnreadable, match=r"a\.fits has more than 4 extensions"):
        open_fits(tmp_path / "a.fits").__enter__()


def test_an_error_without_text_is_named(mixed, tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("exposure.io.opening.fits.open", full)
    (tmp_path / "a.fits").write_bytes(mixed)
    with pytest.raises(FitsUnreadable, match=r"a\.fits cannot be read as FITS: MemoryError$"):
        open_fits(tmp_path / "a.fits").__enter__()
