"""Plain FITS images read by the rules of an instrument file."""

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from exposure.errors import BadPixels, ExposureError
from exposure.exposure import Exposure
from exposure.fits_parts import read_psf, read_visit_info
from exposure.instrument import HeaderRule, Instrument, visit_from_mjd
from exposure.visitinfo import VisitInfo
from exposure.wcs import SkyWcs

FILL_OVER_USUAL = 3.0
FILL_SHARE = 0.25  # of a border line that is one value: noise does not do that

__all__ = ["header_visit_info", "read_plain", "read_planes", "visit_info_of"]


def read_plain(hdus: fits.HDUList, rules: Instrument, name: str) -> Exposure:
    """Return the exposure of a plain image; PSF, calibration and, mostly, variance are still to be measured.

    Raises
    ------
    BadPixels, BandUnknown, InstrumentError, WcsMissing
        The message names the card that is wrong.
    """
    header = _merged_header(hdus, rules.planes.image)
    image, variance, mask = _pixels(hdus, rules.planes.image, rules.planes.variance, rules.planes.mask, rules, name)
    band, physical = rules.band_of(header)
    exposure = Exposure(
        image, variance, mask, wcs=SkyWcs.from_header(header), visit_info=_visit_info(header, rules), band=band,
        physical_filter=physical, metadata=_detector_numbers(header, rules),
    )  # fmt: skip
    _mark(exposure, exposure.metadata.get("saturation"), rules.bad_edge)
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
    header = _merged_header(hdus, where)
    exposure = Exposure(image, variance, mask, wcs=SkyWcs.from_header(header) if "CTYPE1" in header else None)
    if rules.planes.psf in present and rules.planes.psf is not None:
        exposure.psf = read_psf(hdus[rules.planes.psf], exposure.bbox)
    exposure.metadata = {"gain": rules.gain.number(header), "readNoise": rules.read_noise.number(header)}
    exposure.metadata["header"] = header
    _mark(exposure, rules.saturation.number(header) if rules.saturation is not None else None, rules.bad_edge)
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
        named = {key[3:]: int(value) for key, value in hdu.header.items() if key.startswith("MP_")}
        mask = read_mask(hdu, rules.mask_bits | named)
    for plane, data in (("variance", variance), ("mask", mask)):
        if data.shape != image.shape:
            raise BadPixels(f"the {plane} of {name} has shape {data.shape}, its image {image.shape}")
    return image, variance, mask


def header_visit_info(hdus: fits.HDUList, rules: Instrument) -> VisitInfo:
    """Return visit, detector and times from the headers alone (our layout or a plain image)."""
    native = read_visit_info(hdus[0].header) if "ALERTPRD" in hdus[0].header else None
    return native or _visit_info(_merged_header(hdus, rules.planes.image), rules)


def visit_info_of(header: fits.Header, rules: Instrument) -> VisitInfo | None:
    """Return visit, detector and times of a header; None where a card that they need is missing or wrong."""
    try:
        return _visit_info(header, rules)
    except ExposureError:
        return None


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
