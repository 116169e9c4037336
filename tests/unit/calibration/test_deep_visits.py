"""Deep visits, of whose detections hardly any is a reference star: whether they lie on the reference stars is told the other way."""

import numpy as np
import pytest

from calibration.joint.data import ARCSEC
from calibration.joint.matching import register


def directions(positions: np.ndarray) -> np.ndarray:
    """Unit vectors of places (N, 2), arcsec from a middle."""
    out = np.column_stack([np.ones(len(positions)), positions * ARCSEC])
    return out / np.linalg.norm(out, axis=1)[:, None]


@pytest.mark.parametrize("number", [2_000, 20_000])
def test_a_deep_visit_is_found_by_its_reference_stars_and_a_shifted_one_is_not(number):
    rng = np.random.default_rng(3)
    detections = rng.uniform(-300, 300, (number, 2))
    # a fifth of the reference stars is saturated or between the chips
    here = np.concatenate([detections[:160] + rng.normal(0, 0.2, (160, 2)), rng.uniform(-300, 300, (40, 2))])
    assert register._references_found(directions(detections), directions(here))
    assert not register._references_found(directions(detections), directions(here + 20.0))
    assert not register._references_found(directions(detections), directions(here[:10]))  # too few to tell
