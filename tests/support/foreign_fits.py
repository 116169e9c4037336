"""Files that nobody should have to open: bombs, pipes, and a good image broken at random."""

import gzip
import io
import os

import numpy as np
from astropy.io import fits

from tests.support.exposures import make_exposure

__all__ = ["BOMBS", "bombs", "broken", "good_image", "planes", "tiled"]

BLOCK = 2880


def good_image(path, size=64):
    """Write a plain image with WCS, time and exposure time; returns the path."""
    rng = np.random.default_rng(1)
    pixels = rng.normal(1000, 20, (size, size)).astype(np.float32)
    header = fits.Header()
    cards = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": size / 2,
             "CRPIX2": size / 2, "CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4, "A_ORDER": 2, "B_ORDER": 2,
             "A_2_0": 1e-7, "B_0_2": 1e-7, "DATE-OBS": "2024-03-02T03:04:05", "EXPTIME": 30.0, "FILTER": "r",
             "GAIN": 1.5, "OBJECT": "M31"}  # fmt: skip
    header.update(cards)
    fits.PrimaryHDU(pixels, header).writeto(path)
    return path


def tiled(path):
    """Return the bytes of an image as a tile-compressed one."""
    with fits.open(path) as hdus:
        whole = fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(hdus[0].data, hdus[0].header)])
        out = io.BytesIO()
        whole.writeto(out)
    return out.getvalue()


def planes(path):
    """Write an exposure in the layout of this project, with mask, variance and PSF; returns its bytes."""
    make_exposure().write_fits(path)
    return path.read_bytes()


def _cards(*lines, data=b""):
    return "".join(f"{line:80}" for line in (*lines, "END")).ljust(BLOCK).encode() + data


def _axes(count, length, bits=8):
    axes = [f"NAXIS{k}  = {length:20}" for k in range(1, min(count, 30) + 1)]
    return _cards("SIMPLE  =                    T", f"BITPIX  = {bits:20}", f"NAXIS   = {count:20}", *axes[:30])


def _sip_order(folder):
    raw = bytearray(good_image(folder / "for_order.fits").read_bytes())
    at = raw.index(b"A_ORDER =")
    raw[at : at + 80] = f"{'A_ORDER =            999999999':80}".encode()
    return bytes(raw)


def _unpacks_without_end(_folder):
    """Four gigabytes of zeros behind a header, in four megabytes."""
    head = gzip.compress(_axes(2, 16_000))
    return head + gzip.compress(bytes(64 << 20)) * 64


def _tiles(_folder):
    """A compressed image whose header promises more than any file of ours may hold."""
    table = _cards(
        "XTENSION= 'BINTABLE'", "BITPIX  =                    8", "NAXIS   =                    2",
        "NAXIS1  =                    8", "NAXIS2  =                    1", "PCOUNT  =                 1000",
        "GCOUNT  =                    1", "TFIELDS =                    1", "TTYPE1  = 'COMPRESSED_DATA'",
        "TFORM1  = '1PB(1000)'", "ZIMAGE  =                    T", "ZBITPIX =                  -32",
        "ZNAXIS  =                    2", "ZNAXIS1 =               200000", "ZNAXIS2 =               200000",
        "ZTILE1  =               200000", "ZTILE2  =               200000", "ZCMPTYPE= 'GZIP_1  '",
    )  # fmt: skip
    return _axes(0, 0) + table + bytes(BLOCK)


BOMBS = {
    "many axes": lambda _: _axes(999_999_999, 10),
    "long axes": lambda _: _axes(2, 999_999_999, -64),
    "negative axes": lambda _: _axes(2, -5),
    "sip order": _sip_order,
    "gzip": _unpacks_without_end,
    "tiles": _tiles,
    "no end": lambda _: _cards("SIMPLE  =                    T")[:-BLOCK] + b"COMMENT ".ljust(80) * 36 * 400,
    "nothing": lambda _: b"",
}


def bombs(folder):
    """Write all of them, and a pipe that nobody writes to; returns their paths by name."""
    paths = {name: folder / f"{name.replace(' ', '_')}.fits" for name in (*BOMBS, "pipe")}
    for name, make in BOMBS.items():
        paths[name].write_bytes(make(folder))
    os.mkfifo(paths["pipe"])
    return paths


def broken(raw, rng):
    """Return a file with flipped bits, other cards, or cut short."""
    data, kind = bytearray(raw), rng.integers(4)
    if kind == 0:  # bits anywhere
        for at in rng.integers(0, 8 * len(data), rng.integers(1, 40)):
            data[at // 8] ^= 1 << (at % 8)
    elif kind == 1:  # bits of the header
        for at in rng.integers(0, 8 * BLOCK, rng.integers(1, 20)):
            data[at // 8] ^= 1 << (at % 8)
    elif kind == 2:  # values of cards
        values = ["NaN", "1E999", "-1", "0", "999999999999", "T", "'text'", "", "1,5", "1.5.2", "(1, 2)", "'", "\xff"]
        for at in 80 * rng.integers(0, 30, rng.integers(1, 4)):
            data[at + 10 : at + 80] = f"{values[rng.integers(len(values))]:>20}".ljust(70).encode("latin-1")
    else:
        del data[int(rng.integers(0, len(data))) :]
    return bytes(data)
