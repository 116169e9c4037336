"""From two prepared images to a difference: kernel, subtraction, masks, PSF, and how well the stars subtract."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft

from diffim.basis import DEGREES, WING_DEGREES, AlardLuptonBasis, make_basis
from diffim.errors import InsufficientKernelSources
from diffim.kernel import SpatialKernel
from diffim.kernel_fit import KernelFit, fit_kernel
from diffim.noise_power import sky_correlation
from diffim.planes import Planes
from diffim.prepare import kernel_stars
from diffim.subtract import Subtracted, Subtraction, excess_power
from exposure import Exposure, GridPsf, Psf, PsfUndefined
from exposure.mask import flagged_pixels, plane_bits, spread_bits
from exposure.psf import fwhm_of
from exposure.stamps import gather

__all__ = ["Matched", "StarResiduals", "match_and_subtract", "star_residuals"]

PSF_CELLS = 6
WIDE_KERNEL = 31  # px: room for the wings; smaller where stars with clean stamps of that size are few
ENOUGH_FOR_WINGS = 40
WHITE_POWER = 0.15  # deviation from white noise that is within the error of its measurement
SPREADING = ("NO_DATA", "BAD", "SAT_TEMPLATE", "SAT", "HIGH_VARIANCE", "CR")  # planes that the kernel carries along
WHITE = 0.1  # correlation of neighbouring sky pixels; faint sources make up to 0.06, resampling 0.2 and more


@dataclass(frozen=True)
class Matched:
    """The difference exposure, the matched template on the same pixels, and the kernel with its fit."""

    difference: Exposure
    matched: NDArray[np.float32]
    fit: KernelFit
    convolved: str


def psf_fwhm(psf: Psf, box: tuple[int, int, int, int]) -> float:
    """Return the FWHM (px) at the average position, or its mean over a 10 x 10 grid where that is undefined; NaN: nowhere."""
    try:
        value = float(fwhm_of(psf.moments_at(*psf.average_position()))[0])
        if np.isfinite(value):
            return value
    except PsfUndefined:
        value = float("nan")  # the average position may lie in a gap: the grid below decides
    x0, y0, width, height = box
    gx, gy = np.meshgrid(x0 + width * np.linspace(0.05, 0.95, 10), y0 + height * np.linspace(0.05, 0.95, 10))
    values = [_fwhm_at(psf, x, y) for x, y in zip(gx.ravel(), gy.ravel(), strict=True)]
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _fwhm_at(psf: Psf, x: float, y: float) -> float:
    try:
        return float(fwhm_of(psf.moments_at(x, y))[0])
    except PsfUndefined:
        return float("nan")


def match_and_subtract(
    science: Exposure, template: Exposure, sources: pd.DataFrame, *, mode: str = "auto", kernel_size: int = 0,
    kernel_order: int = 1, background_order: int = 2, subtract_background: bool = True, decorrelate: bool = True,
    min_stars: int = 3, max_stars: int = 400, known: KernelFit | None = None,
) -> Matched:  # fmt: skip
    """Match the two images and subtract.

    Parameters
    ----------
    science, template
        Prepared exposures; the template's box contains that of the image.
    mode
        ``convolveTemplate``, ``convolveScience`` or ``auto`` (convolve the sharper image).
    max_stars
        More than that are not fitted; -1 takes all.
    known
        A fit made before on the same images: it is applied, none is made.

    Raises
    ------
    InsufficientKernelSources
        Too few clean stars.
    """
    way = _direction(science, template, mode)
    stars, basis = _stars_and_basis(science, template, sources, way, kernel_size, max_stars)
    if known is None and len(stars) < min_stars:
        raise InsufficientKernelSources(
            f"{len(stars)} clean kernel stars, need {min_stars}", visit=science.key[0], detector=science.key[1]
        )
    ratio = _flux_ratio(stars, science, template)
    white = abs(sky_correlation(way.convolved)) < WHITE
    fit = known or fit_kernel(
        way.convolved, way.target, stars.x.to_numpy(np.float64), stars.y.to_numpy(np.float64), basis, science.bbox,
        kernel_order=kernel_order, background_order=background_order, min_stars=min_stars,
        flux_ratio=ratio if way.of_template else 1 / ratio, white_noise=white,
    )  # fmt: skip
    done, made = _apply(science, template, way, fit, ratio, subtract_background, decorrelate, white)
    difference, matched = _assemble(science, template, way, fit, done, made)
    return Matched(difference, matched, fit, way.name)


@dataclass(frozen=True)
class _Direction:
    """Which image is convolved to match which."""

    name: str
    convolved: Planes
    target: Planes
    sharp: float
    broad: float

    @property
    def of_template(self) -> bool:
        return self.name == "convolveTemplate"


def _direction(science: Exposure, template: Exposure, mode: str) -> _Direction:
    assert science.psf is not None and template.psf is not None
    fwhm_s, fwhm_t = psf_fwhm(science.psf, science.bbox), psf_fwhm(template.psf, template.bbox)
    new, old = Planes.of(science, "BAD", "CR"), Planes.of(template, "BAD")
    if mode == "convolveTemplate" or (mode == "auto" and fwhm_t <= fwhm_s):
        return _Direction("convolveTemplate", old, new, fwhm_t, fwhm_s)
    return _Direction("convolveScience", new, old, fwhm_s, fwhm_t)


def _stars_and_basis(
    science: Exposure, template: Exposure, sources: pd.DataFrame, way: _Direction, kernel_size: int,
    maximum: int,
) -> tuple[pd.DataFrame, AlardLuptonBasis]:  # fmt: skip
    """Choose a kernel with wings where enough stars have room for it, else a plain one."""
    degrees = DEGREES if kernel_size else WING_DEGREES
    basis = make_basis(way.sharp, way.broad, kernel_size or WIDE_KERNEL, degrees)
    stars = kernel_stars(sources, science, template, basis.size, maximum=maximum)
    if not kernel_size and len(stars) < ENOUGH_FOR_WINGS:
        basis = make_basis(way.sharp, way.broad)
        stars = kernel_stars(sources, science, template, basis.size, maximum=maximum)
    return stars, basis


def _apply(
    science: Exposure, template: Exposure, way: _Direction, fit: KernelFit, ratio: float, subtract_background: bool,
    decorrelate: bool, white: bool,
) -> tuple[Subtracted, Subtraction]:  # fmt: skip
    """Subtract with the fitted kernel; what does not count in the image is filled from the template."""
    kernel = fit.kernel
    unconvolved, convolved = way.target, way.convolved
    if subtract_background:
        unconvolved = unconvolved.without(
            *kernel.background_factors((*unconvolved.origin, *unconvolved.image.shape[::-1]))
        )
    bare = Planes.of(template, "BAD")
    if way.of_template:
        unconvolved, scale = unconvolved.filled(bare, ratio), 1.0
    else:
        convolved, scale = convolved.filled(bare, 1 / max(kernel.kernel_sum, 1e-30)), -1 / kernel.kernel_sum
    excess: NDArray[np.float64] | None = None
    if decorrelate and not (white and abs(sky_correlation(way.target)) < WHITE):
        excess = excess_power(unconvolved, convolved, kernel, science.bbox)
        if np.abs(excess - 1).max() < WHITE_POWER:  # it was crowding that looked like correlation
            excess = None
    made = Subtraction(unconvolved, convolved, kernel, science.bbox, decorrelate, excess, scale)
    return made.run(want_matched=way.of_template), made


def _flux_ratio(stars: pd.DataFrame, science: Exposure, template: Exposure, side: int = 15) -> float:
    """Median ratio of star light, science over template, in boxes: enough to scale the template's variance."""
    ix = np.floor(stars.x.to_numpy() + 0.5).astype(np.int64)
    iy = np.floor(stars.y.to_numpy() + 0.5).astype(np.int64)
    s, t = (
        np.nan_to_num(gather(e.image, ix - e.origin[0], iy - e.origin[1], side, 0.0)).sum((1, 2))
        for e in (science, template)
    )
    good = (s > 0) & (t > 0)
    return float(np.median(s[good] / t[good])) if good.any() else 1.0


