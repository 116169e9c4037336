"""Files of one small scene as cameras, archives and programs write them: headers, pixel encodings, planes, compression.

Each variant is one small function; every file shows the same sky, so that one truth judges all of them.
"""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from astropy import units as u
from astropy.coordinates import FK4, FK5, BarycentricMeanEcliptic, Galactic, SkyCoord
from astropy.io import fits
from numpy.typing import NDArray

SIDE, SCALE = 160, 0.4 / 3600
CENTRE = (150.0, 2.0)
BEND = 5e-5  # of the distorted headers: pixels along x are moved by BEND x^2
GAIN, SKY = 1.5, 200.0
TRANSIENTS = np.array([[40.2, 48.1, 12000.0], [115.3, 39.6, 14000.0], [48.4, 120.2, 16000.0], [112.1, 111.7, 18000.0]])
BLOCK = np.s_[70:95, 66:92]  # where planes miss something: no transient is near
HOLE = "PIXHOLE"  # a card whose place in the file takes a text that no writer would write
TEXTS = {"comma": "EXPTIME = 30,0 / decimal comma", "bytes": "OBSERVER= 'Mu\xf1oz \n\x00   '"}
Pixels = NDArray[np.float32]
Header = fits.Header


@dataclass
class Scene:
    """Noisy images of one field: the new one, flat and bent, and the old one; `stars` is (N, 3): x, y, flux."""

    new: Pixels
    bent: Pixels
    old: Pixels
    stars: NDArray[np.float64] = field(repr=False)


def scene(seed: int = 3, n_stars: int = 20) -> Scene:
    """Return the images; stars keep away from the transients, those that 8 bit cut off so far that their haloes do too.

    They are few, so that stamps hold one star each: in a crowded field the PSF is fitted three times over.
    """
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(6, SIDE - 6, (2, 4 * n_stars))
    flux = 10 ** rng.uniform(3.3, 5.0, x.size)
    distance = np.hypot(x[:, None] - TRANSIENTS[:, 0], y[:, None] - TRANSIENTS[:, 1]).min(1)
    apart = distance > np.where(flux > 15000, 26, 12)
    stars = np.column_stack([x, y, flux])[apart][:n_stars]
    both = np.concatenate([stars, TRANSIENTS])
    images = [(both, 3.0), (bent_positions(both), 3.0), (stars, 2.6)]
    return Scene(
        *(_noisy(_light(p, fwhm), np.random.default_rng(seed + k)) for k, (p, fwhm) in enumerate(images)), stars
    )


