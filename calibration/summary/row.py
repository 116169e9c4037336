"""One detector of a visit summary on its way through the overrides."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.table import Row, Table

from calibration.summary import depth
from calibration.summary import statistics as st
from calibration.summary.backgrounds import layers_of
from calibration.summary.config import UpdateVisitSummaryConfig
from calibration.summary.providers import PossiblyMultipleInput, sky_centre
from exposure import Exposure, ExposureCatalog, SkyWcs
from exposure.camera import Camera
from exposure.errors import PsfUndefined
from exposure.io.exposure_catalog import ExposureRecord
from exposure.wcs.sip import sip_approximation
from exposure.wcs.tangent import project
from tasks.arrays import Box

__all__ = ["SummaryRow", "box_of", "fetch"]

log = logging.getLogger("alertprod.summary")


class SummaryRow:
    """One detector on its way: components, and the columns that change."""

    def __init__(
        self, config: UpdateVisitSummaryConfig, camera: Camera | None, row: Row, record: ExposureRecord, box: Box
    ) -> None:
        self.config, self.camera = config, camera
        self.row, self.record, self.box = row, record, box
        self.values: dict[str, Any] = {}
        self.detector = int(row["id"])

    def value(self, name: str) -> Any:
        """The new value of a column, else the old one, else NaN."""
        if name in self.values:
            return self.values[name]
        return self.row[name] if name in self.row.colnames else np.nan

    def update_wcs(self, overrides: PossiblyMultipleInput | None) -> None:
        """Replace the WCS, if one was asked for, and describe it."""
        if overrides is not None:
            region, override = overrides.best_for_detector(self.detector, None, self.box)
            new = None if override is None else override.wcs
            old = self.record.wcs
            if new is not None:
                moved = self._corner_offset(old, new)
                self.values["wcs_corner_max_offset"] = moved
                limit = self.config.wcs_consistency_threshold
                if limit is not None and not moved <= limit:  # NaN: there is nothing to compare with
                    log.warning("detector %d: the new WCS moves a corner by %s arcsec: dropped", self.detector, moved)
                    new = None
            self.values["wcsSkypixId" if self.config.wcs_provider.startswith("healpix") else "wcsTractId"] = region
            self.values["astromStatsStale"] = True
            self.record = dataclasses.replace(self.record, wcs=new)
            self.values |= st.wcs_statistics(
                new, self.box, self.record.visit_info, tai_as_utc=self.config.legacy_tai_as_utc
            )
        if self.config.do_fit_sip_approximations and self.record.wcs is not None:
            sip = sip_approximation(self.record.wcs, self.box)
            self.values |= {"wcs_sip_delta_sky": sip.delta_sky, "wcs_sip_delta_pixel": sip.delta_pixel}

    def _corner_offset(self, old: SkyWcs | None, new: SkyWcs) -> float:
        if old is None:
            return float("nan")
        x0, y0, w, h = self.box
        x = np.array([x0 - 0.5, x0 + w - 0.5, x0 + w - 0.5, x0 - 0.5])
        y = np.array([y0 - 0.5, y0 - 0.5, y0 + h - 0.5, y0 + h - 0.5])
        ra, dec = old.pixel_to_sky(x, y)
        other = new.pixel_to_sky(x, y)
        worst = 0.0
        for k in range(4):
            dx, dy = project(other[0][k], other[1][k], (float(ra[k]), float(dec[k])))
            worst = max(worst, float(np.hypot(dx, dy)))
        return worst

    def update_psf(
        self, psfs: ExposureCatalog | None, ap_corrs: ExposureCatalog | None, stars: Table | None, exposure: Exposure
    ) -> None:
        """Replace PSF and aperture corrections, and describe them."""
        if psfs is not None:
            override = psfs.find(self.detector)
            self.record = dataclasses.replace(self.record, psf=None if override is None else override.psf)
        if ap_corrs is not None:
            override = ap_corrs.find(self.detector)
            self.record = dataclasses.replace(self.record, ap_corr=None if override is None else override.ap_corr)
        if psfs is not None:
            self.values |= self._psf_statistics(exposure)
            usable = stars if self.record.psf is not None else None
            self.values |= st.star_statistics(usable, exposure.mask, self.box)
        elif ap_corrs is not None:
            self.values["psfApCorrSigmaScaledDelta"] = st.ap_corr_statistic(
                self.record.ap_corr, self.box, exposure.mask, float(self.value("psfSigma"))
            )

    def _psf_statistics(self, exposure: Exposure) -> st.Values:
        """Return the PSF's numbers; NaN, and a warning, where it is undefined at the middle of the detector."""
        try:
            return st.psf_statistics(self.record.psf, self.box, self.record.ap_corr, exposure.mask)
        except PsfUndefined as error:
            log.warning("detector %d: %s: the statistics of its PSF are NaN", self.detector, error)
            return st.reset_values("psf")

    def update_photo_calib(self, overrides: PossiblyMultipleInput | None) -> None:
        """Replace the calibration and describe it; a calibration per tract is lost with the WCS."""
        if overrides is None:
            return
        center = sky_centre(self.record.wcs, self.box)
        region, override = overrides.best_for_detector(self.detector, center, self.box)
        calib = None if override is None else override.photo_calib
        self.values["photoCalibTractId"] = region
        self.record = dataclasses.replace(self.record, photo_calib=calib)
        self.values |= st.photometry_statistics(calib)

    def update_background(
        self, originals: Mapping[int, Any] | None, overrides: Mapping[int, Any] | None, exposure: Exposure
    ) -> None:
        """Describe the final background; without an override for this detector its numbers are reset."""
        if overrides is None:
            return
        if self.detector not in overrides:
            self.values |= st.reset_values("background")
            return
        subtracted = layers_of(fetch(originals[self.detector])) if originals is not None else []
        remaining = layers_of(fetch(overrides[self.detector]))
        self.values |= st.background_statistics(
            exposure.image,
            exposure.variance,
            exposure.mask,
            [b.statistics for b in subtracted + remaining],
            [b.image_for(exposure.image.shape) for b in remaining],
        )

    def update_depth(self, exposure: Exposure) -> None:
        """Recompute limiting magnitude and effective times from the numbers now in the row."""
        gain, noise = _gain(self.camera, self.detector, exposure)
        value = {k: float(self.value(k)) for k in ("psfArea", "psfSigma", "skyBg", "zeroPoint")}
        self.values["magLim"] = depth.mag_limit(value["psfArea"], value["skyBg"], value["zeroPoint"], noise, gain)
        info = self.record.visit_info
        seconds = float(self.value("expTime"))
        seconds = info.exposure_time if not np.isfinite(seconds) and info is not None else seconds
        self.values |= depth.effective_time(
            str(self.value("band") or exposure.band or ""),
            seconds,
            value["psfSigma"],
            value["skyBg"],
            value["zeroPoint"],
            self.values["magLim"],
            _fiducials(self.config),
        )


