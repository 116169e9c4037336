"""Registered pairs of images with their truth, for judging differencing: what is known about every pixel is exact.

Case A: template 0.7", science 1.0". Case B: template 0.9", science 0.7". Elliptical Moffat PSFs of different exponents that
vary over the image, a smooth registration residual, a zero-point ratio, gradients, saturation, bad columns, cosmic rays
(masked), and transients, half of them in galaxies.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from exposure import Exposure, GridPsf, MoffatPsf, PhotoCalib, SkyWcs
from exposure.mask import plane_bits
from simulation.render import add_galaxies, add_points

__all__ = ["CASES", "Pair", "displacement", "make_pair"]

CASES = {"A": (0.7, 1.0), "B": (0.9, 0.7)}  # seeing of template and science, arcsec
SCALE = 0.2
SKY, TEMPLATE_VISITS, FLUX_RATIO, JITTER, SATURATION = 900.0, 6, 1.3, 0.03, 1.0e5
PSF_CELLS = 8


@dataclass(frozen=True)
class Pair:
    """The two exposures, the injected transients (x, y, flux in science counts), the noise-free static sky, and the true PSFs."""

    science: Exposure
    template: Exposure
    truth: pd.DataFrame
    model: NDArray[np.float32]
    psfs: tuple[MoffatPsf, MoffatPsf]


def make_pair(
    case: str, size: int = 4096, seed: int = 1, stars: int = 10_000, galaxies: int = 2_000, jitter: float = JITTER
) -> Pair:
    """Render one pair; `stars` and `galaxies` are numbers on 4096 x 4096. Equal arguments give equal bytes."""
    rng = np.random.default_rng([seed, size, ord(case[0])])
    share = (size / 4096) ** 2
    n, m = int(stars * share), int(galaxies * share)
    static = {"x": rng.uniform(-20, size + 20, n), "y": rng.uniform(-20, size + 20, n)}
    static["flux"] = 300.0 * rng.uniform(1e-4, 1, n) ** (-1 / 0.7)
    table = {
        "x": rng.uniform(0, size, m),
        "y": rng.uniform(0, size, m),
        "flux": 10 ** rng.uniform(3, 5, m),
        "re": rng.uniform(2, 8, m),
        "q": rng.uniform(0.3, 1, m),
        "angle": rng.uniform(0, np.pi, m),
        "index": rng.choice([1.0, 2.5], m),
    }
    truth = _transients(rng, size, table, int(300 * share) if size > 1024 else 40)
    seeing_template, seeing_science = CASES[case]
    box = (0, 0, size, size)
    psf_t, psf_s = _psf(rng, seeing_template, 3.2, box), _psf(rng, seeing_science, 3.4, box)
    model = _render(size, psf_s, static, table, 0.0)
    new = model.copy()
    add_points(new, psf_s, truth.x.to_numpy(), truth.y.to_numpy(), truth.flux.to_numpy())
    old = _render(size, psf_t, static, table, jitter)
    science = _expose(rng, new, SKY, 1.0, 1.0, psf_s)
    template = _expose(rng, old, SKY, 1.0 / TEMPLATE_VISITS, FLUX_RATIO, psf_t)
    return Pair(science, template, truth, model.astype(np.float32), (psf_s, psf_t))


def _transients(rng: np.random.Generator, size: int, hosts: dict[str, NDArray[np.float64]], n: int) -> pd.DataFrame:
    """Half of them near galaxies, fluxes such that S/N runs from about 3 to 100."""
    x, y = rng.uniform(40, size - 40, n), rng.uniform(40, size - 40, n)
    inside = np.flatnonzero(np.minimum(hosts["x"], hosts["y"]) > 45)
    for k in range(0, n, 2):
        if inside.size:
            h = inside[rng.integers(inside.size)]
            x[k], y[k] = hosts["x"][h] + rng.normal(0, hosts["re"][h]), hosts["y"][h] + rng.normal(0, hosts["re"][h])
    x, y = np.clip(x, 40, size - 40), np.clip(y, 40, size - 40)
    return pd.DataFrame({"x": x, "y": y, "flux": 10 ** rng.uniform(2.75, 4.3, n)})


def _psf(rng: np.random.Generator, seeing: float, beta: float, box: tuple[int, int, int, int]) -> MoffatPsf:
    fwhm = seeing / SCALE
    wobble = rng.normal(0, 0.02, 5) * fwhm
    e1, e2 = rng.normal(0, 0.02, 4), rng.normal(0, 0.02, 4)
    return MoffatPsf((fwhm, *wobble), beta, 41, box, tuple(e1), tuple(e2))


def displacement(
    size: int, x: NDArray[np.float64], y: NDArray[np.float64], jitter: float = JITTER
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far (N,) px what is at positions (N,) of the image lies elsewhere in the template."""
    u, v = 2 * x / size - 1, 2 * y / size - 1
    return jitter * np.sin(2.1 * u + 1) * np.cos(1.7 * v), jitter * np.cos(1.9 * u) * np.sin(2.3 * v + 0.5)


