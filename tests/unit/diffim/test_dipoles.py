"""diffim/dipoles: fluxes, positions and errors of two-lobed sources."""

import numpy as np
import pandas as pd
import pytest
from scipy.signal import fftconvolve

from diffim.measurement.dipoles import fit_dipoles
from diffim.subtraction.difference_exposure import difference_psf
from diffim.subtraction.photon_noise import Light, with_photon_noise
from exposure import Exposure, GaussianPsf, PhotoCalib
from tests.support.difference_scene import WCS, subtract

ORIGIN, SIZE, SIGMA = (12345, 67890), 700, 2.0
CENTRE = (ORIGIN[0] + SIZE / 2, ORIGIN[1] + SIZE / 2)


def images(pos, neg, flux_pos, flux_neg, noise, seed=0, background=(10.0, 3.0, 5.0)):
    """Science with stars at `pos`, template with stars at `neg`, on a sloping background; their difference."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    plane = background[0] + background[1] * x + background[2] * y
    out = []
    for (px, py), flux in ((pos, flux_pos), (neg, flux_neg)):
        image = plane + rng.normal(0, noise, (SIZE, SIZE))
        g = np.arange(SIZE)
        ex = np.exp(-0.5 * ((g - (px - ORIGIN[0])[:, None]) / SIGMA) ** 2)
        ey = np.exp(-0.5 * ((g - (py - ORIGIN[1])[:, None]) / SIGMA) ** 2)
        image += np.einsum("n,nj,ni->ji", flux / (2 * np.pi * SIGMA**2), ey, ex)
        out.append(exposure(image, noise**2))
    return exposure(out[0].image - out[1].image, 2 * noise**2), *out


def exposure(image, variance):
    psf = GaussianPsf(SIGMA, 41, CENTRE)
    return Exposure(
        image.astype("f4"),
        np.full(image.shape, variance, "f4"),
        np.zeros(image.shape, np.int32),
        ORIGIN,
        psf=psf,
        photo_calib=PhotoCalib(1.0),
    )


def grid(n_side, separation, seed=1):
    rng = np.random.default_rng(seed)
    g = 40 + (SIZE - 80) / (n_side - 1) * np.arange(n_side)
    x, y = (a.ravel() + o + rng.uniform(-0.5, 0.5, n_side**2) for a, o in zip(np.meshgrid(g, g), ORIGIN, strict=True))
    angle = rng.uniform(0, 2 * np.pi, n_side**2)
    dx, dy = separation / 2 * np.cos(angle), separation / 2 * np.sin(angle)
    return (x + dx, y + dy), (x - dx, y - dy)


@pytest.mark.parametrize("given", ["both", "science", "template", "neither"])
def test_two_lobes_four_pixels_apart(given):
    """The published fixture: PSF sigma 2, noise 2, fluxes 2500 and 2345, lobes 2 px off in x and y."""
    x, y = np.array([ORIGIN[0] + 200.0, ORIGIN[0] + 480.0]), np.array([ORIGIN[1] + 300.0, ORIGIN[1] + 420.0])
    flux = np.array([2500.0, 2345.0])
    d, s, t = images((x + 2, y + 2), (x - 2, y - 2), flux, flux, 2.0)
    fits = fit_dipoles(
        d,
        s if given in ("both", "science") else None,
        t if given in ("both", "template") else None,
        1.0,
        (x + 1, y + 1),
        (x - 1, y - 1),
    )
    p = fits.parameters
    tolerance = 0.04 if given != "both" else 0.03
    assert np.allclose(p[:, 0], flux, rtol=tolerance)
    assert np.allclose(p[:, 1], flux, rtol=tolerance)
    for k, true in zip((2, 3, 4, 5), (x + 2, y + 2, x - 2, y - 2), strict=True):
        assert np.allclose(p[:, k], true, atol=0.1)


@pytest.mark.parametrize(("separation", "noise"), [(4.0, 4.0), (1.0, 2.0)])
def test_errors_are_the_scatter_and_nothing_is_biased(separation, noise):
    pos, neg = grid(14, separation)
    n = pos[0].size
    flux_pos, flux_neg = np.full(n, 3000.0), np.full(n, 2600.0)
    d, s, t = images(pos, neg, flux_pos, flux_neg, noise)
    fits = fit_dipoles(d, s, t, 1.0, (pos[0] + 0.3, pos[1] - 0.3), (neg[0] - 0.3, neg[1] + 0.3))
    truth = np.stack([flux_pos, flux_neg, *pos, *neg], axis=1)
    pull = (fits.parameters - truth) / np.sqrt(np.einsum("nkk->nk", fits.covariance))
    assert np.abs(pull.mean(0)).max() < 4 / np.sqrt(n)
    assert np.allclose(pull.std(0), 1.0, atol=0.2)


def test_units_of_the_template_are_taken_up():
    pos, neg = grid(5, 3.0)
    flux = np.full(25, 4000.0)
    d, s, t = images(pos, neg, flux, flux, 1.0)
    scaled = exposure(t.image * 1.3, 1.3**2)
    one, two = (fit_dipoles(d, s, e, u, pos, neg) for e, u in ((t, 1.0), (scaled, 1 / 1.3)))
    assert np.allclose(one.parameters, two.parameters, rtol=1e-4)


def lit(places, flux, sigma, noise, seed, size=SIZE):
    """Stars at frame positions with the noise of their photons and of the sky, and the variance that is true."""
    g = np.arange(size)
    ex, ey = (np.exp(-0.5 * ((g - (p - o)[:, None]) / sigma) ** 2) for p, o in zip(places, ORIGIN, strict=True))
    light = np.einsum("n,nj,ni->ji", flux / (2 * np.pi * sigma**2), ey, ex)
    return light + np.random.default_rng(seed).normal(size=light.shape) * np.sqrt(light + noise**2), light + noise**2


def narrow(sigma, size=31):
    return GaussianPsf(sigma, size).kernel_at(0.0, 0.0)[0].astype(np.float64)


@pytest.mark.parametrize("of_template", [True, False], ids=["convolveTemplate", "convolveScience"])
def test_pulls_of_bright_dipoles_have_unit_width_behind_the_filters_of_a_subtraction(of_template):
    """225 dipoles of S/N 300: the width is known to 4.7 %. By the variances of the pixels alone it is 1.36 (convolved) and 0.9."""
    pos, neg = grid(15, 3.0, seed=4)
    n, flux = pos[0].size, 9e4
    moved = (0.2, -0.1)  # px, what the kernel convolves: the registration is off by as much
    kernel = GaussianPsf(np.sqrt(2.4**2 - 1.9**2), 31).image_at(*moved)[0].astype(np.float64)
    behind = [p - m if of_template else p + m for p, m in zip(neg, moved, strict=True)]  # where the template has them
    sharpening = 1.8 * np.pad([[1.0]], 15) - 0.8 * narrow(1.2)
    filters = [sharpening, fftconvolve(sharpening, kernel, "same")]
    sigmas = (2.4, 1.9) if of_template else (1.9, 2.4)
    filters = filters if of_template else filters[::-1]
    planes = [
        lit(places, np.full(n, flux), s, 10.0, k)
        for k, (places, s) in enumerate(zip((pos, behind), sigmas, strict=True))
    ]
    s, t = (exposure(image, variance) for image, variance in planes)
    s.psf, t.psf = (GaussianPsf(sigma, 41, CENTRE) for sigma in sigmas)
    through = [fftconvolve(p[0], f, "same") for p, f in zip(planes, filters, strict=True)]
    noise = [fftconvolve(p[1], f**2, "same") for p, f in zip(planes, filters, strict=True)]
    d = exposure(through[0] - through[1], noise[0] + noise[1])
    at = [lambda x, y, f=f: np.repeat(f[None], np.size(x), 0).astype(np.float32) for f in filters]
    d.psf = difference_psf(s.psf, d.bbox, at[0])
    d.psf = with_photon_noise(d, Light(s.psf, at[0], 1.0, 1.0), Light(t.psf, at[1], 1.0, 1.0))
    fits = fit_dipoles(d, s, t, 1.0, pos, neg)
    truth = np.stack([np.full(n, flux)] * 2 + [*pos, *neg], axis=1)
    pull = (fits.parameters - truth) / np.sqrt(np.einsum("nkk->nk", fits.covariance))
    assert np.abs(pull.mean(0)).max() < 4 / np.sqrt(n)
    assert pull.std(0) == pytest.approx(1.0, abs=0.15)
    apart, angle = (f(pos[0] - neg[0], pos[1] - neg[1]) for f in (np.hypot, lambda x, y: np.arctan2(y, x)))
    across = (
        np.stack([0 * apart, 0 * apart, -np.sin(angle), np.cos(angle), np.sin(angle), -np.cos(angle)], 1)
        / apart[:, None]
    )
    p = fits.parameters
    turned = np.angle(np.exp(1j * (np.arctan2(p[:, 3] - p[:, 5], p[:, 2] - p[:, 4]) - angle)))
    direction = turned / np.sqrt(np.einsum("nk,nkl,nl->n", across, fits.covariance, across))
    assert direction.std() == pytest.approx(1.0, abs=0.15)


def test_bright_lobes_that_nearly_meet_are_found_from_their_brightest_pixels():
    """The brightest and the faintest pixel lie 2 PSF sigmas from the middle and more, however close the lobes are."""
    pos, neg = grid(5, 0.4)
    flux = np.full(25, 3e6)
    d, s, t = images(pos, neg, flux, flux, 2.0)
    away = [(p - n) / 0.4 * 5.0 for p, n in zip(pos, neg, strict=True)]
    start = [tuple(q + sign * a for q, a in zip(places, away, strict=True)) for places, sign in ((pos, 1), (neg, -1))]
    fits = fit_dipoles(d, s, t, 1.0, *start)
    assert np.allclose(fits.parameters[:, :2], 3e6, rtol=2e-3)
    assert np.allclose(fits.parameters[:, 2:], np.stack([*pos, *neg], axis=1), atol=0.01)


KINDS = ("0.5", "1", "2", "4", "new", "gone", "variable", "beside", *["star"] * 10)


def test_what_moved_is_a_dipole_and_what_is_new_gone_or_variable_is_none():
    """S/N 100 in each lobe, 0.5 to 4 px apart; points alone, on a star that is in both, and 3 px beside one."""
    rng, size, flux = np.random.default_rng(8), 440, 1.5e4
    x, y = (a.ravel() + rng.uniform(-0.5, 0.5, a.size) for a in np.meshgrid(*[np.arange(40, size - 39, 40)] * 2))
    x, y, kinds = x + ORIGIN[0], y + ORIGIN[1], np.resize(KINDS, x.size)
    turn = rng.uniform(0, 2 * np.pi, x.size)
    way = np.stack([np.cos(turn), np.sin(turn)])
    step = np.array([float(k) / 2 if k[0].isdigit() else 0.0 for k in kinds]) * way
    beside, star = kinds == "beside", kinds == "star"
    faint = [np.where(kinds == "gone", 0, flux), np.where((kinds == "new") | beside, 0, flux)]
    faint[0][kinds == "variable"] *= 2
    pair = []
    for sigma, sign, f in ((2.4, 1, faint[0]), (1.9, -1, faint[1])):
        places = np.concatenate([[x, y] + sign * step, ([x, y] + 3 * way)[:, beside]], axis=1)
        light = np.concatenate([np.where(star, 4 * flux, f), np.full(beside.sum(), flux)])
        e = exposure(*lit(places, light, sigma, 10.0, len(pair), size))
        e.psf, e.wcs = GaussianPsf(sigma, 41, CENTRE), WCS
        pair.append(e)
    stars = pd.DataFrame({"x": x[star], "y": y[star], "psfFlux": 4 * flux, "snr": 200.0})
    stars["star"], stars["isolated"], stars["flagged"] = True, True, False
    _, result = subtract(*pair, stars)
    table = result.diaSources[~result.diaSources.sky_source]
    apart = np.hypot(x[:, None] - table.x.to_numpy(), y[:, None] - table.y.to_numpy())
    assert ((apart < 5).sum(1) == ~star).all()
    assert len(table) == np.count_nonzero(~star)
    dipole = table.isDipole.to_numpy(bool)[apart.argmin(1)]
    assert (dipole == step.any(0))[~star].all()
