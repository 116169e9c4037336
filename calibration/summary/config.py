"""Configuration of `UpdateVisitSummaryTask`."""

import dataclasses
import re

import lsst.pex.config as pexConfig
import lsst.pipe.base.connectionTypes as cT

from tasks.base import AlertTaskConfig, AlertTaskConnections
from tasks.datasets import VISIT, needs, reads, schema_of, writes

__all__ = ["UpdateVisitSummaryConfig", "UpdateVisitSummaryConnections", "healpix_order"]


def healpix_order(wcs_provider: str) -> int:
    """Return N of ``healpixN``."""
    return int(wcs_provider.removeprefix("healpix"))


class UpdateVisitSummaryConnections(AlertTaskConnections, dimensions=VISIT):  # type: ignore[call-arg]
    """One visit in, its final summary out."""

    input_summary_schema = cT.InitInput(**schema_of("preliminary_visit_summary"))
    output_summary_schema = cT.InitOutput(**schema_of("visit_summary"))
    input_summary_catalog = reads("preliminary_visit_summary")
    input_exposures = reads("preliminary_visit_image", multiple=True, deferLoad=True)
    psf_overrides = reads("finalized_psf_ap_corr_catalog")
    psf_star_catalog = reads("finalized_src_table")
    ap_corr_overrides = reads("finalized_psf_ap_corr_catalog")
    wcs_overrides_tract = reads("jointcalSkyWcsCatalog", multiple=True, deferLoad=True)
    wcs_overrides_global = reads("gbdesAstrometricFitSkyWcsCatalog")
    wcs_overrides_healpix = reads("gbdesHealpixAstrometricFitSkyWcsCatalog", multiple=True, deferLoad=True)
    photo_calib_overrides_tract = reads("jointcalPhotoCalibCatalog", multiple=True, deferLoad=True)
    photo_calib_overrides_global = reads("fgcmPhotoCalibCatalog")
    background_originals = reads("preliminary_visit_image_background", multiple=True, deferLoad=True)
    background_overrides = reads("skyCorr", multiple=True, deferLoad=True)
    camera = needs("camera")
    output_summary_catalog = writes("visit_summary")

    def __init__(self, *, config: "UpdateVisitSummaryConfig | None" = None) -> None:
        super().__init__(config=config)
        if config is None:
            return
        wcs, calib = config.wcs_provider, config.photo_calib_provider
        unused = {
            "psf_overrides": config.psf_provider != "finalized",
            "psf_star_catalog": config.psf_provider != "finalized",
            "ap_corr_overrides": config.psf_provider != "finalized",
            "wcs_overrides_tract": wcs != "tract",
            "wcs_overrides_global": wcs != "global",
            "wcs_overrides_healpix": not wcs.startswith("healpix"),
            "photo_calib_overrides_tract": calib != "tract",
            "photo_calib_overrides_global": calib != "global",
            "background_originals": config.background_provider != "replacement",
            "background_overrides": config.background_provider != "replacement",
        }
        for name, drop in unused.items():
            if drop:
                self.inputs.discard(name)
        if wcs.startswith("healpix"):
            pixels = (*VISIT, f"healpix{healpix_order(wcs)}")
            self.wcs_overrides_healpix = dataclasses.replace(self.wcs_overrides_healpix, dimensions=pixels)
        if not config.do_read_schema:
            self.initInputs.discard("input_summary_schema")
            self.initOutputs.discard("output_summary_schema")
        if not config.do_refit_pointing:
            self.prerequisiteInputs.discard("camera")


