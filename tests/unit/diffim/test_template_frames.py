"""Frames of a template: their cosmic rays do not enter it, whatever the number of frames, and their stars all do."""

import numpy as np
import pytest

from diffim.templates.coadd import coadd_tile
from diffim.templates.store import TemplateStore, build_template, without_cosmic_rays
from diffim.templates.tiling import Tile
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
    assert good.mean() < 0.5  # of the others the pixels around a single one tell what is there
    assert np.abs(d.image[y, x] / np.sqrt(d.variance[y, x]))[good].max(initial=0) < 5
    assert d.flagged("NO_DATA").mean() < 15 * np.pi * 12**2 / 256**2  # two resamplings and the filters reach no further
