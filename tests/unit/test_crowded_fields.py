"""Crowded fields end in a right difference or in a typed error that says what to do."""

import numpy as np
import pytest
from astropy.io import fits

from exposure import load_instrument
from service.pairs.difference import PairOptions, difference_files
from tasks.errors import AlertProdError

SKY, GAIN, NOISE = 800.0, 1.5, 3.0
TRANSIENT = 2e4


def crowded(side, density, fwhm, transients, seed):
    """Stars of a power law, `density` per 100 x 100 px, with the wings of a Moffat profile."""
    field = np.random.default_rng(seed)
    n = int(density * side**2 / 1e4)
    x, y = field.uniform(-5, side + 5, (2, n))
    flux = 10 ** np.minimum(0.35 * field.pareto(1.2, n) + 2.2, 5.5)
    x, y, flux = np.r_[x, transients[0]], np.r_[y, transients[1]], np.r_[flux, np.full(len(transients[0]), TRANSIENT)]
    alpha, g, reach = fwhm / 1.1774, np.arange(side), int(3 * fwhm) + 3
    light = np.full((side, side), SKY)
    for k in range(x.size):
        box = [slice(max(round(v) - reach, 0), max(round(v) + reach + 1, 0)) for v in (y[k], x[k])]
        r2 = (g[box[0], None] - y[k]) ** 2 + (g[None, box[1]] - x[k]) ** 2
        light[box[0], box[1]] += flux[k] * 1.5 / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -2.5
    rng = np.random.default_rng(int(1000 * fwhm) + seed)
    return (rng.poisson(light * GAIN) / GAIN + rng.normal(0, NOISE, light.shape)).astype(np.float32)


@pytest.mark.parametrize(("side", "density"), [(100, 2), (100, 100), (100, 500), (200, 500)])
@pytest.mark.parametrize("how", ["registered", "register"])
def test_every_density_ends_in_a_result_or_a_typed_error(tmp_path, side, density, how):
    at = (np.array([0.3, 0.7]) * side, np.array([0.4, 0.6]) * side)
    fits.writeto(tmp_path / "n.fits", crowded(side, density, 3.6, at, side + density))
    fits.writeto(tmp_path / "o.fits", crowded(side, density, 3.0, ((), ()), side + density))
    code, text, made = "", "", None
    try:
        made = difference_files(
            tmp_path / "n.fits",
            tmp_path / "o.fits",
            load_instrument("generic"),
            PairOptions(sources=True, **{how: True}),
        )
    except AlertProdError as error:
        code, text = error.code, str(error)
    if made is None:
        assert code in ("too_few_stars", "kernel_sources", "differencing", "no_good_pixels", "gain_unknown")
        assert len(text) > 40
    else:
        assert made.sources is not None
        assert np.isfinite(made.exposure.image).any()


@pytest.mark.parametrize("density", [20, 100])
def test_fluxes_in_crowded_fields(tmp_path, density):
    side = 400
    at = (np.array([0.3, 0.7, 0.5, 0.25]) * side + 0.3, np.array([0.3, 0.35, 0.7, 0.8]) * side - 0.2)
    fits.writeto(tmp_path / "n.fits", crowded(side, density, 3.6, at, side + density))
    fits.writeto(tmp_path / "o.fits", crowded(side, density, 3.0, ((), ()), side + density))
    made = difference_files(
        tmp_path / "n.fits", tmp_path / "o.fits", load_instrument("generic"), PairOptions(registered=True, sources=True)
    )
    s = made.sources
    ratios = []
    for x, y in zip(*at, strict=True):
        distance = np.hypot(s.x - x, s.y - y)
        assert distance.min() < 1.0
        ratios.append(float(s.psfInstFlux[distance.idxmin()]) / TRANSIENT)
    # photon noise is 1.5 %; the PSF is measured on stars whose wings overlap
    assert np.abs(np.array(ratios) - 1).max() < 0.05
    assert abs(np.mean(ratios) - 1) < 0.03
