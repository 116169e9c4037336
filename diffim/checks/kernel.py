"""What the stars say of a kernel: its sum against their fluxes and the calibrations, its direction against their widths."""

import numpy as np

from diffim.checks.common_stars import CommonStars, psf_error
from diffim.matching.spatial_kernel import SpatialKernel
from exposure import Exposure

__all__ = ["kernel_numbers", "star_numbers"]


def star_numbers(
    common: CommonStars, science: Exposure, template: Exposure, fwhms: tuple[float, float]
) -> dict[str, float]:
    """Return what the stars that both images have say of the pair, under the names of the task's metadata.

    `fwhms` (px) are those of the PSFs of image and template.
    """
    psfs = science.require_psf(), template.require_psf()
    return {
        "nTemplateStarsExpected": common.n_expected,
        "nTemplateStarsFound": common.n_found,
        "templateStarShare": common.share,
        "starFluxRatio": common.ratio,
        "starWidthRatio": common.width_ratio,
        "sciencePsfError": psf_error(common, psfs, 0, fwhms),
        "templatePsfError": psf_error(common, psfs, 1, fwhms),
    }


def kernel_numbers(
    common: CommonStars, kernel: SpatialKernel, of_template: bool, unit_ratio: float | None, chosen: bool
) -> dict[str, float]:
    """Return by how much a kernel disagrees with the stars and the calibrations.

    Parameters
    ----------
    of_template
        Whether the template is convolved.
    unit_ratio
        Counts of the image per count of the template by the calibrations, where both have one.
    chosen
        Whether the direction was chosen by the PSFs, not asked for.

    Returns
    -------
    numbers : dict
        ``kernelSumError`` and ``calibrationError`` are logarithms of ratios, ``directionError`` is by what fraction what is
        convolved is broader than the other; those that cannot be told are NaN.
    """
    out = dict.fromkeys(("kernelSumError", "calibrationError", "directionError"), float("nan"))
    sign = 1.0 if of_template else -1.0
    if common.x.size and np.isfinite(common.ratio):
        sums = kernel.kernels_at(common.x, common.y).sum(axis=(1, 2), dtype=np.float64)
        out["kernelSumError"] = _log(float(np.median(sums * common.ratios**-sign)))
    if unit_ratio:
        out["calibrationError"] = _log(kernel.kernel_sum * unit_ratio**-sign)
    if chosen and np.isfinite(common.width_ratio):
        out["directionError"] = max(common.width_ratio**sign - 1, 0.0)
    return out


def _log(ratio: float) -> float:
    """Return the natural logarithm; infinite of what is not positive."""
    return float(np.log(ratio)) if ratio > 0 else float("inf")
