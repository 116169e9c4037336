"""Metrics, score image, sky sources and configuration of the differencing task."""

import numpy as np
import pytest

from diffim import ImageDifferenceTask
from diffim.config import ImageDifferenceConfig
from diffim.options import plain_options
from diffim.quality import combined_limit, limiting_magnitude, noise_correlation
from exposure import GaussianPsf, GridPsf, PhotoCalib
from exposure.mask import plane_bits
from tasks import CallerError, make_task
from tests.support.difference_scene import FWHM, ORIGIN, scene, subtract
from tests.support.matched_pair import Fixture


class Nowhere(GaussianPsf):
    """A PSF that is defined nowhere, as that of a coadd in a gap."""

    def moments_at(self, x, y):
        return np.full((np.size(x), 3), np.nan)


def test_limiting_magnitudes_are_the_published_ones():
    # a Gaussian of sigma 2 on a 7 x 7 stamp has the adaptive sigma 1.8562
    g = np.arange(-3, 4)
    stamp = np.exp(-0.5 * (g[:, None] ** 2 + g[None, :] ** 2) / 4.0)
    psf = GridPsf((stamp / stamp.sum())[None].astype("f4"), 1, 1, (0, 0, 100, 100))
    fwhm = FWHM * float(np.sqrt(psf.moments_at(np.array([50.0]), np.array([50.0]))[0, 0]))
    assert fwhm / FWHM == pytest.approx(1.8562, abs=2e-3)
    nowhere = Nowhere(2.0, 7, (50, 50))
    assert np.isnan(limiting_magnitude(nowhere, (50, 50), PhotoCalib(1.0)))
    assert limiting_magnitude(nowhere, (50, 50), PhotoCalib(1.0), 1.8562 * FWHM) == pytest.approx(28.1823, abs=1e-4)
    flux = np.hypot(10 ** (-0.4 * 27.0), 10 ** (-0.4 * 26.5))
    assert combined_limit(27.0, 26.5) == pytest.approx(-2.5 * np.log10(flux), abs=1e-6)
    assert combined_limit(27.0, float("nan")) == 27.0


def test_numbers_of_a_good_and_of_a_poor_subtraction():
    science, s = scene(2.8, 1.0, 1)
    good, _ = scene(2.4, 1.0, 2, pad=40)
    task, r = subtract(science, good, s, doSpatialMetrics=True)
    m = task.metadata
    assert abs(m["differenceFootprintRatioMean"]) < 0.08  # the photon noise of the stars
    assert m["noiseStdOverSigma"] == pytest.approx(1.0, abs=0.03)
    assert all(abs(m[f"noiseCorrelationLag{k}"]) < 0.03 for k in range(1, 6))
    # noise 1 and 1: five sigma of sqrt(2) on the effective area of the difference's PSF
    kernel = r.subtractedExposure.psf.kernel_at(np.array([ORIGIN[0] + 128.0]), np.array([ORIGIN[1] + 128.0]))[0]
    area = float(kernel.sum() ** 2 / (kernel**2).sum())
    assert m["diffimM5"] == pytest.approx(31.4 - 2.5 * np.log10(5 * np.sqrt(2 * area)), abs=0.1)
    assert m["maskFraction_CR"] == -1.0
    samples = r.spatiallySampledMetrics
    assert len(samples) == 100
    assert samples.kernelSum.to_numpy() == pytest.approx(1.0, abs=0.02)
    assert samples.kernelShift.max() < 0.1
    assert samples.sciencePsfFwhm.to_numpy() == pytest.approx(2.8 * FWHM, rel=0.02)
    broad, _ = scene(5.0, 1.0, 2, pad=40)  # nearly twice as wide: broader ones leave what rounding errors decide
    poor, _ = subtract(science, broad, s, mode="convolveTemplate", qualityGate="warn")
    assert poor.metadata["differenceFootprintRatioMean"] > 1.4 * m["differenceFootprintRatioMean"]


