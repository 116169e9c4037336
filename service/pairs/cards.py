"""The cards of a difference: what was subtracted from what, how, and by which version. No time of the day is in them."""

import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from importlib import metadata
from typing import Any

import numpy as np
from astropy.io import fits

from exposure import Exposure
from exposure.photocalib import AB_ZEROPOINT
from service.pairs.facts import Facts
from service.pairs.source_columns import RELIABLE

__all__ = ["difference_cards", "table_cards"]

MJD_ZERO = datetime(1858, 11, 17)
_PACKAGES = ("numpy", "astropy", "numba", "cv2", "sep")
_NUMBERS = {
    "KERSUM": ("spatialKernelSum", "sum of the matching kernel"),
    "KERSIZE": ("ALKernelSize", "[pixel] side of the kernel"),
    "KERORDER": ("kernelOrder", "order of its variation over the image"),
    "KERRMS": ("kernelResidualRms", "residual/sigma of stars that were held out"),
    "KERSTARS": ("nKernelUsed", "stars that the kernel was fitted to"),
    "KERCAND": ("nKernelCandidates", "stars that were thought of"),
    "SCIFWHM": ("sciencePsfSize", "[pixel] FWHM of the image"),
    "TMPFWHM": ("templatePsfSize", "[pixel] FWHM of the template"),
    "TMPUNIT": ("templateUnit", "counts of the difference per template count"),
    "REGSHIFT": ("registrationShift", "[pixel] template moved by that (rms)"),
    "COVERAGE": ("templateCoveragePercent", "[%] of the image that the template covers"),
}


def difference_cards(
    difference: Exposure, new: Facts, old: Facts, numbers: Mapping[str, Any], alignment: str, options: Mapping[str, Any]
) -> fits.Header:
    """Return the cards of a difference.

    Parameters
    ----------
    new, old
        The image and what was subtracted from it.
    numbers
        What the differencing found (`diffim.pipeline.Differencing.numbers`).
    alignment
        How the template came onto the pixels of the image: ``wcs``, ``stars`` or ``given``.
    options
        Options that are not those of the defaults.
    """
    header = fits.Header()
    header["CREATOR"] = (f"alertprod {_version('alertprod')}", "program that made this file")
    for part, what, facts in (("SCI", "image", new), ("TMP", "template", old)):
        header[f"{part}FILE"] = (facts.name, f"the {what}")
        if facts.sha256:
            header[f"{part}SHA"] = facts.sha256  # as long as a card: there is no room for a comment
    _put_times(header, new, old)
    if old.physical_filter or old.band:
        header["TMPFILT"] = (old.physical_filter or old.band, "filter of the template")
    header["DIFFDIR"] = (str(numbers["convolved"]), "which of the two was convolved")
    header["ALIGNED"] = (alignment, "template onto the image: wcs, stars or given")
    for card, (name, comment) in _NUMBERS.items():
        if name in numbers and np.isfinite(numbers[name]):
            header[card] = (numbers[name], comment)
    if difference.wcs is not None:
        header["PIXSCALE"] = (round(difference.pixel_scale_arcsec(), 6), "[arcsec/pixel] in the middle")
    if new.calib is not None and new.calib.variation is None:
        zero = AB_ZEROPOINT - 2.5 * float(np.log10(new.calib.mean))
        header["MAGZERO"] = (round(zero, 6), "[mag] AB magnitude of 1 count")
    header.extend(new.maps)
    for line in _history(options):
        header.add_history(line)
    return header


def _put_times(header: fits.Header, new: Facts, old: Facts) -> None:
    if new.info is not None or old.info is not None:
        header["TIMESYS"] = ("TAI", "time scale of the cards below")
    for facts, iso, mjd, what in ((new, "DATE-AVG", "MJD-AVG", ""), (old, "TMPDATE", "TMPMJD", " of the template")):
        if facts.info is not None and np.isfinite(facts.info.midpoint_mjd_tai):
            moment = MJD_ZERO + timedelta(days=facts.info.midpoint_mjd_tai)
            header[iso] = (moment.isoformat(timespec="milliseconds"), f"middle of the exposure{what}")
            header[mjd] = (facts.info.midpoint_mjd_tai, f"[d] middle of the exposure{what}")


def _history(options: Mapping[str, Any]) -> Iterator[str]:
    yield "IMAGE is SCIFILE less TMPFILE, one of them convolved (DIFFDIR) to match the other"
    for name, value in sorted(options.items()):
        yield f"option {name} = {value}"
    versions = [f"{name} {v}" for name in _PACKAGES if (v := getattr(sys.modules.get(name), "__version__", None))]
    yield f"Python {sys.version.split()[0]}, " + ", ".join(versions)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def table_cards(cards: fits.Header, difference: Exposure, sources: Any) -> dict[str, Any]:
    """Return what a table of sources is to know of its origin: keywords and values, plain ones."""
    out = {card.keyword: card.value for card in cards.cards if card.keyword not in ("HISTORY", "COMMENT", "")}
    out |= {"FILTER": difference.physical_filter} if difference.physical_filter else {}
    out |= {"LTV1": -difference.origin[0], "LTV2": -difference.origin[1]} if any(difference.origin) else {}
    out["NSOURCES"] = len(sources)
    if "reliability" in sources:
        out["NBELOW"] = int((sources.reliability < RELIABLE).sum())
    return out
