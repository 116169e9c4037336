"""Configuration of the joint fit, with the field names and defaults of the published task.

Nothing here needs the framework of tasks: the command line reads and fits without it. `calibration.joint.task_config`
is the same for the task.
"""

import lsst.pex.config as pexConfig

__all__ = ["JointcalConfig", "ReferenceConfig", "SourceSelectorConfig"]


# name, least value, and whether it must be above that; of those that may be off, infinity is
_LIMITS = (
    ("outlierRejectSigma", 0.0, True), ("matchCut", 0.0, True), ("positionErrorPedestal", 0.0, False),
    ("photometryErrorPedestal", 0.0, False), ("astrometryReferenceErr", 0.0, True), ("chipPositionPrior", 0.0, False),
    ("photometryFieldPrior", 0.0, True), ("maxReducedChi2", 0.0, True), ("maxWcsError", 0.0, True),
    ("maxCalibrationError", 0.0, True), ("properMotionPrior", 0.0, True),
)  # fmt: skip
_MAY_BE_OFF = ("maxReducedChi2", "maxWcsError", "maxCalibrationError")


class SourceSelectorConfig(pexConfig.Config):
    """Which sources are good stars (the "science" selector)."""

    doSignalToNoise = pexConfig.Field(dtype=bool, default=True, doc="select by S/N of the flux")
    signalToNoiseMinimum = pexConfig.Field(dtype=float, default=10.0, doc="strictly more than this")
    signalToNoiseMaximum = pexConfig.Field(dtype=float, default=None, optional=True, doc="strictly less than this")
    doRequirePrimary = pexConfig.Field(dtype=bool, default=True, doc="detect_isPrimary")
    doUnresolved = pexConfig.Field(dtype=bool, default=True, doc="sizeExtendedness below unresolvedMaximum")
    unresolvedMaximum = pexConfig.Field(dtype=float, default=0.1, doc="largest sizeExtendedness, exclusive")
    doIsolated = pexConfig.Field(dtype=bool, default=True, doc="parentSourceId == 0 and deblend_nChild == 0")
    doRequireFiniteRaDec = pexConfig.Field(dtype=bool, default=True, doc="finite ra and dec")
    doFlags = pexConfig.Field(dtype=bool, default=True, doc="drop sources with any of badFlags")
    badFlags = pexConfig.ListField(
        dtype=str,
        default=[
            "pixelFlags_edge",
            "pixelFlags_saturated",
            "pixelFlags_interpolatedCenter",
            "pixelFlags_interpolated",
            "pixelFlags_crCenter",
            "pixelFlags_bad",
            "hsmPsfMoments_flag",
            "{fluxType}_flag",
        ],
        doc="columns that must be False",
    )


class ReferenceConfig(pexConfig.Config):
    """How a reference catalogue is read."""

    filterMap = pexConfig.DictField(
        keytype=str, itemtype=str, default={}, doc="physical filter or band -> column name before _flux"
    )
    anyFilterMapsToThis = pexConfig.Field(
        dtype=str,
        default=None,
        optional=True,
        doc="flux column (without _flux) of the reference catalogue for all filters; None: by filterMap",
    )
    requireProperMotion = pexConfig.Field(dtype=bool, default=False, doc="refuse a catalogue without pm_ra, pm_dec")
    applyProperMotion = pexConfig.Field(dtype=bool, default=True, doc="move stars to the epoch of the fit")
    applyParallax = pexConfig.Field(dtype=bool, default=True, doc="shift stars by their parallax at each image's time")
    name = pexConfig.Field(dtype=str, default="", doc="catalogue name that colour terms are looked up by")


