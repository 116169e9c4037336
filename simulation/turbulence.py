"""What turbulence does to the places of stars during an exposure: the gradient of a frozen screen that the wind has smeared.

The path length has von Karman's spectrum, ``(k^2 + k0^2)^(-11/6)`` (Hébert et al. 2018, Proc. SPIE 10705; Fortino et al. 2021,
AJ 162, 106); an exposure averages it along the wind.
"""

import numpy as np
from scipy.ndimage import map_coordinates

from tasks.arrays import F64

__all__ = ["turbulence"]

_NODES = 1024
_STEP = 6.0  # arcsec
_OUTER = 1200.0  # arcsec: the outer scale, seen from the ground
_SMEAR = 500.0  # arcsec along the wind


def turbulence(seed: tuple[int, ...], x: F64, y: F64, rms: float) -> tuple[F64, F64]:
    """Return the displacement along x and y at places (N,), arcsec, whose rms per axis is `rms`, arcsec.

    The screen repeats itself every 1.7 degrees; its wind blows anywhere.
    """
    rng = np.random.default_rng(seed)
    k = 2 * np.pi * np.fft.fftfreq(_NODES, _STEP)
    kx, ky = np.meshgrid(k, k)
    wind = rng.uniform(0, np.pi)
    along = kx * np.cos(wind) + ky * np.sin(wind)
    power = (kx**2 + ky**2 + (2 * np.pi / _OUTER) ** 2) ** (-11 / 6) * np.sinc(along * _SMEAR / (2 * np.pi)) ** 2
    path = np.fft.fft2(rng.normal(size=kx.shape)) * np.sqrt(power)
    field = np.stack([np.fft.ifft2(1j * slope * path).real for slope in (kx, ky)])
    field *= rms / np.sqrt((field**2).mean())
    dx, dy = (map_coordinates(f, [y / _STEP, x / _STEP], order=3, mode="grid-wrap") for f in field)
    return dx, dy
