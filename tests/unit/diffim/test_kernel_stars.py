"""Kernel stars are stars in both images: galaxies, transients and variables are not among them."""

import numpy as np
import pytest

from calibration.sources import detect_sources
from diffim.matching.common_stars import judge_stars
from diffim.matching.kernel_stars import kernel_stars
from exposure.stars import Stars
from simulation.render import add_points
from tests.support.mixed_field import add_noise, mixed_light

SIDE = 700


def scene(stars, galaxies, transients, variables, seed=1):
    """Two exposures of one field with their PSFs; places of stars (the variables first), of transients and of galaxies."""
    two = []
    for fwhm, new in ((4.6, True), (4.0, False)):
        rng = np.random.default_rng(seed)  # the same sky in both
        light, psf, (x, y, flux, *extended) = mixed_light(rng, SIDE, stars, galaxies, (fwhm, 0.05), 4e3)
        if new:
            add_points(light, psf, x[:variables], y[:variables], 0.4 * flux[:variables])
            at = rng.uniform(20, SIDE - 20, (2, transients))
            add_points(light, psf, *at, np.full(transients, 4e4))
        exposure = add_noise(np.random.default_rng(seed + 10 * new), light)
        exposure.psf = psf
        two.append(exposure)
    return two[0], two[1], np.array([x, y]), at, np.array(extended)


def near(chosen, at, radius=2.0):
    return np.hypot(chosen.x[:, None] - at[0], chosen.y[:, None] - at[1]).min(1) < radius if at.size else chosen.x < -1


@pytest.mark.parametrize(("stars", "galaxies"), [(120, 200), (60, 400)])
def test_kernel_stars_are_constant_stars(stars, galaxies):
    new, old, at, transients, extended = scene(stars, galaxies, 60, 12)
    table = detect_sources(new)
    sources = Stars.of(table.assign(psfFlux=table.apFlux))
    chosen = kernel_stars(sources, new, old, 21)
    called = chosen.take(chosen.star)
    assert len(called) >= 10
    assert near(called, at).mean() >= 0.97
    assert not near(chosen, transients).any()
    assert not near(chosen, at[:, :12]).any()
    judged = judge_stars(sources, new, old)
    faint = near(sources, at[:, 12:]) & sources.isolated & ~sources.flagged & (sources.snr > 60)
    faint &= ~table.blended.to_numpy() & ~near(sources, extended, 10)
    assert (judged.star & judged.steady)[faint].mean() >= 0.9


def test_galaxies_tell_what_is_constant_where_most_stars_vary_alike():
    new, old, at, _, extended = scene(60, 150, 0, 45)
    table = detect_sources(new)
    sources = Stars.of(table.assign(psfFlux=table.apFlux))
    judged = judge_stars(sources, new, old)
    clear = (sources.snr > 60) & sources.isolated & ~sources.flagged
    varied = clear & near(sources, at[:, :45]) & ~near(sources, extended, 10)
    constant = clear & near(sources, extended) & ~near(sources, at, 15)
    assert varied.sum() >= 8 and constant.sum() >= 30
    assert not judged.steady[varied].any()
    assert judged.steady[constant].mean() >= 0.9


def test_what_sources_say_of_themselves_counts_where_sizes_tell_nothing():
    new, old, at, *_ = scene(3, 0, 0, 0)
    x, y = at
    given = Stars(
        x, y, np.full(3, 100.0), np.full(3, 1e4), np.array([True, True, False]), np.ones(3, bool), np.zeros(3, bool)
    )
    assert judge_stars(given, new, old).star.tolist() == [True, True, False]
