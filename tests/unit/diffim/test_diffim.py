"""diffim/: basis, kernel fit, subtraction and decorrelation on Gaussian fixtures, detection, cosmic rays, templates."""

import numpy as np
import pandas as pd
import pytest
from lsst.pipe.base import NoWorkFound

from diffim import ImageDifferenceTask, TemplateStore, build_template
from diffim.detection.cosmic_rays import find_cosmic_rays
from diffim.errors import InsufficientKernelSources, MismatchError, NoTemplate, TemplateSetError
from diffim.matching.kernel_basis import make_basis
from diffim.matching.kernel_fit import FitOptions, fit_kernel
from diffim.matching.kernel_stamps import StarPositions
from diffim.matching.spatial_kernel import SpatialKernel
from diffim.pixels.masked_image import MaskedImage
from diffim.pixels.warp import warp_exposure
from diffim.subtraction.alard_lupton import Subtraction
from diffim.templates.tiling import SkyTiling
from exposure import SkyWcs
from tasks import CallerError, make_task
from tests.support.difference_scene import FWHM, ORIGIN, WCS, scene, subtract


@pytest.mark.parametrize(
    ("convolved", "target", "sigmas", "size", "mode"),
    [
        (2.0, 2.4, (0.7, 1.4, 2.8), 21, "convolution"),
        (2.0, 2.8, (0.9798, 1.9596, 3.9192), 23, "convolution"),
        (2.0, 2.0 * 2**0.5, (1, 2, 4), 25, "convolution"),
        (2.0, 4.0, (1.7321, 3.4641, 6.9282), 35, "convolution"),
        (9.5, 2.8, (4.539, 9.078, 18.156), 35, "deconvolution"),
        (2.0, 2.0, (0.7, 1.5, 3.0), 21, "config"),
    ],
)
def test_basis_widths_and_normalisation(convolved, target, sigmas, size, mode):
    basis = make_basis(convolved * FWHM, target * FWHM)
    assert np.allclose(basis.sigmas, sigmas, atol=5e-5)
    assert (basis.size, basis.mode) == (size, mode)
    f = basis.functions
    assert len(f) == 27
    assert f[0].sum() == pytest.approx(1)
    assert np.abs(f[1:].sum((1, 2))).max() < 1e-12
    assert np.allclose((f[1:] ** 2).sum((1, 2)), 1)


def test_even_kernel_size_is_refused():
    with pytest.raises(ValueError, match="odd"):
        make_basis(4.0, 5.0, 20)


@pytest.mark.parametrize(
    ("s_sci", "s_tmpl", "scale"), [(2.4, 2.0, 1.0), (2.8, 2.0, 1.3), (2.0, 2.4, 1.0), (2.0, 2.6, 1.3)]
)
def test_constant_stars_leave_white_noise_of_the_stated_variance(s_sci, s_tmpl, scale):
    science, sources = scene(s_sci, 4.0, 2)
    template, _ = scene(s_tmpl, 2.0, 3, pad=40, scale=scale)
    task, r = subtract(science, template, sources, doScaleVariance=False, doScaleDiffimVariance=False)
    d = r.subtractedExposure
    inner = np.s_[20:-20, 20:-20]
    z = (d.image / np.sqrt(d.variance))[inner]
    assert z.std() == pytest.approx(1.0, abs=0.03)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    bright = science.image[inner] > 5 * np.median(np.sqrt(science.variance))
    assert z[bright].std() == pytest.approx(1.0, abs=0.1)
    lag = np.mean(z[:, 1:] * z[:, :-1]) / z.var()
    assert abs(lag) < 0.02
    assert r.subtractRes.kernel.kernel_sum == pytest.approx(1 / scale if s_tmpl < s_sci else scale, rel=0.01)
    assert len(r.diaSources) <= 2
    assert task.metadata["convolved"] == ("convolveTemplate" if s_tmpl < s_sci else "convolveScience")


