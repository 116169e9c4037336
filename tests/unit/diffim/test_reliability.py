"""diffim/reliability: features that do not care about sign or units, and a model that knows real from bogus."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from benchmarks.pairs import make_pair
from diffim import ImageDifferenceTask
from diffim.measurement.reliability import FEATURES, features, reliability
from exposure import load_instrument
from service.pairs.prepare import kernel_candidates, subtract_sky
from tasks import make_task
from tests.support.difference_scene import scene, subtract


@pytest.fixture(scope="module")
def judged():
    """Detections on a pair whose seed the training never saw, registered badly and with unmasked cosmic rays."""
    pair = make_pair("A", 1024, 777, stars=20_000, jitter=0.15)
    rules = load_instrument("generic")
    science, template = pair.science, pair.template
    science.mask[:] = 0
    subtract_sky(science, rules)
    subtract_sky(template, rules)
    options = {"detectionThreshold": 5.0, "doFindCosmicRays": False, "doResidualModel": False, "doUseRegister": False,
               "badSourceFlags": []}  # fmt: skip
    table = make_task(ImageDifferenceTask, options).run(science, kernel_candidates(science, rules), template).diaSources
    distance, _ = cKDTree(pair.truth[["x", "y"]]).query(table[["x", "y"]])
    return table, distance < 2, distance > 8


def test_the_model_knows_real_from_bogus(judged):
    table, real, bogus = judged
    assert real.sum() >= 20
    assert bogus.sum() >= 20
    p = table.reliability.to_numpy()
    better = (p[real][:, None] > p[bogus][None, :]).mean()  # area under the ROC curve
    assert better > 0.97
    assert (p[real] > 0.5).mean() > 0.9
    assert (p[bogus] < 0.5).mean() > 0.85
    assert ((p >= 0) & (p <= 1)).all()


def test_the_version_is_stored_with_each_source(judged):
    versions = judged[0].reliabilityVersion.unique()
    assert len(versions) == 1
    assert len(versions[0]) == 7


def pair_with_change(sign, scale=1.0):
    """A source that appears in the image or (sign -1) one that was in the template only."""
    science, s = scene(2.4, 3.0, 1, n=40, scale=scale)
    template, _ = scene(2.0, 3.0, 2, pad=40, n=40, scale=scale)
    g = np.arange(-40, 296)
    sigma = 2.4 if sign > 0 else 2.0
    bump = (
        scale
        * 9000
        / (2 * np.pi * sigma**2)
        * np.exp(-0.5 * ((g[:, None] - 30) ** 2 + (g[None, :] - 222) ** 2) / sigma**2)
    )
    if sign > 0:
        science.image += bump[40:-40, 40:-40].astype("f4")
    else:
        template.image += bump.astype("f4")
    _, r = subtract(science, template, s)
    t = r.diaSources
    found = t[np.hypot(t.x - 12345 - 222, t.y - 67890 - 30) < 2]
    assert len(found) == 1
    return features(r.subtractedExposure, science, template, found.reset_index(drop=True))[0]


def test_features_do_not_depend_on_units():
    assert np.allclose(pair_with_change(1), pair_with_change(1, 7.0), atol=0.02)


def test_a_vanished_source_looks_like_a_new_one():
    new, gone = (dict(zip(FEATURES, pair_with_change(s), strict=True)) for s in (1, -1))
    for name in ("significance", "likeness", "chi2", "curve_of_growth", "opposite", "sharpness", "size"):
        assert new[name] == pytest.approx(gone[name], abs=0.15), name


def test_nothing_in_nothing_out():
    science, s = scene(2.4, 3.0, 1, n=40)
    template, _ = scene(2.0, 3.0, 2, pad=40, n=40)
    _, r = subtract(science, template, s)
    empty = features(r.subtractedExposure, science, template, r.diaSources.iloc[:0])
    assert empty.shape == (0, len(FEATURES))
    p, version = reliability(empty)
    assert p.shape == (0,)
    assert len(version) == 7
