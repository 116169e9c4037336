"""Trails: length, angle and flux of injected lines; flags of their ends."""

import numpy as np
import pandas as pd
import pytest

from diffim.detection.peaks import detect
from diffim.detection.significance import significance
from diffim.measurement.measure import measure
from diffim.measurement.trail_fits import _Cut, _line_basis, merge_trails
from diffim.measurement.trails import measure_trails
from exposure import Exposure
from exposure.mask import plane_bits
from exposure.photometry import forced_psf_photometry
from exposure.psf import GaussianPsf, MoffatPsf
from exposure.stamps import adaptive_moments, gather

SIGMA, SIDE = 2.0, 81
PSF = GaussianPsf(SIGMA, 25)


def scene(lines, noise, seed=0, size=400, origin=(0, 0)):
    """An image with lines (x, y, length, angle, flux), drawn ten times finer than they are measured."""
    image = np.random.default_rng(seed).normal(0, noise, (size, size)) if noise else np.zeros((size, size))
    for x, y, length, angle, flux in lines:
        n = max(int(20 * length), 1)
        along = ((np.arange(n) + 0.5) / n - 0.5) * length
        px, py = x - origin[0] + along * np.cos(angle), y - origin[1] + along * np.sin(angle)
        for stamp, cx, cy in zip(
            PSF.image_at(px, py), np.floor(px + 0.5).astype(int), np.floor(py + 0.5).astype(int), strict=True
        ):
            if 12 <= cx < size - 12 and 12 <= cy < size - 12:
                image[cy - 12 : cy + 13, cx - 12 : cx + 13] += stamp * (flux / n)
    variance = np.full((size, size), max(noise, 1e-3) ** 2, np.float32)
    return Exposure(image.astype(np.float32), variance, np.zeros((size, size), np.int32), origin, psf=PSF)


def measured(image, x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)
    ix, iy = (np.floor(np.nan_to_num(v) + 0.5).astype(np.int64) for v in (x, y))
    stamps = gather(image.image, ix - image.origin[0], iy - image.origin[1], SIDE, 0.0)
    shape = adaptive_moments(stamps, x - ix, y - iy)
    failed = ~np.isfinite(shape[:, 0])
    shape[failed] = SIGMA**2, SIGMA**2, 0
    frame = pd.DataFrame({"x": x, "y": y, "ixxPSF": SIGMA**2, "iyyPSF": SIGMA**2, "ixyPSF": 0.0})
    point = forced_psf_photometry(image.image, image.variance, PSF, x, y, origin=image.origin)
    frame["psfInstFlux"], frame["psfInstFluxErr"] = point.instFlux, point.instFluxErr
    measure_trails(frame, image, shape, failed)
    return frame


@pytest.mark.parametrize("length", [5.0, 10.0, 20.0])
@pytest.mark.parametrize("angle", [0.0, 0.7, -1.2])
def test_length_angle_and_flux_of_a_clean_line(length, angle):
    t = measured(scene([(200.3, 190.8, length, angle, 1e5)], 0), [200.3], [190.8]).iloc[0]
    assert t.trailLengthPixels == pytest.approx(length, rel=0.01)
    assert (t.trailAnglePixels - angle + np.pi / 2) % np.pi - np.pi / 2 == pytest.approx(0, abs=0.01)
    assert t.trailInstFlux == pytest.approx(1e5, rel=0.005)


def test_flux_of_noisy_lines_is_unbiased_with_right_errors():
    rng = np.random.default_rng(5)
    x, y = (
        v.ravel() + rng.uniform(-0.5, 0.5, 144) for v in np.meshgrid(np.arange(60, 740, 58), np.arange(60, 740, 58))
    )
    angle = rng.uniform(-1.5, 1.5, 144)
    image = scene([(a, b, 12.0, c, 20_000.0) for a, b, c in zip(x, y, angle, strict=True)], 5.0, size=800)
    t = measured(image, x, y)
    good = ~t.trail_flag
    assert good.mean() > 0.98
    assert t.trailLengthPixels[good].mean() == pytest.approx(12, abs=0.3)
    pull = (t.trailInstFlux[good] - 20_000) / t.trailInstFluxErr[good]
    assert abs(pull.mean()) < 0.4 and pull.std() == pytest.approx(1, abs=0.2)
    assert (t.trailChi2 / t.trailNdata)[good].mean() == pytest.approx(1, abs=0.03)