class UpdateVisitSummaryConfig(AlertTaskConfig, pipelineConnections=UpdateVisitSummaryConnections):  # type: ignore[call-arg]
    """Where each component comes from, and what else is computed."""

    wcs_provider = pexConfig.Field(
        dtype=str,
        default="input_summary",
        doc="where WCSs come from: input_summary keeps them, tract takes a catalogue for each tract (of several the tract whose "
        "centre is nearest), global one catalogue for the sky, healpixN (healpix0 to healpix17) a catalogue for each HEALPix pixel, "
        "nested, of order N: that of the pixel which holds the middle of the detector, else the nearest",
        check=lambda v: v in ("input_summary", "tract", "global") or bool(re.fullmatch(r"healpix([0-9]|1[0-7])", v)),
    )
    photo_calib_provider = pexConfig.ChoiceField(
        dtype=str,
        default="input_summary",
        doc="where calibrations come from",
        allowed={"input_summary": "kept", "tract": "a catalogue for each tract", "global": "one catalogue for the sky"},
    )
    psf_provider = pexConfig.ChoiceField(
        dtype=str,
        default="input_summary",
        doc="where PSFs and aperture corrections of a quantum come from",
        allowed={"input_summary": "kept", "finalized": "those of the finalized catalogues, with their stars"},
    )
    do_read_schema = pexConfig.Field(
        dtype=bool, default=True, doc="take the columns of the summary from the task before, and give those of its own?"
    )
    background_provider = pexConfig.ChoiceField(
        dtype=str,
        default="input_summary",
        doc="where the background comes from",
        allowed={"input_summary": "kept", "replacement": "layers that are given (background_overrides)"},
    )
    wcs_consistency_threshold = pexConfig.Field(
        dtype=float,
        default=None,
        optional=True,
        doc="arcsec that a corner of the detector may move; a WCS that moves one more is dropped; None: no limit",
    )
    do_refit_pointing = pexConfig.Field(dtype=bool, default=True, doc="refit boresight and rotation (needs a camera)")
    do_write_visit_geometry = pexConfig.Field(
        dtype=bool, default=False, doc="return sky regions of visit and detectors (visit_geometry)?"
    )
    do_fit_sip_approximations = pexConfig.Field(dtype=bool, default=True, doc="fit a TAN-SIP to each WCS")
    do_add_missing_statistics = pexConfig.Field(
        dtype=bool, default=False, doc="add statistics that the input has no columns for (old files)"
    )
    legacy_tai_as_utc = pexConfig.Field(
        dtype=bool,
        default=False,
        doc="compute zenith distances with TAI taken for UTC, as the Rubin stack does (37 s off)?",
    )
    fiducialSkyBackground = pexConfig.DictField(
        keytype=str,
        itemtype=float,
        default=dict.fromkeys("ugrizy", 1.0),
        doc="sky by band that effective times compare with, counts per pixel and second",
    )
    fiducialPsfSigma = pexConfig.DictField(
        keytype=str,
        itemtype=float,
        default=dict.fromkeys("ugrizy", 1.0),
        doc="sigma of the PSF by band that effective times compare with, px",
    )
    fiducialZeroPoint = pexConfig.DictField(
        keytype=str,
        itemtype=float,
        default=dict.fromkeys("ugrizy", 25.0),
        doc="zero point by band that effective times compare with: AB mag of one count per second",
    )
    fiducialReadNoise = pexConfig.DictField(
        keytype=str,
        itemtype=float,
        default=dict.fromkeys("ugrizy", 9.0),
        doc="read noise by band of a fiducial exposure, electrons; effective times do not need it",
    )
    fiducialExpTime = pexConfig.DictField(
        keytype=str,
        itemtype=float,
        default=dict.fromkeys("ugrizy", 30.0),
        doc="exposure time by band of a fiducial exposure, s: effTime of one that is as deep as fiducialMagLim",
    )
    fiducialMagLim = pexConfig.DictField(
        keytype=str,
        itemtype=float,
        default=dict.fromkeys("ugrizy", 25.0),
        doc="limiting magnitude (AB, S/N 5) by band of a fiducial exposure",
    )
    maxEffectiveTransparency = pexConfig.Field(
        dtype=float,
        default=float("inf"),
        doc="upper limit of effTimeZeroPointScale, the gain of clear nights (no unit)",
    )

    def validate(self) -> None:
        """Refuse contradictions before any data are read."""
        super().validate()
        if self.wcs_consistency_threshold is not None and self.wcs_provider == "input_summary":
            raise pexConfig.FieldValidationError(
                UpdateVisitSummaryConfig.wcs_consistency_threshold,
                self,
                "wcs_consistency_threshold is set but wcs_provider is 'input_summary': there is no new WCS to compare",
            )
        if self.do_write_visit_geometry and not self.do_refit_pointing:
            raise pexConfig.FieldValidationError(
                UpdateVisitSummaryConfig.do_write_visit_geometry,
                self,
                "do_write_visit_geometry needs do_refit_pointing",
            )
