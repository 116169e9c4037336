"""Crowded fields end in a right difference or in a typed error that says what to do."""

import numpy as np
import pytest
from astropy.io import fits

from exposure import load_instrument
from service.pairs.difference import PairOptions, difference_files
from tasks.errors import AlertProdError
from tests.support.crowded_field import TRANSIENT, crowded


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
