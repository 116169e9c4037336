"""PSF photometry with a plain stamp for a PSF, and aperture corrections that are none."""

import numpy as np
import pytest

from exposure.apcorr import PSF_FLUX, ApCorrMap
from exposure.errors import PsfUndefined
from exposure.field import ChebyshevField
from exposure.photometry import forced_psf_photometry
from exposure.psf import GaussianPsf


def test_a_stamp_stands_for_the_psf_of_all_positions():
    psf = GaussianPsf(2.0, 25)
    stamp = psf.image_at(np.array([0.0]), np.array([0.0]))[0]
    image = np.zeros((80, 90), np.float32)
    variance = np.full_like(image, 4.0)
    x, y = np.array([30.0, 50.3]), np.array([40.0, 39.6])
    for flux, a, b in zip((1000.0, 2000.0), x, y, strict=True):
        cx, cy = int(np.floor(a + 0.5)), int(np.floor(b + 0.5))
        image[cy - 12 : cy + 13, cx - 12 : cx + 13] += flux * psf.image_at(np.array([a]), np.array([b]))[0]
    for scale in (1.0, 7.5):  # of any sum
        table = forced_psf_photometry(image, variance, scale * stamp, x, y)
        assert table.instFlux.to_numpy() == pytest.approx([1000.0, 2000.0], rel=2e-3)
        # white noise: sigma / sqrt(sum P^2), P of sum 1
        assert table.instFluxErr[0] == pytest.approx(2.0 / np.sqrt((stamp.astype(float) ** 2).sum()), rel=1e-3)


@pytest.mark.parametrize(
    "stamp", [np.ones((4, 4)), np.ones((3, 5)), np.ones(5), np.zeros((5, 5)), np.full((5, 5), np.nan)]
)
def test_what_is_no_stamp_is_refused(stamp):
    plane = np.ones((9, 9), np.float32)
    with pytest.raises(PsfUndefined, match="a PSF stamp must"):
        forced_psf_photometry(plane, plane, stamp.astype(np.float32), [4.0], [4.0])


@pytest.mark.parametrize("factor", [-1.0, 0.0, np.nan])
def test_a_factor_that_is_not_positive_is_none(factor):
    table = ApCorrMap({PSF_FLUX: ChebyshevField(np.array([[factor]]), (0, 0, 200, 200))})
    assert np.isnan(table.at(PSF_FLUX, [10.0], [10.0])).all()
    assert ApCorrMap({PSF_FLUX: ChebyshevField(np.array([[1.1]]), (0, 0, 200, 200))}).at(PSF_FLUX, [1.0], [1.0]) == 1.1