def _assemble(
    science: Exposure, template: Exposure, way: _Direction, fit: KernelFit, done: Subtracted, made: Subtraction
) -> tuple[Exposure, NDArray[np.float32]]:
    """Masks, PSF and calibrations of the difference."""
    assert science.psf is not None
    x0, y0, width, height = science.bbox
    tx, ty = template.origin
    offset = (y0 - ty, x0 - tx)
    part = (slice(offset[0], offset[0] + height), slice(offset[1], offset[1] + width))
    mask = science.mask | template.mask[part]
    reach = _reach(fit.kernel.kernels_at(x0 + width / 2, y0 + height / 2)[0])
    if way.of_template:
        spread_bits(template.mask, plane_bits(SPREADING), reach, mask, offset)
    else:
        spread_bits(science.mask, plane_bits(SPREADING), reach, mask)
    empty = flagged_pixels(mask, plane_bits(["NO_DATA"]))
    done.difference[empty] = 0
    smoothing = None if way.of_template else fit.kernel
    difference = Exposure(
        done.difference, done.variance, mask, origin=science.origin, wcs=science.wcs,
        psf=_difference_psf(science.psf, smoothing, made), photo_calib=science.photo_calib,
        visit_info=science.visit_info, band=science.band, physical_filter=science.physical_filter,
        ap_corr=science.ap_corr,
    )  # fmt: skip
    if way.of_template:
        return difference, done.matched
    return difference, np.asarray(template.image[part] / np.float32(fit.kernel.kernel_sum), np.float32)


