"""The behaviours that users of the published task rely on: subtraction. Fixture: 20 Gaussian stars, 256 x 256.

Every test runs with the frame's origin at (0, 0) and far from it.
"""

import numpy as np
import pytest
from lsst.pipe.base import NoWorkFound, UpstreamFailureNoWorkFound

from diffim import ImageDifferenceTask
from diffim.errors import InsufficientKernelSources, MismatchError
from diffim.matching.kernel_stars import kernel_stars
from diffim.measurement.science_stars import detect_kernel_sources
from exposure import GaussianPsf, GridPsf
from exposure.errors import PsfUndefined
from exposure.mask import plane_bits
from exposure.stars import Stars
from tasks import CallerError, make_task
from tests.support.matched_pair import ORIGINS, Fixture, clipped

PLAIN = {"doScaleVariance": False, "doScaleDiffimVariance": False, "doSubtractBackground": False,
         "doFindCosmicRays": False, "doUseRegister": False, "doDetection": False}  # fmt: skip


@pytest.fixture(params=ORIGINS, ids=["near", "far"])
def origin(request):
    return request.param


def run(science, template, sources, **config):
    task = make_task(ImageDifferenceTask, {**PLAIN, **config})
    return task, task.run(science.copy(), sources, template.copy())


def mean_ok(image, noise):
    return abs(clipped(image)[0]) < 5 * noise / np.sqrt(image.size)


@pytest.mark.parametrize("noise", [(1.0, 1.0), (1.0, 0.1), (0.1, 0.1)])
@pytest.mark.parametrize("sigmas", [(2.4, 2.0), (2.0, 2.4)])
def test_noise_of_every_combination(origin, noise, sigmas):
    f = Fixture(origin)
    science, template = f.exposure(sigmas[0], noise[0], 1), f.exposure(sigmas[1], noise[1], 2, border=20)
    task, r = run(science, template, f.sources(), doScaleVariance=True)
    for key in ("scaleTemplateVarianceFactor", "scaleScienceVarianceFactor"):
        assert task.metadata[key] == pytest.approx(1, abs=0.05)
    total = np.hypot(*noise)
    d = r.subtractedExposure
    assert np.isfinite(d.image).all()
    assert np.isfinite(d.variance).all()
    assert mean_ok(d.image, total)
    assert np.mean(d.variance) == pytest.approx(total**2, rel=0.1)
    assert clipped(d.image)[1] == pytest.approx(total, rel=0.1)


def test_equal_psfs_agree_with_plain_subtraction_in_both_modes(origin):
    f = Fixture(origin)
    for sigma in (2.0, 2.4, 2.8):
        science, template = f.exposure(sigma, 0.1, 1), f.exposure(sigma, 0.1, 2, border=20)
        plain = science.image - template.image[20:-20, 20:-20]
        made = [
            run(science, template, f.sources(), mode=m, doDecorrelation=False)[1].subtractedExposure.image
            for m in ("convolveTemplate", "convolveScience")
        ]
        inner = np.s_[20:-20, 20:-20]
        for image in made:
            assert np.abs(image - plain)[inner].max() < 5 * 0.1 * np.sqrt(2)
        assert np.abs(made[0] - made[1])[inner].max() < 10 * 0.1


@pytest.mark.parametrize(("sigma", "mode"), [(2.0, "convolveTemplate"), (2.8, "convolveScience")])
def test_auto_is_the_mode_it_chooses_to_the_bit(origin, sigma, mode):
    f = Fixture(origin)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(sigma, 1.0, 2, border=20)
    auto, asked = (run(science, template, f.sources(), mode=m)[1].subtractedExposure for m in ("auto", mode))
    assert np.array_equal(auto.image, asked.image)
    assert np.array_equal(auto.variance, asked.variance)


def test_swapping_flips_the_sign(origin):
    f = Fixture(origin)
    a, b = f.exposure(2.4, 1.0, 1, border=20), f.exposure(2.0, 1.0, 2, border=20)
    box = (*origin, 256, 256)
    one = run(a.cutout(*box), b, f.sources())[1].subtractedExposure.image
    other = run(b.cutout(*box), a, f.sources())[1].subtractedExposure.image
    inner = np.s_[20:-20, 20:-20]
    both = (other - one)[inner]
    assert mean_ok(both, 2 * np.sqrt(2))
    assert clipped(both)[1] == pytest.approx(2 * np.sqrt(2), rel=0.1)