def bent_positions(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the distorted headers put points: the u with u + BEND u^2 = u0, u from the reference pixel."""
    out = points.copy()
    flat = points[:, 0] - (SIDE - 1) / 2
    out[:, 0] = (np.sqrt(1 + 4 * BEND * flat) - 1) / (2 * BEND) + (SIDE - 1) / 2
    return out


def _light(points: NDArray[np.float64], fwhm: float) -> NDArray[np.float64]:
    grid, sigma = np.arange(SIDE), fwhm / 2.3548
    across, up = (np.exp(-0.5 * ((grid[:, None] - points[:, k]) / sigma) ** 2) for k in (0, 1))
    return (up * points[:, 2]) @ across.T / (2 * np.pi * sigma**2)


def _noisy(light: NDArray[np.float64], rng: np.random.Generator) -> Pixels:
    return (rng.poisson((light + SKY) * GAIN) / GAIN + rng.normal(0, 3, light.shape)).astype(np.float32)


# ---- headers -----------------------------------------------------------------------------------------------------


def tan() -> Header:
    """TAN with a CD matrix."""
    return _cards(("RA---TAN", "DEC--TAN"), CENTRE, [[-SCALE, 0.0], [0.0, SCALE]]) | {"RADESYS": "ICRS"}


class _Cards(Header):
    def __or__(self, more: dict[str, object]) -> "_Cards":
        self.update(more)
        return self


def _cards(kinds: tuple[str, str], centre: tuple[float, float], cd: list[list[float]]) -> _Cards:
    header = _Cards()
    for k in (0, 1):
        header[f"CTYPE{k + 1}"], header[f"CRVAL{k + 1}"], header[f"CRPIX{k + 1}"] = kinds[k], centre[k], (SIDE + 1) / 2
        for j in (0, 1):
            header[f"CD{k + 1}_{j + 1}"] = cd[k][j]
    return header


def _without_cd(header: Header) -> Header:
    for k in (1, 2):
        for j in (1, 2):
            del header[f"CD{k}_{j}"]
    return header


def pc() -> Header:
    """PC matrix and CDELT."""
    return _without_cd(tan()) | {"CDELT1": -SCALE, "CDELT2": SCALE, "PC1_1": 1.0, "PC2_2": 1.0}


def cdelt() -> Header:
    """CDELT alone."""
    return _without_cd(tan()) | {"CDELT1": -SCALE, "CDELT2": SCALE}


def crota() -> Header:
    """CDELT and CROTA2: turned by 180 degrees with both signs changed."""
    return _without_cd(tan()) | {"CDELT1": SCALE, "CDELT2": -SCALE, "CROTA2": 180.0}


def arcsec() -> Header:
    """CUNIT arcsec."""
    return _without_cd(tan()) | {
        "CUNIT1": "arcsec",
        "CUNIT2": "arcsec",
        "CDELT1": -SCALE * 3600,
        "CDELT2": SCALE * 3600,
        "CRVAL1": CENTRE[0] * 3600,
        "CRVAL2": CENTRE[1] * 3600,
    }


def old_pc() -> Header:
    """The matrix under its names of the eighties, PC001001."""
    return _without_cd(tan()) | {
        "CDELT1": SCALE, "CDELT2": SCALE, "PC001001": -1.0, "PC001002": 0.0, "PC002001": 0.0, "PC002002": 1.0,
    }  # fmt: skip


def swapped() -> Header:
    """Axes in the order DEC, RA."""
    return _cards(("DEC--TAN", "RA---TAN"), CENTRE[::-1], [[0.0, SCALE], [-SCALE, 0.0]]) | {"RADESYS": "ICRS"}


def _in_frame(frame: object, kinds: tuple[str, str], more: dict[str, object]) -> Header:
    """The same tangent plane with the axes of another frame: its centre there, the matrix turned by the angle of north."""
    centre = SkyCoord(*CENTRE, unit="deg", frame="icrs")
    north = centre.directional_offset_by(0 * u.deg, 5 * u.arcsec)
    there, above = centre.transform_to(frame), north.transform_to(frame)
    turn = float(there.position_angle(above).rad)
    lon, lat = there.spherical.lon.deg, there.spherical.lat.deg
    c, s = SCALE * np.cos(turn), SCALE * np.sin(turn)
    return _cards(kinds, (float(lon), float(lat)), [[-c, s], [s, c]]) | more


def galactic() -> Header:
    """Galactic axes."""
    return _in_frame(Galactic(), ("GLON-TAN", "GLAT-TAN"), {})


def ecliptic() -> Header:
    """Ecliptic axes of J2000."""
    return _in_frame(
        BarycentricMeanEcliptic(equinox="J2000"), ("ELON-TAN", "ELAT-TAN"), {"EQUINOX": 2000.0, "RADESYS": "FK5"}
    )


def fk5() -> Header:
    """FK5 of J2000."""
    return tan() | {"RADESYS": "FK5", "EQUINOX": 2000.0}


def fk5_1975() -> Header:
    """FK5 of another equinox."""
    return _in_frame(FK5(equinox="J1975"), ("RA---TAN", "DEC--TAN"), {"RADESYS": "FK5", "EQUINOX": 1975.0})


def equinox_only() -> Header:
    """EQUINOX of the date without RADESYS."""
    return _in_frame(FK5(equinox="J2019.5"), ("RA---TAN", "DEC--TAN"), {"EQUINOX": 2019.5})


def fk4() -> Header:
    """FK4 of B1950."""
    return _in_frame(FK4(equinox="B1950"), ("RA---TAN", "DEC--TAN"), {"RADESYS": "FK4", "EQUINOX": 1950.0})


def sip() -> Header:
    """TAN-SIP."""
    return tan() | {
        "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": BEND, "B_2_0": 0.0,
    }  # fmt: skip


def sip_unnamed() -> Header:
    """SIP cards, and CTYPE without -SIP."""
    return sip() | {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}


def tpv() -> Header:
    """TPV, the same distortion as that of the SIP cards."""
    return tan() | {
        "CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_0": 0.0, "PV1_1": 1.0, "PV1_4": -BEND / SCALE, "PV2_0": 0.0,
        "PV2_1": 1.0,
    }  # fmt: skip


def third_axis() -> Header:
    """A frequency axis that the pixels do not have."""
    return tan() | {"WCSAXES": 3, "CTYPE3": "FREQ", "CRVAL3": 1e9, "CRPIX3": 1.0, "CDELT3": 1.0}


def wordy() -> Header:
    """Long strings (CONTINUE), comments, history."""
    header = tan() | {"LONGTEXT": "a text that does not fit into one card, and goes on in the next ones " * 3}
    for k in range(200):
        header.add_history(f"step {k}")
    return header


def broken_card() -> Header:
    """A card that no parser reads, and that nobody needs."""
    return tan() | {HOLE: "comma"}


def bytes_in_card() -> Header:
    """Bytes that are not ASCII, a newline and a NUL in cards."""
    return tan() | {HOLE: "bytes"}


def no_sky() -> Header:
    """Axes that are no sky: such a pair is subtracted as it lies."""
    return _cards(("LINEAR", "LINEAR"), (1.0, 1.0), [[1.0, 0.0], [0.0, 1.0]])


HEADERS: tuple[Callable[[], Header], ...] = (
    tan, pc, cdelt, crota, arcsec, old_pc, swapped, galactic, ecliptic, fk5, fk5_1975, equinox_only, fk4, sip,
    sip_unnamed, tpv, third_axis, wordy, broken_card, bytes_in_card, no_sky,
)  # fmt: skip
BENT = (sip, sip_unnamed, tpv)

# ---- pixel encodings ---------------------------------------------------------------------------------------------


def _primary(data: NDArray[np.generic], header: Header, **more: object) -> fits.HDUList:
    hdu = fits.PrimaryHDU(data, header)
    hdu.header.update(more)
    return fits.HDUList([hdu])


def _stored(raw: NDArray[np.generic], header: Header, **more: object) -> fits.HDUList:
    """Integers as they are to stand in the file, with the cards that scale them."""
    hdu = fits.PrimaryHDU(raw, header, do_not_scale_image_data=True)
    hdu.header.update(more)
    return fits.HDUList([hdu])


def _whole(image: Pixels, kind: str) -> NDArray[np.generic]:
    return np.nan_to_num(np.clip(np.round(image), 0, np.iinfo(kind).max)).astype(kind)


def float32(image: Pixels, header: Header) -> fits.HDUList:
    """32-bit floats."""
    return _primary(image, header)


def float64(image: Pixels, header: Header) -> fits.HDUList:
    """64-bit floats."""
    return _primary(image.astype(np.float64), header)


def float_scaled(image: Pixels, header: Header) -> fits.HDUList:
    """Floats with BSCALE and BZERO."""
    return _stored((image - 100) / 4, header, BSCALE=4.0, BZERO=100.0)


def int16(image: Pixels, header: Header) -> fits.HDUList:
    """Signed 16 bit."""
    return _primary(_whole(image, "i2"), header)


def uint16(image: Pixels, header: Header) -> fits.HDUList:
    """Unsigned 16 bit, as cameras write them."""
    return _primary(_whole(image, "u2"), header)


def int32(image: Pixels, header: Header) -> fits.HDUList:
    """Signed 32 bit."""
    return _primary(_whole(image, "i4"), header)


def uint32(image: Pixels, header: Header) -> fits.HDUList:
    """Unsigned 32 bit."""
    return _primary(_whole(image, "u4"), header)


def int64(image: Pixels, header: Header) -> fits.HDUList:
    """Signed 64 bit."""
    return _primary(_whole(image, "i8"), header)


def uint64(image: Pixels, header: Header) -> fits.HDUList:
    """Unsigned 64 bit."""
    return _stored((_whole(image, "u8") ^ np.uint64(1 << 63)).view("i8"), header, BZERO=9223372036854775808)


def scaled8(image: Pixels, header: Header) -> fits.HDUList:
    """8 bit with BSCALE; what is brighter than 8-bit counts is cut off."""
    return _stored(np.nan_to_num(np.clip(np.round(image / 12), 0, 255)).astype("u1"), header, BSCALE=12.0, BZERO=0.0)


def signed8(image: Pixels, header: Header) -> fits.HDUList:
    """8 bit with BSCALE and BZERO, so that they count from below zero."""
    raw = np.nan_to_num(np.clip(np.round(image / 12) + 10, 0, 255)).astype("u1")
    return _stored(raw, header, BSCALE=12.0, BZERO=-120.0)


def scaled16(image: Pixels, header: Header) -> fits.HDUList:
    """16 bit with BSCALE and BZERO."""
    return _stored(
        np.clip(np.round((np.nan_to_num(image) - 1000) / 0.5), -32768, 32767).astype("i2"),
        header,
        BSCALE=0.5,
        BZERO=1000.0,
    )


def blank16(image: Pixels, header: Header) -> fits.HDUList:
    """16 bit with BLANK."""
    return _stored(np.where(np.isfinite(image), _whole(image, "i2"), -32768).astype("i2"), header, BLANK=-32768)


def blank_zero(image: Pixels, header: Header) -> fits.HDUList:
    """32 bit with BLANK = 0."""
    return _stored(np.where(np.isfinite(image), _whole(image, "i4"), 0).astype("i4"), header, BLANK=0)


def blank_unsigned(image: Pixels, header: Header) -> fits.HDUList:
    """Unsigned 16 bit with BLANK."""
    raw = (_whole(image, "u2") ^ np.uint16(32768)).view("i2")
    return _stored(np.where(np.isfinite(image), raw, 32767).astype("i2"), header, BZERO=32768, BLANK=32767)


def cube(image: Pixels, header: Header) -> fits.HDUList:
    """NAXIS3 = 1."""
    return _primary(image[None], header)


def hypercube(image: Pixels, header: Header) -> fits.HDUList:
    """NAXIS = 4 with ones."""
    return _primary(image[None, None], header)


def extension(image: Pixels, header: Header) -> fits.HDUList:
    """An empty primary and one image extension without name."""
    return fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, header)])


def science(image: Pixels, header: Header) -> fits.HDUList:
    """SCI, ERR, DQ."""
    extra = [fits.ImageHDU(np.zeros(image.shape, kind), name=name) for name, kind in (("ERR", "f4"), ("DQ", "i2"))]
    return fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, header, name="SCI"), *extra])


def rice(image: Pixels, header: Header) -> fits.HDUList:
    """Tile compression of floats, quantised."""
    return fits.HDUList(
        [fits.PrimaryHDU(), fits.CompImageHDU(image, header, compression_type="RICE_1", quantize_level=16)]
    )


def rice_unsigned(image: Pixels, header: Header) -> fits.HDUList:
    """Tile compression of unsigned 16 bit."""
    return fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(_whole(image, "u2"), header, compression_type="RICE_1")])


def gzip_tiles(image: Pixels, header: Header) -> fits.HDUList:
    """Tile compression of floats without loss."""
    return fits.HDUList(
        [fits.PrimaryHDU(), fits.CompImageHDU(image, header, compression_type="GZIP_2", quantize_level=0.0)]
    )


ENCODINGS: tuple[Callable[[Pixels, Header], fits.HDUList], ...] = (
    float32, float64, float_scaled, int16, uint16, int32, uint32, int64, uint64, scaled8, signed8, scaled16, blank16,
    blank_zero, blank_unsigned, cube, hypercube, extension, science, rice, rice_unsigned, gzip_tiles,
)  # fmt: skip
KEEP_NAN = (
    float32,
    float64,
    float_scaled,
    blank16,
    blank_zero,
    blank_unsigned,
    cube,
    hypercube,
    extension,
    science,
    rice,
    gzip_tiles,
)

# ---- planes: what else is in the file, what is missing -----------------------------------------------------------


def _variance(image: Pixels) -> Pixels:
    return (np.maximum(np.nan_to_num(image), 1) / GAIN + 9).astype(np.float32)


def nothing(hdus: fits.HDUList, image: Pixels) -> None:
    """No plane but the image."""


def variance(hdus: fits.HDUList, image: Pixels) -> None:
    """A variance plane."""
    hdus.append(fits.ImageHDU(_variance(image), name="VARIANCE"))


def _variance_with(value: float) -> Callable[[fits.HDUList, Pixels], None]:
    def write(hdus: fits.HDUList, image: Pixels) -> None:
        plane = _variance(image)
        plane[BLOCK] = value
        hdus.append(fits.ImageHDU(plane, name="VARIANCE"))

    write.__name__ = f"variance_{value}"
    return write


def weight(hdus: fits.HDUList, image: Pixels) -> None:
    """A weight map, zero where nothing is known."""
    plane = 1 / _variance(image)
    plane[BLOCK] = 0
    hdus.append(fits.ImageHDU(plane, name="WEIGHT"))


def relative_weight(hdus: fits.HDUList, image: Pixels) -> None:
    """Weights that are right but for their scale, zero where nothing is known."""
    weight(hdus, image)
    hdus[-1].data *= 1e3


def float_flags(hdus: fits.HDUList, image: Pixels) -> None:
    """A mask of floats, 1 where a pixel is bad; it has no value there either."""
    plane = np.zeros(image.shape, np.float32)
    plane[BLOCK] = 1
    hdus += [fits.ImageHDU(plane, name="MASK"), fits.ImageHDU(np.where(plane, 0, _variance(image)), name="VARIANCE")]


def mask(hdus: fits.HDUList, image: Pixels) -> None:
    """A mask of unsigned 16 bit whose plane 3 is NO_DATA."""
    plane = np.zeros(image.shape, np.uint16)
    plane[BLOCK] = 1 << 3
    hdu = fits.ImageHDU(plane, name="MASK")
    hdu.header["HIERARCH MP_NO_DATA"] = 3
    hdus.append(hdu)


def _pixels_with(value: float, where: object) -> Callable[[fits.HDUList, Pixels], None]:
    def write(hdus: fits.HDUList, image: Pixels) -> None:
        """Nothing more: the pixels say it."""

    write.__name__ = f"pixels_{value}"
    write.pixels = (value, where)  # type: ignore[attr-defined]
    return write


CORNER = np.add.outer(np.arange(SIDE), np.arange(SIDE)) < 34
PLANES: tuple[Callable[[fits.HDUList, Pixels], None], ...] = (
    nothing, variance, *map(_variance_with, (np.nan, 0.0, -5.0, np.inf, 1e30)), weight, mask, relative_weight, float_flags,
    _pixels_with(np.nan, BLOCK), _pixels_with(0.0, BLOCK), _pixels_with(0.0, CORNER),
)  # fmt: skip

# ---- compression -------------------------------------------------------------------------------------------------


def lzw(data: bytes) -> bytes:
    """Compress as ``compress`` does: codes of 9 to 16 bits, in groups of eight, without clearing."""
    table = {bytes([k]): k for k in range(256)}
    codes: list[tuple[int, int]] = []
    free, width, word = 257, 9, b""
    for k in range(len(data)):
        longer = word + data[k : k + 1]
        if longer in table:
            word = longer
            continue
        codes.append((table[word], width))
        if free < 1 << 16:
            table[longer] = free
            free += 1
            if free > (1 << width) and width < 16:
                codes += [(0, -width)] * (-len([1 for c in codes if c[1] == width]) % 8)
                width += 1
        word = data[k : k + 1]
    codes.append((table[word], width))
    bits = b"".join(np.array([c >> b & 1 for b in range(abs(w))], np.uint8).tobytes() for c, w in codes)
    return b"\x1f\x9d\x90" + np.packbits(np.frombuffer(bits, np.uint8), bitorder="little").tobytes()


def _zip(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/image.fits", data)
    return out.getvalue()


WAYS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    (".fits", bytes), (".fits.gz", lambda b: gzip.compress(b, 1)), (".FIT", bytes), (".FITS.GZ", lambda b: gzip.compress(b, 1)),
    (".fits.bz2", bz2.compress), (".fits.xz", lambda b: lzma.compress(b, preset=0)), (".fits.zip", _zip),
    (".dat", lambda b: gzip.compress(b, 1)), (".fts", bytes),
)  # fmt: skip


def content(hdus: fits.HDUList) -> bytes:
    """Return the bytes of a file; a card that was kept free for it becomes the text that no writer would write."""
    out = io.BytesIO()
    hdus.writeto(out, output_verify="silentfix")
    data = out.getvalue()
    for hdu in hdus:
        if HOLE in hdu.header:
            at = data.index(HOLE.encode().ljust(8) + b"= ")
            data = data[:at] + TEXTS[hdu.header[HOLE]].encode("latin-1").ljust(80)[:80] + data[at + 80 :]
    return data
