"""The behaviours that users of the published task rely on: detection and measurement on a given difference.

Fixture: 20 Gaussian sources on 256 x 256, the frame's origin at (0, 0) and far from it.
"""

import numpy as np
import pytest

from diffim import ImageDifferenceTask
from diffim.errors import NoDiaSourcesError
from exposure.mask import PLANES
from tasks import make_task
from tasks.errors import AlgorithmError, CallerError
from tasks.ids import IdGenerator, IdPacker
from tests.support.detections import GIVEN, apart, paired, search
from tests.support.matched_pair import ORIGINS, Fixture


@pytest.fixture(params=ORIGINS, ids=["near", "far"])
def origin(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["score", "difference"])
def on_score(request):
    return request.param


def test_every_source_is_found_once_with_its_flux(origin, on_score):
    f = apart(origin)
    ids = IdGenerator(IdPacker(10_000, 99), 42, 12)
    _, t, _ = search(f.exposure(2.4, 0.2, 1), ids=ids, useScoreImageDetection=on_score)
    distance, row = paired(t, f)
    assert len(t) == 20
    assert distance.max() < 1
    assert np.allclose(t.psfInstFlux.to_numpy()[row], f.flux, rtol=0.025)
    assert not t.isNegative.any()
    assert t.id.min() > 1e9
    assert t.id.is_unique


def test_sources_at_the_edge_lie_inside_and_are_finite(origin, on_score):
    f = apart(origin, 2000.0)
    rng = np.random.default_rng(4)
    f.x[:5], f.x[5:10] = rng.uniform(-4, 4, 5), 255 + rng.uniform(-4, 4, 5)
    f.y[10:15], f.y[15:20] = rng.uniform(-4, 4, 5), 255 + rng.uniform(-4, 4, 5)
    _, t, d = search(f.exposure(2.4, 1.0, 1), useScoreImageDetection=on_score)
    assert len(t) >= 8
    assert d.contains(t.x.to_numpy(), t.y.to_numpy()).all()
    assert not t.pixelFlags_offimage.any()
    for column in ("psfInstFlux", "psfInstFluxErr", "x", "y", "apInstFlux"):
        assert np.isfinite(t[column]).all(), column
    inside = (f.x > 2) & (f.x < 253) & (f.y > 2) & (f.y < 253)
    alone = (np.hypot(f.x[:, None] - f.x, f.y[:, None] - f.y) + 99 * np.eye(20)).min(1) > 15
    assert (inside & alone).sum() >= 4
    assert paired(t, f)[0][inside & alone].max() < 1


@pytest.mark.parametrize("background", [0.0, 1.0], ids=["flat", "chebyshev"])
@pytest.mark.parametrize("sign", [1, -1])
def test_transients_of_both_signs_are_found_after_a_subtraction(origin, background, sign):
    static = Fixture(origin, n=40, bright=10)
    new = apart(origin, 1500.0)
    new.x, new.y, new.flux = new.x[:10], new.y[:10], new.flux[:10]
    u, v = np.meshgrid(np.linspace(-1, 1, 256), np.linspace(-1, 1, 256))
    level = background * (2.2 + 2.1 * u + 2.0 * v + 1.2 * (2 * u**2 - 1) + 1.1 * u * v + 2 * v**2 - 1)
    science, template = static.exposure(2.4, 1.0, 1, background=level), static.exposure(2.0, 1.0, 2, border=20)
    if sign > 0:
        science.image += new.exposure(2.4, 1e-6, 3).image
    else:
        template.image += new.exposure(2.0, 1e-6, 3, border=20).image
    options = {"doScaleVariance": False, "doUseRegister": False, "doFindCosmicRays": False}
    r = make_task(ImageDifferenceTask, options).run(science, static.sources(), template)
    distance, row = paired(r.diaSources, new)
    assert distance.max() < 1
    flux = r.diaSources.psfInstFlux.to_numpy()[row] * sign
    assert np.median(flux) == pytest.approx(1500, rel=0.03)
    assert np.allclose(flux, 1500, rtol=0.15)
    assert (r.diaSources.isNegative.to_numpy()[row] == (sign < 0)).all()