def _reach(kernel: NDArray[np.float32]) -> int:
    """Return the radius that holds 99 % of the absolute weight of a kernel."""
    half = kernel.shape[0] // 2
    g = np.arange(-half, half + 1)
    radius = np.hypot(g[:, None], g[None, :]).ravel()
    order = np.argsort(radius)
    share = np.cumsum(np.abs(kernel).ravel()[order])
    return int(np.ceil(radius[order][np.searchsorted(share, 0.99 * share[-1])]))


def _difference_psf(science: Psf, kernel: SpatialKernel | None, made: Subtraction) -> GridPsf:
    """Return the PSF of a transient in the difference, on a grid; its sum is 1 less the light that falls off the stamp.

    What is new is in the science image: its PSF, convolved with the kernel where that image was convolved (the template's
    PSF would be right for a perfect kernel only), and with the local whitening stamp.
    """
    x0, y0, width, height = made.box
    gx = x0 + (np.arange(PSF_CELLS) + 0.5) * width / PSF_CELLS - 0.5
    gy = y0 + (np.arange(PSF_CELLS) + 0.5) * height / PSF_CELLS - 0.5
    mx, my = (a.ravel() for a in np.meshgrid(gx, gy))
    stamps = science.kernel_at(mx, my)
    if kernel is not None:
        stamps = _convolved(stamps, kernel.kernels_at(mx, my) / np.float32(kernel.kernel_sum))
    return GridPsf(_convolved(stamps, made.whitening_at(mx, my)), PSF_CELLS, PSF_CELLS, made.box)


def _convolved(stamps: NDArray[np.float32], kernels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convolve stamps with centred kernels, one each; the result has the side of the stamps."""
    side, reach = stamps.shape[-1], kernels.shape[-1] // 2
    full = fft.next_fast_len(side + 2 * reach, real=True)
    wide = fft.irfft2(fft.rfft2(stamps, (full, full)) * fft.rfft2(kernels, (full, full)), (full, full))
    return np.asarray(wide[:, reach : reach + side, reach : reach + side], dtype=np.float32)


@dataclass(frozen=True)
class StarResiduals:
    """What is left of constant stars: relative flux and position scatter beyond photon noise."""

    flux_error: float
    position_error: float
    n: int


def star_residuals(difference: Exposure, sources: pd.DataFrame, side: int = 15) -> StarResiduals:
    """Fit flux and shift residuals at the bright clean sources of the image.

    The scatter of residual flux / flux and of residual shifts beyond what photon noise explains is how well this
    subtraction knows the flux scale and the registration; variable stars are outliers of the robust scatter.
    """
    able = sources[(sources.snr > 30) & ~sources.flagged]
    bright = able[able.snr > 100]
    chosen = bright if len(bright) >= 10 else able
    if len(chosen) < 8 or difference.psf is None:
        return StarResiduals(0.0, 0.0, len(chosen))
    x, y = chosen.x.to_numpy(np.float64), chosen.y.to_numpy(np.float64)
    flux = chosen.psfFlux.to_numpy(np.float64)
    stamps = difference.psf.image_at(x, y).astype(np.float64)
    low = max((stamps.shape[-1] - side) // 2, 0)
    stamps = stamps[:, low : low + side, low : low + side]
    gy, gx = np.gradient(stamps, axis=(1, 2))
    ix, iy = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
    data, var = Planes.of(difference, "CR", "BAD").stamps(ix, iy, stamps.shape[-1])
    data, var = data.astype(np.float64), np.where(np.isfinite(var), var, 0).astype(np.float64)
    basis = np.stack([stamps, -gx, -gy], axis=1)
    inverse = np.linalg.inv(np.einsum("nkij,nlij->nkl", basis, basis) + 1e-18 * np.eye(3))
    fitted = np.einsum("nkl,nl->nk", inverse, np.einsum("nkij,nij->nk", basis, data))
    cov = np.einsum("nkl,nlm,npm->nkp", inverse, np.einsum("nkij,nij,nlij->nkl", basis, var, basis), inverse)
    relative = fitted / flux[:, None]
    noise = np.einsum("nkk->nk", cov) / flux[:, None] ** 2
    excess = [_excess(relative[:, k], noise[:, k]) for k in range(3)]
    return StarResiduals(excess[0], float(np.sqrt(0.5 * (excess[1] ** 2 + excess[2] ** 2))), len(chosen))


def _excess(values: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
    """Robust scatter beyond the noise; 0 where it is below half of its own uncertainty."""
    ok = np.isfinite(values) & np.isfinite(noise)
    if ok.sum() < 8:
        return 0.0
    # about zero, not about the mean: a common offset is a residual too
    scatter = (1.4826 * float(np.median(np.abs(values[ok])))) ** 2
    expected = float(np.median(noise[ok]))
    if scatter < expected * (1 + 1.5 / np.sqrt(ok.sum())):
        return 0.0
    return float(np.sqrt(scatter - expected))
