"""Of many stars a sample makes the normal matrix: the fit ends where that of all of them does."""

import numpy as np
import pytest

from calibration.joint.joint import JointFit
from calibration.joint.solve import minimize
from calibration.joint.solve.sample import sample_stars
from simulation.focal_plane import MosaicSettings, simulate_mosaic
from tests.support.mosaics import config, summaries

SETTINGS = MosaicSettings(seed=4, n_visits=4, n_chips=3, stars_per_chip=700.0, reference_mag=22.0)


def fitted(s, step: float, error: float, monkeypatch):
    """Fit with so many measurements per parameter in the matrix; return the result and the sizes of the samples."""
    sizes = []

    def counted(problem, per_parameter):
        sample = sample_stars(problem, per_parameter)
        sizes.append(None if sample is None else sample.which.size)
        return sample

    monkeypatch.setattr(minimize, "_STEP_SAMPLE", step)
    monkeypatch.setattr(minimize, "_ERROR_SAMPLE", error)
    monkeypatch.setattr(minimize, "sample_stars", counted)
    return JointFit(config(), s.references, s.references).run(s.sources, summaries(s), s.camera), sizes


@pytest.fixture(scope="module")
def survey():
    return simulate_mosaic(SETTINGS)


def test_a_fit_whose_matrix_is_of_a_sample_ends_where_the_others_do(survey, monkeypatch):
    exact, sizes = fitted(survey, 1e9, 1e9, monkeypatch)
    assert set(sizes) == {None}
    quick, sizes = fitted(survey, 12.0, 14.0, monkeypatch)
    assert all(sizes)
    assert max(sizes) < 0.5 * len(exact.stars)
    assert quick.converged
    both = exact.stars.n.to_numpy() > 0
    for name, unit in (("ra", 3.6e6), ("dec", 3.6e6), ("flux", 1.0)):
        off = unit * (quick.stars[name] - exact.stars[name])[both]
        assert np.sqrt((off**2 / exact.stars[f"{name}_var"][both]).mean()) < 0.05
    for half in (
        "astrometry",
        "photometry",
    ):  # what the model adds to the errors is known from a sample to a tenth or two
        ratio = quick.image_quality[f"{half}_formal_error"] / exact.image_quality[f"{half}_formal_error"]
        assert ratio.between(0.8, 1.6).all()


def test_a_sample_stands_for_all_stars_and_every_image_has_its_share(survey):
    problem = (
        JointFit(config(doPhotometry=False), survey.references)
        .run(survey.sources, summaries(survey), survey.camera)
        .astrometry.problem
    )
    sample = sample_stars(problem, 12.0)
    every = problem.offsets.size - 1
    assert 0.1 * every < sample.which.size < 0.5 * every
    assert sample.times.min() >= 1.0
    assert sample.times.sum() == pytest.approx(every, rel=0.02)
    some = problem.of_stars(sample.which)
    weight = np.repeat(sample.times, np.diff(some.offsets))
    told, true = (np.bincount(p.image, w, problem.n_groups) for p, w in ((some, weight), (problem, None)))
    assert np.abs(told / true - 1.0).max() < 0.2  # of 100 and more on an image
    assert sample_stars(problem, 1e4) is None
