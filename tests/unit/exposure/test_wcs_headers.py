"""Headers as telescopes write them against astropy's own reading of them: both directions, at poles and across RA 0."""

import pickle
import warnings

import numpy as np
import pytest
from astropy.coordinates import FK4, FK5, BarycentricMeanEcliptic, FK4NoETerms, Galactic, SkyCoord, Supergalactic
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from astropy.wcs import WCS

from exposure import Exposure, ExposureCatalog, SkyWcs
from exposure.errors import CardInvalid, WcsMissing, WcsUnsupported
from exposure.header.cards import Cards
from exposure.header.text_cards import parse_cards
from exposure.io.exposure_catalog import ExposureRecord
from exposure.io.native import read_wcs

S = 0.2 / 3600
PLACES = [(150.0, 2.0), (0.0, 0.0), (359.99999, -30.0), (0.0, 89.99), (123.0, 90.0), (10.0, -90.0), (83.0, -69.0)]
SIP = {"A_ORDER": 3, "B_ORDER": 2, "A_2_0": 1e-6, "A_0_3": 2e-10, "B_1_1": -3e-6, "B_0_2": 1e-6}
PV = {"PV1_0": 1e-5, "PV1_1": 1.001, "PV1_4": 1e-3, "PV1_7": 0.02, "PV2_1": 0.999, "PV2_5": -2e-3, "PV2_10": 0.01}
NO_CD = {"CD1_1": None, "CD1_2": None, "CD2_1": None, "CD2_2": None}
PC = NO_CD | {"CDELT1": -S, "CDELT2": 1.1 * S}
ARCSEC = {"CUNIT1": "arcsec", "CUNIT2": "arcsec"}
FK4_1950 = FK4(equinox=Time(1950.0, format="byear"))
X, Y = np.random.default_rng(3).uniform(0, 1000, (2, 40))


def cards(place=(150.0, 2.0), turn=20.0, **more):
    """Plain cards of a TAN header; None takes a card out."""
    c, s = S * np.cos(np.radians(turn)), S * np.sin(np.radians(turn))
    out = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRPIX1": 501.3,
        "CRPIX2": 480.7,
        "CRVAL1": place[0],
        "CRVAL2": place[1],
        "CD1_1": round(-c, 18),
        "CD1_2": round(s, 18),
        "CD2_1": round(s, 18),
        "CD2_2": round(c, 18),
    } | {key.replace("__", "-"): value for key, value in more.items()}
    return fits.Header([(key, value) for key, value in out.items() if value is not None])