@pytest.mark.parametrize(("s_sci", "s_tmpl"), [(2.5, 2.0), (2.0, 2.5)])
def test_injected_transients_are_found_with_the_right_flux(s_sci, s_tmpl):
    """Flux bias below 1 % and pulls of width 1 in both convolution modes, both signs, at a large origin."""
    ratios, pulls, missed, total = [], [], 0, 0
    for seed in range(16):
        science, sources = scene(s_sci, 5.0, 10 + seed)
        template, _ = scene(s_tmpl, 2.0, 20 + seed, pad=40)
        rng = np.random.default_rng(seed)
        gx, gy = np.meshgrid(np.arange(30, 230, 28.0), np.arange(30, 230, 28.0))
        x = gx.ravel() + rng.uniform(-4, 4, gx.size) + ORIGIN[0]
        y = gy.ravel() + rng.uniform(-4, 4, gy.size) + ORIGIN[1]
        apart = np.hypot(x[:, None] - sources.x.to_numpy(), y[:, None] - sources.y.to_numpy()).min(1) > 14
        x, y = x[apart], y[apart]
        flux = 700.0 * rng.choice([-1, 1, 1], x.size)
        stamps = science.psf.image_at(x, y) * flux[:, None, None]
        ix, iy = np.floor(x + 0.5).astype(int) - ORIGIN[0], np.floor(y + 0.5).astype(int) - ORIGIN[1]
        for k in range(x.size):
            h = 20
            part = stamps[k][max(h - iy[k], 0) : h + 256 - iy[k], max(h - ix[k], 0) : h + 256 - ix[k]]
            y0, x0 = max(iy[k] - h, 0), max(ix[k] - h, 0)
            science.image[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] += part
        _, r = subtract(science, template, sources, doScaleVariance=False, doScaleDiffimVariance=False)
        t = r.diaSources
        distance = np.hypot(t.x.to_numpy()[None] - x[:, None], t.y.to_numpy()[None] - y[:, None])
        near = distance.argmin(1)
        ok = distance.min(1) < 1.0
        missed, total = missed + int((~ok).sum()), total + x.size
        got, err = t.psfInstFlux.to_numpy()[near][ok], t.psfInstFluxErr.to_numpy()[near][ok]
        assert (t.isNegative.to_numpy()[near][ok] == (flux[ok] < 0)).all()
        ratios.append(got / flux[ok])
        pulls.append((got - flux[ok]) / err)
    ratio, pull = np.concatenate(ratios), np.concatenate(pulls)
    assert missed <= 0.03 * total

    assert np.mean(ratio) == pytest.approx(1.0, abs=0.01)
    # n = 160: one sigma of the width is 0.06
    assert np.std(pull) == pytest.approx(1.0, abs=0.18)


def test_swapping_the_images_flips_the_sign():
    a, sources = scene(2.4, 3.0, 2)
    b, _ = scene(2.0, 3.0, 3, pad=40)
    one = subtract(a, b, sources, doDecorrelation=False, doSubtractBackground=False)[1].subtractedExposure
    inner_b = b.cutout(*a.bbox).copy()
    wide_a, _ = scene(2.4, 3.0, 99, pad=40)
    wide_a.image[40:-40, 40:-40] = a.image
    two = subtract(inner_b, wide_a, sources, doDecorrelation=False, doSubtractBackground=False)[1].subtractedExposure
    both = (one.image + two.image)[25:-25, 25:-25]
    # the fits differ by the noise of the stars only: far below the noise of a pixel
    assert both.std() < 0.3 * one.image[25:-25, 25:-25].std()