def test_points_have_no_length_and_the_flux_of_the_psf():
    t = measured(scene([(100.2, 99.7, 0.0, 0.0, 5000.0)], 0), [100.2], [99.7]).iloc[0]
    assert t.trailLengthPixels < 0.5 and t.trailInstFlux == pytest.approx(5000, rel=1e-3)


def test_flags_of_the_ends():
    origin = (1000, 2000)
    lines = [(1200.0, 2200.0, 10.0, 0.0, 1e5), (1015.0, 2100.0, 20.0, 0.0, 1e5), (1300.0, 2300.0, 0.0, 0.0, 1e5)]
    image = scene(lines, 0, origin=origin)
    image.mask[:, :8] = plane_bits(["EDGE"])
    t = measured(image, [1200.0, 1015.0, 1300.0], [2200.0, 2100.0, 2300.0])
    assert list(t.trail_flag_suspect_long_trail) == [True, True, False]
    assert list(t.trail_flag_edge) == [False, True, False] and list(t.trail_flag_off_image) == [False, False, False]
    near = measured(image, [1003.0, np.nan], [2050.0, 2000.0])
    assert near.trailInstFlux.notna().tolist() == [True, False] and near.trail_flag_off_image[1]


def detected(image):
    """What detection finds on an image, with the peaks of trails merged."""
    found = detect(significance(image, image.good()))
    return merge_trails(image, found), found


@pytest.mark.parametrize("length", [30.0, 45.0, 60.0])
def test_a_long_trail_is_one_source_with_its_flux(length):
    """Its several peaks become one source; S/N is about 300, so that 2 % of the flux is six errors."""
    angle, flux = 0.4, 5 * 300 * np.sqrt(4 * np.pi * SIGMA**2 + 3.5 * SIGMA * length)
    image = scene([(200.3, 190.8, length, angle, flux)], 5.0, seed=int(length))
    merged, found = detected(image)
    assert len(found.x) > 1
    assert len(merged.x) == 1
    t = measure(image, image, image, merged).iloc[0]
    assert np.hypot(t.x - 200.3, t.y - 190.8) < 1
    assert t.trailLengthPixels == pytest.approx(length, rel=0.03)
    assert t.trailAnglePixels == pytest.approx(angle, abs=0.02)
    assert t.trailInstFlux == pytest.approx(flux, rel=0.02)
    assert not t.trail_flag
    assert not t.isDipole


def test_errors_of_trails_of_several_peaks_are_right():
    """Pulls of 40 trails: their width is known to 0.11, their mean to 0.16."""
    rng, pulls = np.random.default_rng(3), []
    for k in range(4):
        gx, gy = (v.ravel() for v in np.meshgrid(np.arange(80, 400, 160), np.arange(60, 380, 64)))
        gx, gy, angle = (
            gx + rng.uniform(-0.5, 0.5, gx.size),
            gy + rng.uniform(-0.5, 0.5, gy.size),
            rng.uniform(-0.2, 0.2, gx.size),
        )
        image = scene([(x, y, 40.0, a, 8000.0) for x, y, a in zip(gx, gy, angle, strict=True)], 5.0, seed=k)
        merged, _ = detected(image)
        t = measure(image, image, image, merged)
        for x, y in zip(gx, gy, strict=True):
            near = t[np.hypot(t.x - x, t.y - y) < 25]
            assert len(near) == 1
            pulls.append((near.trailInstFlux.iloc[0] - 8000) / near.trailInstFluxErr.iloc[0])
    assert np.std(pulls) == pytest.approx(1, abs=0.33)
    assert abs(np.mean(pulls)) < 0.5


def test_a_trail_of_one_peak_lies_in_its_middle_with_right_errors():
    """24 bright trails of three FWHM: a point that is fitted to one lies anywhere along it. Widths are known to 0.15."""
    rng = np.random.default_rng(8)
    gx, gy = (
        v.ravel() + rng.uniform(-0.5, 0.5, 24) for v in np.meshgrid(np.arange(50, 400, 60), np.arange(60, 380, 80))
    )
    angle = rng.uniform(-1.5, 1.5, 24)
    image = scene([(x, y, 14.0, a, 40_000.0) for x, y, a in zip(gx, gy, angle, strict=True)], 5.0)
    merged, _ = detected(image)
    assert len(merged.x) == 24
    t = measure(image, image, image, merged)
    row = np.hypot(t.x.to_numpy() - gx[:, None], t.y.to_numpy() - gy[:, None]).argmin(1)
    t = t.iloc[row]
    pulls = np.array([(t.x - gx) / t.xErr, (t.y - gy) / t.yErr, (t.trailInstFlux - 40_000) / t.trailInstFluxErr])
    assert np.sqrt((pulls**2).mean(1)) == pytest.approx(1, abs=0.45)
    assert t.trailLengthPixels.to_numpy() == pytest.approx(14, rel=0.03)