def test_wrong_input_is_refused(origin):
    f = Fixture(origin)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(2.0, 1.0, 2, border=20)
    with pytest.raises(CallerError, match="mode"):
        run(science, template, f.sources(), mode="convolveTemplte")
    with pytest.raises(MismatchError, match="does not contain"):
        run(science, f.exposure(2.0, 1.0, 2).cutout(origin[0] + 4, origin[1], 252, 256), f.sources())
    template.band = "g"
    with pytest.raises(MismatchError, match="band"):
        run(science, template, f.sources())


@pytest.mark.parametrize(("covered", "works"), [(0.09, False), (0.15, False), (0.70, True)])
def test_coverage(origin, covered, works):
    f = Fixture(origin, size=400, n=80)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(2.0, 1.0, 2, border=20)
    empty = np.zeros(template.image.shape, bool)
    empty[:, 20 + int(400 * covered) :] = True
    template.set_plane("NO_DATA", empty)
    sources = f.sources()
    if works:
        task, r = run(science, template, sources)
        missing = r.subtractedExposure.flagged("NO_DATA")
        assert (np.isfinite(r.subtractedExposure.image) == ~missing).all()
        assert missing.mean() == pytest.approx(1 - covered, abs=0.03)  # and what the kernel reaches of it
        assert task.metadata["templateCoveragePercent"] == pytest.approx(70, abs=1)
    else:
        few = sources if covered < 0.1 else sources[sources.x > origin[0] + 100]
        with pytest.raises(NoWorkFound, match=r"covers.*%"):
            run(science, template, few)


def test_planes_of_the_template_and_of_the_image(origin):
    f = Fixture(origin)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(2.0, 1.0, 2, border=20)
    spots = {"BAD": 10, "SAT": 20, "CR": 30, "SUSPECT": 40, "DETECTED": 50, "INJECTED": 60, "INJECTED_CORE": 70}
    for name, at in spots.items():
        for e, b in ((science, 0), (template, 20)):
            where = np.zeros(e.image.shape, bool)
            where[b + at : b + at + 3, b + 5 + 100 * (e is template) : b + 8 + 100 * (e is template)] = True
            e.set_plane(name, where)
    _, r = run(science, template, f.sources())
    d = r.subtractedExposure
    assert not d.flagged("DETECTED", "DETECTED_NEGATIVE").any()
    for name in ("BAD", "SAT", "CR", "SUSPECT", "INJECTED", "INJECTED_CORE"):
        assert d.flagged(name)[science.flagged(name)].all(), name
    # these two keep their exact pixels, and those of the template get a name of their own
    for name in ("INJECTED", "INJECTED_CORE"):
        assert np.array_equal(d.flagged(name), science.flagged(name)), name
        expected = template.flagged(name)[20:-20, 20:-20]
        assert np.array_equal(d.flagged(f"{name}_TEMPLATE"), expected), name
    kept = plane_bits(
        ["NO_DATA", "BAD", "HIGH_VARIANCE", "SAT_TEMPLATE", "INJECTED_TEMPLATE", "INJECTED_CORE_TEMPLATE"]
    )
    alone = d.mask & ~science.mask
    assert (alone & ~np.int32(kept | plane_bits(["SUSPECT", "SAT", "CR", "EDGE"]))).max() == 0
    assert not d.flagged("EDGE")[16:-16, 16:-16].any()  # only where a kernel leaves the image
    assert d.flagged("EDGE")[[0, -1]].all()


def test_a_template_plane_that_existed_before_survives(origin):
    f = Fixture(origin)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(2.0, 1.0, 2, border=20)
    where = np.zeros(template.image.shape, bool)
    where[60:63, 60:63] = True
    template.set_plane("INJECTED_TEMPLATE", where)
    _, r = run(science, template, f.sources())
    assert np.array_equal(r.subtractedExposure.flagged("INJECTED_TEMPLATE"), where[20:-20, 20:-20])


def test_too_few_stars_and_how_they_are_chosen(origin):
    f = Fixture(origin)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(2.0, 1.0, 2, border=20)
    with pytest.raises(InsufficientKernelSources, match="1 clean kernel stars, need 3"):
        run(science, template, f.sources().iloc[:1])
    sources = Stars.of(f.sources(snr=np.linspace(30, 300, 20)))
    every = kernel_stars(sources, science, template, 21, maximum=-1)
    best = kernel_stars(sources, science, template, 21, maximum=len(every) - 3)
    assert len(best) == len(every) - 3
    assert len(kernel_stars(sources, science, template, 21, maximum=1000)) == len(every)
    with pytest.raises(CallerError, match="maxKernelSources"):
        make_task(ImageDifferenceTask, {"maxKernelSources": 2})