@pytest.mark.parametrize(("u", "c"), [(1.0, 1.0), (0.25, 1.0), (1.0, 4.0), (1.0, 100.0)])
def test_white_noise_stays_white_for_every_ratio_of_variances(u, c):
    rng = np.random.default_rng(0)
    basis = make_basis(2.0 * FWHM, 2.4 * FWHM)
    coefficients = np.zeros((27, 1))
    coefficients[0, 0] = 1.6
    kernel = SpatialKernel(basis, coefficients, np.zeros(1), 0, 0, (0, 0, 384, 384))
    noise = [rng.normal(0, np.sqrt(v), (384, 384)).astype("f4") for v in (u, c)]
    planes = [np.full((384, 384), v, "f4") for v in (u, c)]
    mask = np.zeros((384, 384), np.int32)
    sides = [MaskedImage(n, v, mask, 0, (0, 0)) for n, v in zip(noise, planes, strict=True)]
    raw, done = (Subtraction(*sides, kernel, (0, 0, 384, 384), decorrelate=w).run() for w in (False, True))
    d, v = done.difference[40:-40, 40:-40], done.variance[40:-40, 40:-40]
    assert np.mean(v) == pytest.approx(u + c * 1.6**2, rel=0.005 if c < 10 else 0.015)  # the published form
    assert (d / np.sqrt(v)).std() == pytest.approx(1, abs=0.015)
    for lag in range(1, 40):
        assert abs(np.mean(d[:, lag:] * d[:, :-lag]) / d.var()) < (0.015 if lag < 4 else 0.1)
    if c == 100:
        raw_d = raw.difference[40:-40, 40:-40]
        assert np.mean(raw_d[:, 1:] * raw_d[:, :-1]) / raw_d.var() > 0.2


def test_few_stars_are_enough_where_the_psf_models_are_right():
    science, sources = scene(2.6, 3.0, 2)
    template, _ = scene(2.0, 2.0, 3, pad=40)
    for n in (60, 10, 4):
        task, r = subtract(science, template, sources.head(n))
        assert task.metadata["kernelFromPsf"]
        z = (r.subtractedExposure.image / np.sqrt(r.subtractedExposure.variance))[25:-25, 25:-25]
        bright = science.image[25:-25, 25:-25] > 40
        assert z[bright].std() < (1.1 if n >= 10 else 1.2)
    with pytest.raises(InsufficientKernelSources, match="1 clean kernel stars, need 3"):
        subtract(science, template, sources.head(1))


def test_background_difference_is_taken_off():
    science, sources = scene(2.5, 3.0, 2)
    template, _ = scene(2.0, 2.0, 3, pad=40)
    v, u = np.mgrid[0:256, 0:256] / 128.0 - 1
    science.image += (5 + 3 * u - 2 * v + u * v).astype("f4")
    _, r = subtract(science, template, sources)
    z = (r.subtractedExposure.image / np.sqrt(r.subtractedExposure.variance))[25:-25, 25:-25]
    assert abs(np.median(z)) < 0.05
    assert z.std() == pytest.approx(1, abs=0.05)


def test_nan_pixels_do_not_spread_beyond_the_kernel():
    science, sources = scene(2.5, 3.0, 2)
    template, _ = scene(2.0, 2.0, 3, pad=40)
    clean = subtract(science, template, sources)[1].subtractedExposure
    hole = np.zeros(template.image.shape, bool)
    hole[140, 150] = True
    template.set_plane("NO_DATA", hole)
    flagged = subtract(science, template, sources)[1].subtractedExposure
    template.image[hole] = np.nan
    holed = subtract(science, template, sources)[1].subtractedExposure
    assert holed.image.tobytes() == flagged.image.tobytes()
    gone = holed.flagged("NO_DATA")
    assert (np.isfinite(holed.image) == ~gone).all()
    assert (np.isfinite(holed.variance) == ~gone).all()
    assert 1 <= gone.sum() < 40 * 40
    yy, xx = np.nonzero(gone)
    assert np.hypot(yy - 100, xx - 110).max() < 25
    far = np.s_[160:220, 160:220]  # only the kernel, fitted without the stars near the hole, differs there
    assert np.abs(holed.image[far] - clean.image[far]).std() < 0.3 * clean.image[far].std()


def test_same_input_gives_the_same_bytes():
    science, sources = scene(2.5, 3.0, 2)
    template, _ = scene(2.0, 2.0, 3, pad=40)
    one, two = (subtract(science, template, sources)[1] for _ in range(2))
    assert one.subtractedExposure.image.tobytes() == two.subtractedExposure.image.tobytes()
    pd.testing.assert_frame_equal(one.diaSources, two.diaSources)


