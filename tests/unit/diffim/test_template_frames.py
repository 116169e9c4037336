"""Frames of a template: their cosmic rays do not enter it, whatever the number of frames, and their stars all do."""

import numpy as np
import pandas as pd
import pytest

from diffim.measurement.flags import pixel_flags
from diffim.templates.coadd import coadd_tile
from diffim.templates.mended_stars import with_whole_stars
from diffim.templates.store import TemplateStore, build_template, without_cosmic_rays
from diffim.templates.tiling import Tile
from exposure import Exposure, GaussianPsf, PhotoCalib
from exposure.mask import plane_bits
from tests.support.difference_scene import ORIGIN, WCS, scene, subtract

SEEING = (0.6, 0.75, 0.9, 1.05, 1.2)  # arcsec, of pixels of 0.2


@pytest.mark.parametrize("seeing", [SEEING, SEEING[::2], (0.6, 1.2, 1.2), (0.6, 0.6, 1.2)])
def test_stars_of_any_seeing_are_in_the_coadd_whole(seeing):
    """The coadd is the mean of the frames, pixel by pixel: where one is left out a bright star loses a third of its peak."""
    frames = [scene(s / 0.2 / 2.3548, 1.0, k, flux=(500, 30000))[0] for k, s in enumerate(seeing)]
    frames = [
        f.cutout(*ORIGIN, 250, 250) for f in frames
    ]  # the tile's pixels are theirs: nothing is resampled between them
    weights = np.array([1 / np.median(f.variance) for f in frames])
    mean = np.tensordot(weights / weights.sum(), np.stack([f.image for f in frames]), axes=1)
    coadd = coadd_tile(Tile(0, 0, WCS.shifted(-ORIGIN[0], -ORIGIN[1]), 250), frames)
    assert coadd is not None
    inner = np.s_[5:-5, 5:-5]
    assert np.abs(coadd.image - mean)[inner].max() < 0.02 * mean.max()
    assert np.abs(coadd.image - mean)[inner][mean[inner] < 100].max() < 5


def test_stars_are_no_cosmic_rays_and_cosmic_rays_have_no_data():
    frame, _ = scene(1.3, 3.0, 4, n=100, flux=(100, 30000))
    clean = without_cosmic_rays(frame)
    assert not clean.flagged("CR").any()
    rng = np.random.default_rng(5)
    x, y = rng.integers(10, 240, (2, 40))
    frame.image[y, x] += 2000.0
    marked = without_cosmic_rays(frame)
    assert marked.flagged("CR", "NO_DATA")[y, x].mean() > 0.9  # some lie on stars that are as bright
    assert not frame.flagged("CR").any()  # the frame itself stays as it is


def test_a_star_beside_a_bad_column_or_a_known_cosmic_ray_is_no_cosmic_ray():
    """Pixels that are not known say nothing: taken for dark ones, they made the whole core of a bright star look sharp."""
    frame, stars = scene(1.7, 3.0, 4, n=40, flux=(3000, 30000))
    x, y = (np.round(stars[c] - o).astype(int) for c, o in zip("xy", ORIGIN, strict=True))
    for star in range(12):
        frame.image[y[star] - 9 : y[star] + 10, x[star]] *= 1.5
        frame.mask[y[star] - 9 : y[star] + 10, x[star]] |= plane_bits(["BAD"])
    for star in range(12, 24):
        frame.image[y[star], x[star] : x[star] + 3] += 5000.0
        frame.mask[y[star], x[star] : x[star] + 3] |= plane_bits(["CR"])
    known = frame.flagged("CR")
    assert (without_cosmic_rays(frame).flagged("CR") & ~known).sum() == 0


def test_stars_that_a_frame_lacks_pixels_of_are_in_the_coadd_whole():
    """Bad columns and cosmic rays on bright stars of the sharpest frame: without it their peaks would be lower by a quarter."""
    frames = [scene(s, 3.0, k, n=30, flux=(3000, 30000)) for k, s in enumerate((1.5, 2.0, 2.2))]
    stars = frames[0][1].assign(snr=300.0)
    apart = np.hypot(*(stars[c].to_numpy()[:, None] - stars[c].to_numpy() for c in "xy")) + 99.0 * np.eye(len(stars))
    stars = stars.iloc[np.argsort(apart.min(1) < 15, kind="stable")].reset_index(
        drop=True
    )  # those first that are alone
    stars["ra"], stars["dec"] = WCS.pixel_to_sky(stars.x.to_numpy(), stars.y.to_numpy())
    for frame, _ in frames:
        frame.sources = stars
    whole = coadd_tile(Tile(0, 0, WCS.shifted(-ORIGIN[0], -ORIGIN[1]), 256), [f for f, _ in frames])
    sharp = frames[0][0]
    x, y = (np.round(stars[c] - o).astype(int) for c, o in zip("xy", ORIGIN, strict=True))
    for star in range(10):
        sharp.image[y[star] - 12 : y[star] + 13, x[star] + 1] *= 1.5
        sharp.mask[y[star] - 12 : y[star] + 13, x[star] + 1] |= plane_bits(["BAD"])
        sharp.mask[y[star] - 1, x[star] - 1 : x[star] + 2] |= plane_bits(["CR"])
    sharp.sources = stars.iloc[10:]  # its own list lacks those: the other frames tell where they are
    made = [with_whole_stars([f for f, _ in frames]), [f for f, _ in frames]]
    mended, lacking = (coadd_tile(Tile(0, 0, WCS.shifted(-ORIGIN[0], -ORIGIN[1]), 256), m) for m in made)
    assert sharp.flagged("BAD").sum() == 250  # the frame itself stays as it is
    near = np.zeros(whole.image.shape, bool)
    for star in range(10):
        near[y[star] - 3 : y[star] + 4, x[star] - 3 : x[star] + 4] = True
    peak = whole.image[near].max()
    assert np.abs(lacking.image - whole.image)[near].max() > 0.1 * peak
    assert np.abs(mended.image - whole.image)[near].max() < 0.01 * peak


