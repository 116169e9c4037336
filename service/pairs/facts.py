"""What is known of the images of a pair besides their pixels: names, times, filters, calibrations, units."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits

from exposure import Exposure, Instrument, PhotoCalib, VisitInfo
from exposure.errors import ExposureError
from exposure.header.cards import Cards
from exposure.io.plain import visit_info_of
from service.checksums import checksum

__all__ = ["Facts", "facts_of", "map_cards"]

MOST_MAPS = 9  # that have cards of their own: names of cards have room for one digit


@dataclass(frozen=True)
class Facts:
    """One image: what messages call it, and what its header or its owner says of it; what nobody says is empty.

    ``unit`` is that of its pixels (BUNIT), ``problem`` what is wrong with its zero point, ``sha256`` of its file, ``maps``
    are cards that name its maps of bad pixels.
    """

    name: str
    info: VisitInfo | None = None
    band: str = ""
    physical_filter: str = ""
    calib: PhotoCalib | None = None
    unit: str = ""
    problem: str = ""
    sha256: str = ""
    maps: fits.Header = field(default_factory=fits.Header, compare=False)


def map_cards(exposure: Exposure) -> fits.Header:
    """Return cards that name the files whose bad pixels an exposure was read with: BPMFILE, BPMSHA, BPMFILE2, ..."""
    header = fits.Header()
    for number, path in enumerate(map(Path, exposure.metadata.get("badPixelMaps", ())[:MOST_MAPS]), start=1):
        end = "" if number == 1 else str(number)
        header[f"BPMFILE{end}"] = (path.name, "map of bad pixels")
        header[f"BPMSHA{end}"] = _checksum_then(path, path.stat().st_mtime_ns)  # as long as a card: no comment
    return header


@lru_cache(maxsize=16)
def _checksum_then(path: Path, _changed_ns: int) -> str:
    return checksum(path)


def facts_of(exposure: Exposure, rules: Instrument, name: str, sha256: str = "") -> Facts:
    """Return what is known of an image, by its own attributes or, where it is a plain one, by its header.

    Fluxes are calibrated where the image has a calibration, or its instrument file names a zero point.
    """
    header = exposure.metadata.get("header")
    if header is None:
        return Facts(
            name,
            exposure.visit_info,
            exposure.band,
            exposure.physical_filter,
            exposure.photo_calib,
            sha256=sha256,
            maps=map_cards(exposure),
        )
    band, physical = _filter_of(header, rules)
    calib, problem = exposure.photo_calib, ""
    if calib is None:
        try:
            calib = _calibration(header, rules)
        except ExposureError as error:
            problem = f"{name}: fluxes are not calibrated: {error.message}"
    info = exposure.visit_info or visit_info_of(header, rules)
    return Facts(name, info, band, physical, calib, _text(header, "BUNIT"), problem, sha256, map_cards(exposure))


def _filter_of(header: Cards, rules: Instrument) -> tuple[str, str]:
    """Return band and filter; a filter that the instrument file does not know has no band."""
    try:
        return rules.band_of(header)
    except ExposureError:
        return "", _text(header, rules.band.key) if rules.band.key else ""


def _calibration(header: Cards, rules: Instrument) -> PhotoCalib | None:
    """Return the calibration by the zero point that the instrument file names; None where it names none."""
    if rules.zeropoint not in ("header", "fixed") or "zeropoint_value" not in rules.model_fields_set:
        return None
    value = rules.zeropoint_value.number(header)
    if not np.isfinite(value):
        raise ExposureError(f"the zero point {rules.zeropoint_value.key} is {value}")
    return PhotoCalib.from_zeropoint(value, source=rules.zeropoint)


def _text(header: Cards, key: str) -> str:
    """Return a card as text; empty where there is none, or none that can be read."""
    try:
        return header.text(key).strip() if key in header else ""
    except ExposureError:
        return ""
