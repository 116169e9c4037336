"""From two prepared images to a difference: kernel, subtraction, masks, PSF, and how well the stars subtract."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft

from diffim.basis import WING_DEGREES, make_basis
from diffim.errors import InsufficientKernelSources
from diffim.kernel import SpatialKernel
from diffim.kernel_fit import KernelFit, fit_kernel
from diffim.noise_power import sky_correlation
from diffim.prepare import grow, kernel_stars, padded
from diffim.subtract import Subtracted, excess_power, subtract_arrays
from exposure import Exposure, GridPsf, Psf, PsfUndefined
from exposure.mask import plane_bits
from exposure.psf import fwhm_of
from exposure.stamps import gather

__all__ = ["Matched", "StarResiduals", "match_and_subtract", "star_residuals"]

PSF_CELLS = 6
WIDE_KERNEL = 31  # px: room for the wings; smaller where stars with clean stamps of that size are few
ENOUGH_FOR_WINGS = 40
WHITE = 0.1  # correlation of neighbouring sky pixels; faint sources make up to 0.06, resampling 0.2 and more


@dataclass(frozen=True)
class Matched:
    """The difference exposure, the matched template on the same pixels, and the kernel with its fit."""

    difference: Exposure
    matched: NDArray[np.float32]
    fit: KernelFit
    convolved: str


def psf_fwhm(psf: Psf, box: tuple[int, int, int, int]) -> float:
    """Return the FWHM (px) at the average position, or its mean over a 10 x 10 grid where that is undefined."""
    try:
        value = float(fwhm_of(psf.moments_at(*psf.average_position()))[0])
        if np.isfinite(value):
            return value
    except PsfUndefined:
        value = float("nan")  # the average position may lie in a gap: the grid below decides
    x0, y0, width, height = box
    gx, gy = np.meshgrid(x0 + width * np.linspace(0.05, 0.95, 10), y0 + height * np.linspace(0.05, 0.95, 10))
    values = fwhm_of(psf.moments_at(gx.ravel(), gy.ravel()))
    return float(np.nanmean(values))


def match_and_subtract(
    science: Exposure, template: Exposure, sources: pd.DataFrame, *, mode: str = "auto", kernel_size: int = 0,
    kernel_order: int = 1, background_order: int = 2, subtract_background: bool = True, decorrelate: bool = True,
    min_stars: int = 3,
) -> Matched:  # fmt: skip
    """Match the two images and subtract.

    Parameters
    ----------
    science, template
        Prepared exposures; the template's box contains that of the image.
    mode
        ``convolveTemplate``, ``convolveScience`` or ``auto`` (convolve the sharper image).

    Raises
    ------
    InsufficientKernelSources
        Too few clean stars.
    """
    assert science.psf is not None and template.psf is not None
    fwhm_s, fwhm_t = psf_fwhm(science.psf, science.bbox), psf_fwhm(template.psf, template.bbox)
    convolved = mode if mode != "auto" else ("convolveTemplate" if fwhm_t <= fwhm_s else "convolveScience")
    sharp, broad = (fwhm_t, fwhm_s) if convolved == "convolveTemplate" else (fwhm_s, fwhm_t)
    basis = (
        make_basis(sharp, broad, kernel_size) if kernel_size else make_basis(sharp, broad, WIDE_KERNEL, WING_DEGREES)
    )
    stars = kernel_stars(sources, science, template, basis.size)
    if not kernel_size and len(stars) < ENOUGH_FOR_WINGS:
        basis = make_basis(sharp, broad)
        stars = kernel_stars(sources, science, template, basis.size)
    if len(stars) < min_stars:
        raise InsufficientKernelSources(
            f"{len(stars)} clean kernel stars, need {min_stars}", visit=science.key[0], detector=science.key[1]
        )
    image, variance, usable = padded(science, template)
    t_good = template.good("BAD")
    t_image = np.where(t_good, template.image, 0).astype(np.float32)
    t_var = np.where(t_good, template.variance, 0).astype(np.float32)
    ratio = _flux_ratio(stars, science, template)
    x, y = stars.x.to_numpy(np.float64), stars.y.to_numpy(np.float64)
    infinite = np.float32(np.inf)
    sharper = (t_image, np.where(t_good, t_var, infinite))
    broader = (image, np.where(usable, variance, infinite))
    if convolved == "convolveScience":
        sharper, broader, ratio = broader, sharper, 1 / ratio
    white = abs(sky_correlation(*sharper)) < WHITE
    fit = fit_kernel(
        sharper[0], broader[0], sharper[1], broader[1], x, y, basis, science.bbox, template.origin,
        kernel_order=kernel_order, background_order=background_order, min_stars=min_stars, flux_ratio=ratio,
        white_noise=white,
    )  # fmt: skip
    background = fit.kernel.background_image(template.bbox) if subtract_background else np.float32(0)
    good = usable & t_good
    if convolved == "convolveTemplate":
        filled = np.where(usable, image - background, np.float32(ratio) * t_image).astype(np.float32)
        arrays = (filled, variance, t_image, t_var)
        norm, sign = 1.0, 1.0
    else:
        fill = t_image / np.float32(max(fit.kernel.kernel_sum, 1e-30))
        filled = np.where(usable, image, fill).astype(np.float32)
        arrays = ((t_image - background).astype(np.float32), t_var, filled, variance)
        norm, sign = fit.kernel.kernel_sum, -1.0
    white = white and abs(sky_correlation(*broader)) < WHITE
    excess = excess_power(*arrays, fit.kernel, template.origin, good) if decorrelate and not white else None
    done = subtract_arrays(*arrays, fit.kernel, template.origin, decorrelate=decorrelate, good=good, excess=excess)
    difference, matched = _assemble(science, template, fit, done, convolved, norm, sign)
    return Matched(difference, matched, fit, convolved)


def _flux_ratio(stars: pd.DataFrame, science: Exposure, template: Exposure, side: int = 15) -> float:
    """Median ratio of star light, science over template, in boxes: enough to scale the template's variance."""
    ix = np.floor(stars.x.to_numpy() + 0.5).astype(np.int64)
    iy = np.floor(stars.y.to_numpy() + 0.5).astype(np.int64)
    s = gather(np.nan_to_num(science.image), ix - science.origin[0], iy - science.origin[1], side, 0.0).sum((1, 2))
    t = gather(np.nan_to_num(template.image), ix - template.origin[0], iy - template.origin[1], side, 0.0).sum((1, 2))
    good = (s > 0) & (t > 0)
    return float(np.median(s[good] / t[good])) if good.any() else 1.0


