"""The quality gate: what is wrong with a template, a kernel or a difference is an error before anything is stored."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from diffim import ImageDifferenceTask
from diffim.checks.common_stars import find_common_stars, psf_error
from diffim.checks.depth import optimal_error
from diffim.checks.elsewhere import moved_by
from diffim.checks.footprints import Footprints
from diffim.checks.gate import LIMITS, checks_not_made, problems
from diffim.detect_and_measure import _threshold_numbers
from diffim.detection.significance import Significance
from diffim.errors import BadSubtraction, WrongTemplate
from diffim.options import OPTIONS, plain_options
from exposure import GaussianPsf, PhotoCalib
from exposure.mask import plane_bits
from exposure.stars import Stars
from tasks import make_task
from tests.support.difference_scene import FWHM, ORIGIN, scene, subtract

PAD = 40


@pytest.fixture(scope="module")
def pair():
    science, sources = scene(2.6, 5.0, 1)
    template, _ = scene(2.2, 5.0, 2, pad=PAD)
    return science, template, sources


def shifted(template, dx, dy):
    """A template whose WCS is off: its stars lie (dx, dy) px from where they should."""
    planes = {n: np.roll(getattr(template, n), (dy, dx), (0, 1)) for n in ("image", "variance", "mask")}
    return replace(template, **planes)


def mirrored(template):
    return replace(template, **{n: getattr(template, n)[:, ::-1].copy() for n in ("image", "variance", "mask")})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: shifted(t, 6, 4), r"lie \(\+6\.[01], \+4\.[01]\) px|lie \(\+5\.9, \+[34]\.[09]\) px"),
        (lambda t: shifted(t, -20, 3), r"lie \(-(20|19)\.\d, \+[23]\.\d\) px"),
        (mirrored, "mirrored left to right"),
        (lambda t: scene(2.2, 5.0, 2, pad=PAD, stars_seed=99)[0], "another field"),
    ],
)
def test_a_template_whose_stars_are_elsewhere_is_an_error_that_says_where(pair, spoil, said):
    science, template, sources = pair
    with pytest.raises(WrongTemplate, match=said) as caught:
        subtract(science, spoil(template), sources)
    assert caught.value.code == "wrong_template"
    assert (caught.value.visit, caught.value.detector) == (1, 2)


def test_a_shift_that_is_asked_for_is_taken_out(pair):
    science, template, sources = pair
    task, _r = subtract(science, shifted(template, 13, -8), sources, registerReach=20.0)
    moved = [task.metadata[f"templateMoved{axis}"] for axis in "XY"]
    assert moved == pytest.approx([13, -8], abs=0.3)
    assert task.metadata["spatialKernelSum"] == pytest.approx(1.0, abs=0.02)
    assert task.metadata["starFluxResidual"] < 0.02
    with pytest.raises(WrongTemplate):
        subtract(science, shifted(template, 13, -8), sources, registerReach=10.0)


def test_moving_keeps_the_pixels_and_marks_what_has_none():
    template, _ = scene(2.2, 5.0, 2, size=64, n=3)
    moved = moved_by(template, (5.2, -2.9))
    np.testing.assert_array_equal(moved.image[3:, :-5], template.image[:-3, 5:])
    assert moved.flagged("NO_DATA")[:3].all()
    assert moved.flagged("NO_DATA")[:, -5:].all()
    assert not moved.flagged("NO_DATA")[3:, :-5].any()


@pytest.mark.parametrize("gate", ["warn", "veto", "off"])
def test_what_the_gate_does_is_configuration(pair, gate, caplog):
    science, template, sources = pair
    template = replace(template, photo_calib=PhotoCalib(2.0))  # a factor of two off: a cloud, or a wrong zero point
    with pytest.raises(BadSubtraction, match="calibrations"):
        subtract(science, template, sources)
    task, r = subtract(science, template, sources, qualityGate=gate)
    assert r.subtractedExposure is not None
    said = task.metadata.get("qualityProblems", "")
    assert ("calibrations" in said) is (gate != "off")
    assert ("qualityVeto" in task.metadata) is (gate == "veto")
    assert any("calibrations" in record.getMessage() for record in caplog.records) is (gate != "off")


def test_a_limit_of_nothing_fails_nothing(pair):
    science, template, sources = pair
    task, result = subtract(science, replace(template, photo_calib=PhotoCalib(2.0)), sources, maxCalibrationError=0.0)
    assert result.subtractedExposure is not None
    assert "qualityProblems" not in task.metadata


@pytest.mark.parametrize(
    ("image", "factor"), [("science", 1.4), ("science", 0.7), ("template", 1.5), ("template", 0.65)]
)
def test_a_psf_that_is_not_that_of_the_stars_is_an_error(pair, image, factor):
    science, template, sources = pair
    which = {"science": science, "template": template}
    sigma = {"science": 2.6, "template": 2.2}[image] * factor
    which[image] = replace(which[image], psf=GaussianPsf(sigma, 41, (ORIGIN[0] + 128, ORIGIN[1] + 128)))
    with pytest.raises(BadSubtraction, match=f"stars of the {'image' if image == 'science' else 'template'}"):
        subtract(which["science"], which["template"], sources)


def test_a_psf_of_galaxies_is_found_out_by_the_stars_of_the_other_image(pair):
    """An image with such a PSF takes its stars for something else. (They are narrower by 0.23; what touches others is wider.)"""
    science, template, sources = pair
    science = replace(science, psf=GaussianPsf(1.3 * 2.6, 41, (ORIGIN[0] + 128, ORIGIN[1] + 128)))
    fwhms = (1.3 * 2.6 * FWHM, 2.2 * FWHM)
    common = find_common_stars(science, template, Stars.of(sources.assign(star=False)), fwhms)
    psfs = science.require_psf(), template.require_psf()
    assert -0.26 < psf_error(common, psfs, 0, fwhms) < -0.1


def test_a_psf_that_steps_between_amplifiers_is_an_error_that_says_where(pair):
    """A third of the frame is read out blurred: medians over all stars are those of the other two thirds."""
    science, template, sources = pair
    wide, _ = scene(3.2, 5.0, 1)
    stepped = science.copy()
    first = 2 * science.width // 3
    stepped.image[:, first:], stepped.variance[:, first:] = wide.image[:, first:], wide.variance[:, first:]
    with pytest.raises(BadSubtraction, match=r"bright sources do not subtract.*near x=") as caught:
        subtract(stepped, template, sources)
    x = float(re.search(r"near x=(\d+)", str(caught.value)).group(1)) - ORIGIN[0]
    assert x > 0.5 * science.width
    task, _ = subtract(*pair)
    assert task.metadata["starMisfitShare"] == 0.0


def test_a_kernel_of_another_registration_is_an_error(pair):
    """A template that lies 0.3 px off after its kernel was found: every star leaves a dipole."""
    science, template, sources = pair
    _, first = subtract(science, template, sources)
    off, _ = scene(2.2, 5.0, 2, pad=PAD, shift=(0.3, 0.0))
    task = make_task(ImageDifferenceTask, {"doFindCosmicRays": False, "doUseRegister": False})
    with pytest.raises(BadSubtraction, match="px apart"):
        task.runWithKernel(science.copy(), off.copy(), first.subtractRes, sources)


def test_a_cloud_over_half_of_the_frame_is_followed(pair):
    science, template, sources = pair
    cloudy = science.copy()
    cloudy.image *= np.linspace(0.6, 1.0, cloudy.width, dtype=np.float32)
    task, _ = subtract(cloudy, template, sources, spatialKernelOrder=0, maxCalibrationError=0.0)
    m = dict(task.metadata)
    # a slope from 0.6 to 1 scatters by 0.115 / 0.8 about its mean
    assert m["transparencyRms"] == pytest.approx(0.144, abs=0.04)
    assert m["starFluxResidual"] < 0.02


def test_a_good_pair_has_room_to_every_limit(pair):
    task, _ = subtract(*pair)
    m = dict(task.metadata)
    options = plain_options({})
    assert not problems(m, options)
    for metric, limit in LIMITS.items():
        value = m[metric]
        if np.isfinite(value) and metric not in ("maxPhi", "kernelNoiseGain", "kernelResidualRms", "thresholdExcess"):
            assert abs(value) < 0.6 * OPTIONS[limit.option].default, metric
    assert m["templateStarShare"] > 0.9
    assert m["starFluxRatio"] == pytest.approx(1.0, abs=0.05)
    assert m["starWidthRatio"] == pytest.approx(2.2 / 2.6, rel=0.03)
    assert m["diffimDepthLoss"] == pytest.approx(0.0, abs=0.06)


def test_structure_that_one_image_alone_has_on_its_sky_is_told(pair):
    science, template, sources = pair
    y, x = np.mgrid[0 : science.height, 0 : science.width]
    waves = 0.8 * 5.0 * np.sin(2 * np.pi * (x / 50 + y / 70))  # of a noise of 5 a pixel
    spoilt = replace(science, image=(science.image + waves).astype("f4"), variance=science.variance.copy())
    spoilt.metadata, spoilt.mask = dict(science.metadata), science.mask.copy()
    with pytest.raises(BadSubtraction, match="sky of the two images differs by structure of 0"):
        subtract(spoilt, replace(template, variance=template.variance.copy()), sources)


@pytest.mark.parametrize("coverage", [1.0, 0.6])
def test_noise_and_missing_pixels_are_no_light_that_is_left(coverage):
    """Faint stars (S/N 22) subtract as far as their photons allow; of a template that covers a part the rest says nothing."""
    science, sources = scene(2.4, 4.0, 5, n=120, flux=(40, 120))
    template, _ = scene(1.9, 4.0, 6, pad=PAD, n=120, flux=(40, 120))
    sources["snr"] = sources.psfFlux / np.sqrt(sources.psfFlux + 4 * np.pi * 2.4**2 * 32)
    edge = int(PAD + 256 * coverage)
    if coverage < 1:
        template.mask[:, edge:] |= plane_bits(["NO_DATA"])
        template.image[:, edge:] = np.nan
    task, result = subtract(science, template, sources)
    m = dict(task.metadata)
    assert "qualityProblems" not in m
    assert abs(m["starLightLeftMean"]) < 0.02 and m["starLightLeftStdev"] < 0.1
    assert m["residualFootprintRatioMean"] == pytest.approx(0.14, abs=0.03)  # photon noise, wherever the template ends
    assert m["differenceFootprintRatioMean"] == pytest.approx(0.13, abs=0.03)
    spoilt = result.subtractedExposure
    covered = spoilt.good()
    spoilt.image[covered] += 0.3 * science.image[covered]
    bright = sources[sources.snr > 20]
    discs = Footprints.of(spoilt, science, bright.x.to_numpy(), bright.y.to_numpy(), 2.4 * FWHM)
    # |D| of light and noise together is less than the sum of both, and |I| has noise of its own
    assert 0.1 < discs.over_noise()[0] < 0.3
    assert discs.light.size < (1.0 if coverage == 1 else 0.75) * len(bright) + 1


def test_checks_that_could_not_be_made_are_named(caplog):
    """Four stars tell a kernel, and nothing of whether the template is of their field."""
    science, sources = scene(2.4, 4.0, 5, n=4)
    template, _ = scene(1.9, 4.0, 6, pad=PAD, n=4)
    task, _ = subtract(science, template, sources)
    m = dict(task.metadata)
    assert {"templateStarShare", "sciencePsfError"} <= set(m["checksNotMade"].split(", "))
    assert m["nChecksNotMade"] == len(m["checksNotMade"].split(", "))
    assert any("was not checked: 4 bright stars" in r.getMessage() for r in caplog.records)
    assert all(np.isnan(m[name]) for name in m["checksNotMade"].split(", "))


@pytest.mark.parametrize("metric", LIMITS)
def test_what_can_always_be_measured_fails_without_a_value(metric):
    found = problems({metric: float("nan")}, plain_options({}))
    assert found == ([] if LIMITS[metric].unmeasured else [f"{metric} could not be measured"])
    assert checks_not_made({metric: float("nan")}, plain_options({})) == [metric]


def test_a_threshold_that_rose_on_a_part_of_the_frame_is_told():
    """Correlated noise on two fifths of it: the median of the local factors does not know of that."""
    science, sources = scene(2.4, 4.0, 5, size=600, n=200)
    template, _ = scene(1.9, 4.0, 6, pad=PAD, size=600, n=200)
    grain = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=science.image.shape), 2.4)
    first = int(0.6 * science.width)
    science.image[:, first:] += (1.5 * 4.0 * grain / grain.std())[:, first:]
    task, _ = subtract(science, template, sources, qualityGate="warn")
    m = dict(task.metadata)
    assert re.search(r"on 0\.[345]\d of the frame the threshold had to rise", m["qualityProblems"])
    assert m["thresholdRaisedShare"] == pytest.approx(0.4, abs=0.1)
    assert m["thresholdExcess"] == pytest.approx(m["significanceScale"] * np.sqrt(m["scaleDiffimVarianceFactor"]))
    assert m["diffimDepthLoss"] > 0.2


@pytest.mark.parametrize(
    ("local", "share"), [([1.7] * 4, 0.0), ([1.0, 1.0, 1.7, 1.0], 0.25), ([1.0, 1.4, 1.4, 1.4], 0.0)]
)
def test_a_threshold_that_rose_everywhere_has_a_limit_of_its_own(local, share):
    s = Significance(np.zeros((2, 2), np.float32), float(np.median(local)), 4.0, np.array(local), np.ones(4))
    pipeline = SimpleNamespace(options=SimpleNamespace(doDecorrelation=True), numbers={})
    assert _threshold_numbers(pipeline, s, None) == {"thresholdExcess": s.scale, "thresholdRaisedShare": share}


@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_the_best_depth_is_that_of_a_matched_filter(sigma):
    """Equal PSFs and noise: the plain difference is best, with variance 2 v and sigma^2 = 2 v / sum(P^2) = 8 pi sigma^2 v."""
    g = np.arange(-20, 21)
    stamp = np.exp(-0.5 * (g[:, None] ** 2 + g[None, :] ** 2) / sigma**2)
    stamp /= stamp.sum()
    assert optimal_error(stamp, stamp, 4.0, 4.0) == pytest.approx(np.sqrt(8 * np.pi * 4.0) * sigma, rel=1e-3)
    # a template without noise costs nothing
    assert optimal_error(stamp, stamp, 4.0, 1e-9) == pytest.approx(np.sqrt(4 * np.pi * 4.0) * sigma, rel=1e-3)


def test_cosmic_rays_count_once_however_far_the_kernel_spreads_them():
    """A sharp image that is convolved: its rays are filled, and what a kernel carries on of the filling is lost in the noise."""
    science, sources = scene(2.2, 5.0, 1)
    template, _ = scene(2.8, 5.0, 2, pad=PAD)
    rng = np.random.default_rng(4)
    hit = np.zeros(science.image.shape, np.bool_)
    hit[tuple(rng.integers(30, min(hit.shape) - 30, (2, 150)))] = True
    science.image[hit] += 5000
    science.mask[hit] |= plane_bits(["CR"])
    task, result = subtract(science, template, sources)
    assert task.metadata["convolved"] == "convolveScience"
    d = result.subtractedExposure
    assert hit.mean() <= task.metadata["cosmicRayFraction"] < 1.2 * hit.mean()
    marked = d.flagged("CR")
    assert marked[hit].all() and marked.sum() < 60 * hit.sum()
    away = ndimage.distance_transform_edt(~hit)
    near = (away < 12) & (d.mask == 0)
    z = (d.image / np.sqrt(d.variance))[near]
    assert near.sum() > 5000
    assert np.std(z) == pytest.approx(1.0, abs=0.04) and np.abs(z.mean()) < 0.05