def _fiducials(c: UpdateVisitSummaryConfig) -> depth.Fiducials:
    return depth.Fiducials(
        dict(c.fiducialSkyBackground),
        dict(c.fiducialPsfSigma),
        dict(c.fiducialZeroPoint),
        dict(c.fiducialExpTime),
        dict(c.fiducialMagLim),
        dict(c.fiducialReadNoise),
        c.maxEffectiveTransparency,
    )


def _gain(camera: Camera | None, detector: int, exposure: Exposure) -> tuple[float, float]:
    """Return gain (e per count) and read noise in counts; from the image's metadata, else from the camera."""
    listed = camera.detectors.get(detector) if camera is not None else None
    gain = exposure.metadata.get("gain", np.nan if listed is None else listed.gain)
    noise = exposure.metadata.get("readNoise", np.nan if listed is None else listed.read_noise)
    gain, noise = float(gain), float(noise)
    if listed is None and "gain" not in exposure.metadata:
        return np.nan, np.nan
    if not np.isfinite(gain):
        log.warning("detector %d has no gain: magLim is NaN", detector)
        return np.nan, np.nan
    if not np.isfinite(noise):
        log.warning("detector %d has no read noise: 0 is taken", detector)
        noise = 0.0
    return gain, noise / gain


def fetch(handle: Any) -> Any:
    """Return what a deferred handle stands for, or the thing itself."""
    return handle.get() if hasattr(handle, "get") and not isinstance(handle, (Exposure, Mapping)) else handle


def box_of(row: Row) -> Box:
    """Return x0, y0, width, height of a row."""
    x0, y0 = int(row["bbox_min_x"]), int(row["bbox_min_y"])
    return x0, y0, int(row["bbox_max_x"]) - x0 + 1, int(row["bbox_max_y"]) - y0 + 1
