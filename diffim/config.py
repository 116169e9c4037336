"""The configuration of `ImageDifferenceTask`."""

import lsst.pex.config as pexConfig

from diffim.measure import known_flags
from tasks import AlertTaskConfig
from tasks.base import AlertTaskConnections

__all__ = ["ImageDifferenceConfig"]

BAD_SOURCE_FLAGS = (
    "pixelFlags_offimage", "pixelFlags_interpolatedCenterAll", "pixelFlags_badCenter", "pixelFlags_edgeCenter",
    "pixelFlags_nodataCenter", "pixelFlags_saturatedCenter", "pixelFlags_sat_templateCenter",
    "pixelFlags_spikeCenter",
)  # fmt: skip


class ImageDifferenceConfig(AlertTaskConfig, pipelineConnections=AlertTaskConnections):  # type: ignore[call-arg]
    """Configuration; names are those that users of the Rubin task know."""

    requiredTemplateFraction = pexConfig.RangeField(
        dtype=float, default=0.1, min=0.0, max=1.0, doc="Least fraction of the image that the template must cover."
    )
    minTemplateFractionForExpectedSuccess = pexConfig.RangeField(
        dtype=float, default=0.2, min=0.0, max=1.0, doc="Below this coverage a failing kernel is no error but no work."
    )
    subtractAlgorithm = pexConfig.ChoiceField(
        dtype=str,
        default="AL",
        allowed={"AL": "fit a matching kernel (Alard-Lupton)", "ZOGY": "proper subtraction with the PSF models"},
        doc="How the images are subtracted.",
    )
    mode = pexConfig.ChoiceField(
        dtype=str,
        default="auto",
        allowed={
            "auto": "convolve the sharper image",
            "convolveTemplate": "always convolve the template",
            "convolveScience": "always convolve the science image",
        },
        doc="Which image is convolved.",
    )
    doAddCalexpBackground = pexConfig.Field(dtype=bool, default=False, doc="Add the given background before?")
    doScaleVariance = pexConfig.Field(dtype=bool, default=True, doc="Scale both variance planes before?")
    doScaleTemplateVariance = pexConfig.Field(
        dtype=bool, default=False, doc="Scale the template's variance plane alone, and not that of the difference?"
    )
    doScaleDiffimVariance = pexConfig.Field(dtype=bool, default=True, doc="Scale the difference's variance plane?")
    doUseRegister = pexConfig.Field(
        dtype=bool, default=True, doc="Measure where the template's stars lie and resample it where they are off?"
    )
    registerMinShift = pexConfig.RangeField(
        dtype=float, default=0.1, min=0.0, doc="Displacements smaller than this (rms, px) are left to the kernel."
    )
    doSubtract = pexConfig.Field(dtype=bool, default=True, doc="Subtract? False: a difference must be given.")
    doDetection = pexConfig.Field(dtype=bool, default=True, doc="Detect and measure?")
    doSubtractBackground = pexConfig.Field(dtype=bool, default=True, doc="Take a mesh background off the difference?")
    doDecorrelation = pexConfig.Field(dtype=bool, default=True, doc="Whiten the noise of the difference?")
    useScoreImageDetection = pexConfig.Field(
        dtype=bool,
        default=True,
        doc="Detect on the score (matched filter with the local PSF)? False: on the difference smoothed by one Gaussian.",
    )
    doWriteScore = pexConfig.Field(dtype=bool, default=False, doc="Return the score image (sigma of a point source)?")
    doMeasurement = pexConfig.Field(dtype=bool, default=True, doc="Measure what was detected?")
    doMaskStreaks = pexConfig.Field(dtype=bool, default=True, doc="Find satellite streaks and mask them?")
    doFindGlints = pexConfig.Field(dtype=bool, default=True, doc="Mark sources that lie on a line: glint_trail?")
    doReliability = pexConfig.Field(dtype=bool, default=True, doc="Give each source its probability of being real?")
    minReliability = pexConfig.RangeField(
        dtype=float, default=0.0, min=0.0, max=1.0, doc="Sources of less reliability are removed."
    )
    satelliteFilterUrl = pexConfig.Field(
        dtype=str,
        default="",
        doc="Service that says which sources are allowed; others are removed. Empty: none is asked.",
    )
    raiseOnNoDiaSources = pexConfig.Field(dtype=bool, default=False, doc="Is a difference without sources an error?")
    doSkySources = pexConfig.Field(dtype=bool, default=False, doc="Measure empty places too?")
    nSkySources = pexConfig.RangeField(dtype=int, default=100, min=1, doc="How many empty places.")
    doSpatialMetrics = pexConfig.Field(dtype=bool, default=False, doc="Sample metrics at 100 places of the image?")
    doFindCosmicRays = pexConfig.Field(dtype=bool, default=True, doc="Mask cosmic rays on the difference?")
    doResidualModel = pexConfig.Field(
        dtype=bool, default=True, doc="Count residuals no larger than those of constant stars as insignificant?"
    )
    detectionThreshold = pexConfig.RangeField(dtype=float, default=5.0, min=0.1, doc="Detection threshold in sigma.")
    kernelSize = pexConfig.Field(dtype=int, default=0, doc="Kernel side, odd; 0 takes it from the seeing.")
    spatialKernelOrder = pexConfig.RangeField(dtype=int, default=3, min=0, max=4, doc="Highest order of the kernel.")
    spatialBgOrder = pexConfig.RangeField(dtype=int, default=2, min=0, max=4, doc="Highest order of the background.")
    minKernelSources = pexConfig.RangeField(dtype=int, default=3, min=1, doc="Fewer kernel stars are an error.")
    allowKernelSourceDetection = pexConfig.Field(
        dtype=bool, default=False, doc="Search the image for kernel stars where too few are given? False: an error."
    )
    maxKernelSources = pexConfig.Field(dtype=int, default=400, doc="More are not fitted; -1 takes all.")
    backgroundMesh = pexConfig.RangeField(dtype=int, default=256, min=8, doc="Cell of the background mesh, px.")
    maxResidual = pexConfig.Field(
        dtype=float, default=0.0, doc="Fail when the held-out stars' residual / sigma is above this; 0 never fails."
    )
    badSourceFlags = pexConfig.ListField(dtype=str, default=list(BAD_SOURCE_FLAGS), doc="Such sources are removed.")

    def validate(self) -> None:
        """Refuse contradictions."""
        super().validate()
        problems = {
            "neither doSubtract nor doDetection: nothing to do": not (self.doSubtract or self.doDetection),
            "doSkySources needs doDetection": self.doSkySources and not self.doDetection,
            "doSkySources needs doMeasurement": self.doSkySources and not self.doMeasurement,
            "doScaleTemplateVariance and doScaleDiffimVariance exclude each other": self.doScaleTemplateVariance
            and self.doScaleDiffimVariance,
            "doScaleTemplateVariance and doScaleVariance exclude each other": self.doScaleTemplateVariance
            and self.doScaleVariance,
            "ZOGY whitens by itself: doDecorrelation is for AL": self._proper() and self.doDecorrelation,
            "ZOGY convolves both images: mode is for AL": self._proper() and self.mode != "auto",
            "ZOGY fits no kernel: maxResidual is for AL": self._proper() and self.maxResidual > 0,
            f"maxKernelSources {self.maxKernelSources} is less than minKernelSources {self.minKernelSources}": 0
            <= self.maxKernelSources
            < self.minKernelSources,
            f"kernelSize must be odd, got {self.kernelSize}": self.kernelSize and self.kernelSize % 2 == 0,
        }
        for text, wrong in problems.items():
            if wrong:
                raise ValueError(text)
        unknown = [f for f in self.badSourceFlags if f not in known_flags()]
        if unknown:
            raise ValueError(f"badSourceFlags names columns that do not exist: {unknown}")

    def _proper(self) -> bool:
        return bool(self.subtractAlgorithm == "ZOGY")