def test_errors_of_length_and_angle_are_right():
    """196 trails: widths of pulls are known to 0.05."""
    rng, grid = np.random.default_rng(12), np.arange(40, 704, 48.0)
    gx, gy = (v.ravel() + rng.uniform(-0.5, 0.5, 196) for v in np.meshgrid(grid, grid))
    angle = rng.uniform(-1.5, 1.5, 196)
    lines = [(x, y, 15.0, a, 20_000.0) for x, y, a in zip(gx, gy, angle, strict=True)]
    image = scene(lines, 5.0, seed=3, size=710)
    t = measure(image, image, image, detected(image)[0])
    row = np.hypot(t.x.to_numpy() - gx[:, None], t.y.to_numpy() - gy[:, None]).argmin(1)
    t = t.iloc[row]
    turned = (t.trailAnglePixels.to_numpy() - angle + np.pi / 2) % np.pi - np.pi / 2
    pulls = np.array([(t.trailLengthPixels.to_numpy() - 15) / t.trailLengthErrPixels, turned / t.trailAngleErrPixels])
    pulls = pulls[:, np.isfinite(pulls).all(0)]
    assert pulls.shape[1] > 186
    assert pulls.std(axis=1) == pytest.approx(1, abs=0.1)
    assert np.abs(pulls.mean(axis=1)) == pytest.approx(0, abs=0.3)


def test_noise_and_the_shape_of_the_psf_give_no_point_a_length():
    """49 points of S/N 30 to 1000 with a PSF that is a tenth longer than wide."""
    rng = np.random.default_rng(2)
    psf = MoffatPsf((4.5,), 3.3, 25, (0, 0, 400, 400), (0.08,), (0.05,))
    gx, gy = (v.ravel() + rng.uniform(-0.5, 0.5, 49) for v in np.meshgrid(*[np.arange(40, 400, 50)[:7]] * 2))
    flux = 10 ** rng.uniform(3.2, 4.7, 49)
    image = scene([], 5.0)
    for stamp, x, y, f in zip(
        psf.image_at(gx, gy), *(np.floor(v + 0.5).astype(int) for v in (gx, gy)), flux, strict=True
    ):
        image.image[y - 12 : y + 13, x - 12 : x + 13] += f * stamp
    image.psf = psf
    merged, _ = detected(image)
    t = measure(image, image, image, merged)
    row = np.hypot(t.x.to_numpy() - gx[:, None], t.y.to_numpy() - gy[:, None]).argmin(1)
    t = t.iloc[row]
    assert (t.trailLengthPixels == 0).sum() >= 48
    points = (t.trailLengthPixels == 0).to_numpy()
    assert np.array_equal(t.trailInstFlux[points], t.psfInstFlux[points])
    assert np.array_equal(t.trailInstFluxErr[points], t.psfInstFluxErr[points])


def test_points_in_a_row_are_no_trail():
    """Three stars in one footprint: as many sources, whatever a line would make of them."""
    image = scene(
        [(190.0, 200.0, 0.0, 0.0, 9000.0), (199.0, 202.0, 0.0, 0.0, 7000.0), (209.0, 204.0, 0.0, 0.0, 9000.0)], 5.0
    )
    merged, found = detected(image)
    assert len(np.unique(found.label)) == 1
    assert len(merged.x) == len(found.x) == 3


@pytest.mark.parametrize("parameter", range(4))
def test_the_derivatives_of_a_sharp_line_are_those_of_its_model(parameter):
    """By x, y, length and angle, for a FWHM of 2.6 px: by differences of the model itself."""
    cut = _Cut(np.zeros((41, 61)), np.ones((41, 61)), np.ones((41, 61), bool), 0, 0)
    stamp = GaussianPsf(1.1, 25).kernel_at(0.0, 0.0)[0]
    place, step = np.array([30.3, 20.2, 12.2, 0.5]), np.zeros(4)
    step[parameter] = (0.02, 0.02, 0.05, 0.005)[parameter]
    ahead, back = (_line_basis(cut, stamp, place + sign * step)[0] for sign in (1, -1))
    slope = (ahead - back) / (2 * step[parameter])
    assert np.abs(_line_basis(cut, stamp, place)[1 + parameter] - slope).max() < 0.07 * np.abs(slope).max()