def test_exactly_the_pixels_of_a_cosmic_ray_are_masked(origin):
    f = apart(origin)
    d = f.exposure(2.4, 1.0, 1)
    ix, iy = round(f.x[7]), round(f.y[7])
    where = np.zeros(d.image.shape, bool)
    where[iy, ix - 2 : ix + 3] = True
    d.image[where] += 1234
    task, t, made = search(d, doFindCosmicRays=True)
    assert np.array_equal(made.flagged("CR"), where)
    assert task.metadata["cosmic_ray_count"] == 5
    at = t[np.hypot(t.x - origin[0] - f.x[7], t.y - origin[1] - f.y[7]) < 3]
    assert at.pixelFlags_cr.all()


@pytest.mark.parametrize(("rows", "level"), [((20, 23), 50.0), ((118, 130), 5.0)])
def test_streaks_are_masked_and_flagged(origin, rows, level):
    d = apart(origin).exposure(2.4, 1.0, 1)
    d.image[rows[0] : rows[1], 40:201] += level
    task, t, made = search(d, doMaskStreaks=True)
    assert made.flagged("STREAK")[rows[0] : rows[1], 40:201].all()
    assert task.metadata["nStreakPixels"] < 0.35 * d.image.size
    on = (t.y >= origin[1] + rows[0]) & (t.y < origin[1] + rows[1]) & (t.x > origin[0] + 40) & (t.x < origin[0] + 200)
    assert t.pixelFlags_streak[on].all()


def test_a_shift_of_one_pixel_makes_dipoles(origin):
    f = apart(origin, 20_000.0)
    science = f.exposure(2.4, 1.0, 1)
    f.y += 1
    template = f.exposure(2.4, 1.0, 2)
    f.y -= 1
    d = science.copy()
    d.image = science.image - template.image
    d.variance = science.variance + template.variance
    _, t, _ = search(d, science, template)
    assert len(t) == 20
    assert t.isDipole.all()
    assert t.dipoleLengthPixels.to_numpy() == pytest.approx(1.0, rel=0.1)
    assert t.dipoleAnglePixels.to_numpy() == pytest.approx(-np.pi / 2, abs=0.3)
    assert np.abs(t.apInstFlux).max() < 0.05 * 20_000
    # one footprint with both signs: not a negative source
    assert not t.isNegative.any()


def test_large_footprints_are_no_dipoles(origin, monkeypatch):
    f = apart(origin, 20_000.0)
    science, shifted = f.exposure(2.4, 1.0, 1), apart(origin, 20_000.0)
    shifted.y = f.y + 1
    template = shifted.exposure(2.4, 1.0, 2)
    d = science.copy()
    d.image, d.variance = science.image - template.image, science.variance + template.variance
    monkeypatch.setattr("diffim.measurement.measure.MAX_DIPOLE_AREA", 50)
    _, t, _ = search(d, science, template)
    assert len(t) == 20
    assert not t.dipoleFitAttempted.any()
    assert not t.isDipole.any()


@pytest.mark.parametrize("plane", ["EDGE", "BAD", "SAT", "NO_DATA"])
def test_sources_on_bad_pixels_are_dropped_and_none_left_is_an_error(origin, plane):
    f = apart(origin)
    d = f.exposure(2.4, 0.2, 1)
    where = np.zeros(d.image.shape, bool)
    for x, y in zip(f.x.astype(int), f.y.astype(int), strict=True):
        where[y - 8 : y + 9, x - 8 : x + 9] = True
    d.set_plane(plane, where)
    task, t, _ = search(d)
    assert len(t) == 0
    assert task.metadata["nDiaSources"] == 0
    with pytest.raises(NoDiaSourcesError) as caught:
        search(d, raiseOnNoDiaSources=True)
    assert isinstance(caught.value, AlgorithmError)


def test_flags_of_injected_sources_go_with_their_image(origin):
    f = apart(origin, np.where(np.arange(20) % 2 == 0, 1500.0, -1500.0))
    d = f.exposure(2.4, 1.0, 1)
    for k, (x, y) in enumerate(zip(f.x.astype(int), f.y.astype(int), strict=True)):
        name = "INJECTED" if k % 2 == 0 else "INJECTED_TEMPLATE"
        d.mask[y - 2 : y + 3, x - 2 : x + 3] |= np.int32(1 << PLANES[name])
    _, t, _ = search(d)
    assert len(t) == 20
    assert (t.pixelFlags_injected == ~t.isNegative).all()
    assert (t.pixelFlags_injectedCenter == ~t.isNegative).all()
    assert (t.pixelFlags_injected_template == t.isNegative).all()
    assert (t.pixelFlags_injected_templateCenter == t.isNegative).all()


