"""Proper subtraction: the published formulas, white noise, fluxes, and what it shares with the matched kernel."""

import numpy as np
import pytest
from scipy.ndimage import convolve1d

from diffim import ImageDifferenceTask
from diffim.errors import BadSubtraction, DifferencingError
from diffim.pixels.masked_image import MaskedImage
from diffim.subtraction.zogy import FLOOR, ProperSubtraction, check_centred, proper_filters
from exposure import GaussianPsf, GridPsf
from exposure.photometry import forced_psf_photometry
from tasks import CallerError, make_task
from tests.support.matched_pair import ORIGINS, Fixture, clipped

SIGMAS = (3.3, 2.2)
PLAIN = {"subtractAlgorithm": "ZOGY", "doDecorrelation": False, "doScaleVariance": False, "doScaleDiffimVariance": False,
         "doUseRegister": False, "doFindCosmicRays": False, "doMaskStreaks": False}  # fmt: skip
INNER = np.s_[30:-30, 30:-30]


@pytest.fixture(params=ORIGINS, ids=["near", "far"])
def origin(request):
    return request.param


def subtract(science, template, sources, **config):
    task = make_task(ImageDifferenceTask, {**PLAIN, **config})
    return task, task.run(science.copy(), sources, template.copy())


def test_filters_are_the_published_ones():
    """D of two images by the filters equals D / F_D by the formula on whole images."""
    f = Fixture((0, 0), bright=20)
    ratio = 1.3
    n, r = f.exposure(SIGMAS[0], 4.0, 1), f.exposure(SIGMAS[1], 3.0, 2, scale=ratio)
    s_n, s_r = 4.0, 3.0 * ratio
    made = ProperSubtraction(MaskedImage.of(n), MaskedImage.of(r), n.psf, r.psf, ratio, n.bbox).run()
    hat = [np.fft.fft2(e.image.astype(float)) for e in (n, r)]
    p = []
    for e in (n, r):
        wide = np.zeros((256, 256))
        wide[:31, :31] = e.psf.kernel_at(np.array([0.0]), np.array([0.0]))[0]
        p.append(np.fft.fft2(np.roll(wide / wide.sum(), (-15, -15), (0, 1))) + FLOOR)
    den = s_n**2 * ratio**2 * np.abs(p[1]) ** 2 + s_r**2 * np.abs(p[0]) ** 2
    f_d = ratio / np.sqrt(s_n**2 * ratio**2 + s_r**2)
    d = np.fft.ifft2((ratio * p[1] * hat[0] - p[0] * hat[1]) / np.sqrt(den)).real / f_d
    inner = np.s_[45:-45, 45:-45]
    assert np.abs(made.difference - d)[inner].max() < 0.05 * np.hypot(s_n, s_r / ratio)
    assert made.variance[inner] == pytest.approx(s_n**2 + (s_r / ratio) ** 2, rel=0.02)


def test_filters_where_nothing_is_known():
    psf = GaussianPsf(2.0, 31).kernel_at(np.zeros(1), np.zeros(1))
    new, reference = proper_filters(psf, psf, np.array([1.0]), np.array([1.0]), 2.0)
    assert np.isfinite(new).all()
    assert new.sum() == pytest.approx(1, abs=1e-5)
    assert reference.sum() == pytest.approx(0.5, abs=1e-5)


def test_empty_sky_is_white_with_the_sum_of_the_variances(origin):
    f = Fixture(origin, n=0)
    science, template = f.exposure(SIGMAS[0], 10.0, 1), f.exposure(SIGMAS[1], 10.0, 2, border=20)
    _, r = subtract(science, template, f.sources(), doWriteScore=True)
    d = r.subtractedExposure
    assert clipped(d.image)[1] ** 2 == pytest.approx(200, rel=0.1)
    assert np.mean(d.variance) == pytest.approx(200, rel=0.05)
    z = d.image[INNER] / np.sqrt(200)
    for lag in range(1, 6):
        assert abs(np.mean(z[:, lag:] * z[:, :-lag])) < 0.03
    assert np.abs(r.scoreExposure.image).max() < 5
    assert len(r.diaSources) == 0


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("which", [(True, False), (False, True), (True, True)], ids=["new", "template", "both"])
def test_correlated_noise_is_whitened_and_flux_errors_are_those_of_the_sky(which, scaled):
    """Neighbours correlate by 0.3, as of a resampled image. The variance is right without being scaled to the sky."""
    f = Fixture((0, 0), size=400, n=20, bright=20)
    pair = f.exposure(SIGMAS[0], 10.0, 1), f.exposure(SIGMAS[1], 10.0, 2, border=20)
    for k, (e, correlated) in enumerate(zip(pair, which, strict=True)):
        if correlated:
            white = np.random.default_rng(k + 5).normal(0, 10, e.image.shape)
            light = e.image - np.random.default_rng(k + 1).normal(0, 10, e.image.shape)
            taps = np.array([0.16, 1.0, 0.16]) / np.sqrt(1.0512)
            e.image[:] = light + convolve1d(convolve1d(white, taps, axis=0), taps, axis=1)
    _, r = subtract(*pair, f.sources(snr=300.0), doScaleDiffimVariance=scaled)
    d = r.subtractedExposure
    z = (d.image / np.sqrt(d.variance))[INNER]
    near = (z[:, 1:] * z[:, :-1])[np.abs(z[:, 1:]) < 5].mean()
    assert abs(near) < 0.1
    places = [a.ravel().astype(np.float64) for a in np.meshgrid(*[np.arange(30, 371, 10)] * 2)]
    empty = np.hypot(places[0][:, None] - f.x, places[1][:, None] - f.y).min(1) > 15
    x, y = (p[empty] for p in places)
    table = forced_psf_photometry(d.image, d.variance, d.psf, x, y)
    pull = table.instFlux / table.instFluxErr
    assert pull.std() == pytest.approx(1.0, abs=0.12)


