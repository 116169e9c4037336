"""The quality gate: limits on what is measured of a subtraction, and what happens where one is exceeded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["LIMITS", "Limit", "checks_not_made", "problems"]


@dataclass(frozen=True)
class Limit:
    """A metric's limit: the option that holds it, and what to say; ``{value}``, ``{limit}`` and other metrics are filled in."""

    option: str
    text: str
    either: bool = False  # whether values below minus the limit fail too
    unmeasured: str = ""  # why a good pair may have no value (NaN); of a metric without a reason that is a failure

    def exceeded(self, value: float, limit: float) -> bool:
        """Whether a metric (in its own unit) fails; a limit of 0 fails nothing."""
        if not limit:
            return False
        return not self.unmeasured if np.isnan(value) else (abs(value) if self.either else value) > limit


LIMITS: Mapping[str, Limit] = {
    "kernelSumError": Limit(
        "maxKernelSumError",
        "the kernel's sum is off by a factor exp({value:+.2f}) from the ratio of the stars' fluxes (limit {limit:g})",
        either=True,
        unmeasured="too few stars",
    ),
    "calibrationError": Limit(
        "maxCalibrationError",
        "the flux ratio of the two images is off by a factor exp({value:+.2f}) from that of their calibrations (limit {limit:g})",
        either=True,
        unmeasured="no calibration in one of the images",
    ),
    "sciencePsfError": Limit(
        "maxPsfError",
        "the stars of the image are {value:+.2f} wider than its PSF, relative (limit {limit:g})",
        either=True,
        unmeasured="too few stars",
    ),
    "templatePsfError": Limit(
        "maxPsfError",
        "the stars of the template are {value:+.2f} wider than its PSF, relative (limit {limit:g})",
        either=True,
        unmeasured="too few stars",
    ),
    "directionError": Limit(
        "maxDirectionError",
        "the PSFs say that the image which is convolved is the sharper one, its stars are broader by {value:.2f} (limit {limit:g})",
        unmeasured="the direction was asked for, or too few stars",
    ),
    "kernelResidualRms": Limit(
        "maxResidual",
        "residual / sigma of the held-out stars is {value:.2f}, more than {limit:g}",
        unmeasured="no star held out",
    ),
    "starResidualRms": Limit(
        "maxResidual",
        "residual / sigma of the kernel stars in the difference is {value:.2f}, more than {limit:g}",
        unmeasured="too few stars",
    ),
    "starMisfitShare": Limit(
        "maxStarMisfitShare",
        "{value:.2f} of the bright sources do not subtract, more than {limit:g}: the PSF or the kernel is not right, most of all "
        "near x={starMisfitX:.0f}, y={starMisfitY:.0f}",
        unmeasured="too few stars, or narrow ones",
    ),
    "starMisfitLocalShare": Limit(
        "maxStarMisfitLocalShare",
        "{value:.2f} of the bright sources near x={starMisfitX:.0f}, y={starMisfitY:.0f} do not subtract, more than {limit:g}: the "
        "PSF or the kernel is not right there",
        unmeasured="too few stars, or narrow ones",
    ),
    "maxPhi": Limit("maxPhi", "the whitening amplifies some frequencies by {value:.1f}, more than {limit:g}"),
    "kernelNoiseGain": Limit("maxNoiseGain", "the kernel multiplies the noise by {value:.1f}, more than {limit:g}"),
    "starFluxResidual": Limit(
        "maxStarFluxResidual", "constant stars leave {value:.3f} of their flux, more than {limit:g}"
    ),
    "starPositionResidual": Limit(
        "maxStarPositionResidual", "the stars of the two images lie {value:.2f} px apart, more than {limit:g}"
    ),
    "starLightLeftMean": Limit(
        "maxFootprintRatio",
        "{value:.3f} of the light of the kernel stars is left beyond the noise, more than {limit:g}",
        unmeasured="too few stars",
    ),
    "starLightLeftStdev": Limit(
        "maxFootprintRatioStdev",
        "what is left of the light of the kernel stars scatters by {value:.3f}, more than {limit:g}",
        unmeasured="too few stars",
    ),
    "diffimDepthLoss": Limit(
        "maxDepthLoss",
        "the difference is {value:.2f} mag less deep than its images allow (limit {limit:g})",
        unmeasured="a PSF is not defined in the middle",
    ),
    "skyStructure": Limit(
        "maxSkyStructure",
        "the sky of the two images differs by structure of {value:.2f} of the noise of a pixel, more than {limit:g}: fringes, or a "
        "nebula of which one image lost more",
    ),
    "thresholdExcess": Limit(
        "maxThresholdScale",
        "the threshold had to rise by a factor {value:.2f}, more than {limit:g}",
        unmeasured="noise that was not whitened",
    ),
    "thresholdRaisedShare": Limit(
        "maxThresholdRaisedShare",
        "on {value:.2f} of the frame the threshold had to rise by more than a factor 1.5, more than {limit:g}: the noise is "
        "correlated there, or the sky has structure",
        unmeasured="noise that was not whitened",
    ),
    "cosmicRayFraction": Limit(
        "maxCosmicRayFraction", "{value:.3f} of the pixels are cosmic rays, more than {limit:g}"
    ),
    "streakFraction": Limit("maxStreakFraction", "{value:.3f} of the pixels are on streaks, more than {limit:g}"),
    "maskedFraction": Limit(
        "maxMaskedFraction", "{value:.2f} of the pixels that both images have are masked, more than {limit:g}"
    ),
}


def problems(numbers: Mapping[str, Any], options: Any) -> list[str]:
    """Return what is wrong with a subtraction by the limits of its options, in the order of `LIMITS`."""
    texts = []
    for metric, rule in LIMITS.items():
        value = numbers.get(metric)
        limit = float(getattr(options, rule.option))
        if isinstance(value, int | float) and rule.exceeded(float(value), limit):
            if np.isnan(value):
                texts.append(f"{metric} could not be measured")
                continue
            texts.append(rule.text.format_map({**numbers, "value": float(value), "limit": limit}))
    return texts


def checks_not_made(numbers: Mapping[str, Any], options: Any) -> list[str]:
    """Return the metrics with a limit that were looked at and have no value, that of the template's field first."""
    limits = {"templateStarShare": options.minTemplateStars}
    limits |= {metric: getattr(options, rule.option) for metric, rule in LIMITS.items()}
    return [m for m, limit in limits.items() if limit and np.isnan(numbers.get(m, 0.0))]