def test_input_that_does_not_fit():
    science, sources = scene(2.5, 3.0, 2)
    template, _ = scene(2.0, 2.0, 3, pad=40)
    g = template.copy()
    g.band = "g"
    with pytest.raises(MismatchError, match="visit 1, detector 2: band 'r' against the template's 'g'"):
        subtract(science, g, sources)
    with pytest.raises(MismatchError, match="does not contain"):
        subtract(science, template.cutout(ORIGIN[0] + 10, ORIGIN[1] + 10, 200, 200), sources)
    moved = template.copy()
    moved.wcs = moved.wcs.shifted(3, 0)
    with pytest.raises(MismatchError, match="WCS"):
        subtract(science, moved, sources)
    with pytest.raises(CallerError):
        make_task(ImageDifferenceTask).run(science, sources, None)


def test_coverage_rule():
    science, sources = scene(2.5, 3.0, 2)
    template, _ = scene(2.0, 2.0, 3, pad=40)
    empty = np.ones(template.image.shape, bool)
    empty[:, :60] = False
    template.set_plane("NO_DATA", empty)
    with pytest.raises(NoWorkFound, match=r"covers 7\.8 % of the image, need 10\.0 %"):
        subtract(science, template, sources)
    with pytest.raises(NoWorkFound):
        template.set_plane("NO_DATA", np.ones_like(empty))
        make_task(ImageDifferenceTask).checkTemplateIsSufficient(template)


def test_cosmic_rays_are_masked_and_stars_are_not():
    science, _ = scene(1.6, 3.0, 2)
    before = science.image.copy()
    rows = np.array([50, 51, 52, 53, 54])
    science.image[rows, 100] += 1234
    science.image[200, 60] += 400
    rays = find_cosmic_rays(science.image, science.variance, science.good(), science.psf)
    assert rays[rows, 100].all()
    assert rays[200, 60]
    rays[48:57, 98:103] = rays[198:203, 58:63] = False
    assert rays.sum() == 0
    assert find_cosmic_rays(before, science.variance, science.good(), science.psf).sum() == 0


def test_kernel_fit_finds_the_analytic_kernel():
    """A Gaussian convolved with a Gaussian: variances add."""
    template, s = scene(2.0, 0.5, 5, pad=40, n=80)
    science, _ = scene(2.5, 0.5, 6, pad=40, n=80)
    basis = make_basis(2.0 * FWHM, 2.5 * FWHM)
    box = (*ORIGIN, 256, 256)
    fit = fit_kernel(
        MaskedImage.of(template),
        MaskedImage.of(science),
        StarPositions(s.x.to_numpy(), s.y.to_numpy()),
        basis,
        box,
        FitOptions(kernel_order=1, background_order=0),
    )
    k = fit.kernel.kernels_at(ORIGIN[0] + 128, ORIGIN[1] + 128)[0].astype(float)
    g = np.arange(k.shape[0]) - k.shape[0] // 2
    assert k.sum() == pytest.approx(1, abs=0.003)
    assert (k.sum(0) * g**2).sum() == pytest.approx(2.5**2 - 2.0**2, rel=0.05)
    assert 0.7 < fit.residual_rms < 1.1  # a star's own light counts as known to 1 %


def test_warp_keeps_flux_and_variance():
    e, _ = scene(2.2, 3.0, 4)
    t = np.radians(20)
    s = 0.22 / 3600
    target = SkyWcs.tan((150, 150), (150.0 - 128 * 0.2 / 3600, 2.0 + 128 * 0.2 / 3600),
                        s * np.array([[-np.cos(t), np.sin(t)], [np.sin(t), np.cos(t)]]))  # fmt: skip
    w = warp_exposure(e, target, (0, 0, 300, 300))
    inside = ~w.flagged("NO_DATA")
    assert np.isfinite(w.image[inside]).all()
    assert np.isnan(w.image[~inside]).all()
    assert np.nansum(w.image) == pytest.approx(e.image.sum(), rel=0.01)
    noise = e.copy()
    noise.image = np.random.default_rng(1).normal(size=e.image.shape).astype("f4")
    noise.variance[:] = 1
    w = warp_exposure(noise, target, (0, 0, 300, 300))
    ok = ~w.flagged("NO_DATA")
    assert w.image[ok].var() == pytest.approx(float(w.variance[ok].mean()), rel=0.05)


