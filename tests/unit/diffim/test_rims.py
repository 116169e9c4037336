"""Faint sources beside bright ones are found, what bright ones leave around themselves is not."""

import numpy as np
import pytest

from diffim.detection.peaks import detect
from diffim.detection.significance import significance
from exposure import Exposure, GaussianPsf

SIGMA, SIDE = 1.8, 301
FWHM = 2.3548 * SIGMA
UNIT = np.sqrt(4 * np.pi) * SIGMA  # flux of a Gaussian of one sigma in noise of 1
GRID = np.arange(30, 271, 60)  # sixteen bright ones
BRIGHT = np.array([(x, y) for x in GRID[:4] for y in GRID[:4]], float)


def point(x, y, height):
    yy, xx = np.mgrid[0:SIDE, 0:SIDE]
    return height * UNIT * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)


def found(image, seed):
    image = (image + np.random.default_rng(seed).normal(size=image.shape)).astype("f4")
    e = Exposure(image, np.ones_like(image), np.zeros(image.shape, np.int32), psf=GaussianPsf(SIGMA, 31))
    d = detect(significance(e, np.ones(image.shape, bool)))
    return np.column_stack([d.x, d.y])


def scene(beside):
    """Sixteen sources of 100 sigma, and beside each, turned from one to the next, what `beside` draws."""
    image = np.zeros((SIDE, SIDE))
    for k, (x, y) in enumerate(BRIGHT):
        image += point(x, y, 100.0) + beside(x, y, 2 * np.pi * k / len(BRIGHT))
    return image


@pytest.mark.parametrize("height", [11.0, -11.0])
@pytest.mark.parametrize("apart", [2.6, 2.9])
def test_a_faint_source_beside_a_bright_one_is_found(apart, height):
    distance = apart * FWHM
    got = found(scene(lambda x, y, a: point(x + distance * np.cos(a), y + distance * np.sin(a), height)), 1)
    turn = 2 * np.pi * np.arange(len(BRIGHT)) / len(BRIGHT)
    faint = BRIGHT + distance * np.column_stack([np.cos(turn), np.sin(turn)])
    for true in (BRIGHT, faint):
        near = np.hypot(*(got[:, None] - true).T) < 3
        assert (near.sum(axis=1) == 1).sum() >= len(true) - 1
    assert len(got) <= 2 * len(BRIGHT)


@pytest.mark.parametrize("fold", [0, 2, 3])
@pytest.mark.parametrize("height", [-1.5, 1.5])
def test_rings_and_lobes_around_a_bright_source_are_none(fold, height):
    """As a wrong PSF leaves them: about a tenth of the peak, on a circle."""
    yy, xx = np.mgrid[0:SIDE, 0:SIDE]

    def lobes(x, y, a):
        r, angle = np.hypot(xx - x, yy - y), np.arctan2(yy - y, xx - x)
        return height * np.exp(-(((r - 2.6 * FWHM) / SIGMA) ** 2) / 2) * np.cos(fold * (angle - a))

    assert len(found(scene(lobes), 2)) == len(BRIGHT)


def test_two_spikes_opposite_of_each_other_are_none():
    def spikes(x, y, a):
        dx, dy = 2.6 * FWHM * np.cos(a), 2.6 * FWHM * np.sin(a)
        return point(x + dx, y + dy, 11.0) + point(x - dx, y - dy, 11.0)

    assert len(found(scene(spikes), 3)) <= len(BRIGHT) + 1
