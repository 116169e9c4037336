"""Displacement fields of turbulence against screens whose displacements are known, and against no turbulence at all."""

import numpy as np
import pytest

from calibration import JointcalTask
from calibration.joint.atmosphere.correlation import fit_kernel, two_point
from calibration.joint.atmosphere.kernel import mixture
from calibration.joint.atmosphere.process import predict_grid
from exposure.wcs.mapped import ComposedWcs
from simulation.turbulence import turbulence
from tasks.sphere import unit_vectors
from tests.support.mosaics import config, summaries, survey, true_pixels_to_sky

MAS = 1e-3


def stars(seed: int, n: int, rms: float):
    """Places on half a degree, displacements with noise of 2 to 10 mas, its variance, and the true displacements."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-900, 900, (n, 2))
    sigma = 10 ** rng.uniform(np.log10(0.002), np.log10(0.01), n)
    truth = np.stack(turbulence((seed,), *points.T, rms), 1) if rms else np.zeros((n, 2))
    return points, truth + rng.normal(size=(n, 2)) * sigma[:, None], sigma**2, truth


def test_the_covariance_is_that_of_a_potentials_gradient():
    scale, metric = 70.0, np.array([[1.25, 0.5], [0.5, 1.0]])

    def potential(d):
        return scale**2 * np.exp(-0.5 * d @ metric @ d / scale**2)

    place, h = np.array([40.0, -65.0]), 0.05
    steps = h * np.eye(2)
    second = np.array(
        [
            [
                sum(s * t * potential(place + s * a + t * b) for s in (1, -1) for t in (1, -1)) / (4 * h * h)
                for b in steps
            ]
            for a in steps
        ]
    )
    made = mixture(place[None], np.array([scale]), metric)[0, :, 0]
    assert made == pytest.approx([-second[0, 0], -second[0, 1], -second[1, 1]], rel=1e-4)


@pytest.mark.parametrize("seed", [1, 2])
def test_displacements_of_stars_that_it_has_not_seen_are_predicted(seed):
    points, values, variance, truth = stars(seed, 2600, 15 * MAS)
    known = np.random.default_rng(seed).uniform(size=len(points)) < 0.8
    kernel = fit_kernel(points[known], values[known], variance[known])
    assert kernel is not None
    grid = predict_grid(points[known], values[known], variance[known], kernel)
    other = points[~known]
    left = values[~known] - np.stack(grid.displacement(*other.T), 1)
    one = np.zeros(len(other), np.int64)
    before, _, _ = two_point(other, values[~known], variance[~known], one, 60.0)
    after, error, pairs = two_point(other, left, variance[~known], one, 60.0)
    assert pairs > 200
    assert before > 100 * MAS**2
    assert after < before / 8 + 2 * error
    missed = truth[~known] - np.stack(grid.displacement(*other.T), 1)
    assert missed.std() < 0.6 * truth[~known].std()
    assert np.abs(missed.mean(0)).max() < 4 * missed.std() / np.sqrt(
        len(missed) / 20
    )  # neighbours are no independent stars


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_makes_no_field(seed):
    points, values, variance, _ = stars(seed, 1500, 0.0)
    assert fit_kernel(points, values, variance) is None


def fitted(s, **values):
    task = JointcalTask(config=config(doPhotometry=False, **values), astrometry_refs=s.references)
    return task.run(s.sources, summaries(s), s.camera)


def misses(s, result) -> float:
    """Median distance of the pixels of all images from the truth, mas."""
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(50, 1990, 12), np.linspace(50, 4100, 12)))
    off = [
        unit_vectors(*wcs.pixel_to_sky(*turbulence_of(s, *key, x, y)))
        - unit_vectors(*true_pixels_to_sky(s, *key, x, y))
        for key, wcs in result.outputWcs.items()
    ]
    return 206264806.0 * float(np.median(np.linalg.norm(np.concatenate(off), axis=1)))


def turbulence_of(s, visit, detector, x, y):
    """The pixels at which stars are seen that would be at x and y without turbulence."""
    d = s.camera[detector]
    fx, fy = d.to_focal(x, y)
    scale = 0.168 / d.pixel_size_mm[0]
    dx, dy = turbulence((1, visit), fx * scale, fy * scale, 20 * MAS)
    turn = np.radians(d.rotation_deg)
    u, v = np.cos(turn) * dx + np.sin(turn) * dy, -np.sin(turn) * dx + np.cos(turn) * dy
    return x + u / 0.168, y + v / 0.168


def test_a_fit_publishes_the_fields_with_its_wcs():
    s = survey(1, 3, 4, stars_per_chip=400, turbulence_mas=20.0)
    plain, fields = fitted(s), fitted(s, fitAtmosphere=True)
    m = fields.metrics
    assert m["atmosphere_visits"] == 3
    assert m["atmosphere_two_point_after_mas2"] < (
        m["atmosphere_two_point_before_mas2"] / 4 + 2 * m["atmosphere_two_point_error_mas2"]
    )
    assert m["relative_rms_mas"] < 0.5 * plain.metrics["relative_rms_mas"]
    assert misses(s, fields) < 0.65 * misses(s, plain)
    wcs = fields.outputWcs[min(fields.outputWcs)]
    again = ComposedWcs.from_json(wcs.to_json())
    x, y = np.array([100.0, 1500.0]), np.array([50.0, 3000.0])
    assert np.array_equal(again.pixel_to_sky(x, y), wcs.pixel_to_sky(x, y))
    assert np.allclose(wcs.sky_to_pixel(*wcs.pixel_to_sky(x, y)), (x, y), atol=1e-6)
    assert np.allclose(wcs.shifted(10, 20).pixel_to_sky(x + 10, y + 20), wcs.pixel_to_sky(x, y), rtol=0, atol=1e-12)


def test_a_calm_night_has_none():
    s = survey(2, 3, 4, stars_per_chip=300)
    plain, fields = fitted(s), fitted(s, fitAtmosphere=True)
    assert fields.metrics["atmosphere_visits"] == 0
    x, y = np.array([100.0, 1500.0]), np.array([50.0, 3000.0])
    for key, wcs in plain.outputWcs.items():
        assert np.allclose(fields.outputWcs[key].pixel_to_sky(x, y), wcs.pixel_to_sky(x, y), rtol=0, atol=1e-9)
