"""Quantiles of many pixels: those of numpy."""

import numpy as np
import pytest

from exposure.quantiles import median, quantiles, scatter


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1001])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_they_are_those_of_numpy(size, kind):
    values = np.random.default_rng(size).normal(3, 2, size).astype(kind)
    before = values.copy()
    assert median(values) == pytest.approx(np.median(values), rel=1e-6)
    assert scatter(values) == pytest.approx(1.4826 * np.median(np.abs(values - np.median(values))), rel=1e-6, abs=1e-7)
    fractions = [0, 0.01, 0.25, 0.5, 0.99, 1]
    expected = np.percentile(values.astype(np.float64), [100 * f for f in fractions])
    np.testing.assert_allclose(quantiles(values, *fractions), expected, rtol=1e-6)
    np.testing.assert_array_equal(values, before)


def test_nothing_has_no_median():
    assert np.isnan(median(np.zeros(0)))
    assert np.isnan(scatter(np.zeros(0)))