def test_tiling_covers_the_sky_and_its_corners():
    tiling = SkyTiling(0.2, 1024, 64)
    for ra, dec in ((0.0, 0.0), (359.9999, 10.0), (12.0, 89.99), (200.0, -89.99), (180.0, 45.0)):
        tile = tiling.overlapping(np.array([ra]), np.array([dec]))[0]
        x, y = tile.wcs.sky_to_pixel([ra], [dec])
        assert -0.5 <= x[0] < tile.size
        assert -0.5 <= y[0] < tile.size


def test_template_set_is_versioned_and_serves_the_ccd(tmp_path):
    frames = []
    for seed in range(4):
        e, s = scene(2.0, 3.0, 30 + seed)
        e.image[seed * 20 + 40, 60] += 5000  # a cosmic ray in each
        ra, dec = WCS.pixel_to_sky(s.x.to_numpy(), s.y.to_numpy())
        e.sources = s.assign(ra=ra, dec=dec)
        frames.append(e)
    build_template(tmp_path, "deep", frames, pixel_scale=0.2, tile=256)
    second = build_template(tmp_path, "deep", frames, pixel_scale=0.2, tile=256)
    store = TemplateStore(tmp_path)
    assert [s.version for s in store.list()] == [1, 2]
    assert store.get("deep", "r").version == second.version == 2
    with pytest.raises(NoTemplate, match="deep v1"):
        store.get("other")
    with pytest.raises(NoTemplate):
        store.get("deep", "g")
    with pytest.raises(TemplateSetError):
        build_template(tmp_path, "deep", [], pixel_scale=0.2)
    science, sources = scene(2.5, 3.0, 50)
    template = store.fetch(second, science)
    assert template.bbox == (ORIGIN[0] - 40, ORIGIN[1] - 40, 336, 336)
    part = template.cutout(*science.bbox)
    good = ~part.flagged("NO_DATA")
    assert good.mean() > 0.97
    assert np.abs(part.image[good]).max() < 4000  # the cosmic rays are gone
    sky = good & (np.abs(part.image) < 4)
    scatter = np.std(part.image[sky]) ** 2
    assert np.median(part.variance[sky]) == pytest.approx(
        scatter, rel=0.4
    )  # covariances of resampled pixels are left out: the second resampling takes them for independent
    assert scatter < 9 / 4  # four frames, and two resamplings that smooth
    _, r = subtract(science, template, sources)
    z = (r.subtractedExposure.image / np.sqrt(r.subtractedExposure.variance))[30:-30, 30:-30]
    assert z.std() == pytest.approx(1, abs=0.06)
    assert abs(np.mean(z[:, 1:] * z[:, :-1]) / z.var()) < 0.04


def test_template_marks_where_its_variance_is_high(tmp_path):
    frames = []
    for seed in range(3):
        e, s = scene(2.0, 3.0, 40 + seed, n=10)
        e.variance[96:192, 32:128] += 40 * 9
        ra, dec = WCS.pixel_to_sky(s.x.to_numpy(), s.y.to_numpy())
        e.sources = s.assign(ra=ra, dec=dec)
        frames.append(e)
    made = build_template(tmp_path, "deep", frames, pixel_scale=0.2, tile=256)
    template = TemplateStore(tmp_path).fetch(made, frames[0]).cutout(*frames[0].bbox)
    high = template.flagged("HIGH_VARIANCE")
    assert high[112:176, 48:112].all()
    assert high.mean() < 0.3
    assert not high[:, 160:].any()
