"""An exposure from a plain file, which is not in our layout: each quantity comes from where the instrument file says.

The pixels are those of `exposure.io.pixel_planes`; this module adds visit, times, band, WCS and detector constants from the cards.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from astropy.io import fits

from exposure.errors import CardInvalid, ExposureError, InstrumentError, WcsMissing
from exposure.exposure import Exposure
from exposure.flagging.bad_pixels import mark_bad_pixels
from exposure.header.cards import Cards
from exposure.instrument import HeaderRule, Instrument, visit_from_mjd
from exposure.io.opening import split_choice
from exposure.io.parts import image_visit_info, read_psf
from exposure.io.pixel_planes import admit, planes_of
from exposure.io.which_image import choose_image, plane_beside
from exposure.visitinfo import VisitInfo
from exposure.wcs.sky_wcs import SkyWcs

__all__ = ["header_visit_info", "read_plain", "read_planes", "visit_info_of"]


def read_plain(
    hdus: fits.HDUList,
    rules: Instrument,
    name: str,
    choice: int | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Exposure:
    """Return the exposure of a plain image; PSF, calibration and, mostly, variance are still to be measured.

    Parameters
    ----------
    choice
        The extension of the image, where the caller names one.
    overrides
        What is said of the image elsewhere, so that no card is needed for it: ``visit``, ``detector``,
        ``midpoint_mjd_tai``, ``exposure_time``, ``band``, and ``wcs`` (which may be None).

    Raises
    ------
    BadPixels, BandUnknown, CardInvalid, InstrumentError, WcsMissing
        The message names the file and the card that is wrong.
    """
    given = overrides or {}
    number = choose_image(hdus, rules, name, choice)
    header = Cards.of_hdus(hdus, number, name)
    exposure = planes_of(hdus, number, rules, name, all_there=True)
    exposure.band, exposure.physical_filter = _band(header, rules, given)
    exposure.wcs = given["wcs"] if "wcs" in given else SkyWcs.from_header(header)
    exposure.visit_info = _visit_info(header, rules, given)
    exposure.metadata = _detector_numbers(header, rules)
    admit(exposure, name, bad_edge=rules.bad_edge, saturation=exposure.metadata.get("saturation"))
    mark_bad_pixels(exposure, rules, header, name)
    return exposure


def read_planes(hdus: fits.HDUList, rules: Instrument, name: str, choice: int | str | None = None) -> Exposure:
    """Return the pixels of a file with whatever else it has: planes that are absent stay empty, no card is needed.

    The image is the HDU that the caller or the instrument names, else the only one; a WCS is taken where there is one.

    Raises
    ------
    BadPixels
        No pixel with data, or planes of different shapes.
    CardInvalid
        A card of the WCS, or one that the instrument file names, holds what it cannot.
    FitsUnreadable, ImageAmbiguous
        No image at all, or several.
    """
    number = choose_image(hdus, rules, name, choice)
    exposure = planes_of(hdus, number, rules, name, all_there=False)
    header = Cards.of_hdus(hdus, number, name)
    try:
        exposure.wcs = SkyWcs.from_header(header)
    except WcsMissing as error:  # images that lie on one grid need none
        exposure.wcs_problem = error
    psf = plane_beside(hdus, number, rules.planes.psf, name)
    if psf is not None:
        exposure.psf = read_psf(hdus[psf], exposure.bbox)
    exposure.metadata = {**_counts(header, rules), "header": header}
    if plane_beside(hdus, number, rules.planes.weight, name) is not None:
        exposure.metadata["weighted"] = True
    admit(exposure, name, bad_edge=rules.bad_edge, saturation=exposure.metadata.get("saturation"))
    mark_bad_pixels(exposure, rules, header, name)
    return exposure


def header_visit_info(
    hdus: fits.HDUList,
    rules: Instrument,
    overrides: Mapping[str, Any] | None = None,
    name: "str | PathLike[str] | None" = None,
) -> VisitInfo:
    """Return visit, detector and times from the headers alone (our layout or a plain image).

    `overrides` is as in `read_plain`, `name` the path, maybe with the chosen extension.
    """
    file, choice = split_choice(name or hdus.filename() or "FITS bytes")
    if "ALERTPRD" in hdus[0].header:
        native = image_visit_info(hdus[0].header, file, overrides)
        if native is not None:
            return native
    number = choose_image(hdus, rules, file.name, choice)
    return _visit_info(Cards.of_hdus(hdus, number, file.name), rules, overrides or {})


def visit_info_of(header: Cards | fits.Header, rules: Instrument) -> VisitInfo | None:
    """Return visit, detector and times of a header; None where a card that they need is missing or wrong."""
    try:
        return _visit_info(Cards.of(header), rules, {})
    except ExposureError:
        return None


def _number(rule: HeaderRule | None, header: Cards) -> float:
    return float("nan") if rule is None else rule.number(header)


def _visit_info(header: Cards, rules: Instrument, overrides: Mapping[str, Any]) -> VisitInfo:
    exposure_time = overrides.get("exposure_time")
    if exposure_time is None:
        exposure_time = rules.exposure_time.number(header)
    midpoint = overrides.get("midpoint_mjd_tai")
    if midpoint is None:
        midpoint = rules.midpoint.mjd_tai(header, exposure_time)
    visit, detector = overrides.get("visit"), overrides.get("detector")
    if visit is None:
        if rules.visit is None:
            visit = visit_from_mjd(midpoint, rules.visit_rule)
        else:
            visit = _counted(rules.visit, header, "visit")
    return VisitInfo(
        visit=visit,
        detector=_counted(rules.detector, header, "detector") if detector is None else detector,
        midpoint_mjd_tai=midpoint,
        exposure_time=exposure_time,
        instrument=rules.name,
        boresight_ra=_number(rules.boresight_ra, header),
        boresight_dec=_number(rules.boresight_dec, header),
        rotation=rules.rotation.number(header),
        airmass=_number(rules.airmass, header),
        target_name="" if rules.target is None else rules.target.text(header),
    )


def _band(header: Cards, rules: Instrument, overrides: Mapping[str, Any]) -> tuple[str, str]:
    """Return band and physical filter; of an image whose band is known the filter is not needed."""
    if overrides.get("band") is None:
        return rules.band_of(header)
    try:
        return str(overrides["band"]), rules.band.text(header)
    except InstrumentError:
        return str(overrides["band"]), ""


def _counted(rule: HeaderRule, header: Cards, what: str) -> int:
    """Return a visit or detector number.

    Raises
    ------
    CardInvalid
        It is negative or larger than a message may say.
    """
    number, limit = rule.integer(header), 1 << (53 if what == "visit" else 15)
    if not 0 <= number < limit:
        raise CardInvalid(f"{header.name}: {rule.key}={number} is no {what} number: expected 0 to {limit - 1}")
    return number


def _detector_numbers(header: Cards, rules: Instrument) -> dict[str, float]:
    out = _counts(header, rules)
    if rules.zeropoint in ("header", "fixed"):
        out["zeropoint"] = rules.zeropoint_value.number(header)
    return out


def _said_gain(header: Cards) -> float | None:
    """Return what a usual card says of the gain, None without one; nobody said that it holds electrons per count."""
    for key in ("EGAIN", "GAIN"):
        if key in header:
            try:
                value = header.number(key)
            except ExposureError:  # nobody asked for the card
                continue
            if value > 0:
                return value
    return None


def _counts(header: Cards, rules: Instrument) -> dict[str, float]:
    """Return what turns counts into electrons; what nothing tells is left out, and found from the image."""
    out = {"readNoise": rules.read_noise.number(header)}
    if rules.gain is not None:
        out["gain"] = rules.gain.number(header)
    elif (said := _said_gain(header)) is not None:
        out["headerGain"] = said
    if rules.saturation is not None and (rules.saturation.key is None or rules.saturation.key in header):
        out["saturation"] = rules.saturation.number(header)
    return out
