"""Plain FITS images read by the rules of an instrument file."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from exposure.bad_pixels import mark_bad_pixels
from exposure.errors import BadPixels, CardInvalid, ExposureError, InstrumentError
from exposure.exposure import Exposure
from exposure.fits_parts import image_visit_info, read_psf
from exposure.header import Cards, numbered
from exposure.instrument import HeaderRule, Instrument, visit_from_mjd
from exposure.visitinfo import VisitInfo
from exposure.wcs import SkyWcs

FILL_OVER_USUAL = 3.0
FILL_SHARE = 0.25  # of a border line that is one value: noise does not do that

__all__ = ["header_visit_info", "read_plain", "read_planes", "visit_info_of"]


def read_plain(hdus: fits.HDUList, rules: Instrument, name: str, known: Mapping[str, Any] | None = None) -> Exposure:
    """Return the exposure of a plain image; PSF, calibration and, mostly, variance are still to be measured.

    Parameters
    ----------
    known
        What is said of the image elsewhere, so that no card is needed for it: ``visit``, ``detector``,
        ``midpoint_mjd_tai``, ``exposure_time``, ``band``, and ``wcs`` (which may be None).

    Raises
    ------
    BadPixels, BandUnknown, CardInvalid, InstrumentError, WcsMissing
        The message names the file and the card that is wrong.
    """
    said = known or {}
    header = Cards.of_hdus(hdus, rules.planes.image, name)
    image, variance, mask = _pixels(hdus, rules.planes.image, rules.planes.variance, rules.planes.mask, rules, name)
    band, physical = _band(header, rules, said)
    exposure = Exposure(
        image, variance, mask, wcs=said["wcs"] if "wcs" in said else SkyWcs.from_header(header),
        visit_info=_visit_info(header, rules, said), band=band, physical_filter=physical,
        metadata=_detector_numbers(header, rules),
    )  # fmt: skip
    _mark(exposure, exposure.metadata.get("saturation"), rules.bad_edge)
    mark_bad_pixels(exposure, rules, header, name)
    return exposure


def read_planes(hdus: fits.HDUList, rules: Instrument, name: str) -> Exposure:
    """Return the pixels of a file with whatever else it has: planes that are absent stay empty, no card is needed.

    The image is the HDU that the instrument names, else the first with two dimensions; a WCS is taken where there is one.

    Raises
    ------
    BadPixels
        No finite pixel, or planes of different shapes.
    FitsUnreadable
        No image at all.
    """
    present = {h.name for h in hdus} | set(range(len(hdus)))
    first = next((k for k, h in enumerate(hdus) if h.header.get("NAXIS") == 2 or "ZIMAGE" in h.header), 0)
    where = rules.planes.image if rules.planes.image in present else first
    planes = [p if p in present else None for p in (rules.planes.variance, rules.planes.mask)]
    image, variance, mask = _pixels(hdus, where, planes[0], planes[1], rules, name)
    header = Cards.of_hdus(hdus, where, name)
    exposure = Exposure(image, variance, mask, wcs=SkyWcs.from_cards(header))
    if rules.planes.psf in present and rules.planes.psf is not None:
        exposure.psf = read_psf(hdus[rules.planes.psf], exposure.bbox)
    exposure.metadata = {"gain": rules.gain.number(header), "readNoise": rules.read_noise.number(header)}
    exposure.metadata["header"] = header
    _mark(exposure, rules.saturation.number(header) if rules.saturation is not None else None, rules.bad_edge)
    mark_bad_pixels(exposure, rules, header, name)
    return exposure


def _pixels(
    hdus: fits.HDUList, image_at: int | str, variance_at: int | str | None, mask_at: int | str | None,
    rules: Instrument, name: str,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:  # fmt: skip
    """Read the three planes; NaN stands for variances and 0 for masks that the file does not have."""
    from exposure.fits import read_image, read_mask

    image = read_image(hdus, image_at)
    if not np.isfinite(image).any():
        raise BadPixels(f"{name} holds no finite pixel")
    variance = np.full_like(image, np.nan) if variance_at is None else read_image(hdus, variance_at)
    mask = np.zeros(image.shape, dtype=np.int32)
    if mask_at is not None:
        hdu = hdus[mask_at]
        mask = read_mask(hdu, rules.mask_bits | numbered(hdu.header, "MP_"))
    for plane, data in (("variance", variance), ("mask", mask)):
        if data.shape != image.shape:
            raise BadPixels(f"the {plane} of {name} has shape {data.shape}, its image {image.shape}")
    return image, variance, mask


def header_visit_info(
    hdus: fits.HDUList, rules: Instrument, known: Mapping[str, Any] | None = None,
    name: "str | PathLike[str] | None" = None,
) -> VisitInfo:  # fmt: skip
    """Return visit, detector and times from the headers alone (our layout or a plain image); `known` as in `read_plain`."""
    if "ALERTPRD" in hdus[0].header:
        native = image_visit_info(hdus[0].header, name or hdus.filename(), known)
        if native is not None:
            return native
    return _visit_info(Cards.of_hdus(hdus, rules.planes.image, name), rules, known or {})


def visit_info_of(header: Cards | fits.Header, rules: Instrument) -> VisitInfo | None:
    """Return visit, detector and times of a header; None where a card that they need is missing or wrong."""
    try:
        return _visit_info(Cards.of(header), rules, {})
    except ExposureError:
        return None


def _number(rule: HeaderRule | None, header: Cards) -> float:
    return float("nan") if rule is None else rule.number(header)


def _visit_info(header: Cards, rules: Instrument, known: Mapping[str, Any]) -> VisitInfo:
    exposure_time = known.get("exposure_time")
    if exposure_time is None:
        exposure_time = rules.exposure_time.number(header)
    midpoint = known.get("midpoint_mjd_tai")
    if midpoint is None:
        midpoint = rules.midpoint.mjd_tai(header, exposure_time)
    visit, detector = known.get("visit"), known.get("detector")
    if visit is None:
        by_time = rules.visit is None
        visit = visit_from_mjd(midpoint, rules.visit_rule) if by_time else _counted(rules.visit, header, "visit")
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


def _band(header: Cards, rules: Instrument, known: Mapping[str, Any]) -> tuple[str, str]:
    """Return band and physical filter; of an image whose band is known the filter is not needed."""
    if known.get("band") is None:
        return rules.band_of(header)
    try:
        return str(known["band"]), rules.band.text(header)
    except InstrumentError:
        return str(known["band"]), ""


def _counted(rule: HeaderRule | None, header: Cards, what: str) -> int:
    """Return a visit or detector number.

    Raises
    ------
    CardInvalid
        It is negative or larger than a message may say.
    """
    assert rule is not None
    number, limit = rule.integer(header), 1 << (53 if what == "visit" else 15)
    if not 0 <= number < limit:
        raise CardInvalid(f"{header.name}: {rule.key}={number} is no {what} number: expected 0 to {limit - 1}")
    return number


def _detector_numbers(header: Cards, rules: Instrument) -> dict[str, float]:
    out = {"gain": rules.gain.number(header), "readNoise": rules.read_noise.number(header)}
    if rules.saturation is not None:
        out["saturation"] = rules.saturation.number(header)
    if rules.zeropoint in ("header", "fixed"):
        out["zeropoint"] = rules.zeropoint_value.number(header)
    return out


def _mark(exposure: Exposure, saturation: float | None, bad_edge: int) -> None:
    """Set NO_DATA on pixels without a value, on borders filled with one and on bad edges, SAT where the level is reached."""
    empty: NDArray[np.bool_] = ~np.isfinite(exposure.image)
    _add_fill_borders(exposure.image, empty)
    if bad_edge:
        inner = np.zeros_like(empty)
        inner[bad_edge:-bad_edge, bad_edge:-bad_edge] = True
        empty |= ~inner
        exposure.set_plane("EDGE", ~inner)
    exposure.set_plane("NO_DATA", empty)
    if saturation is not None:
        exposure.set_plane("SAT", np.where(empty, False, exposure.image >= saturation))


def _add_fill_borders(image: NDArray[np.float32], empty: NDArray[np.bool_]) -> None:
    """Mark the fill value of outermost rows and columns: where a resampling had no data, one number stands for it."""
    for plane, found in ((image, empty), (image.T, empty.T)):
        inner = plane[plane.shape[0] // 4 : -plane.shape[0] // 4 : max(plane.shape[0] // 40, 1)]
        usual = max((_commonest(line[np.isfinite(line)])[1] for line in inner), default=0.0)  # coarse digits repeat too
        least = max(FILL_SHARE, FILL_OVER_USUAL * usual)
        for lines in (range(plane.shape[0]), range(plane.shape[0] - 1, -1, -1)):
            for k in lines:
                value, share = _commonest(plane[k][~found[k]])
                if share * (~found[k]).mean() < least:
                    break
                found[k] |= plane[k] == value


def _commonest(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the most frequent value and its share; (NaN, 0) of nothing."""
    if not values.size:
        return float("nan"), 0.0
    found, counts = np.unique(values, return_counts=True)
    best = int(np.argmax(counts))
    return float(found[best]), float(counts[best] / values.size)
