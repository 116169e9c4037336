"""Direct sums over narrow kernels: against SciPy; and what decides that a kernel is narrow."""

import numpy as np
import pytest
from scipy.signal import fftconvolve

from diffim.pixels.direct_convolution import BLOCK_SHAPE, NarrowKernel
from diffim.pixels.fft_tiles import Convolution, TileGrid, paste


def kernel(sigma, side=31, dx=0.3):
    g = np.arange(side) - side // 2
    stamp = np.exp(-0.5 * (g[:, None] ** 2 + (g[None, :] - dx) ** 2) / sigma**2)
    return (1.3 * stamp / stamp.sum()).astype(np.float32)


def picture(height=300, width=260):
    return np.random.default_rng(5).gamma(2, 3, (height, width)).astype(np.float32)


@pytest.mark.parametrize("shape", [BLOCK_SHAPE, (7, 65), (61, 130), (200, 200)])
@pytest.mark.parametrize("sigma", [0.1, 0.8, 1.7])
def test_sums_are_those_of_a_convolution(shape, sigma):
    narrow, window = NarrowKernel.of(kernel(sigma)), picture()
    out = np.zeros_like(window)
    narrow.convolve(window, 9, *shape, out)
    half = narrow.side // 2
    middle = kernel(sigma)[15 - half : 16 + half, 15 - half : 16 + half].astype(np.float64)
    truth = fftconvolve(window.astype(np.float64), middle * kernel(sigma).sum() / middle.sum(), mode="same")
    height, width = shape
    np.testing.assert_allclose(out[:height, :width], truth[9 : 9 + height, 9 : 9 + width], rtol=2e-6)
    out[:height, :width] = 0
    assert not out.any()  # nothing was written elsewhere


def test_a_kernel_keeps_its_sum_and_is_as_wide_as_it_must_be():
    for sigma, side in ((0.1, 1), (0.8, 7), (2.0, 15)):
        narrow = NarrowKernel.of(kernel(sigma, dx=0))
        assert narrow.side == side
        assert narrow.weights.sum() == pytest.approx(1.3, rel=1e-6)
    assert NarrowKernel.of(kernel(4.0)) is None
    assert NarrowKernel.of(np.zeros((5, 5), np.float32)) is None


@pytest.mark.parametrize("sigma", [0.8, 3.5])  # summed, and by transforms
def test_tiles_of_any_size_join_to_the_convolved_image(sigma):
    image, stamp = picture(333, 301), kernel(sigma)
    half = stamp.shape[0] // 2
    grid = TileGrid.fitting(*image.shape, 90, half)
    assert image.shape[0] % grid.tile  # the last tiles are narrower
    padded = np.pad(image, half + grid.tile)
    out = np.zeros_like(image)
    for ft, tile in grid.tiles(range(grid.count)):
        window, other = ft.windows(2)
        y, x = tile.y + grid.tile, tile.x + grid.tile
        window[:] = 0
        part = padded[y : y + ft.shape[0], x : x + ft.shape[1]]
        window[: part.shape[0], : part.shape[1]] = part
        paste(*Convolution(ft, stamp).run(window, half, tile, other), tile, out)
    truth = fftconvolve(image.astype(np.float64), stamp.astype(np.float64), mode="same")
    inner = np.s_[half:-half, half:-half]
    np.testing.assert_allclose(out[inner], truth[inner], rtol=2e-3)
    assert np.abs(out / truth - 1).mean() < 3e-4
