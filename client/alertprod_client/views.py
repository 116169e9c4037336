"""Packets as astropy has them: the light curve a time series, the cutouts images with WCS.

Works for packets of every Rubin schema; the cutouts of ZTF packets too.
"""

import gzip
import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.nddata import CCDData, VarianceUncertainty
from astropy.time import Time
from astropy.timeseries import TimeSeries
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, FITSFixedWarning

from alertprod_client.corrections import KnownCorrections
from alertprod_client.errors import AlertError

__all__ = ["STAMPS", "cutout", "light_curve", "stamp_images"]

MAX_CUTOUT = 1 << 26  # bytes, unpacked
STAMPS = ("Science", "Template", "Difference")
_BROKEN = (OSError, EOFError, TypeError, ValueError, KeyError, IndexError, VerifyError, MemoryError)
Packet = Mapping[str, Any]


def light_curve(packet: Packet, known: KnownCorrections | None = None) -> TimeSeries:
    """Return the light curve in order of time: sources and forced photometry of the difference images.

    Parameters
    ----------
    packet
        Decoded alert.
    known
        Corrections: sources that are withdrawn, or belong to another object by now, are left out; forced
        photometry of images that were taken back or processed anew since, and all of it where the trigger is of a solar-system body.

    Returns
    -------
    TimeSeries
        ``time`` (TAI), ``band``, ``flux`` and ``fluxErr`` (nJy, NaN where missing), ``kind`` (source or forced).
    """
    rows = [(row, "source") for row in _sources(packet, known)]
    rows += [(row, "forced") for row in _forced(packet, known)]
    rows.sort(key=lambda item: float(item[0]["midpointMjdTai"]))
    return TimeSeries(
        time=Time([float(row["midpointMjdTai"]) for row, _ in rows], format="mjd", scale="tai"),
        data={
            "band": np.array([str(row["band"]) for row, _ in rows], str),
            "flux": _column(rows, "psfFlux") * u.nJy,
            "fluxErr": _column(rows, "psfFluxErr") * u.nJy,
            "kind": np.array([kind for _, kind in rows], str),
        },
    )


def _sources(packet: Packet, corrections: KnownCorrections | None) -> list[Packet]:
    """The trigger and the earlier sources that are still of its object."""
    rows = [*(packet.get("prvDiaSources") or []), packet["diaSource"]]
    if corrections is None:
        return rows

    def owner(row: Packet) -> int | None:
        return corrections.owner(int(row["diaSourceId"]), row.get("diaObjectId"))

    now = owner(packet["diaSource"])
    return [row for row in rows if not corrections.is_withdrawn(int(row["diaSourceId"])) and owner(row) == now]


def _forced(packet: Packet, corrections: KnownCorrections | None) -> list[Packet]:
    """The forced photometry that still holds; a body that moves has none, what was measured is of the object it was taken for."""
    rows = list(packet.get("prvDiaForcedSources") or [])
    if corrections is None or not rows:
        return rows
    trigger = packet["diaSource"]
    if corrections.owner(int(trigger["diaSourceId"]), trigger.get("diaObjectId")) is None:
        return []
    return [
        row for row in rows
        if row.get("visit") is None  # of other schemas
        or not corrections.is_replaced(int(row["visit"]), int(row["detector"]), row.get("timeProcessedMjdTai"))
    ]  # fmt: skip


def _column(rows: list[tuple[Packet, str]], name: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array([np.nan if row[name] is None else row[name] for row, _ in rows], np.float64)


def _fits_bytes(packet: Packet, which: str) -> bytes | None:
    data = packet.get(f"cutout{which}")
    if isinstance(data, Mapping):  # ZTF: a named file
        data = data.get("stampData")
    if data is None:
        return None
    data = bytes(data)
    if data[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            data = packed.read(MAX_CUTOUT + 1)
        if len(data) > MAX_CUTOUT:
            raise AlertError(f"cutout{which} unpacks to more than {MAX_CUTOUT} bytes")
    return data


def cutout(packet: Packet, which: str = "Difference") -> CCDData | None:
    """Return a cutout with WCS, variance, mask and PSF where it has them, None where the packet has no such cutout.

    Parameters
    ----------
    packet
        Decoded alert.
    which
        ``Difference``, ``Science`` or ``Template``.

    Raises
    ------
    AlertError
        There is no cutout of this name, or its bytes are no FITS file.
    """
    if which not in STAMPS:
        raise AlertError(f"no cutout {which!r}: one of {', '.join(STAMPS)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)  # what others wrote need not be beautiful
            warnings.simplefilter("ignore", FITSFixedWarning)
            return _opened(_fits_bytes(packet, which))
    except AlertError:
        raise
    except _BROKEN as error:
        raise AlertError(f"cutout{which} cannot be read as FITS: {error}") from error


def _opened(data: bytes | None) -> CCDData | None:
    if data is None:
        return None
    with fits.open(io.BytesIO(data), memmap=False) as hdus:
        if sum(h.size for h in hdus) > len(data):
            raise AlertError("the cutout is cut short: its headers promise more pixels than there are bytes")
        parts = {h.name: np.array(h.data) for h in hdus[1:] if h.data is not None}
        header, image = hdus[0].header.copy(), np.array(hdus[0].data)
    wcs = WCS(header)
    return CCDData(
        image,
        unit=header.get("BUNIT") or "adu",
        uncertainty=VarianceUncertainty(parts["UNCERT"]) if "UNCERT" in parts else None,
        mask=parts.get("MASK"),
        wcs=wcs if wcs.has_celestial else None,
        meta=header,
        psf=parts.get("PSFIMAGE"),
    )


def stamp_images(packet: Packet) -> "dict[str, np.ndarray[Any, Any]]":
    """Return the pixels of the cutouts that there are, by name."""
    stamps = ((name, cutout(packet, name)) for name in STAMPS)
    return {name: np.asarray(stamp.data) for name, stamp in stamps if stamp is not None}