@pytest.mark.parametrize("mode", ["convolveTemplate", "convolveScience"])
def test_a_chebyshev_background_is_found(origin, mode):
    f = Fixture(origin, size=512, n=80, bright=3.0)
    terms = (2.2, 2.1, 2.0, 1.2, 1.1, 1.0)
    u = np.linspace(-1, 1, 512)
    u, v = np.meshgrid(u, u)
    g = sum(c * p for c, p in zip(terms, (1 + 0 * u, u, v, 2 * u**2 - 1, u * v, 2 * v**2 - 1), strict=True))
    science, template = f.exposure(2.4, 1.0, 1, background=g), f.exposure(2.0, 1.0, 2, border=20)
    _, r = run(science, template, f.sources(), mode=mode, doSubtractBackground=True)
    found = r.subtractRes.kernel.background * (1 if mode == "convolveTemplate" else -1)
    assert len(found) == 6
    assert found == pytest.approx(np.array(terms), rel=0.3)
    assert clipped(r.subtractedExposure.image)[1] == pytest.approx(np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("decorrelate", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_variances_that_are_too_small_are_scaled(origin, decorrelate, scale):
    f = Fixture(origin)
    science, template = f.exposure(2.4, 4.0, 1), f.exposure(2.0, 2.0, 2, border=20)
    if scale:
        science.variance /= np.float32(1.345)
        template.variance /= np.float32(1.345)
    task, r = run(science, template, f.sources(), doScaleVariance=scale, doDecorrelation=decorrelate)
    if scale:
        for key in ("scaleTemplateVarianceFactor", "scaleScienceVarianceFactor"):
            assert task.metadata[key] == pytest.approx(1.345, abs=0.05)
    if decorrelate:
        assert np.mean(r.subtractedExposure.variance) == pytest.approx(16 + 4, rel=0.1)


def test_everything_that_says_where_and_how_bright_is_carried(origin):
    f = Fixture(origin)
    science = f.exposure(2.4, 1.0, 1)
    for template in (f.exposure(2.0, 1.0, 2, border=20), f.exposure(2.8, 1.0, 2, border=20, scale=1.3)):
        _, r = run(science, template, f.sources(), doDecorrelation=False)
        d = r.subtractedExposure
        assert (d.bbox, d.band, d.physical_filter) == (science.bbox, "r", "r_03")
        assert d.photo_calib == science.photo_calib
        assert d.wcs.same_as(science.wcs, origin[0] + 5.0, origin[1] + 9.0, 1e-9)
        assert d.visit_info == science.visit_info
    _, r = run(science, f.exposure(2.0, 1.0, 2, border=20), f.sources(), doDecorrelation=False)
    at = np.array([origin[0] + 128.0]), np.array([origin[1] + 128.0])
    assert np.allclose(r.subtractedExposure.psf.kernel_at(*at), science.psf.kernel_at(*at), atol=1e-6)


class HalfDefined(GaussianPsf):
    """A PSF with a gap around the middle of the image."""

    def moments_at(self, x, y):
        if np.any(np.abs(np.asarray(x) - self.centre_x) < 60):
            raise PsfUndefined("in the gap")
        return super().moments_at(x, y)

    @property
    def centre_x(self):
        return self.average_position()[0]


def test_psf_sizes_where_a_psf_has_a_gap_or_is_nowhere(origin):
    f = Fixture(origin)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(2.0, 1.0, 2, border=20)
    template.psf = HalfDefined(2.0, 31, (origin[0] + 128, origin[1] + 128))
    task, _ = run(science, template, f.sources())
    assert task.metadata["templatePsfSize"] == pytest.approx(2.0 * 2.3548, rel=0.02)
    template.psf = GridPsf(np.full((1, 21, 21), np.nan, np.float32), 1, 1, template.bbox)
    with pytest.raises(UpstreamFailureNoWorkFound, match="defined nowhere"):
        run(science, template, f.sources())


def test_a_stored_kernel_gives_the_same_bytes(origin):
    f = Fixture(origin)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(2.0, 1.0, 2, border=20)
    task, first = run(science, template, f.sources())
    again = task.runWithKernel(science.copy(), template.copy(), first.subtractRes, f.sources())
    assert np.array_equal(first.subtractedExposure.image, again.subtractedExposure.image)
    assert np.array_equal(first.subtractedExposure.variance, again.subtractedExposure.variance)


@pytest.mark.parametrize("sigmas", [(2.4, 2.0), (2.0, 2.4)])
def test_flux_scales_leave_nothing_at_the_stars(origin, sigmas):
    """The published code leaves a quarter of each star's light when the image is convolved and the scales differ."""
    f = Fixture(origin, bright=20)
    science, template = f.exposure(sigmas[0], 1.0, 1), f.exposure(sigmas[1], 1.0, 2, border=20, scale=1.3)
    _, r = run(science, template, f.sources(snr=300.0))
    d = r.subtractedExposure
    z = d.image / np.sqrt(d.variance)
    stars = science.image > 50
    assert z[stars].std() < 1.3
    empty = ~stars & (science.image < 5)
    assert z[empty].std() == pytest.approx(1, abs=0.05)


def test_a_background_that_was_given_is_added_first(origin):
    f = Fixture(origin)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(2.0, 1.0, 2, border=20)
    background = science.copy()
    background.image = np.linspace(0, 50, 256, dtype="f4")[None, :] * np.ones((256, 1), "f4")
    without = science.copy()
    without.image = science.image - background.image
    task = make_task(ImageDifferenceTask, {**PLAIN, "doAddCalexpBackground": True})
    added = task.run(without, f.sources(), template.copy(), calexpBackgroundExposure=background)
    plain = run(science, template, f.sources())[1]
    assert np.allclose(added.subtractedExposure.image, plain.subtractedExposure.image, atol=1e-3)
    ignored = make_task(ImageDifferenceTask, PLAIN).run(
        science.copy(), f.sources(), template.copy(), calexpBackgroundExposure=background
    )
    assert np.array_equal(ignored.subtractedExposure.image, plain.subtractedExposure.image)


def test_kernel_stars_are_searched_for_where_that_is_allowed(origin):
    f = Fixture(origin, bright=20)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(2.0, 1.0, 2, border=20)
    one = f.sources(snr=300.0).iloc[:1]
    with pytest.raises(InsufficientKernelSources):
        run(science, template, one)
    for given in (one, None):
        task, r = run(science, template, given, allowKernelSourceDetection=True)
        assert task.metadata["nKernelSourcesDetected"] >= 10
        assert task.metadata["spatialKernelSum"] == pytest.approx(1, abs=0.01)
        z = (r.subtractedExposure.image / np.sqrt(r.subtractedExposure.variance))[20:-20, 20:-20]
        assert z.std() == pytest.approx(1, abs=0.1)
    with pytest.raises(CallerError, match="no sources"):
        run(science, template, None)


def test_stars_found_are_those_that_are_there(origin):
    f = Fixture(origin, bright=20)
    found = detect_kernel_sources(f.exposure(2.4, 1.0, 1))
    near = np.hypot(f.x[:, None] - f.x, f.y[:, None] - f.y) + 99 * np.eye(f.x.size)
    alone = near.min(1) > 20
    d = np.hypot(
        f.x[alone][:, None] + origin[0] - found.x.to_numpy(), f.y[alone][:, None] + origin[1] - found.y.to_numpy()
    )
    assert d.min(1).max() < 0.1
    row = found.iloc[d.argmin(1)]
    assert np.allclose(row.psfFlux, f.flux[alone], rtol=0.02)
    assert row.star.all()
    assert row.isolated.all()


@pytest.mark.parametrize(("u", "c"), [(0.04, 0.04), (0.08, 0.04), (0.04, 0.08)])
def test_decorrelation_restores_the_sum_of_the_variances(origin, u, c):
    f = Fixture(origin, n=50, size=400, bright=1.0)
    science, template = f.exposure(3.3, np.sqrt(u), 1), f.exposure(2.2, np.sqrt(c), 2, border=40)
    raw = run(science, template, f.sources(), doDecorrelation=False)[1].subtractedExposure
    done = run(science, template, f.sources())[1].subtractedExposure
    inner = np.s_[30:-30, 30:-30]
    assert raw.image[inner].var() < 0.95 * (u + c)
    assert raw.variance[inner].mean() < 0.95 * (u + c)
    assert clipped(done.image[inner])[1] ** 2 == pytest.approx(u + c, rel=0.05)
    assert done.variance[inner].mean() == pytest.approx(u + c, rel=0.02)
