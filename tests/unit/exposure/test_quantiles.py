"""Quantiles of many pixels: those of numpy."""

import numpy as np
import pytest

from exposure.quantiles import median, quantiles, scatter, scatter_about, scatter_along


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


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_scatter_along_an_axis_is_to_the_bit_the_formula(kind, axis):
    values = np.random.default_rng(7).normal(3, 2, (31, 24, 5)).astype(kind)
    middle = np.expand_dims(np.median(values, axis=axis), axis)
    expected = 1.4826 * np.median(np.abs(values - middle), axis=axis)
    found = scatter_along(values, axis)
    assert found.dtype == kind
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_scatter_about_a_centre_is_to_the_bit_the_formula(kind):
    values = np.random.default_rng(8).normal(3, 2, (40, 6)).astype(kind)
    assert scatter_about(values) == 1.4826 * float(np.median(np.abs(values)))
    assert scatter_about(values, np.median(values)) == 1.4826 * float(np.median(np.abs(values - np.median(values))))
    columns = np.median(values, axis=0)
    assert scatter_about(values, columns) == 1.4826 * float(np.median(np.abs(values - columns)))
