"""The kernel and the whitening change within a tile: bright stars are subtracted with those of their own place."""

import numpy as np
import pytest

from diffim.matching.kernel_basis import make_basis
from diffim.matching.psf_kernel import KernelGrid
from diffim.matching.spatial_kernel import SpatialKernel
from diffim.pixels.masked_image import MaskedImage
from diffim.subtraction.alard_lupton import Subtraction
from diffim.subtraction.difference_exposure import difference_psf
from exposure import GaussianPsf

SIDE, SIZE, WIDER = 300, 21, 0.5
BOX = (0, 0, SIDE, SIDE)


def gaussian(offset_x, offset_y, sigma):
    return np.exp(-0.5 * (offset_x**2 + offset_y**2) / sigma**2) / (2 * np.pi * sigma**2)


def kernels_that_widen():
    """Gaussians whose square width grows from the left to the right."""
    g = np.arange(SIZE) - SIZE // 2
    stamps = [gaussian(g[None, :], g[:, None], np.sqrt(3 + w)) for w in (0.0, WIDER)] * 2
    grid = KernelGrid(np.stack(stamps), 2, BOX)
    basis = make_basis(3.0, 5.0, SIZE)
    coefficients = np.zeros((len(basis.terms) + 1, 1))
    coefficients[0, 0] = 1.0
    return SpatialKernel(basis, coefficients, np.zeros(1), 0, 0, BOX, base=grid)


def images(flux):
    """Stars on a sky of unit variance, and what the kernels of their places make of them."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    before, after = np.zeros((2, SIDE, SIDE))
    for cy in range(40, SIDE - 30, 37):
        for cx in range(40, SIDE - 30, 37):
            share = x / (SIDE - 1)  # the kernel is that of the pixel which it makes
            before += flux * gaussian(x - cx, y - cy, 1.5)
            narrow, wide = (gaussian(x - cx, y - cy, np.sqrt(2.25 + 3 + w)) for w in (0.0, WIDER))
            after += flux * ((1 - share) * narrow + share * wide)
    variance, mask = np.ones((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.int32)
    return [MaskedImage(a.astype(np.float32), variance, mask, 0, (0, 0)) for a in (after, before)]


@pytest.mark.parametrize("whiten", [False, True])
def test_stars_away_from_the_middle_of_their_tile_leave_nothing(whiten, monkeypatch):
    unconvolved, convolved = images(3e4)  # peaks of 900 counts after the convolution, with noise of 1 to 1.05 a pixel
    inner = slice(30, SIDE - 30)

    def left():
        made = Subtraction(unconvolved, convolved, kernels_that_widen(), BOX, decorrelate=whiten).run()
        return [np.abs(a[inner, inner]).max() for a in (made.difference, made.matched - unconvolved.image)]

    assert max(left()) < 0.5
    monkeypatch.setattr("diffim.subtraction.within_tiles.BRIGHT", 1e9)  # one kernel a tile
    assert min(left()) > 2


def test_what_is_in_one_image_only_does_not_depend_on_where_in_a_tile_it_is(monkeypatch):
    """Each pixel next to a star that is in the convolved image only is that of the kernel and of the whitening there, by plain sums."""
    after, before = images(3e4)
    noise = np.broadcast_to(
        np.linspace(1.0, 0.2, SIDE, dtype=np.float32), after.image.shape
    ).copy()  # the whitening follows
    empty = MaskedImage(np.zeros_like(after.image), noise, after.mask, 0, (0, 0))
    made = Subtraction(empty, before, kernels_that_widen(), BOX)
    around = np.arange(-2, 3)
    star = np.arange(77, SIDE - 60, 37)
    y, x = (a.ravel() for a in np.meshgrid(*[(star[:, None] + around).ravel()] * 2, indexing="ij"))
    phi = made.whitening_at(x.astype(float), y.astype(float))
    half = phi.shape[-1] // 2
    windows = np.lib.stride_tricks.sliding_window_view(after.image, phi.shape[-2:])[y - half, x - half]
    expected = -np.einsum("nij,nij->n", windows, phi[:, ::-1, ::-1])
    assert phi[:, half, half].max() > 1.05 * phi[:, half, half].min()
    assert np.abs(made.run().difference[y, x] - expected).max() < 4e-3 * np.abs(expected).max()
    monkeypatch.setattr(Subtraction, "_follow_whitening", lambda *_: None)  # one whitening a tile
    assert np.abs(made.run().difference[y, x] - expected).max() > 5e-3 * np.abs(expected).max()


def test_fluxes_of_what_is_new_are_those_of_the_psf_of_the_difference_wherever_it_is():
    """The noise of the convolved image falls from the left to the right, and the whitening with it, over several cells."""
    after, before = images(3e4)
    noise = np.broadcast_to(np.linspace(1.5, 0.7, SIDE, dtype=np.float32), after.image.shape).copy()
    empty = MaskedImage(np.zeros_like(before.image), noise, before.mask, 0, (0, 0))
    made = Subtraction(before, empty, kernels_that_widen(), BOX)
    difference = made.run()
    y, x = (a.ravel().astype(float) for a in np.meshgrid(*[np.arange(40, SIDE - 30, 37)] * 2, indexing="ij"))
    psf = difference_psf(GaussianPsf(1.5, 41, (0, 0)), BOX, made.whitening_at)
    stamps = psf.kernel_at(x, y).astype(float)
    half = stamps.shape[-1] // 2
    padded = np.pad(difference.difference, half)
    windows = np.lib.stride_tricks.sliding_window_view(padded, stamps.shape[1:])[y.astype(int), x.astype(int)]
    flux = (windows * stamps).sum((1, 2)) / (stamps**2).sum((1, 2))
    assert np.ptp(stamps.max((1, 2))) > 0.03 * stamps.max()
    assert np.abs(flux / 3e4 - 1).max() < 3e-3
