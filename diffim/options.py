"""The options of image differencing: name, default, meaning, limits. The task's configuration is made of this table.

Names are those that users of the Rubin task know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tasks.errors import CallerError

__all__ = ["OPTIONS", "Option", "contradictions", "plain_options"]

BAD_SOURCE_FLAGS = (
    "pixelFlags_offimage", "pixelFlags_interpolatedCenterAll", "pixelFlags_badCenter", "pixelFlags_edgeCenter",
    "pixelFlags_nodataCenter", "pixelFlags_saturatedCenter", "pixelFlags_sat_templateCenter",
    "pixelFlags_spikeCenter",
)  # fmt: skip


@dataclass(frozen=True)
class Option:
    """One option; its type is that of its default (a tuple of names for lists)."""

    default: Any
    doc: str
    least: float | None = None
    below: float | None = None
    allowed: Mapping[str, str] = field(default_factory=dict)

    def problem(self, value: Any) -> str:
        """Say what is wrong with a value; empty where nothing is."""
        kind = type(self.default)
        if kind is tuple:
            named = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
            return "" if named else f"must be a list of names, got {value!r}"
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            return f"must be {kind.__name__}, got {value!r}"
        if self.allowed and value not in self.allowed:
            return f"must be one of {sorted(self.allowed)}, got {value!r}"
        if self.least is not None and value < self.least:
            return f"must be at least {self.least}, got {value!r}"
        if self.below is not None and value >= self.below:
            return f"must be less than {self.below}, got {value!r}"
        return ""


# limits of the quality gate: more than good pairs show, made up and real, and less than spoiled ones do
_GATE: dict[str, tuple[float, str]] = {
    "maxResidual": (5.0, "residual / sigma of the held-out stars"),
    "maxKernelSumError": (0.2, "|ln| of the kernel's sum over the flux ratio of the stars"),
    "maxCalibrationError": (0.4, "|ln| of the kernel's sum over the ratio of the calibrations"),
    "maxPsfError": (0.17, "by what fraction the stars are wider or narrower than the PSF"),
    "maxDirectionError": (0.2, "by what fraction the stars of what is convolved are broader than those of the other"),
    "maxPhi": (11.0, "factor that the whitening multiplies a frequency by"),
    "maxNoiseGain": (5.0, "factor that the kernel multiplies the noise by"),
    "maxStarFluxResidual": (0.06, "share of the flux of constant stars that is left, beyond the noise"),
    "maxStarPositionResidual": (0.1, "shift of the stars of the two images, beyond the noise, px"),
    "maxStarMisfitShare": (0.3, "share of the bright sources that do not subtract, each by itself"),
    "maxStarMisfitLocalShare": (
        0.5,
        "that share in the poorest part of the frame, of twelve sources or a tenth of all",
    ),
    "maxFootprintRatio": (0.2, "mean share of the light of the kernel stars that is left"),
    "maxFootprintRatioStdev": (0.4, "scatter of that share"),
    "maxDepthLoss": (0.9, "magnitudes that the depth falls short of what the two images allow"),
    "maxSkyStructure": (0.25, "rms of structure on the sky of the difference, in units of the noise of a pixel"),
    "maxThresholdScale": (2.0, "factor that the threshold had to rise by"),
    "maxThresholdRaisedShare": (0.25, "share of the frame where the threshold had to rise by more than a factor 1.5"),
    "maxCosmicRayFraction": (0.03, "share of the pixels that cosmic rays hit"),
    "maxStreakFraction": (0.2, "share of the pixels that are on streaks"),
    "maxMaskedFraction": (0.6, "share of the pixels with data in both images that are masked"),
}

OPTIONS: dict[str, Option] = {
    "requiredTemplateFraction": Option(
        0.1, "Least fraction of the image that the template must cover.", least=0.0, below=1.0
    ),
    "minTemplateFractionForExpectedSuccess": Option(
        0.2,
        "Where the template covers less than this, too few kernel stars mean that there is nothing to do; above, an error.",
        least=0.0,
        below=1.0,
    ),
    "subtractAlgorithm": Option(
        "AL",
        "How the images are subtracted.",
        allowed={"AL": "fit a matching kernel (Alard-Lupton)", "ZOGY": "proper subtraction with the PSF models"},
    ),
    "mode": Option(
        "auto",
        "Which image is convolved.",
        allowed={
            "auto": "convolve the sharper image, the template where both are alike",
            "convolveTemplate": "always convolve the template",
            "convolveScience": "always convolve the science image",
        },
    ),
    "doApplyFinalizedPsf": Option(False, "Take PSF and aperture corrections of the finalized catalogue (a quantum)?"),
    "doAddCalexpBackground": Option(
        False, "Add the background that is given (calexpBackgroundExposure) to the image before?"
    ),
    "doScaleVariance": Option(True, "Scale the variance planes of both images to their noise before?"),
    "doScaleTemplateVariance": Option(
        False, "Scale the template's variance plane alone, and not that of the difference?"
    ),
    "doScaleDiffimVariance": Option(True, "Scale the difference's variance plane?"),
    "doUseRegister": Option(True, "Measure where the template's stars lie and resample it where they are off?"),
    "registerMinShift": Option(0.1, "Displacements smaller than this (rms, px) are left to the kernel.", least=0.0),
    "doSubtract": Option(True, "Subtract? False: a difference must be given."),
    "doDetection": Option(True, "Detect and measure?"),
    "doSubtractBackground": Option(True, "Take a mesh background off the difference?"),
    "doDecorrelation": Option(True, "Whiten the noise of the difference?"),
    "useScoreImageDetection": Option(
        True,
        "Detect on the score (matched filter with the local PSF)? False: on the difference smoothed by one Gaussian.",
    ),
    "doWriteScore": Option(
        False, "Return the score image (sigma of a point source), and store it (a quantum: difference_score_image)?"
    ),
    "doMeasurement": Option(True, "Measure what was detected?"),
    "doDeblend": Option(
        False,
        "Measure sources that share a footprint apart, each without the light of the others? (A trail may have two.)",
    ),
    "doMaskStreaks": Option(True, "Find satellite streaks and mask them?"),
    "doFindGlints": Option(True, "Mark sources that lie on a line: glint_trail?"),
    "doReliability": Option(True, "Give each source its probability of being real?"),
    "minReliability": Option(0.0, "Sources of less reliability are removed; 0 keeps all.", least=0.0, below=1.0),
    "satelliteFilterUrl": Option(
        "", "Service that says which sources are allowed; others are removed. Empty: none is asked."
    ),
    "raiseOnNoDiaSources": Option(False, "Is a difference without sources an error?"),
    "doSkySources": Option(False, "Measure blank positions of the sky too?"),
    "nSkySources": Option(100, "How many blank positions of the sky (with doSkySources).", least=1),
    "doSpatialMetrics": Option(False, "Sample metrics at 100 positions of the image?"),
    "doWriteMatchedExp": Option(
        True, "Return the template as it was subtracted, and store it (a quantum: template_matched)?"
    ),
    "diaSourceMatchRadius": Option(
        0.5,
        "Distance in arcsec within which sources are those of image and template, where the latter are given.",
        least=0.0,
    ),
    "doFindCosmicRays": Option(True, "Mask cosmic rays on the difference?"),
    "doResidualModel": Option(True, "Count residuals no larger than those of constant stars as insignificant?"),
    "detectionThreshold": Option(5.0, "Detection threshold, in sigma of the noise of a point source.", least=0.1),
    "kernelSize": Option(0, "Side of the kernel, px, odd; 0 takes it from the seeing."),
    "spatialKernelOrder": Option(
        3, "Highest order of the polynomials by which the kernel varies over the image.", least=0, below=4
    ),
    "spatialBgOrder": Option(2, "Highest order of the background that is fitted with the kernel.", least=0, below=4),
    "minKernelSources": Option(3, "Stars that the kernel needs; fewer are an error.", least=1),
    "allowKernelSourceDetection": Option(
        False, "Search the image for kernel stars where too few are given? False: an error."
    ),
    "maxKernelSources": Option(400, "The kernel is fitted to so many stars at most; -1 takes all."),
    "backgroundMesh": Option(256, "Cell of the background mesh, px.", least=8),
    "registerReach": Option(
        3.0,
        "Largest shift (px) of a template that is taken out; more than 3 is looked for where its stars are not at their places.",
        least=0.0,
        below=60.0,
    ),
    "qualityGate": Option(
        "error",
        "What happens where a subtraction is worse than one of the limits below.",
        allowed={
            "error": "it fails, and nothing is stored",
            "veto": "its alerts are held until somebody has looked at them",
            "warn": "it is said in the log",
            "off": "nothing",
        },
    ),
    "minTemplateStars": Option(
        0.3, "Least share of the image's bright stars that the template has.", least=0.0, below=1.0
    ),
    **{name: Option(value, f"Quality gate: {doc}; 0: no limit.", least=0.0) for name, (value, doc) in _GATE.items()},
    "badSourceFlags": Option(BAD_SOURCE_FLAGS, "Sources with one of these flags are removed."),
}


def contradictions(c: Any) -> list[str]:
    """Return what does not go together in a configuration."""
    proper = c.subtractAlgorithm == "ZOGY"
    problems = {
        "neither doSubtract nor doDetection: nothing to do": not (c.doSubtract or c.doDetection),
        "doSkySources needs doDetection": c.doSkySources and not c.doDetection,
        "doSkySources needs doMeasurement": c.doSkySources and not c.doMeasurement,
        "doScaleTemplateVariance and doScaleDiffimVariance exclude each other": c.doScaleTemplateVariance
        and c.doScaleDiffimVariance,
        "doScaleTemplateVariance and doScaleVariance exclude each other": c.doScaleTemplateVariance
        and c.doScaleVariance,
        "ZOGY whitens by itself: doDecorrelation is for AL": proper and c.doDecorrelation,
        "ZOGY convolves both images: mode is for AL": proper and c.mode != "auto",
        f"maxKernelSources {c.maxKernelSources} is less than minKernelSources {c.minKernelSources}": 0
        <= c.maxKernelSources
        < c.minKernelSources,
        f"kernelSize must be odd, got {c.kernelSize}": c.kernelSize and c.kernelSize % 2 == 0,
        f"kernelSize must be 3 or more, or 0, got {c.kernelSize}": c.kernelSize and c.kernelSize < 3,
    }
    texts = [text for text, wrong in problems.items() if wrong]
    if tuple(c.badSourceFlags) != BAD_SOURCE_FLAGS:
        from diffim.measurement.flags import known_flags

        unknown = [f for f in c.badSourceFlags if f not in known_flags()]
        if unknown:
            texts.append(f"badSourceFlags names columns that do not exist: {unknown}")
    return texts


def plain_options(overrides: Mapping[str, Any]) -> SimpleNamespace:
    """Return the options without the framework of tasks, for the algorithm alone.

    Raises
    ------
    CallerError
        An unknown option, a value that is not allowed, options that exclude each other.
    """
    values = {name: option.default for name, option in OPTIONS.items()}
    for name, value in overrides.items():
        if name not in OPTIONS:
            raise CallerError(f"image differencing has no option {name!r}")
        problem = OPTIONS[name].problem(value)
        if problem:
            raise CallerError(f"option {name!r} {problem}")
        values[name] = value
    options = SimpleNamespace(**values)
    wrong = contradictions(options)
    if wrong:
        raise CallerError(f"options of image differencing: {wrong[0]}")
    return options
