"""What the metrics of a ccdVisit are: a unit and a few words for each that pages show."""

__all__ = ["MEANINGS", "meaning", "unit"]

# name: unit where the name does not say it, what it tells; docs/differencing.md says at which value a metric fails a visit
MEANINGS: dict[str, tuple[str, str]] = {
    "airmass": ("", "of the exposure, no unit"),
    "associationRadiusArcsec": ("", "radius in arcsec within which a source belongs to an object"),
    "calibrationError": (
        "",
        "ln of the kernel's sum over the ratio of the two calibrations: clouds, wrong zero points",
    ),
    "convolved": ("", "which of the two images was convolved"),
    "cosmicRayFraction": ("", "share of the pixels with data that cosmic rays hit"),
    "diffimDepthLoss": ("mag", "depth reached against the best that noise and PSFs of the two images allow"),
    "diffimM5": ("mag", "5-sigma depth of the difference for a point source, from its noise"),
    "directionError": ("", "by what fraction the stars of what is convolved are broader than those of the other"),
    "fringeRms": ("counts", "fringes that were taken off the sky of the science image, rms"),
    "kernelNoiseGain": ("", "what the kernel multiplies the noise by"),
    "kernelResidualRms": ("sigma", "residual of held-out stars in the fit of the kernel"),
    "kernelSumError": ("", "ln of the kernel's sum over the flux ratio of the stars"),
    "maskedFraction": ("", "share of the pixels with data that are masked"),
    "maxPhi": ("", "largest factor that the whitening of the difference multiplies a frequency by"),
    "nChecksNotMade": ("", "metrics with a limit that could not be measured: checksNotMade names them"),
    "nKernelUsed": ("", "stars that the matching kernel was fitted to"),
    "nMendedPixels": ("", "pixels whose value was made from their neighbours"),
    "nSkySteps": ("", "steps of the sky between amplifiers that were taken off the science image"),
    "nSources": ("", "sources on the science image"),
    "nStars": ("", "stars among the sources on the science image"),
    "psfFwhm": ("px", "width of the PSF of the science image"),
    "psfFluxErrorFactor": (
        "",
        "by how much correlation of the sky that is left in the difference widens errors of PSF fluxes",
    ),
    "psfFluxError": (
        "",
        "by what share of themselves fluxes of the PSF are off, by models that lack a part of its stars",
    ),
    "psfHeldOutChi2": ("", "reduced chi squared of stars that the PSF was not fitted to"),
    "psfHeldOutResidual": ("", "median residual of stars that the PSF was not fitted to, in the core, over the peak"),
    "psfSizeError": ("", "by what fraction stars that the PSF was not fitted to are wider than it"),
    "psfStarEvidence": ("", "gain of ln likelihood by which sizes tell stars from galaxies"),
    "psfStars": ("", "stars that the PSF was fitted to"),
    "psfWingFraction": ("", "share of the PSF's light in its wings"),
    "residualFootprintRatioMean": ("", "light of the kernel stars that is left in the difference, mean"),
    "residualFootprintRatioStdev": ("", "light of the kernel stars that is left in the difference, scatter"),
    "scaleDiffimVarianceFactor": ("", "what the variance of the difference was multiplied by to fit its noise"),
    "sciencePsfError": ("", "by what fraction the stars are wider than the PSF of the science image"),
    "seconds": ("s", "that the service took"),
    "seeingArcsec": ("", "FWHM of the PSF of the science image, arcsec"),
    "significanceScale": ("", "factor by which the threshold of detection rose, median"),
    "significanceScaleMax": ("", "factor by which the threshold of detection rose, where it is largest"),
    "skyStructure": ("sigma", "structure of the sky that is neither stars nor a slope: nebulae, fringes"),
    "spatialKernelSum": ("", "sum of the matching kernel: flux ratio of the two images"),
    "starFluxResidual": (
        "",
        "share of their flux that constant stars leave beyond the noise; S/N at detection counts it",
    ),
    "starLightLeftMean": ("", "light of the kernel stars that is left in the difference beyond its noise, mean"),
    "starLightLeftStdev": ("", "light of the kernel stars that is left in the difference beyond its noise, scatter"),
    "starMisfitLocalShare": ("", "share of the bright sources around the poorest place that do not subtract"),
    "starMisfitShare": ("", "share of the bright sources that do not subtract"),
    "starPositionResidual": ("px", "shift that constant stars leave beyond the noise; S/N at detection counts it"),
    "starResidualRms": ("sigma", "residual of kernel stars in the difference"),
    "streakFraction": ("", "share of the pixels with data on streaks"),
    "templateCoveragePercent": ("", "percent of the image that the template covers"),
    "templatePsfError": ("", "by what fraction the stars are wider than the PSF of the template"),
    "templateStarShare": ("", "share of the bright stars of the image that are at their places in the template"),
    "thresholdExcess": ("", "factor by which the threshold of detection rose"),
    "thresholdRaisedShare": (
        "",
        "share of the frame where the threshold of detection rose by more than a factor 1.5, and by 1.5 more than on most of it",
    ),
    "undersampled": ("", "1 where stars are too narrow for the pixels"),
}


def unit(name: str) -> str:
    """Return the unit of a metric, empty where it has none or is not known."""
    return MEANINGS.get(name, ("", ""))[0]


def meaning(name: str) -> str:
    """Return what a metric tells, empty where it is not known."""
    return MEANINGS.get(name, ("", ""))[1]
