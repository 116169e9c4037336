"""diffim/dipoles: fluxes, positions and errors of two-lobed sources."""

import numpy as np
import pytest

from diffim.measurement.dipoles import fit_dipoles
from exposure import Exposure, GaussianPsf, PhotoCalib

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
