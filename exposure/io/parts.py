"""The extensions and cards of our layout other than pixels, written and read: PSF, calibration, aperture correction, visit.

`exposure.io.writing` and `exposure.io.native` put them together to files.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from exposure.apcorr import ApCorrMap
from exposure.errors import CardInvalid, FitsUnreadable
from exposure.exposure import Exposure
from exposure.field import ChebyshevField
from exposure.header.cards import Cards
from exposure.header.times import check_mjd
from exposure.photocalib import PhotoCalib
from exposure.photon_noise import FILTER_SIDE, PhotonNoise
from exposure.photon_noise import NUMBERS as PHOTON_NUMBERS
from exposure.psf import GaussianPsf, GridPsf, MoffatPsf, PolynomialPsf, Psf
from exposure.visitinfo import VisitInfo
from tasks.arrays import Box

__all__ = [
    "ap_corr_hdus",
    "image_visit_info",
    "photo_calib_hdus",
    "photon_noise_hdus",
    "psf_hdu",
    "read_ap_corr",
    "read_photo_calib",
    "read_photon_noise",
    "read_psf",
    "read_visit_info",
    "write_visit_cards",
    "write_visit_info",
]

_VISIT_CARDS = {
    "visit": ("VISIT", "visit number"),
    "detector": ("DETECTOR", "detector number"),
    "midpoint_mjd_tai": ("MJD-MID", "mid-exposure, MJD TAI"),
    "exposure_time": ("EXPTIME", "[s]"),
    "instrument": ("INSTRUME", "instrument file"),
    "boresight_ra": ("BORE-RA", "[deg] ICRS"),
    "boresight_dec": ("BORE-DEC", "[deg] ICRS"),
    "rotation": ("ROTPA", "[deg] boresight rotation"),
    "airmass": ("AIRMASS", ""),
    "observation_reason": ("OBSREASN", ""),
    "target_name": ("OBJECT", ""),
    "longitude": ("LONG-OBS", "[deg] east"),
    "latitude": ("LAT-OBS", "[deg]"),
    "elevation": ("ALT-OBS", "[m]"),
}


def write_visit_info(header: fits.Header, exposure: Exposure) -> None:
    """Write visit, times, band; NaN values are left out (FITS cards cannot hold them)."""
    header["BAND"], header["FILTER"] = exposure.band, exposure.physical_filter
    if exposure.visit_info is not None:
        write_visit_cards(header, exposure.visit_info)


def write_visit_cards(header: fits.Header, info: VisitInfo) -> None:
    """Write the cards of a `VisitInfo`; NaN values are left out (FITS cards cannot hold them)."""
    for name, (card, comment) in _VISIT_CARDS.items():
        value = getattr(info, name)
        if not (isinstance(value, float) and not np.isfinite(value)):
            header[card] = (value, comment)


def read_visit_info(header: fits.Header, name: "str | PathLike[str] | None" = None) -> VisitInfo | None:
    """Read what `write_visit_info` wrote.

    Raises
    ------
    CardInvalid
        A card cannot be true; the message names it, and the file where `name` does.
    """
    if "VISIT" not in header:
        return None
    cards = Cards([header], "the header" if name is None else Path(name).name)
    values: dict[str, Any] = {}
    for field in fields(VisitInfo):
        card = _VISIT_CARDS[field.name][0]
        if card in header:
            read = cards.integer if field.type is int else cards.number if field.type is float else cards.text
            values[field.name] = read(card)
    for needed in ("midpoint_mjd_tai", "exposure_time"):
        values.setdefault(needed, float("nan"))  # NaN is left out when it is written
    if "detector" not in values:
        raise CardInvalid(f"{cards.name} has a VISIT card, but no DETECTOR")
    return VisitInfo(**values)


def image_visit_info(
    header: fits.Header, name: "str | PathLike[str] | None" = None, overrides: Mapping[str, Any] | None = None
) -> VisitInfo | None:
    """Read what `write_visit_info` wrote of an image, and check it; `overrides` (by field) goes before the cards.

    Raises
    ------
    CardInvalid
        Time or exposure time cannot be true; the message names the card.
    """
    info = read_visit_info(header, name)
    if info is None:
        return None
    info = replace(info, **{k: v for k, v in (overrides or {}).items() if v is not None and hasattr(info, k)})
    said = "the header" if name is None else Path(name).name
    check_mjd(info.midpoint_mjd_tai, f"{said}: MJD-MID={info.midpoint_mjd_tai}")
    if not info.exposure_time > 0:
        raise CardInvalid(f"{said}: EXPTIME={info.exposure_time} is no exposure time: it must be above zero")
    return info


def psf_hdu(psf: Psf) -> fits.ImageHDU:
    """Return the PSF extension of any of our models."""
    header = fits.Header()
    if isinstance(psf, PolynomialPsf):
        header["PSFTYPE"] = "polynomial"
        for k, (i, j) in enumerate(psf.orders):
            header[f"ORDX{k}"], header[f"ORDY{k}"] = int(i), int(j)
        header["CENX"], header["CENY"] = psf.centre
        header["FLUXERR"] = (psf.flux_error, "of fluxes by it, relative")
        _write_box(header, psf.bbox)
        return fits.ImageHDU(psf.basis, header, name="PSF")
    if isinstance(psf, GridPsf):
        header["PSFTYPE"], header["NGX"], header["NGY"] = "grid", psf.nx, psf.ny
        _write_box(header, psf.bbox)
        return fits.ImageHDU(psf.cube, header, name="PSF")
    if isinstance(psf, GaussianPsf):
        header["PSFTYPE"], header["SIZE"] = "gaussian", psf.size
        return fits.ImageHDU(np.array([psf.sigma, *psf.position]), header, name="PSF")
    if isinstance(psf, MoffatPsf):
        header["PSFTYPE"], header["SIZE"], header["BETA"] = "moffat", psf.size, psf.beta
        _write_box(header, psf.bbox)
        rows = [np.pad(np.asarray(c, np.float64), (0, 6 - len(c))) for c in (psf.fwhm, psf.e1, psf.e2)]
        return fits.ImageHDU(np.stack(rows), header, name="PSF")
    raise TypeError(f"no FITS form for {type(psf).__name__}")


def photon_noise_hdus(psf: Psf | None) -> list[fits.ImageHDU]:
    """Return the extensions of what the variance plane does not tell of errors, and of the filters behind it, if any."""
    noise = psf.photon_noise if isinstance(psf, GridPsf) else None
    if noise is None:
        return []
    hdu = fits.ImageHDU(noise.values, name="PHOTNOIS")
    hdu.header["NGX"], hdu.header["NGY"] = noise.nx, noise.ny
    _write_box(hdu.header, noise.bbox)
    return [hdu] if noise.filters is None else [hdu, fits.ImageHDU(noise.filters, name="FILTERS")]


def read_psf(hdu: Any, box: Box | None = None, noise: PhotonNoise | None = None) -> Psf:
    """Read a PSF extension; a cube with NGX, NGY but without PSFTYPE is a grid over `box`. `noise` becomes part of a grid.

    Raises
    ------
    FitsUnreadable
        An unknown PSFTYPE or a shape that does not fit.
    """
    header, data = hdu.header, np.asarray(hdu.data)
    kind = header.get("PSFTYPE", "grid" if "NGX" in header else "")
    if kind == "polynomial":
        orders = np.array([[header[f"ORDX{k}"], header[f"ORDY{k}"]] for k in range(data.shape[0])], dtype=np.int64)
        basis = np.ascontiguousarray(data, dtype=np.float32)
        centre = header["CENX"], header["CENY"]
        return PolynomialPsf(basis, orders, _read_box(header), centre, float(header.get("FLUXERR", 0.0)))
    if kind == "grid" or (kind == "" and data.ndim == 2):
        cube = np.ascontiguousarray(data if data.ndim == 3 else data[None], dtype=np.float32)
        nx, ny = int(header.get("NGX", 1)), int(header.get("NGY", 1))
        where = _read_box(header) if "PSFW" in header else box
        if where is None or cube.shape[0] != nx * ny or cube.shape[-1] % 2 == 0:
            raise FitsUnreadable(f"PSF cube of shape {cube.shape} does not fit NGX={nx}, NGY={ny} or has an even side")
        return GridPsf(cube, nx, ny, where, noise)
    if kind == "gaussian":
        return GaussianPsf(float(data[0]), int(header["SIZE"]), (float(data[1]), float(data[2])))
    if kind == "moffat":
        rows = [tuple(float(v) for v in row) for row in data]
        return MoffatPsf(rows[0], float(header["BETA"]), int(header["SIZE"]), _read_box(header), rows[1], rows[2])
    raise FitsUnreadable(f"unknown PSFTYPE {kind!r}")


def read_photon_noise(hdus: fits.HDUList) -> PhotonNoise | None:
    """Read what `photon_noise_hdus` wrote.

    Raises
    ------
    FitsUnreadable
        A shape that does not fit.
    """
    if "PHOTNOIS" not in hdus:
        return None
    hdu = hdus["PHOTNOIS"]
    nx, ny = int(hdu.header.get("NGX", 0)), int(hdu.header.get("NGY", 0))
    values = np.ascontiguousarray(hdu.data, dtype=np.float64)
    if values.shape[1:] in (
        (2, PHOTON_NUMBERS - 1),
        (2, PHOTON_NUMBERS),
    ):  # written before the PSF model, or the sky, had an error
        values = np.pad(values, ((0, 0), (0, 1), (0, PHOTON_NUMBERS - values.shape[2])))
    filters = np.ascontiguousarray(hdus["FILTERS"].data, dtype=np.float32) if "FILTERS" in hdus else None
    for name, data, shape in (("PHOTNOIS", values, (3, PHOTON_NUMBERS)), ("FILTERS", filters, (2, *[FILTER_SIDE] * 2))):
        if data is not None and data.shape != (nx * ny, *shape):
            raise FitsUnreadable(
                f"extension {name} of shape {data.shape}, expected {(nx * ny, *shape)}: write the difference anew"
            )
    return PhotonNoise(values, nx, ny, _read_box(hdu.header), filters)


def photo_calib_hdus(primary: fits.Header, calib: PhotoCalib | None) -> list[fits.ImageHDU]:
    """Write the constants to the primary header and return the extension of the variation, if any."""
    if calib is None:
        return []
    primary["CALIB"] = (calib.mean, "[nJy / unit]")
    if np.isfinite(calib.error):  # a header holds no NaN
        primary["CALIBERR"] = (calib.error, "[nJy / unit]")
    primary["CALIBSRC"] = (calib.source, "plane, header, fixed, refcat or relative")
    if calib.variation is None:
        return []
    hdu = fits.ImageHDU(calib.variation.coefficients, name="PHOTOCAL")
    _write_box(hdu.header, calib.variation.bbox)
    return [hdu]


def read_photo_calib(hdus: fits.HDUList, bbox: Box) -> PhotoCalib | None:
    """Read what `photo_calib_hdus` wrote."""
    head = hdus[0].header
    if "CALIB" not in head:
        return None
    field = _read_field(hdus["PHOTOCAL"], bbox) if "PHOTOCAL" in hdus else None
    return PhotoCalib(
        float(head["CALIB"]), float(head.get("CALIBERR", np.nan)), field, str(head.get("CALIBSRC", "header"))
    )


def ap_corr_hdus(ap_corr: ApCorrMap | None) -> list[fits.ImageHDU]:
    """Return one extension per flux name."""
    out = []
    for version, (name, field) in enumerate((ap_corr.fields if ap_corr else {}).items(), start=1):
        hdu = fits.ImageHDU(field.coefficients, name="APCORR", ver=version)
        hdu.header["APNAME"] = name
        _write_box(hdu.header, field.bbox)
        out.append(hdu)
    return out


def read_ap_corr(hdus: fits.HDUList, bbox: Box) -> ApCorrMap | None:
    """Read what `ap_corr_hdus` wrote, None when there is nothing."""
    fields = {h.header["APNAME"]: _read_field(h, bbox) for h in hdus if h.name == "APCORR"}
    return ApCorrMap(fields) if fields else None


def _write_box(header: fits.Header, box: Box) -> None:
    header["PSFX0"], header["PSFY0"], header["PSFW"], header["PSFH"] = (int(v) for v in box)


def _read_box(header: fits.Header) -> Box:
    return (int(header["PSFX0"]), int(header["PSFY0"]), int(header["PSFW"]), int(header["PSFH"]))


def _read_field(hdu: Any, bbox: Box) -> ChebyshevField:
    box = _read_box(hdu.header) if "PSFW" in hdu.header else bbox
    return ChebyshevField(np.ascontiguousarray(hdu.data, dtype=np.float64), box)