def test_a_blend_is_two_sources_of_either_sign(origin):
    f = apart(origin)
    f.x, f.y = np.array([100.3, 112.1]), np.array([80.0, 84.6])
    f.flux = np.array([4000.0, 3000.0])
    up = f.exposure(2.4, 1.0, 1)
    down = up.copy()
    down.image = -up.image
    positive, negative = (search(e)[1] for e in (up, down))
    assert len(positive) == len(negative) == 2
    assert negative.isNegative.all()
    assert not positive.isNegative.any()
    for column in ("psfInstFlux", "apInstFlux"):
        assert np.allclose(negative[column], -positive[column], rtol=1e-4), column
    for column in ("x", "y", "ixx", "iyy", "ixy"):
        assert np.allclose(negative[column], positive[column], rtol=1e-4), column


def test_three_positive_among_ten_stay_apart(origin):
    f = apart(origin)
    f.x, f.y = f.x[:10], f.y[:10]
    f.flux = np.where(np.arange(10) < 3, 1500.0, -1500.0)
    _, t, _ = search(f.exposure(2.4, 1.0, 1))
    assert len(t) == 10
    distance, row = paired(t, f)
    assert distance.max() < 1
    assert (t.isNegative.to_numpy()[row] == (f.flux < 0)).all()


def test_order_is_that_of_significance(origin):
    """A noisy bright hole of fewer sigma comes after a faint source of more."""
    f = apart(origin)
    f.x, f.y, f.flux = np.array([60.0, 190.0]), np.array([60.0, 190.0]), np.array([-40_000.0, 2000.0])
    d = f.exposure(2.4, 1.0, 1)
    rng = np.random.default_rng(0)
    d.image[:128] += rng.normal(0, 60, (128, 256)).astype("f4")
    d.variance[:128] += np.float32(60**2)
    _, t, _ = search(d)
    size = t.significance.to_numpy()
    assert (np.diff(size) <= 0).all()
    first, second = t.iloc[0], t.iloc[1]
    assert (first.isNegative, second.isNegative) == (False, True)
    assert abs(first.psfInstFlux) < abs(second.psfInstFlux)
    assert first.significance > second.significance > 5


def test_a_psf_without_width_is_no_work(origin):
    from lsst.pipe.base import UpstreamFailureNoWorkFound

    from exposure import GridPsf

    d = apart(origin).exposure(2.4, 1.0, 1)
    science = d.copy()
    science.psf = GridPsf(np.full((1, 21, 21), np.nan, np.float32), 1, 1, d.bbox)
    with pytest.raises(UpstreamFailureNoWorkFound, match="defined nowhere"):
        search(d, science)


def test_a_difference_alone_is_searched_and_what_is_not_there_has_no_flux(origin, monkeypatch):
    f = apart(origin, 3000.0)
    difference = f.exposure(2.2, 10.0, 1)
    task = make_task(ImageDifferenceTask, GIVEN)
    alone = task.run(subtractedExposure=difference.copy())
    with_both = search(difference)[1]
    assert len(alone.diaSources) == len(with_both) >= 20
    assert np.array_equal(alone.diaSources.psfInstFlux, with_both.psfInstFlux)
    for column in ("scienceInstFlux", "templateInstFlux"):
        assert alone.diaSources[column].isna().all()
    assert alone.matchedExposure is None and alone.subtractRes is None
    # the published five arguments draw it: of the task that made it, and of another, which is given all that came of it
    drawn, other = [], make_task(ImageDifferenceTask, GIVEN)
    monkeypatch.setattr("diffim.task.draw_subtraction", lambda subject, folder: drawn.append(subject))
    task.runDebug(difference, alone.subtractRes, None, None, alone.diaSources)
    other.runDebug(difference, alone, None, None, alone.diaSources)
    for subject in drawn:
        assert subject.sources is alone.diaSources and (subject.fit, subject.matched) == (None, None)
        assert subject.difference is alone.subtractedExposure
    with pytest.raises(CallerError, match="give subtractedExposure"):
        other.runDebug(difference, None, None, None, None)