def _assemble(
    science: Exposure, template: Exposure, fit: KernelFit, done: Subtracted, convolved: str, norm: float, sign: float
) -> tuple[Exposure, NDArray[np.float32]]:
    x0, y0, width, height = science.bbox
    tx, ty = template.origin
    part = (slice(y0 - ty, y0 - ty + height), slice(x0 - tx, x0 - tx + width))
    image = (done.difference[part] * np.float32(sign / norm)).astype(np.float32)
    variance = (done.variance[part] / np.float32(norm**2)).astype(np.float32)
    centre = fit.kernel.kernels_at(x0 + width / 2, y0 + height / 2)[0]
    reach = _reach(centre)
    mask = science.mask.copy()
    grown_of = template.mask if convolved == "convolveTemplate" else np.pad(science.mask, _ways(science, template))
    for plane in ("NO_DATA", "BAD", "SAT_TEMPLATE", "SAT", "HIGH_VARIANCE", "CR"):
        bit = np.int32(plane_bits([plane]))
        if (grown_of & bit).any():
            mask |= np.where(grow((grown_of & bit) != 0, reach)[part], bit, np.int32(0))
    mask |= template.mask[part]
    empty = (mask & np.int32(plane_bits(["NO_DATA"]))) != 0
    image[empty] = 0
    assert science.psf is not None
    smoothing = None if convolved == "convolveTemplate" else fit.kernel
    psf = _difference_psf(science.psf, smoothing, done, science.bbox, template.origin)
    difference = Exposure(
        image, variance, mask, origin=science.origin, wcs=science.wcs, psf=psf, photo_calib=science.photo_calib,
        visit_info=science.visit_info, band=science.band, physical_filter=science.physical_filter,
        ap_corr=science.ap_corr,
    )  # fmt: skip
    matched = done.matched[part] if convolved == "convolveTemplate" else template.image[part] / np.float32(norm)
    return difference, np.asarray(matched, np.float32)


def _ways(science: Exposure, template: Exposure) -> tuple[tuple[int, int], tuple[int, int]]:
    x0, y0, width, height = science.bbox
    tx, ty, tw, th = template.bbox
    return ((y0 - ty, ty + th - y0 - height), (x0 - tx, tx + tw - x0 - width))


def _reach(kernel: NDArray[np.float32]) -> int:
    """Return the radius that holds 99 % of the absolute weight of a kernel."""
    half = kernel.shape[0] // 2
    g = np.arange(-half, half + 1)
    radius = np.hypot(g[:, None], g[None, :]).ravel()
    order = np.argsort(radius)
    share = np.cumsum(np.abs(kernel).ravel()[order])
    return int(np.ceil(radius[order][np.searchsorted(share, 0.99 * share[-1])]))


def _difference_psf(
    science: Psf,
    kernel: SpatialKernel | None,
    done: Subtracted,
    box: tuple[int, int, int, int],
    origin: tuple[int, int],
) -> GridPsf:
    """Return the PSF of a transient in the difference, on a grid, sum 1.

    What is new is in the science image: its PSF, convolved with the kernel where that image was convolved (the template's
    PSF would be right for a perfect kernel only), and with the local whitening stamp.
    """
    x0, y0, width, height = box
    gx = x0 + (np.arange(PSF_CELLS) + 0.5) * width / PSF_CELLS - 0.5
    gy = y0 + (np.arange(PSF_CELLS) + 0.5) * height / PSF_CELLS - 0.5
    mx, my = (a.ravel() for a in np.meshgrid(gx, gy))
    stamps = science.kernel_at(mx, my)
    if kernel is not None:
        stamps = _convolved(stamps, kernel.kernels_at(mx, my))
    column = np.clip((mx - origin[0]) // done.grid.tile, 0, done.grid.columns - 1).astype(int)
    row = np.clip((my - origin[1]) // done.grid.tile, 0, done.grid.rows - 1).astype(int)
    cut = _convolved(stamps, done.whitening[row * done.grid.columns + column])
    return GridPsf((cut / cut.sum(axis=(1, 2), keepdims=True)).astype(np.float32), PSF_CELLS, PSF_CELLS, box)


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
    ox, oy = difference.origin
    good = difference.good("CR", "BAD")
    data = gather(np.where(good, difference.image, 0), ix - ox, iy - oy, stamps.shape[-1], 0.0).astype(np.float64)
    var = gather(np.where(good, difference.variance, 0), ix - ox, iy - oy, stamps.shape[-1], 0.0).astype(np.float64)
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