def test_the_noise_before_whitening_is_known_from_the_kernel():
    pair = Fixture((0, 0), bright=40)
    template = pair.exposure(2.0, 8.0, 2, border=40)
    task, _ = subtract(pair.exposure(2.8, 1.0, 1), template, pair.sources(), doDecorrelation=False)
    m = task.metadata
    for k in (1, 2, 3):  # of Gaussians: 64 / (4 pi s2) exp(-k^2 / 4 s2) over 1 + 64 / (4 pi s2), with s2 = 2.8^2 - 2^2
        share = 64 / (4 * np.pi * 3.84)
        true = share / (1 + share) * np.exp(-(k**2) / (4 * 3.84))
        assert m[f"noiseCorrelationBeforeLag{k}"] == pytest.approx(true, abs=0.02)
        assert m[f"noiseCorrelationLag{k}"] == pytest.approx(true, abs=0.06)  # some 1500 independent places
    assert m["nGoodPixels"] + m["nBadPixels"] == 256**2
    assert m["nUnmergedDiaSources"] >= m["nMergedDiaSources"]
    assert 0 < m["residualFootprintSkyRatioMean"] < 0.2


def test_samples_leave_out_what_has_no_data_and_sky_sources_stay_at_any_reliability():
    science, s = scene(2.8, 1.0, 1)
    template, _ = scene(2.4, 1.0, 2, pad=40)
    science.image += 50.0
    science.variance[:, :150], science.image[:, :150] = 9.0, 0.0
    science.mask[:, :150] |= plane_bits(["NO_DATA"])
    options = {"doSkySources": True, "nSkySources": 10, "minReliability": 0.99, "qualityGate": "off"}
    _, r = subtract(science, template, s, doSpatialMetrics=True, **options)
    values = r.spatiallySampledMetrics.scienceValue.to_numpy()
    values = values[np.isfinite(values)]
    assert values.size > 50
    assert values.min() > 45
    assert r.diaSources.sky_source.sum() > 2


def test_noise_correlation_sees_smoothing():
    e, _ = scene(2.0, 3.0, 1, n=0)
    assert abs(noise_correlation(e)["noiseCorrelationLag1"]) < 0.02
    e.image[:, 1:] = 0.8 * e.image[:, 1:] + 0.6 * e.image[:, :-1]
    assert noise_correlation(e)["noiseCorrelationLag1"] == pytest.approx(0.48, abs=0.05)


@pytest.mark.parametrize("on_score", [True, False])
def test_score_is_white_on_sky_and_its_peak_is_the_significance(on_score):
    science, s = scene(2.4, 3.0, 1, n=40)
    template, _ = scene(2.0, 1.0, 2, pad=40, n=40)
    g = np.arange(256)
    gx, gy = (a.ravel() for a in np.meshgrid(np.arange(40.0, 216), np.arange(40.0, 216)))
    apart = np.hypot(gx[:, None] - s.x.to_numpy() + ORIGIN[0], gy[:, None] - s.y.to_numpy() + ORIGIN[1]).min(1)
    x, y, flux = gx[apart.argmax()], gy[apart.argmax()], 2500.0
    bump = np.exp(-0.5 * ((g[:, None] - y) ** 2 + (g[None, :] - x) ** 2) / 2.4**2) / (2 * np.pi * 2.4**2)
    science.image += (flux * bump).astype("f4")
    _, r = subtract(science, template, s, doWriteScore=True, useScoreImageDetection=on_score)
    score = r.scoreExposure.image
    inner = np.s_[30:-30, 30:-30]
    assert 1.4826 * np.median(np.abs(score[inner])) == pytest.approx(1.0, abs=0.05)
    found = r.diaSources[np.hypot(r.diaSources.x - ORIGIN[0] - x, r.diaSources.y - ORIGIN[1] - y) < 2]
    assert len(found) == 1
    expected = flux / np.sqrt((9 + 1) * 4 * np.pi * 2.4**2)
    assert found.significance.iloc[0] == pytest.approx(expected, rel=0.15)
    assert score[int(y), int(x)] == pytest.approx(found.significance.iloc[0], rel=0.05)


