"""Polynomials whose terms are held back as far as the data ask, judged by the fields that the data were made of."""

import numpy as np
import pytest

from calibration.psf.shrinkage import shrunken, shrunken_pixels
from exposure.field import chebyshev_orders, polynomial_terms

ORDERS = chebyshev_orders(2)
DEGREES = ORDERS.sum(1)
BOX = (0, 0, 101, 101)
NOISE = 0.01


def fitted(rng, count, truth, noise=NOISE, said=NOISE):
    """The coefficients from `count` values at random places, and the terms there."""
    terms = polynomial_terms(ORDERS, BOX, *rng.uniform(0, 100, (2, count)))
    values = terms @ np.asarray(truth) + rng.normal(0, noise, count)
    return shrunken(terms, DEGREES, values, np.full(count, said**-2.0)), terms, values


def test_what_does_not_vary_gets_no_polynomial():
    rng = np.random.default_rng(1)
    free, held = [], []
    for _ in range(40):
        found, terms, values = fitted(rng, 20, [0.5, 0, 0, 0, 0, 0])
        plain = np.linalg.lstsq(terms, values, rcond=None)[0]
        free.append((plain[1:] ** 2).sum())
        held.append((found[1:] ** 2).sum())
        assert abs(found[0] - 0.5) < 5 * NOISE / np.sqrt(20)
    # five terms of 20 values cost 5 / 20 of the variance and more
    assert np.mean(held) < 0.35 * np.mean(free)


@pytest.mark.parametrize("said", [NOISE, NOISE / 5])
def test_what_varies_is_found_to_the_noise(said):
    rng = np.random.default_rng(2)
    truth = np.array([0.0, 0.04, -0.05, 0.03, 0.05, -0.04])
    off, free = [], []
    for _ in range(30):
        found, terms, _ = fitted(rng, 40, truth, said=said)
        off.append(found - truth)
        free.append(NOISE**2 * np.diag(np.linalg.inv(terms.T @ terms)))  # the variance of a fit of free terms
    # what holding back costs where there is nothing to hold back, and the scatter of 30 draws of six terms
    assert np.mean(np.square(off)) < 1.5 * np.mean(free)


def test_few_values_that_scatter_are_not_explained_by_as_many_terms():
    rng = np.random.default_rng(3)
    worst = [np.abs(fitted(rng, 7, [0.0] * 6, noise=0.1, said=0.001)[0][1:]).max() for _ in range(30)]
    assert np.median(worst) < 0.1


def test_nothing_and_unknown_values_stay_zero():
    terms = polynomial_terms(ORDERS, BOX, np.arange(4.0), np.arange(4.0))
    out = shrunken_pixels(terms, DEGREES, np.zeros((4, 3)), np.zeros((4, 3)), np.ones(3))
    assert out.shape == (6, 3) and not out.any()
