"""Calibrations of an exposure replaced by those of a visit summary or of another table of exposures."""

import logging

from exposure import Exposure, ExposureCatalog
from forced.errors import ForcedPhotometryError

__all__ = ["apply_summary", "replace_parts"]


def apply_summary(exposure: Exposure, summary: ExposureCatalog, missing_is_error: bool, log: logging.Logger) -> None:
    """Take what the summary has of the detector: calibration, WCS, PSF, aperture correction, each where it is there.

    Raises
    ------
    ForcedPhotometryError
        It has no row for the detector, and `missing_is_error`; else that is logged.
    """
    visit, detector = exposure.key
    record = summary.find(detector)
    if record is None:
        text = f"the visit summary has no row for detector {detector}"
        if missing_is_error:
            raise ForcedPhotometryError(text, visit=visit, detector=detector)
        log.warning(text)
        return
    for name in ("photo_calib", "wcs", "psf", "ap_corr"):
        if getattr(record, name) is not None:
            setattr(exposure, name, getattr(record, name))


def replace_parts(exposure: Exposure, catalog: ExposureCatalog, names: tuple[str, ...], log: logging.Logger) -> None:
    """Take the named parts (fields of `Exposure`) of the detector from a catalogue; none of them where it lacks one."""
    detector = exposure.key[1]
    record = catalog.find(detector)
    if record is None or any(getattr(record, n) is None for n in names):
        log.warning("No %s for detector %d: the original is kept.", "/".join(names), detector)
        return
    for name in names:
        setattr(exposure, name, getattr(record, name))