def native(header):
    """Longitude and latitude of the test's pixels as wcslib reads the text of the header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(header.copy()).all_pix2world(X, Y, 0)[:2]


KINDS = {
    "plain": {}, "icrs": {"RADESYS": "ICRS", "EQUINOX": 2019.5}, "sip": SIP | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"},
    "tpv": PV | {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"}, "scamp": PV, "tpv_and_sip": PV | SIP | {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"},
    "pc": PC | {"PC1_1": 0.9, "PC1_2": 0.1, "PC2_1": -0.1, "PC2_2": 0.9}, "crota": PC | {"CROTA2": 33.0},
    "zpn": {"CTYPE1": "RA---ZPN", "CTYPE2": "DEC--ZPN", "PV2_1": 1.0, "PV2_3": 0.01}, "sin": {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"},
    "stg": {"CTYPE1": "RA---STG", "CTYPE2": "DEC--STG"}, "zea": {"CTYPE1": "RA---ZEA", "CTYPE2": "DEC--ZEA"},
    "arc": {"CTYPE1": "RA---ARC", "CTYPE2": "DEC--ARC"}, "lonpole": {"LONPOLE": 150.0}, "lonpole_180": {"LONPOLE": 180.0},
    "third_axis": {"WCSAXES": 2, "NAXIS3": 1}, "alternate": {"CTYPE1A": "GLON-TAN", "CTYPE2A": "GLAT-TAN", "CRVAL1A": 3.0},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_icrs_headers_are_read_as_wcslib_reads_them(kind):
    for place in PLACES:
        header = cards(place, **KINDS[kind])
        wcs, (ra, dec) = SkyWcs.from_header(header), native(header)
        got = SkyCoord(*wcs.pixel_to_sky(X, Y), unit="deg")
        assert got.separation(SkyCoord(ra, dec, unit="deg")).arcsec.max() < 1e-7, place  # 1e-6 px
        assert np.hypot(*np.subtract(wcs.sky_to_pixel(ra, dec), [X, Y])).max() < 1e-5, place  # of the iteration


FRAMES = {
    "fk5_1975": ({"RADESYS": "FK5", "EQUINOX": 1975.0}, FK5(equinox="J1975")),
    "fk5_2000": ({"RADESYS": "FK5"}, FK5(equinox="J2000")),
    "equinox_2019": ({"EQUINOX": 2019.5}, FK5(equinox=Time(2019.5, format="jyear"))),
    "equinox_text": ({"EQUINOX": "J2019.5"}, FK5(equinox=Time(2019.5, format="jyear"))),
    "equinox_1950": ({"EQUINOX": 1950.0}, FK4_1950), "epoch_1950": ({"EPOCH": 1950.0}, FK4_1950),
    "equinox_before_epoch": ({"EPOCH": 2019.5, "EQUINOX": 1975.0, "RADECSYS": "FK5"}, FK5(equinox="J1975")),
    "fk4": ({"RADESYS": "FK4"}, FK4_1950),
    "fk4_no_e": ({"RADESYS": "FK4-NO-E", "EQUINOX": 1950.0}, FK4NoETerms(equinox=Time(1950.0, format="byear"))),
    "galactic": ({"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}, Galactic()),
    "supergalactic": ({"CTYPE1": "SLON-TAN", "CTYPE2": "SLAT-TAN"}, Supergalactic()),
    "ecliptic": ({"CTYPE1": "ELON-TAN", "CTYPE2": "ELAT-TAN"}, BarycentricMeanEcliptic(equinox="J2000")),
}  # fmt: skip


@pytest.mark.parametrize("kind", FRAMES)
def test_other_frames_are_brought_to_icrs(kind):
    more, frame = FRAMES[kind]
    for place in PLACES:
        header = cards(place, **more)
        truth = SkyCoord(*native(header), unit="deg", frame=frame).icrs
        wcs = SkyWcs.from_header(header)
        got = SkyCoord(*wcs.pixel_to_sky(X, Y), unit="deg")
        assert got.separation(truth).arcsec.max() < 1e-7, place
        assert np.hypot(*np.subtract(wcs.sky_to_pixel(truth.ra.deg, truth.dec.deg), [X, Y])).max() < 1e-5, place
        steps = SkyCoord(*wcs.pixel_to_sky(X + 0.5, Y), unit="deg").separation(
            SkyCoord(*wcs.pixel_to_sky(X - 0.5, Y), unit="deg")
        )
        assert np.allclose(np.hypot(*wcs.jacobian(X, Y)[:, :, 0].T), steps.deg, rtol=1e-6)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (cards(turn=0.0), cards(turn=0.0, CTYPE1="DEC--TAN", CTYPE2="RA---TAN", CRVAL1=2.0, CRVAL2=150.0, CD1_1=0.0, CD1_2=S, CD2_1=-S, CD2_2=0.0)),
        (cards(turn=0.0), cards(**NO_CD | ARCSEC, CDELT1=-0.2, CDELT2=0.2, CRVAL1=150 * 3600.0, CRVAL2=2 * 3600.0)),
        (cards(turn=0.0), cards(**NO_CD, CUNIT1="rad", CUNIT2="arcmin", CDELT1=-np.radians(S), CDELT2=60 * S, CRVAL1=np.radians(150.0), CRVAL2=120.0)),
        (cards(turn=0.0), cards(**NO_CD, CDELT1=-S, CDELT2=S, PC001001=1.0, PC002002=1.0)),
        (cards(turn=0.0), cards(**NO_CD, CD001001=-S, CD002002=S)),
        (cards(), cards(PC1_1=1.0)), (cards(), cards(WCSAXES=3, CTYPE3="FREQ", CRVAL3=1e9, CRPIX3=1.0, CD3_3=1.0)),
        (cards(**SIP | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"}), cards(**SIP)),
        (cards(**SIP | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"}), cards(**SIP | PV)),
    ],
    ids=["dec_ra", "arcsec", "rad_arcmin", "pc001001", "cd001001", "pc_beside_cd", "three_axes", "sip_suffix", "sip_and_scamp"],
)  # fmt: skip
def test_ways_of_writing_one_sky(one, other):
    a, b = SkyWcs.from_header(one), SkyWcs.from_header(other)
    assert np.abs(np.subtract(b.pixel_to_sky(X, Y), a.pixel_to_sky(X, Y))).max() < 1e-12
    assert np.abs(np.subtract(b.sky_to_pixel(*a.pixel_to_sky(X, Y)), [X, Y])).max() < 1e-5


def test_plain_cards_and_headers_give_the_same_bits():
    for more in (*KINDS.values(), *(f[0] for f in FRAMES.values())):
        header = cards((123.456789, -45.678901234567), **more)
        text = ("SIMPLE  =                    T" + " " * 50 + header.tostring()).encode()
        plain = parse_cards(text)
        assert plain is not None
        a, b = SkyWcs.from_header(header), SkyWcs.from_cards(plain)
        assert b is not None
        assert np.array_equal(a.pixel_to_sky(X, Y), b.pixel_to_sky(X, Y))


@pytest.mark.parametrize("compress", [False, True])
def test_a_wcs_comes_back_from_a_file_to_the_last_bit(tmp_path, compress):
    blank = np.zeros((20, 30), np.float32)
    kinds = {**KINDS, **{name: found[0] for name, found in FRAMES.items()}}
    for k, (kind, more) in enumerate(list(kinds.items())[:: 4 if compress else 1]):
        origin = ((12345, 67890), (0, 0), (-7, 3), (1, -99999))[k % 4]
        wcs = SkyWcs.from_header(cards((123.456789, -45.678901234567), **more), (1, 2)).shifted(0.1, 1 / 3)
        wcs = wcs.affine_corrected([[1.0001, 2e-4], [-3e-4, 0.9999]], [0.123, -4.56])
        path = tmp_path / f"{kind}.fits"
        Exposure(blank, blank + 1, blank.astype(np.int32), origin, wcs).write_fits(path, compress=compress)
        back = Exposure.read_fits(path).wcs
        for one in (back, read_wcs(path), pickle.loads(pickle.dumps(wcs))):
            assert np.array_equal(one.pixel_to_sky(X, Y), wcs.pixel_to_sky(X, Y)), kind
            assert np.array_equal(one.sky_to_pixel(*wcs.pixel_to_sky(X, Y)), wcs.sky_to_pixel(*wcs.pixel_to_sky(X, Y)))
        header = fits.getheader(path, "IMAGE")
        other = SkyCoord(*SkyWcs.from_header(header).pixel_to_sky(X - origin[0], Y - origin[1]), unit="deg")
        assert other.separation(SkyCoord(*wcs.pixel_to_sky(X, Y), unit="deg")).arcsec.max() < 1e-6, "of other readers"


def test_objects_of_astropy_say_what_their_headers_say(capsys):
    for kind, more in KINDS.items():
        header = cards((123.456789, -45.678901234567), **more)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = WCS(header.copy())
        capsys.readouterr()
        wcs, truth = SkyWcs(given), SkyWcs.from_header(header)
        assert np.abs(np.subtract(wcs.pixel_to_sky(X, Y), truth.pixel_to_sky(X, Y))).max() < 1e-12, kind
        assert capsys.readouterr().out == ""


def test_a_header_whose_crpix_was_moved_since_is_believed():
    header = SkyWcs.from_header(cards(), (100, 200)).to_header((90, 190))
    header["CRPIX1"] -= 5.0
    moved = SkyWcs.from_header(header, (90, 190))
    assert np.allclose(
        moved.pixel_to_sky(X - 5.0, Y), SkyWcs.from_header(cards(), (100, 200)).pixel_to_sky(X, Y), atol=1e-10
    )


def test_corrections_hold_with_distortions():
    """The affine map of the pixels, applied by hand, against the corrected WCS."""
    m, t = np.array([[1.001, 2e-4], [-3e-4, 0.999]]), np.array([0.4, -0.7])
    inverse = {"AP_ORDER": 2, "BP_ORDER": 2, "AP_2_0": -1e-6, "BP_1_1": 3e-6}
    for more in (SIP | inverse, PV, {"EQUINOX": 1950.0}, KINDS["pc"]):
        wcs = SkyWcs.from_header(cards(**more))
        c = wcs.reference_pixel
        true = (np.stack([X, Y], 1) - c) @ m.T + c + t
        fixed = wcs.affine_corrected(m, t)
        assert np.abs(np.subtract(fixed.pixel_to_sky(X, Y), wcs.pixel_to_sky(*true.T))).max() < 1e-11
        assert np.abs(np.subtract(fixed.sky_to_pixel(*fixed.pixel_to_sky(X, Y)), [X, Y])).max() < 1e-5
        shifted = wcs.shifted(3.5, -2.0).pixel_to_sky(X + 3.5, Y - 2.0)
        assert np.abs(np.subtract(shifted, wcs.pixel_to_sky(X, Y))).max() < 1e-11


def test_no_place_on_the_sky_has_two_pixels():
    """Far from the image the inverse of a distortion may end anywhere: such places have no pixel."""
    wcs = SkyWcs.from_header(cards(A_ORDER=3, B_ORDER=3, A_3_0=1e-9, B_0_3=1e-9))
    ra, dec = np.meshgrid(np.linspace(100, 200, 41), np.linspace(-40, 40, 41))
    x, y = wcs.sky_to_pixel(ra.ravel(), dec.ravel())
    found = np.isfinite(x)
    back = SkyCoord(*wcs.pixel_to_sky(x[found], y[found]), unit="deg")
    assert back.separation(SkyCoord(ra.ravel()[found], dec.ravel()[found], unit="deg")).arcsec.max(initial=0.0) < 0.01
    assert np.isfinite(wcs.sky_to_pixel(150.0, 2.0)).all()


REFUSED = [
    ({"CRVAL1": "abc"}, CardInvalid, "CRVAL1"), ({"CRVAL1": "10:00:00"}, CardInvalid, "CRVAL1"),
    ({"CD1_2": "1,5"}, CardInvalid, "CD1_2"), ({"CRPIX2": "nan"}, CardInvalid, "CRPIX2"), ({"CRVAL2": True}, CardInvalid, "CRVAL2"),
    ({"CRVAL2": 95.0}, CardInvalid, "CRVAL2"), ({"PV1_1": "x", "PV2_1": 1.0}, CardInvalid, "PV1_1"),
    (SIP | {"A_2_0": "x"}, CardInvalid, "A_2_0"), (SIP | {"A_ORDER": 77}, CardInvalid, "A_ORDER"),
    ({"EQUINOX": "now"}, CardInvalid, "EQUINOX"), ({"EQUINOX": 0.0}, CardInvalid, "EQUINOX"),
    ({"CRVAL1": None}, WcsUnsupported, "CRVAL1"), ({"CRPIX2": None}, WcsUnsupported, "CRPIX2"), (NO_CD, WcsUnsupported, "CDELT1"),
    ({"CTYPE2": None}, WcsUnsupported, "CTYPE2"), ({"CTYPE2": "LINEAR"}, WcsUnsupported, "CTYPE2"),
    ({"CTYPE1": "RA", "CTYPE2": "DEC"}, WcsUnsupported, "CTYPE1"), ({"CTYPE2": "GLAT-TAN"}, WcsUnsupported, "CTYPE2"),
    ({"CTYPE2": "DEC--SIN"}, WcsUnsupported, "CTYPE2"), ({"CTYPE1": "HPLN-TAN", "CTYPE2": "HPLT-TAN"}, WcsUnsupported, "CTYPE1"),
    ({"CTYPE1": "RA---TAB", "CTYPE2": "DEC--TAB"}, WcsUnsupported, "CTYPE1"), ({"CTYPE1": "TLON-TAN", "CTYPE2": "TLAT-TAN"}, WcsUnsupported, "CTYPE1"),
    ({"CTYPE1": "RA---TAN-TPD", "CTYPE2": "DEC--TAN-TPD"}, WcsUnsupported, "CTYPE1"), ({"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"}, WcsUnsupported, "CTYPE1"),
    ({"CTYPE1": "FREQ", "CTYPE2": "RA---TAN", "CTYPE3": "DEC--TAN"}, WcsUnsupported, "CTYPE1"),
    ({"CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0}, WcsUnsupported, "CD1_1"), ({"CD1_1": 1e-5, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 1e-5}, WcsUnsupported, "CD1_1"),
    (PC | {"CDELT2": 0.0}, WcsUnsupported, "CDELT2"), (PC | {"CROTA1": 30.0}, WcsUnsupported, "CROTA2"),
    ({"CDELT1": -S, "CDELT2": S, "PC1_1": -1.0}, WcsUnsupported, "PC1_1"), ({"CD1_3": 0.1}, WcsUnsupported, "CD1_3"),
    ({"CUNIT1": "m"}, WcsUnsupported, "CUNIT1"), ({"RADESYS": "GAPPT"}, WcsUnsupported, "RADESYS"), ({"CPDIS1": "LOOKUP"}, WcsUnsupported, "CPDIS1"),
    ({"D2IMDIS1": "LOOKUP"}, WcsUnsupported, "D2IMDIS1"), ({"A_2_0": 1e-6}, WcsUnsupported, "A_ORDER"),
    ({"A_ORDER": 2, "A_2_0": 1e-6}, WcsUnsupported, "B_ORDER"), ({"CTYPE1": "ELON-TAN", "CTYPE2": "ELAT-TAN", "RADESYS": "FK4"}, WcsUnsupported, "RADESYS"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "error", "card"), REFUSED, ids=[f"{k}_{r[2]}" for k, r in enumerate(REFUSED)])
def test_a_wcs_that_cannot_be_read_right_names_file_and_card(more, error, card):
    with pytest.raises(error, match=card) as caught:
        SkyWcs.from_header(Cards([cards(**more)], "m31.fits"))
    assert "m31.fits" in str(caught.value)


@pytest.mark.parametrize("kind", ["LINEAR", "PIXEL", "", None])
def test_axes_that_are_no_sky_are_no_wcs(kind):
    header = cards(CTYPE1=kind, CTYPE2=kind, CRVAL1="rubbish")
    assert SkyWcs.from_cards(header) is None
    with pytest.raises(WcsMissing):
        SkyWcs.from_header(header)


def test_the_wcs_is_that_of_the_image_alone():
    """Half a WCS in the image's header is not filled up from the primary one, unless INHERIT says so."""
    half, whole = cards(CRVAL1=None, PV1_1=None), cards((10.0, -5.0), **PV)
    with pytest.raises(WcsUnsupported, match="CRVAL1"):
        SkyWcs.from_header(Cards([half, whole]))
    own = SkyWcs.from_header(Cards([cards(), whole]))
    assert own.terms == SkyWcs.from_header(cards()).terms
    assert SkyWcs.from_header(Cards([fits.Header(), whole])).terms.pv
    half["INHERIT"] = True
    assert SkyWcs.from_header(Cards([half, whole])).terms.crval[0] == 10.0
    axes, rest = cards(CTYPE1=None, CTYPE2=None, CRVAL1=None, CRVAL2=None), fits.Header()
    for key in ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2"):
        rest[key] = cards()[key]
    with pytest.raises(WcsUnsupported, match="half a WCS"):
        SkyWcs.from_header(Cards([axes, rest]))
    axes["INHERIT"] = True
    assert SkyWcs.from_header(Cards([axes, rest])).terms == SkyWcs.from_header(cards()).terms


def test_catalogues_keep_a_wcs_to_the_last_bit(tmp_path):
    kinds = [
        cards((123.456789, -45.678901234567), **more) for more in (*KINDS.values(), *(f[0] for f in FRAMES.values()))
    ]
    records = {
        k: ExposureRecord(wcs=SkyWcs.from_header(h, (k, -7 * k)).shifted(1 / 3, 0.1)) for k, h in enumerate(kinds)
    }
    catalog = ExposureCatalog(Table({"id": list(records)}), records)
    catalog.write_fits(tmp_path / "c.fits")
    catalog.write_parquet(tmp_path / "c.parquet")
    for back in (ExposureCatalog.read_fits(tmp_path / "c.fits"), ExposureCatalog.read_parquet(tmp_path / "c.parquet")):
        for k, record in records.items():
            assert np.array_equal(back.find(k).wcs.pixel_to_sky(X, Y), record.wcs.pixel_to_sky(X, Y)), k
