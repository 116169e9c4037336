"""Stars among galaxies by their sizes, judged by which were made as stars: ratios, densities, PSFs that vary, no star at all."""

import numpy as np
import pytest

from exposure.star_locus import EVIDENT, star_locus

SIDE, SIGMA = 2048, 1.83  # px; of the PSF, FWHM 4.3


def plane(seed, stars, galaxies, psf=lambda u, v: 0.0 * u):
    """Positions, S/N, ln sizes and which are stars; counts of stars and galaxies, and sizes of these, as of deep fields.

    `psf` is ln of the PSF's size over its usual one at places from -1 to 1.
    """
    rng, n = np.random.default_rng(seed), stars + galaxies
    star = np.arange(n) < stars
    snr = np.minimum(20 * rng.uniform(size=n) ** (-1 / np.where(star, 0.7, 0.9)), 3000)
    x, y = rng.uniform(0, SIDE, (2, n))
    radius = np.clip(1.8 * (snr / 7.5) ** 0.22 * rng.lognormal(0, 0.3, n), 1.2, 14)  # px, half of the light
    own = np.where(star, 0, 0.8 * (radius / 1.18) ** 2 * 0.5 * (1 + rng.uniform(0.3, 1, n) ** 2))
    size = SIGMA**2 * np.exp(psf(2 * x / SIDE - 1, 2 * y / SIDE - 1)) + own
    return x, y, snr, np.log(size) + rng.normal(size=n) * np.hypot(2 / snr, 0.01), star


def found(*made, **options):
    x, y, snr, size, star = made
    locus = star_locus(x, y, snr, size, np.ones(x.size, bool), **options)
    bright = snr > 50
    purity = star[locus.star & bright].mean() if (locus.star & bright).any() else 1.0
    return locus, purity, locus.star[star & bright].mean() if (star & bright).any() else 1.0


@pytest.mark.parametrize("varies", [0.0, 0.1])
@pytest.mark.parametrize(
    ("stars", "galaxies"), [(300, 30), (30, 30), (100, 400), (30, 600), (150, 3000), (1500, 1500), (10000, 1000)]
)
def test_stars_are_found_whatever_else_there_is(stars, galaxies, varies):
    purities, shares = [], []
    for seed in range(3):
        made = plane(seed, stars, galaxies, lambda u, v: varies * (0.5 * u - 0.4 * v + 0.5 * u * u))
        locus, purity, share = found(*made)
        assert locus.evidence > EVIDENT or stars == 30  # of so few among so many galaxies one cannot always be sure
        purities.append(purity)
        shares.append(share)
    assert min(purities) >= 0.98
    assert np.mean(shares) >= 0.9


@pytest.mark.parametrize(
    ("psf", "share"),
    [(lambda u, v: np.where(u < 0, -0.05, 0.52), 0.9), (lambda u, v: 2 * np.log(0.81 + 0.33 * np.hypot(u, v)), 0.97)],
    ids=["a step between amplifiers", "a rim where stars are wider by half"],
)
def test_stars_of_a_psf_that_varies_much_are_followed(psf, share):
    for seed in range(2):
        locus, purity, completeness = found(*plane(seed, 300, 60, psf))
        assert locus.evidence > EVIDENT
        assert purity >= 0.98 and completeness >= share


@pytest.mark.parametrize("galaxies", [60, 300, 1500])
def test_galaxies_alone_are_no_evidence_of_stars(galaxies):
    assert max(found(*plane(seed, 0, galaxies))[0].evidence for seed in range(5)) < EVIDENT


def test_against_a_psf_model_a_handful_of_stars_is_enough():
    for seed in range(4):
        x, y, snr, size, star = plane(seed, 8, 160)
        _, purity, share = found(x, y, snr, size - 2 * np.log(SIGMA), star, within=0.15)
        assert purity == 1 and share >= 0.8
    nothing = star_locus(*(np.zeros(0),) * 4, np.zeros(0, bool))
    assert nothing.star.size == 0 and nothing.evidence == 0
