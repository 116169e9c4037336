"""Parts of an exposure in a file, read without its pixels."""

import numpy as np
import pytest
from astropy.io import fits

from exposure import ApCorrMap, ChebyshevField, Exposure, Instrument, PhotoCalib, SkyWcs, VisitInfo
from exposure.errors import FitsUnreadable
from exposure.io import components
from exposure.io.components import PARTS, part_of, read_part
from exposure.psf import GaussianPsf

WCS = SkyWcs.tan((20.0, 15.0), (150.0, 2.0), [[-5e-5, 0], [0, 5e-5]])


def exposure() -> Exposure:
    pixels = np.random.default_rng(1).normal(0, 3, (30, 40)).astype(np.float32)
    box = (7, -3, 40, 30)
    return Exposure(
        pixels, np.full_like(pixels, 9), np.zeros(pixels.shape, np.int32), (7, -3), WCS, GaussianPsf(1.8, 21),
        PhotoCalib(1.5, 0.1), VisitInfo(17122009979000, 3, 61000.25, 30.0, "simcam", 150.0, 2.0), "r", "r_sim",
        ApCorrMap({"base_PsfFlux_instFlux": ChebyshevField.constant(1.01, box)}),
    )  # fmt: skip


def same(one: object, two: object) -> bool:
    if isinstance(one, SkyWcs):
        return np.array_equal(one.pixel_to_sky([3.0], [4.0]), two.pixel_to_sky([3.0], [4.0]))
    if isinstance(one, ApCorrMap):
        return np.array_equal(
            one.at("base_PsfFlux_instFlux", [3.0], [4.0]), two.at("base_PsfFlux_instFlux", [3.0], [4.0])
        )
    return repr(one) == repr(two)


def test_each_part_is_that_of_the_whole_and_no_pixel_is_read(tmp_path, monkeypatch):
    exposure().write_fits(tmp_path / "e.fits")
    whole = Exposure.read_fits(tmp_path / "e.fits")
    monkeypatch.setattr(fits.ImageHDU, "data", property(lambda hdu: pytest.fail(f"pixels of {hdu.name} were read")))
    for name in ("wcs", "bbox", "visitInfo", "photoCalib", "band", "physicalFilter"):
        assert same(part_of(whole, name), read_part(tmp_path / "e.fits", name)), name
    monkeypatch.undo()
    for name in PARTS:
        assert same(part_of(whole, name), read_part(tmp_path / "e.fits", name)), name


def test_parts_of_a_plain_image_come_by_the_rules_of_its_instrument(tmp_path):
    header = WCS.to_header()
    header.update({"EXPTIME": 30.0, "DATE-OBS": "2025-11-21T02:00:00", "FILTER": "Clear"})
    pixels = np.arange(1200, dtype=np.float32).reshape(30, 40)
    fits.PrimaryHDU(pixels, header).writeto(tmp_path / "p.fits")
    rules = Instrument(name="c", band_map={"Clear": "r"})
    known = {"visit": 12, "detector": 3}
    whole = Exposure.read_fits(tmp_path / "p.fits", rules, known)
    for name in PARTS:
        assert same(part_of(whole, name), read_part(tmp_path / "p.fits", name, rules, known)), name
    info = read_part(tmp_path / "p.fits", "visitInfo", rules, known)
    assert (info.visit, info.detector) == (12, 3)
    with pytest.raises(FitsUnreadable, match="name its instrument"):
        read_part(tmp_path / "p.fits", "wcs")
    with pytest.raises(FitsUnreadable, match="no part 'mask'"):
        components.read_part(tmp_path / "p.fits", "mask", rules)