def _render(
    size: int,
    psf: MoffatPsf,
    static: dict[str, NDArray[np.float64]],
    table: dict[str, NDArray[np.float64]],
    jitter: float,
) -> NDArray[np.float64]:
    """Static sky in counts of the science image; `jitter` px of smooth registration residual."""
    dx, dy = displacement(size, static["x"], static["y"], jitter)
    image = np.zeros((size, size))
    add_points(image, psf, static["x"] + dx, static["y"] + dy, static["flux"])
    add_galaxies(image, psf, table)
    return image


def _expose(
    rng: np.random.Generator, light: NDArray[np.float64], sky: float, noise_share: float, scale: float, psf: MoffatPsf
) -> Exposure:
    """Add sky gradient and noise (variance `noise_share` of one exposure), defects, and another zero point."""
    size = light.shape[0]
    v, u = np.mgrid[0:size, 0:size].astype(np.float32) / size
    a, b = rng.uniform(-0.03, 0.03, 2)
    gradient = np.float32(sky) * (np.float32(a) * u + np.float32(b) * v)
    variance = ((light + sky + 36.0) * noise_share).astype(np.float32)
    image = light.astype(np.float32) + gradient + rng.standard_normal((size, size), np.float32) * np.sqrt(variance)
    mask = np.zeros((size, size), np.int32)
    full = light > SATURATION
    full |= np.roll(full, 1, 0) | np.roll(full, -1, 0) | np.roll(full, 1, 1) | np.roll(full, -1, 1)
    image[full] = SATURATION
    mask[full] |= plane_bits(["SAT"])
    for column in rng.integers(10, size - 10, max(1, size // 1024)):
        image[size // 3 :, column] *= 1.5
        mask[size // 3 :, column] |= plane_bits(["BAD"])
    if noise_share == 1.0:
        x, y = rng.integers(5, size - 8, (2, max(4, int(200 * (size / 4096) ** 2))))
        for k in range(6):
            image[y + k // 2, x + k % 3] += 2000
            mask[y + k // 2, x + k % 3] |= plane_bits(["CR"])
    measured_variance = (
        variance + rng.standard_normal((size, size), np.float32) * 0.03 * variance
    )  # as from noisy counts
    box = (0, 0, size, size)
    centres = (np.arange(PSF_CELLS) + 0.5) * size / PSF_CELLS - 0.5
    gx, gy = (g.ravel() for g in np.meshgrid(centres, centres))
    grid = GridPsf(psf.kernel_at(gx, gy), PSF_CELLS, PSF_CELLS, box)
    wcs = SkyWcs.tan((size / 2, size / 2), (150.0, 2.0), SCALE / 3600 * np.array([[-1.0, 0], [0, 1.0]]))
    return Exposure(
        image * np.float32(scale),
        measured_variance * np.float32(scale**2),
        mask,
        wcs=wcs,
        psf=grid,
        band="r",
        photo_calib=PhotoCalib(1.0 / scale),
    )
