"""Weights between pixels: what they keep, by formulas of their own, and the flux of PSF stamps that are moved."""

import numpy as np
import pytest

from exposure import GridPsf
from exposure.interpolation import STEPS, weight_table
from exposure.stamps import shift_stamps
from tests.support.moffat import moffat


@pytest.mark.parametrize(("half", "fwhms"), [(3, (3.0, 4.66)), (5, (3.0, 4.33, 6.66))])
def test_constants_slopes_pixels_and_fluxes_are_kept(half: int, fwhms: tuple[float, ...]) -> None:
    table = weight_table(half, fwhms)
    t = np.arange(-half + 1, half + 1) - np.arange(STEPS + 1)[:, None] / STEPS
    np.testing.assert_allclose(table.sum(1), 1, atol=1e-7)
    np.testing.assert_allclose((table * t).sum(1), 0, atol=1e-7)
    for row, middle in ((0, half - 1), (STEPS, half)):  # on a pixel it is that pixel
        np.testing.assert_allclose(table[row], np.arange(2 * half) == middle, atol=1e-7)
    np.testing.assert_allclose(table, table[::-1, ::-1], atol=2e-7)
    assert (np.abs(table[np.nonzero(table)]) >= 1e-8).all()
    for fwhm in fwhms:  # the fit of a Gaussian to one that is moved: the integral of their product
        sigma = fwhm / np.sqrt(8 * np.log(2))
        np.testing.assert_allclose((table * np.exp(-(t**2) / (4 * sigma**2))).sum(1), 1, atol=2e-7)


@pytest.mark.parametrize("beta", [2.5, 4.765])
@pytest.mark.parametrize(("fwhm", "span"), [(2.5, 5e-4), (3.0, 1e-4), (4.0, 1e-4), (6.0, 1e-4)])
def test_the_flux_of_a_psf_does_not_depend_on_where_it_lies_between_pixels(
    fwhm: float, beta: float, span: float
) -> None:
    psf = GridPsf(moffat(fwhm, beta, 61, 0.0, 0.0).astype(np.float32)[None], 1, 1, (0, 0, 100, 100))
    fluxes = []
    for dx in (0.0, 0.2, 0.49, -0.3):
        for dy in (0.0, 0.25, -0.45):
            truth = moffat(fwhm, beta, 61, dx, dy)[8:-8, 8:-8]
            stamp = psf.image_at(50 + dx, 50 + dy)[0]
            fluxes.append((stamp[8:-8, 8:-8].astype(np.float64) * truth).sum() / (truth**2).sum())
    assert np.ptp(fluxes) <= span


def test_a_stamp_that_is_moved_by_no_number_is_no_stamp() -> None:
    stamps = np.ones((3, 21, 21), np.float32)
    out = np.empty_like(stamps)
    shift_stamps(stamps, np.array([np.nan, 0.2, 0.3]), np.array([0.1, np.nan, -0.2]), out)
    assert np.isnan(out[:2]).all()
    assert out[2, 10, 10] == pytest.approx(1)