class JointcalConfig(pexConfig.Config):
    """Configuration of the joint fit."""

    doAstrometry = pexConfig.Field(dtype=bool, default=True, doc="fit a WCS of each image?")
    doPhotometry = pexConfig.Field(dtype=bool, default=True, doc="fit a photometric calibration of each image?")
    sourceFluxType = pexConfig.Field(
        dtype=str,
        default="apFlux_12_0",
        doc="flux of the source tables that is fitted: name of its column without _instFlux",
    )
    sourceSelector = pexConfig.ConfigField(dtype=SourceSelectorConfig, doc="which sources are good stars")
    astrometryRefs = pexConfig.ConfigField(dtype=ReferenceConfig, doc="astrometric reference catalogue")
    photometryRefs = pexConfig.ConfigField(dtype=ReferenceConfig, doc="photometric reference catalogue")
    positionErrorPedestal = pexConfig.Field(
        dtype=float, default=0.02, doc="px, added in quadrature to the error of each measured position"
    )
    photometryErrorPedestal = pexConfig.Field(
        dtype=float, default=0.0, doc="fraction of the flux, added in quadrature to its error"
    )
    matchCut = pexConfig.Field(dtype=float, default=3.0, doc="arcsec, largest distance of a match by the input WCS")
    minMeasurements = pexConfig.RangeField(
        dtype=int, default=2, min=1, doc="images that a star without a reference star must be on to be fitted"
    )
    minMeasuredStarsPerCcd = pexConfig.Field(
        dtype=int, default=100, doc="fewer measured stars of a detector are warned of"
    )
    minRefStarsPerCcd = pexConfig.Field(dtype=int, default=30, doc="fewer reference stars of a detector are warned of")
    allowLineSearch = pexConfig.Field(dtype=bool, default=False, doc="scale each step to the best chi2 along it")
    astrometrySimpleOrder = pexConfig.RangeField(
        dtype=int, default=3, min=1, max=9, inclusiveMax=True, doc="order of an image's map"
    )
    astrometryChipOrder = pexConfig.RangeField(
        dtype=int, default=1, min=1, max=5, inclusiveMax=True, doc="order of a chip's map"
    )
    astrometryVisitOrder = pexConfig.RangeField(
        dtype=int, default=5, min=1, max=9, inclusiveMax=True, doc="order of a visit's map"
    )
    chipPositionPrior = pexConfig.Field(
        dtype=float,
        default=20.0,
        doc="px to which the camera file tells where a chip sits (constrained model); 0: the fit alone tells it",
    )
    useInputWcs = pexConfig.Field(dtype=bool, default=True, doc="start from the input WCS; else from its linear part")
    astrometryModel = pexConfig.ChoiceField(
        dtype=str,
        default="constrained",
        doc="kind of map from pixels to the sky",
        allowed={"simple": "one map per image", "constrained": "chip map, then visit map"},
    )
    photometryModel = pexConfig.ChoiceField(
        dtype=str,
        default="constrainedMagnitude",
        doc="kind of calibration from counts to fluxes",
        allowed={
            "simpleFlux": "a scale per image, nJy",
            "simpleMagnitude": "a zero point per image",
            "constrainedFlux": "chip scale times visit field",
            "constrainedMagnitude": "chip plus visit field, mag",
        },
    )
    applyColorTerms = pexConfig.Field(dtype=bool, default=False, doc="bring reference fluxes to the instrument's band")
    colorterms = pexConfig.Field(dtype=str, default="", doc="YAML file: catalogue glob -> filter -> terms")
    photometryVisitOrder = pexConfig.RangeField(
        dtype=int, default=7, min=0, max=12, inclusiveMax=True, doc="order of a visit's field"
    )
    photometryFieldPrior = pexConfig.RangeField(
        dtype=float, default=0.1, min=1e-4, doc="mag (in flux models a fraction): size of the terms of a visit's field"
    )
    allowMixedFilters = pexConfig.Field(
        dtype=bool, default=False, doc="fit fluxes of images of several physical filters together"
    )
    photometryDoRankUpdate = pexConfig.Field(dtype=bool, default=True, doc="kept for old configs: every fit is exact")
    astrometryDoRankUpdate = pexConfig.Field(dtype=bool, default=True, doc="kept for old configs: every fit is exact")
    outlierRejectSigma = pexConfig.Field(dtype=float, default=5.0, doc="sigma beyond which a measurement is an outlier")
    outlierRejection = pexConfig.ChoiceField(
        dtype=str,
        default="robust",
        doc="how outliers are taken out",
        allowed={
            "robust": "Huber weights first; then cut at so many times the robust scale, corrected for leverage",
            "sigma": "cut at mean plus so many standard deviations of chi2, the published rule",
        },
    )
    astrometryOutlierRelativeTolerance = pexConfig.Field(
        dtype=float, default=0.0, doc="end when the cut changes by less than this fraction"
    )
    maxPhotometrySteps = pexConfig.RangeField(dtype=int, default=20, min=1, doc="rounds of outlier rejection")
    maxAstrometrySteps = pexConfig.RangeField(dtype=int, default=20, min=1, doc="rounds of outlier rejection")
    astrometryReferenceErr = pexConfig.Field(
        dtype=float,
        default=None,
        optional=True,
        doc="mas; takes the place of the catalogue's coordinate errors; None: those of the catalogue",
    )
    maxReducedChi2 = pexConfig.Field(
        dtype=float, default=20.0, doc="chi2 per degree of freedom above which a fit is not called converged"
    )
    maxWcsError = pexConfig.Field(
        dtype=float, default=0.3, doc="px: an image whose WCS has a larger formal error is marked as weak"
    )
    maxCalibrationError = pexConfig.Field(
        dtype=float, default=0.05, doc="mag: an image whose calibration has a larger formal error is marked as weak"
    )
    publishLostImages = pexConfig.Field(
        dtype=bool, default=False, doc="publish images that lost most of their data to the fit too"
    )
    validationFraction = pexConfig.RangeField(
        dtype=float, default=0.1, min=0.0, max=0.5, doc="stars kept out of the fit to judge it (from 200 stars on)"
    )
    fitProperMotions = pexConfig.Field(dtype=bool, default=False, doc="fit the stars' proper motions")
    properMotionPrior = pexConfig.Field(
        dtype=float, default=0.03, doc="arcsec/yr, size of the proper motions of stars without a reference star"
    )
    fitDcr = pexConfig.Field(dtype=bool, default=False, doc="fit one chromatic refraction coefficient of the band")
    dcrColor = pexConfig.ListField(
        dtype=str,
        default=["g", "i"],
        length=2,
        doc="two bands of the reference catalogue whose difference is the colour of a star",
    )
    dcrReferenceColor = pexConfig.Field(dtype=float, default=0.61, doc="colour without a shift, mag")
    fitAtmosphere = pexConfig.Field(
        dtype=bool,
        default=False,
        doc="predict what turbulence leaves of each visit's positions, and publish it with the WCS",
    )
    predictedErrors = pexConfig.Field(
        dtype=bool, default=True, doc="magnitude models: errors from the star's fitted flux, not the measured one"
    )
    writeInitMatrix = pexConfig.Field(dtype=bool, default=False, doc="dump matrix and gradient before and after init")
    writeChi2FilesInitialFinal = pexConfig.Field(dtype=bool, default=False, doc="write residual tables, first and last")
    writeChi2FilesOuterLoop = pexConfig.Field(dtype=bool, default=False, doc="write residual tables of every round")
    writeInitialModel = pexConfig.Field(dtype=bool, default=False, doc="write the model's start values")
    debugOutputPath = pexConfig.Field(
        dtype=str, default=".", doc="folder of the files that the write... options ask for"
    )

    def setDefaults(self) -> None:
        """Gaia for positions, its own band names for fluxes."""
        super().setDefaults()
        self.astrometryRefs.anyFilterMapsToThis = "phot_g_mean"
        self.astrometryRefs.requireProperMotion = True
        self.astrometryRefs.name = "gaia_dr2"
        self.photometryRefs.name = "ps1_pv3"

    def validate(self) -> None:
        """Refuse contradictions before any data are read."""
        super().validate()
        if not (self.doAstrometry or self.doPhotometry):
            raise pexConfig.FieldValidationError(
                JointcalConfig.doAstrometry, self, "doAstrometry and doPhotometry are both off: nothing to do"
            )
        if self.doPhotometry and self.applyColorTerms and not self.colorterms:
            raise pexConfig.FieldValidationError(
                JointcalConfig.colorterms, self, "applyColorTerms=True needs a library of colour terms: set colorterms"
            )
        for name, least, above in _LIMITS:
            value = getattr(self, name)
            off = name in _MAY_BE_OFF
            endless = value == float("inf") and not off
            if (value is not None and not (value > least if above else value >= least)) or endless:
                what = f"{name} must be {'>' if above else '>='} {least:g}{'' if off else ' and finite'}, not {value}"
                raise pexConfig.FieldValidationError(getattr(JointcalConfig, name), self, what)
