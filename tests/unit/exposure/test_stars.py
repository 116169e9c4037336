"""Stars as columns: from tables and back, and the neighbours of each against every pair of them."""

import numpy as np
import pandas as pd
import pytest

from calibration.stars import isolated
from exposure.stars import Stars
from tasks.errors import CallerError


def table(n=5):
    return pd.DataFrame(
        {
            "x": np.arange(n, dtype=float),
            "y": 2.0,
            "snr": [30.0, 50, 50, 20, 90][:n],
            "psfFlux": 100.0,
            "star": True,
            "isolated": [True, False, True, True, False][:n],
            "flagged": False,
        }
    )


def test_a_table_comes_back():
    pd.testing.assert_frame_equal(Stars.of(table()).table(), table())


def test_brightest_first_and_ties_by_x():
    stars = Stars.of(table().iloc[[3, 2, 4, 1, 0]]).brightest_first()
    assert stars.x.tolist() == [4, 1, 2, 0, 3]
    assert stars.take(stars.isolated).x.tolist() == [2, 0, 3]


def test_absent_flags_are_unset_and_absent_places_an_error():
    stars = Stars.of(table().drop(columns=["star", "psfFlux"]))
    assert not stars.star.any() and np.isnan(stars.psfFlux).all() and stars.isolated.sum() == 3
    assert len(Stars.of(pd.DataFrame())) == 0
    with pytest.raises(CallerError, match="no column x, snr"):
        Stars.of(table()[["y", "psfFlux"]])


def test_isolated_ones_are_those_without_a_neighbour_that_counts():
    rng = np.random.default_rng(5)
    x, y, flux = rng.uniform(0, 300, 800), rng.uniform(0, 300, 800), 10 ** rng.uniform(0, 4, 800)
    near = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 <= 100
    np.fill_diagonal(near, False)
    expected = ~(near & (flux[None, :] > 0.03 * flux[:, None])).any(axis=1)
    assert 50 < expected.sum() < 750
    np.testing.assert_array_equal(isolated(x, y, flux), expected)