def test_sky_sources_are_empty_and_repeatable():
    science, s = scene(2.4, 3.0, 1, n=40)
    template, _ = scene(2.0, 1.0, 2, pad=40, n=40)
    tables = [subtract(science, template, s, doSkySources=True, nSkySources=60)[1].diaSources for _ in range(2)]
    sky = tables[0][tables[0].sky_source]
    assert len(sky) == 60
    assert sky.equals(tables[1][tables[1].sky_source])
    pull = sky.psfInstFlux / sky.psfInstFluxErr
    assert abs(pull.mean()) < 0.5
    assert pull.std() == pytest.approx(1.0, abs=0.3)
    others = tables[0][~tables[0].sky_source]
    for x, y in zip(others.x, others.y, strict=True):
        assert np.hypot(sky.x - x, sky.y - y).min() > 8


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"doSubtract": False, "doDetection": False}, "nothing to do"),
        ({"doSkySources": True, "doDetection": False}, "needs doDetection"),
        ({"doSkySources": True, "doMeasurement": False}, "needs doMeasurement"),
        ({"doScaleTemplateVariance": True}, "exclude each other"),
        ({"doScaleTemplateVariance": True, "doScaleDiffimVariance": False}, "exclude each other"),
        ({"kernelSize": 20}, "odd"),
        ({"subtractAlgorithm": "ZOGY"}, "doDecorrelation"),
        ({"badSourceFlags": ["pixelFlags_nosuchCenter"]}, "do not exist"),
    ],
)
def test_contradictions_in_the_configuration_are_refused(wrong, text):
    config = ImageDifferenceConfig()
    for key, value in wrong.items():
        setattr(config, key, value)
    with pytest.raises(ValueError, match=text):
        config.validate()


def test_template_variance_alone_is_scaled():
    science, s = scene(2.4, 1.0, 1)
    template, _ = scene(2.0, 1.0, 2, pad=40)
    template.variance /= np.float32(1.345)
    task, _ = subtract(
        science, template, s, doScaleVariance=False, doScaleTemplateVariance=True, doScaleDiffimVariance=False
    )
    assert task.metadata["scaleTemplateVarianceFactor"] == pytest.approx(1.345, abs=0.05)
    assert "scaleScienceVarianceFactor" not in task.metadata


def test_a_given_difference_is_only_measured():
    science, s = scene(2.4, 3.0, 1, n=40)
    template, _ = scene(2.0, 1.0, 2, pad=40, n=40)
    _, made = subtract(science, template, s)
    task = subtract.__globals__["make_task"](ImageDifferenceTask, {"doSubtract": False, "doFindCosmicRays": False})
    again = task.run(science.copy(), s, template.copy(), subtractedExposure=made.subtractedExposure)
    assert again.subtractRes is None
    assert abs(len(again.diaSources) - len(made.diaSources)) <= 2


@pytest.mark.parametrize(
    "wrong",
    [{"spatialKernelOrder": 4}, {"spatialKernelOrder": -1}, {"minReliability": 1.0}, {"mode": "convolveTemplte"},
     {"kernelSize": 20}, {"detectionThreshold": "five"}, {"nosuch": 1}, {"badSourceFlags": ["nosuch"]}],
)  # fmt: skip
def test_task_and_plain_options_refuse_the_same(wrong):
    with pytest.raises(CallerError):
        make_task(ImageDifferenceTask, wrong)
    with pytest.raises(CallerError):
        plain_options(wrong)


def test_task_and_plain_options_have_the_same_defaults():
    task = make_task(ImageDifferenceTask)
    for name, value in vars(plain_options({})).items():
        own = getattr(task.config, name)
        assert (tuple(own) if isinstance(value, tuple) else own) == value, name