def test_one_source_that_brightened_stands_out(origin):
    f = Fixture(origin, bright=20)
    noise = np.sqrt(10.0)
    template = f.exposure(SIGMAS[1], noise, 2, border=20)
    at = int(np.argmin(np.hypot(f.x - 128, f.y - 128)))
    f.flux[at] *= 1.1
    science = f.exposure(SIGMAS[0], noise, 1)
    _, r = subtract(science, template, f.sources(snr=300.0), doWriteScore=True)
    x, y = round(f.x[at]), round(f.y[at])
    score = r.scoreExposure.image
    assert score[y - 1 : y + 2, x - 1 : x + 2].max() > 5
    rest = score.copy()
    rest[max(y - 15, 0) : y + 16, max(x - 15, 0) : x + 16] = 0
    assert np.abs(rest).max() < 6
    expected = f.flux[at] / 11
    row = np.hypot(r.diaSources.x - origin[0] - f.x[at], r.diaSources.y - origin[1] - f.y[at]).argmin()
    assert r.diaSources.psfInstFlux[row] == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_fluxes_and_significances_are_those_of_the_matched_kernel(origin, scale):
    static, new = Fixture(origin, n=40, bright=20), Fixture(origin, n=40, bright=2, seed=9)
    science = static.exposure(2.4, 3.0, 1)
    science.image += new.exposure(2.4, 1e-6, 3).image
    template = static.exposure(2.0, 3.0, 2, border=20, scale=scale)
    tables = []
    for options in ({}, {"subtractAlgorithm": "AL", "doDecorrelation": True}):
        task, r = subtract(science, template, static.sources(snr=300.0), **options)
        # in a field as dense as this sources count as noise of the score: without that scale
        tables.append(r.diaSources.assign(snr=r.diaSources.significance * task.metadata["significanceScale"]))
    far = np.hypot(new.x[:, None] - new.x, new.y[:, None] - new.y) + 99 * np.eye(40)
    far_static = np.hypot(new.x[:, None] - static.x, new.y[:, None] - static.y)
    alone = (far.min(1) > 15) & (far_static.min(1) > 15)
    assert alone.sum() >= 5
    flux, snr = np.zeros((2, alone.sum())), np.zeros((2, alone.sum()))
    for k, t in enumerate(tables):
        d = np.hypot(
            t.x.to_numpy() - origin[0] - new.x[alone][:, None], t.y.to_numpy() - origin[1] - new.y[alone][:, None]
        )
        assert d.min(1).max() < 1.5
        flux[k], snr[k] = t.psfInstFlux.to_numpy()[d.argmin(1)], t.snr.to_numpy()[d.argmin(1)]
    assert flux[0] == pytest.approx(flux[1], rel=0.06)
    assert np.median(flux[0] / new.flux[alone]) == pytest.approx(1, abs=0.03)
    assert np.median(snr[0] / snr[1]) == pytest.approx(1, abs=0.04)


def test_what_does_not_go_with_it_is_refused():
    for wrong in ({"doDecorrelation": True}, {"mode": "convolveTemplate"}):
        with pytest.raises(CallerError, match="ZOGY"):
            make_task(ImageDifferenceTask, {**PLAIN, **wrong})


def test_stars_that_are_left_because_a_psf_is_wrong_are_never_silent():
    """The template's stars are an eighth broader than its PSF says: no kernel makes up for it, and the stars stay."""
    f = Fixture((0, 0), bright=20)
    science, template = f.exposure(SIGMAS[0], np.sqrt(10.0), 1), f.exposure(SIGMAS[1], np.sqrt(10.0), 2, border=20)
    right, _ = subtract(science, template, f.sources(snr=300.0))
    assert right.metadata["starResidualRms"] < 1.5
    template.psf = GaussianPsf(SIGMAS[1] / 1.125, 31, (128, 128))
    with pytest.raises(BadSubtraction, match="stars"):
        subtract(science, template, f.sources(snr=300.0))
    task, _ = subtract(science, template, f.sources(snr=300.0), qualityGate="warn")
    assert "stars" in task.metadata["qualityProblems"]
    assert task.metadata["starResidualRms"] > 2 * right.metadata["starResidualRms"]
    with pytest.raises(BadSubtraction, match="residual / sigma of the kernel stars"):
        subtract(science, template, f.sources(snr=300.0), maxStarFluxResidual=0.0, maxResidual=2.0)


def test_psfs_that_are_centred_differently_are_refused():
    g = np.arange(-10, 11)
    stamp = np.exp(-0.5 * ((g[:, None]) ** 2 + (g - 0.5) ** 2) / 4)
    off = GridPsf((stamp / stamp.sum())[None].astype("f4"), 1, 1, (0, 0, 100, 100))
    with pytest.raises(DifferencingError, match=r"0\.50 px apart"):
        check_centred(GaussianPsf(2.0, 21, (50, 50)), off, (0, 0, 100, 100))


def test_the_same_bytes_twice():
    f = Fixture((0, 0), bright=10)
    science, template = f.exposure(2.4, 1.0, 1), f.exposure(2.0, 1.0, 2, border=20)
    one, two = (subtract(science, template, f.sources(snr=200.0), doDetection=False)[1] for _ in range(2))
    assert np.array_equal(one.subtractedExposure.image, two.subtractedExposure.image)
    assert one.subtractRes is None
