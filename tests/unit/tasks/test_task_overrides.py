"""Defaults in arcsec follow pixels and seeing; what an instrument file says stands."""

import numpy as np
import pytest

from association import DiaPipelineTask
from diffim import ImageDifferenceTask
from exposure import Exposure, GaussianPsf, Instrument, load_instrument
from exposure.task_config import arcsec_scale, task_overrides


def exposure(fwhm):
    plane = np.ones((50, 50), np.float32)
    return Exposure(plane, plane, np.zeros((50, 50), np.int32), psf=GaussianPsf(fwhm / 2.3548, 31))


@pytest.mark.parametrize(
    ("scale", "fwhm", "factor"),
    [(0.2, 4.0, 1.0), (0.2, 12.5, 2.0), (1.0, 2.5, 2.0), (5.0, 1.5, 8.0), (5.0, None, 8.0), (0.2, None, 1.0)],
)
def test_factor_is_the_seeing_over_the_usual_one(scale, fwhm, factor):
    """FWHM / 1.25 arcsec, two pixels at least; a pixel-sampled Gaussian measures within 3 % of its width."""
    rules = Instrument(name="c", pixel_scale=scale)
    image = None if fwhm is None else exposure(fwhm)
    assert arcsec_scale(rules, image) == pytest.approx(factor, rel=0.03)
    made = task_overrides(DiaPipelineTask, rules, image)
    assert made.get("maxDistArcSeconds", 1.0) == pytest.approx(1.0 * factor, rel=0.03)
    assert made.get("forcedTrailLengthThreshold", 1.4) == pytest.approx(1.4 * factor, rel=0.03)
    assert task_overrides(ImageDifferenceTask, rules, image) == {}


def test_a_source_without_score_is_bad_where_the_measurement_scores():
    none = {"ImageDifferenceTask": {"doReliability": False}}
    for config, needed in (
        ({}, True),
        (none, False),
        (none | {"DiaPipelineTask": {"forcedNeedsReliability": True}}, True),
    ):
        made = task_overrides(DiaPipelineTask, Instrument(name="c", task_config=config))
        assert made["forcedNeedsReliability"] is needed


def test_what_the_instrument_file_says_stands():
    rules = load_instrument("hatp32")
    made = task_overrides(DiaPipelineTask, rules)
    assert made["maxDistArcSeconds"] == 8.0
    assert made["angleMargin"] == pytest.approx(2.0 * 2 * 5.21 / 1.25)
