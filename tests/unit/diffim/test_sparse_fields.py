"""Fields with few stars: what they do not tell the PSF models do, and still no residuals beyond the noise."""

import numpy as np
import pytest

from diffim.detection.star_residuals import star_residuals
from exposure.stars import Stars
from tests.support.difference_scene import scene, subtract


@pytest.mark.parametrize(("n", "limit"), [(30, 1.1), (10, 1.1), (4, 1.2)])
@pytest.mark.parametrize("sigmas", [(2.5, 1.9), (1.9, 2.4)])
def test_few_stars_leave_little(n, limit, sigmas):
    worst = []
    for seed in range(4):
        science, s = scene(sigmas[0], 5.0, 100 + seed, size=512, n=n, stars_seed=seed)
        template, _ = scene(sigmas[1], 2.0, 200 + seed, pad=40, size=512, n=n, stars_seed=seed)
        task, r = subtract(science, template, s, doScaleVariance=False, doScaleDiffimVariance=False)
        assert task.metadata["kernelFromPsf"]
        d = r.subtractedExposure
        z = d.image / np.sqrt(d.variance)
        on_stars = science.image > 10 * 5.0
        worst.append(float(z[on_stars].std()) / float(z[~on_stars].std()))
    assert np.median(worst) <= limit
    assert max(worst) <= limit + 0.1


def test_a_crowded_field_does_not_fail():
    """As dense as 100 000 stars on 4096 x 4096."""
    science, s = scene(2.5, 5.0, 1, size=512, n=1600, flux=(20, 600))
    template, _ = scene(2.0, 2.0, 2, pad=40, size=512, n=1600, flux=(20, 600))
    s["snr"], s["isolated"] = 0.5 * np.sqrt(s.psfFlux), False
    _, r = subtract(science, template, s)
    d = r.subtractedExposure
    z = (d.image / np.sqrt(d.variance))[20:-20, 20:-20]
    assert 1.4826 * np.median(np.abs(z)) == pytest.approx(1, abs=0.06)
    assert len(r.diaSources) < 10


@pytest.mark.parametrize(("changed", "least", "most"), [(0, 0.0, 0.02), (3, 0.0, 0.02), (7, 0.3, 1.0)])
def test_stars_that_went_do_not_widen_the_noise_of_those_that_stayed(changed, least, most):
    """Of nine stars of S/N above 100 some are gone; where most are, the subtraction is poor and that must be told."""
    there, s = scene(2.0, 5.0, 1, size=256, n=9, flux=(1000, 2000))
    rng, level = np.random.default_rng(3), 0.5 * s.psfFlux.to_numpy()
    there.image[:] = rng.normal(size=there.image.shape) * np.sqrt(there.variance)
    stamps = there.psf.image_at(s.x.to_numpy(), s.y.to_numpy())
    half = stamps.shape[-1] // 2
    for k in range(changed):
        x, y = (int(np.floor(s[c][k] + 0.5)) - o for c, o in zip("xy", there.origin, strict=True))
        there.image[y - half : y + half + 1, x - half : x + half + 1] -= level[k] * stamps[k]
    found = star_residuals(there, Stars.of(s))
    assert least <= found.flux_error <= most


@pytest.mark.parametrize("left", [0.0, 0.1])
def test_many_new_sources_say_nothing_of_constant_stars(left):
    """Of 40 bright sources 28 are not in the template at all: what the other twelve leave is what counts."""
    there, s = scene(2.0, 5.0, 1, size=512, n=40, flux=(1000, 2000))
    rng, flux = np.random.default_rng(4), s.psfFlux.to_numpy()
    there.image[:] = rng.normal(size=there.image.shape) * np.sqrt(there.variance)
    stamps = there.psf.image_at(s.x.to_numpy(), s.y.to_numpy())
    half = stamps.shape[-1] // 2
    for k in range(40):
        x, y = (int(np.floor(s[c][k] + 0.5)) - o for c, o in zip("xy", there.origin, strict=True))
        share = 1.0 if k >= 12 else left * (-1) ** k
        there.image[y - half : y + half + 1, x - half : x + half + 1] += share * flux[k] * stamps[k]
    found = star_residuals(there, Stars.of(s)).flux_error
    assert found == pytest.approx(1.4826 * left, abs=0.02)  # of two values at +-left


@pytest.mark.parametrize("left", [0.0, 0.1])
def test_what_constant_stars_leave_is_told_where_most_others_vary(left):
    """Of 40 sources 22 have changed by 5 to 30 % of their light; a wrong kernel sum leaves the same share of all the others."""
    there, s = scene(2.0, 5.0, 1, size=512, n=40, flux=(2e4, 4e4))
    rng, flux = np.random.default_rng(5), s.psfFlux.to_numpy()
    there.image[:] = rng.normal(size=there.image.shape) * np.sqrt(there.variance)
    share = np.full(40, left)
    share[:22] += rng.choice([-1, 1], 22) * rng.uniform(0.05, 0.3, 22)
    stamps = there.psf.image_at(s.x.to_numpy(), s.y.to_numpy())
    half = stamps.shape[-1] // 2
    for k in range(40):
        x, y = (int(np.floor(s[c][k] + 0.5)) - o for c, o in zip("xy", there.origin, strict=True))
        there.image[y - half : y + half + 1, x - half : x + half + 1] += share[k] * flux[k] * stamps[k]
    found = star_residuals(there, Stars.of(s)).flux_error
    if left:
        assert found > 0.06  # of the gate; robust scatter about zero is 1.48 times a common offset
    else:
        assert found < 0.01
