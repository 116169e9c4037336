"""Plain FITS images read by the rules of an instrument file."""

from astropy.io import fits

from exposure.errors import WcsMissing
from exposure.exposure import Exposure
from exposure.fits_parts import read_psf, read_visit_info
from exposure.instrument import HeaderRule, Instrument, visit_from_mjd
from exposure.pixel_planes import admit, planes_of
from exposure.visitinfo import VisitInfo
from exposure.wcs import SkyWcs
from exposure.which_image import choose_image

__all__ = ["header_visit_info", "read_plain", "read_planes"]


def read_plain(hdus: fits.HDUList, rules: Instrument, name: str, choice: int | str | None = None) -> Exposure:
    """Return the exposure of a plain image; PSF, calibration and, mostly, variance are still to be measured.

    Raises
    ------
    BadPixels, BandUnknown, InstrumentError, WcsMissing
        The message names the card that is wrong.
    """
    at = choose_image(hdus, rules, name, choice)
    header = _merged_header(hdus, at)
    exposure = planes_of(hdus, at, rules, name, all_there=True)
    exposure.band, exposure.physical_filter = rules.band_of(header)
    exposure.wcs, exposure.visit_info = SkyWcs.from_header(header), _visit_info(header, rules)
    exposure.metadata = _detector_numbers(header, rules)
    admit(exposure, name, bad_edge=rules.bad_edge, saturation=exposure.metadata.get("saturation"))
    return exposure


def read_planes(hdus: fits.HDUList, rules: Instrument, name: str, choice: int | str | None = None) -> Exposure:
    """Return the pixels of a file with whatever else it has: planes that are absent stay empty, no card is needed.

    The image is the HDU that the caller or the instrument names, else the only one; a WCS is taken where there is one.

    Raises
    ------
    BadPixels
        No pixel with data, or planes of different shapes.
    FitsUnreadable, ImageAmbiguous
        No image at all, or several.
    """
    at = choose_image(hdus, rules, name, choice)
    exposure = planes_of(hdus, at, rules, name, all_there=False)
    header = _merged_header(hdus, at)
    try:
        exposure.wcs = SkyWcs.from_header(header)
    except WcsMissing as error:  # images that lie on one grid need none
        exposure.wcs_problem = error
    present = {h.name for h in hdus} | set(range(len(hdus)))
    if rules.planes.psf in present and rules.planes.psf is not None:
        exposure.psf = read_psf(hdus[rules.planes.psf], exposure.bbox)
    exposure.metadata = _counts(header, rules)
    admit(exposure, name, bad_edge=rules.bad_edge, saturation=exposure.metadata.get("saturation"))
    return exposure


def header_visit_info(
    hdus: fits.HDUList, rules: Instrument, name: str = "the file", choice: int | str | None = None
) -> VisitInfo:  # fmt: skip
    """Return visit, detector and times from the headers alone (our layout or a plain image)."""
    native = read_visit_info(hdus[0].header) if "ALERTPRD" in hdus[0].header else None
    return native or _visit_info(_merged_header(hdus, choose_image(hdus, rules, name, choice)), rules)


def _merged_header(hdus: fits.HDUList, ext: int | str) -> fits.Header:
    header = hdus[ext].header.copy()
    if hdus[ext] is not hdus[0]:
        header.extend(hdus[0].header, unique=True, strip=True)
    return header


def _number(rule: HeaderRule | None, header: fits.Header) -> float:
    return float("nan") if rule is None else rule.number(header)


def _visit_info(header: fits.Header, rules: Instrument) -> VisitInfo:
    exposure_time = rules.exposure_time.number(header)
    midpoint = rules.midpoint.mjd_tai(header, exposure_time)
    visit = visit_from_mjd(midpoint, rules.visit_rule) if rules.visit is None else int(rules.visit.number(header))
    return VisitInfo(
        visit=visit,
        detector=int(rules.detector.number(header)),
        midpoint_mjd_tai=midpoint,
        exposure_time=exposure_time,
        instrument=rules.name,
        boresight_ra=_number(rules.boresight_ra, header),
        boresight_dec=_number(rules.boresight_dec, header),
        rotation=rules.rotation.number(header),
        airmass=_number(rules.airmass, header),
        target_name="" if rules.target is None else rules.target.text(header),
    )


def _detector_numbers(header: fits.Header, rules: Instrument) -> dict[str, float]:
    out = _counts(header, rules)
    if rules.zeropoint in ("header", "fixed"):
        out["zeropoint"] = rules.zeropoint_value.number(header)
    return out


def _counts(header: fits.Header, rules: Instrument) -> dict[str, float]:
    """Return what turns counts into electrons; what nothing tells is left out, and found from the image."""
    out = {"readNoise": rules.read_noise.number(header)}
    if rules.gain is not None:
        out["gain"] = rules.gain.number(header)
    if rules.saturation is not None and (rules.saturation.key is None or rules.saturation.key in header):
        out["saturation"] = rules.saturation.number(header)
    return out
