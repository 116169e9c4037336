"""Cosmic rays of several pixels are marked before narrow stars are smoothed; point sources are not."""

import numpy as np
import pytest

from calibration.defects.tracks import find_rays
from exposure import Exposure

SHAPE, SKY, GAIN, SIGMA = (640, 700), 1.2, 2.0, 0.85  # FWHM 2 px


def point(x, y, flux):
    """A star as pixels see it: the middle of 5 x 5 finer ones each."""
    fine = (np.arange(11 * 5) - 27) / 5
    gx, gy = (np.exp(-0.5 * ((fine - (v - np.floor(v + 0.5))) / SIGMA) ** 2) for v in (x, y))
    stamp = (gy[:, None] * gx[None, :]).reshape(11, 5, 11, 5).sum(axis=(1, 3))
    return flux * stamp / stamp.sum()


def frame(rng, places, fluxes):
    light = np.zeros(SHAPE)
    for (x, y), flux in zip(places, fluxes, strict=True):
        ix, iy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        light[iy - 5 : iy + 6, ix - 5 : ix + 6] += point(x, y, flux)
    image = rng.poisson(light * GAIN) / GAIN + rng.normal(0, SKY, SHAPE)
    return Exposure(image.astype("f4"), (SKY**2 + light / GAIN).astype("f4"), np.zeros(SHAPE, "i4"))


def lattice(rng):
    gx, gy = np.meshgrid(np.arange(15, SHAPE[1] - 15, 14.0), np.arange(15, SHAPE[0] - 15, 14.0))
    return np.column_stack([gx.ravel(), gy.ravel()]) + rng.uniform(-2, 2, (gx.size, 2))


def scene(seed, snr=None):
    """Stars at every fifth place of a lattice, point sources of one S/N at the others."""
    rng = np.random.default_rng(seed)
    places = lattice(rng)
    star = np.arange(len(places)) % 5 == 0
    fluxes = rng.uniform(150, 3000, len(places))
    area = 4 * np.pi * (SIGMA**2 + 1 / 12)
    if snr is None:
        places, fluxes = places[star], fluxes[star]
    else:  # flux^2 = snr^2 (sky in the area of a PSF + photons)
        photons = snr**2 / GAIN
        fluxes[~star] = 0.5 * (photons + np.sqrt(photons**2 + 4 * snr**2 * area * SKY**2))
    exposure = frame(rng, places, fluxes)
    known = np.zeros(SHAPE, bool)
    x, y = np.floor((places[star] if snr else places) + 0.5).astype(int).T
    known[y, x] = True
    return exposure, known, places[~star] if snr else lattice(rng)[~star]


@pytest.mark.parametrize("snr", [8, 15, 30, 60, 100, 300])
def test_point_sources_are_no_cosmic_rays(snr):
    exposure, known, places = scene(snr, snr)
    rays = find_rays(exposure, known)
    x, y = np.floor(places + 0.5).astype(int).T
    hit = np.any([rays[y + j, x + i] for j in (-1, 0, 1) for i in (-1, 0, 1)], axis=0)
    assert len(hit) > 1500 and hit.mean() <= 0.005  # 1 % is what may be lost


TRACKS = {
    "two pixels": [(0, 0, 30), (0, 1, 25)],
    "three in a row": [(0, -1, 20), (0, 0, 30), (0, 1, 15)],
    "diagonal": [(-1, -1, 25), (0, 0, 40), (1, 1, 20)],
    "with a faint side": [(-1, 0, 60), (0, 0, 100), (-1, 1, 12), (0, 1, 20), (1, 0, 3)],
    "long": [(0, -3, 12), (0, -2, 20), (0, -1, 20), (0, 0, 30), (1, 1, 20), (1, 2, 20), (1, 3, 12)],
}


@pytest.mark.parametrize("track", TRACKS.values(), ids=TRACKS)
def test_tracks_are_marked_whole(track):
    exposure, known, places = scene(7)
    x, y = np.floor(places + 0.5).astype(int).T
    pixels = np.zeros(SHAPE)
    for dy, dx, sigma in track:
        exposure.image[y + dy, x + dx] += np.float32(sigma * SKY)
        exposure.variance[y + dy, x + dx] += np.float32(sigma * SKY / GAIN)
        pixels[y + dy, x + dx] = sigma
    rays = find_rays(exposure, known)
    left = (pixels * ~rays).sum() / pixels.sum()
    assert left < 0.1
    assert not rays[known].any()


@pytest.mark.parametrize("number", [0, 5])
def test_without_stars_that_teach_only_sharp_pixels_are_marked(number):
    exposure, known, _ = scene(7)
    exposure.image[100, 100] += 200
    few = np.zeros_like(known)
    few[tuple(np.argwhere(known)[:number].T)] = True
    rays = find_rays(exposure, few)
    assert rays[100, 100]