def test_cosmic_rays_of_the_only_frame_are_no_sources(tmp_path):
    frame, stars = scene(2.0, 3.0, 30)
    rng = np.random.default_rng(6)
    x, y = rng.integers(20, 230, (2, 15))
    for step in range(4):  # short tracks
        frame.image[y, x + step // 2] += 1500.0
    ra, dec = WCS.pixel_to_sky(stars.x.to_numpy(), stars.y.to_numpy())
    frame.sources = stars.assign(ra=ra, dec=dec)
    made = build_template(tmp_path, "one", [frame], pixel_scale=0.2, tile=256)
    science, sources = scene(2.5, 3.0, 50)
    result = subtract(science, TemplateStore(tmp_path).fetch(made, science), sources)[1]
    assert len(result.diaSources) == 0
    d = result.subtractedExposure
    good = d.good()[y, x]
    away = (
        np.hypot(stars.x.to_numpy() - ORIGIN[0] - x[:, None], stars.y.to_numpy() - ORIGIN[1] - y[:, None]).min(1) > 10
    )
    assert good[~away].mean() > 0.4  # the PSF of a star tells what is there
    assert good[away].mean() < 0.6  # of the others the pixels around a single one tell what is there
    assert np.abs(d.image[y, x] / np.sqrt(d.variance[y, x]))[good].max(initial=0) < 5
    assert d.flagged("NO_DATA").mean() < 15 * np.pi * 12**2 / 256**2  # two resamplings and the filters reach no further


def test_a_star_on_the_border_of_a_frame_has_the_psf_that_the_coadd_says():
    """Of two frames of different seeing one ends inside the tile: its stars are where it fades, and its last pixels on one."""
    side, border = 1152, 600
    x, y = np.arange(330.0, 700.0, 30.0) + 0.3, np.arange(200.0, 980.0, 60.0) + 0.4
    frames = []
    for sigma, (x0, width) in ((2.4, (-500, 2000)), (1.5, (border - 1800, 1800))):
        image = np.zeros((1800, width), np.float32)
        psf = GaussianPsf(sigma, 41)
        for stamp, i, j in zip(psf.image_at(x, y), np.round(x).astype(int), np.round(y).astype(int), strict=True):
            wide = np.zeros((1800, width + 400), np.float32)  # the light of those that straddle the border is cut there
            wide[j + 300 - 20 : j + 300 + 21, i - x0 - 20 : i - x0 + 21] = 1e4 * stamp
            image += wide[:, :width]
        frames.append(
            Exposure(
                image,
                np.ones_like(image),
                np.zeros(image.shape, np.int32),
                (x0, -300),
                WCS,
                psf,
                PhotoCalib(1.0),
                band="r",
            )
        )
    coadd = coadd_tile(Tile(0, 0, WCS, side), frames)
    model = coadd.psf.image_at(x, y)
    for stamp, i, j in zip(model, np.round(x).astype(int), np.round(y).astype(int), strict=True):
        seen = coadd.image[j - 20 : j + 21, i - 20 : i + 21]
        flux = (seen * stamp).sum() / (stamp**2).sum()
        assert flux == pytest.approx(1e4, rel=0.015)  # between PSFs 72 px apart the model is bilinear
        assert np.abs(seen - flux * stamp).max() < 0.04 * flux * stamp.max()
    assert not coadd.flagged("INEXACT_PSF").any()


def test_where_a_frame_is_left_out_the_psf_is_not_exact_and_sources_say_so():
    frames = [
        scene(s / 0.2 / 2.3548, 1.0, k, flux=(500, 30000))[0].cutout(*ORIGIN, 250, 250) for k, s in enumerate(SEEING)
    ]
    frames[2].image[100, 120:130] += 5000.0
    coadd = coadd_tile(Tile(0, 0, WCS.shifted(-ORIGIN[0], -ORIGIN[1]), 250), frames)
    inexact = coadd.flagged("INEXACT_PSF")
    assert inexact[100, 121:129].all()
    assert inexact.mean() < 0.002
    labels = np.pad(np.ones((10, 20), np.int32), ((95, 145), (115, 115)))
    frame = pd.DataFrame({"x": [125.0], "y": [100.0], "label": [1]})
    flags = pixel_flags(frame, coadd, labels)
    assert flags["pixelFlags_inexact_psf"][0]
    assert flags["pixelFlags_inexact_psfCenter"][0]
