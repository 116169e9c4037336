"""Kernels that two PSF models tell: right on PSFs whose difference is known, whole where one is not defined."""

import numpy as np
import pytest
from scipy.signal import fftconvolve

from diffim.matching.psf_kernel import NODES, KernelGrid, psf_kernels
from exposure import GridPsf, MoffatPsf

BOX, SIDE = (300, 5000, 500, 700), 61
AT = np.array([300.0, 555.0, 799.0]), np.array([5000.0, 5333.0, 5699.0])


def moffat(fwhm, beta=3.2, e1=(0.0,), e2=(0.0,)):
    return MoffatPsf(fwhm, beta, SIDE, BOX, e1, e2)


@pytest.mark.parametrize(
    ("convolved", "target", "size", "limit"),
    [
        (moffat((3.5,), 3.4), moffat((5.0, 0.1), 3.2, (0.02, 0.01)), 31, 0.002),
        (moffat((4.0, 0.05), 3.4), moffat((4.1, -0.05), 3.2, (0.03,)), 31, 0.003),  # as wide as each other
        (moffat((3.5,)), moffat((5.0,), 3.2, (0.4,), (0.1,)), 31, 0.003),  # elongated
        (moffat((3.5,)), moffat((10.0,)), 51, 0.01),
    ],
)
def test_the_kernel_makes_one_psf_of_the_other(convolved, target, size, limit):
    kernels = psf_kernels(convolved, target, BOX, size).at(*AT)
    assert kernels.sum((1, 2)) == pytest.approx(1, abs=1e-9)
    for k, p, q in zip(kernels, convolved.kernel_at(*AT), target.kernel_at(*AT), strict=True):
        assert np.abs(fftconvolve(p.astype(float), k, "same") - q).max() < limit * q.max()


def test_a_place_without_a_psf_has_the_kernel_of_the_nearest_that_has_one():
    cube = np.repeat(moffat((4.0,)).kernel_at(555.0, 5333.0), 16, axis=0)
    cube[:4] = np.nan  # the first row
    template, target = GridPsf(cube, 4, 4, BOX), moffat((5.0, 0.2))
    kernels = psf_kernels(template, target, BOX, 31)
    whole = psf_kernels(moffat((4.0,)), target, BOX, 31)
    assert np.isfinite(kernels.stamps).all()
    assert np.abs(kernels.stamps[-NODES:] - whole.stamps[-NODES:]).max() < 1e-6
    assert psf_kernels(GridPsf(np.full_like(cube, np.nan), 4, 4, BOX), target, BOX, 31) is None


def test_between_the_nodes_kernels_are_linear():
    u, v = np.meshgrid(np.linspace(0, 1, NODES), np.linspace(0, 1, NODES))
    grid = KernelGrid(np.broadcast_to((1 + u + 2 * v).reshape(-1, 1, 1), (NODES**2, 3, 3)), NODES, BOX)
    x, y = np.array([300.0, 799.0, 400.0]), np.array([5000.0, 5699.0, 5444.0])
    wanted = 1 + (x - 300) / 499 + 2 * (y - 5000) / 699
    assert grid.at(x, y)[:, 1, 1] == pytest.approx(wanted, abs=1e-9)
