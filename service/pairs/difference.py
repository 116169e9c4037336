"""The algorithm alone: subtract one FITS image from another, without database, broker or calibration."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.psf.smoothing import UNDERSAMPLED_FWHM
from diffim.errors import MismatchError
from diffim.options import plain_options
from diffim.pictures.difference_pages import Subject
from diffim.pipeline import Differencing
from exposure import Exposure, Instrument, PhotoCalib
from exposure.flagging.missing import forget_missing
from exposure.io.native import read_planes
from exposure.io.opening import split_choice
from exposure.threads import in_threads
from service.checksums import checksum
from service.pairs.cards import difference_cards
from service.pairs.checks import check_distinct, check_one_grid, check_wcs
from service.pairs.facts import facts_of
from service.pairs.prepare import prepare_pair
from service.pairs.source_columns import RELIABLE
from tasks.errors import CallerError
from tasks.reprs import short_repr

if TYPE_CHECKING:
    import pandas as pd
    from astropy.io import fits

    from service.pairs.source_table import SourceTable

__all__ = ["Difference", "difference_files", "difference_pair"]

_REPORTED = (
    "convolved", "kernelOrder", "nKernelCandidates", "nKernelUsed", "kernelResidualRms", "spatialKernelSum",
    "kernelDeconvolves", "ALKernelSize", "scaleScienceVarianceFactor", "scaleTemplateVarianceFactor",
    "scaleDiffimVarianceFactor", "templateCoveragePercent", "nDiaSources", "sciencePsfSize", "templatePsfSize",
    "templateUnit", "registrationShift",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """The difference, its significance image and sources where asked for, numbers of the fit and seconds per step.

    ``sources`` are raw measurements (pixels, counts); `table` has them as people use them. ``subject`` is what pictures
    are drawn of, ``cards`` say where it comes from (for a FITS header), ``unit`` is that of its pixels, where known.
    """

    exposure: Exposure
    score: Exposure | None
    sources: "pd.DataFrame | None"
    report: dict[str, Any]
    subject: Subject
    cards: "fits.Header"
    unit: str = ""
    template_calib: PhotoCalib | None = None

    def table(self) -> "SourceTable":
        """Return the sources on the sky and, where the image is calibrated, in nJy, with units and meanings.

        Raises
        ------
        CallerError
            It was made without sources.
        """
        from service.pairs.cards import table_cards
        from service.pairs.source_table import source_table

        if self.sources is None:
            raise CallerError("the difference was made without sources: ask for them (sources=True)")
        return source_table(
            self.sources, self.exposure, template_unit=self.report["templateUnit"], template_calib=self.template_calib,
            unit=self.unit, meta=table_cards(self.cards, self.exposure, self.sources),
        )  # fmt: skip

    __repr__ = short_repr


def difference_files(
    science: Path, template: Path, rules: Instrument, *, registered: bool = False, register: bool = False,
    mode: str = "auto", score: bool = False, sources: bool = False, pictures: bool = False,
    options: Mapping[str, Any] | None = None, checksums: tuple[str, str] | None = None,
) -> Difference:  # fmt: skip
    """Subtract `template` from `science`.

    Parameters
    ----------
    rules
        The instrument whose file says which HDU holds which plane.
    registered
        The two are on one pixel grid already and need no WCS (that of the image is kept where it has one).
    register
        Register the template by the stars that the two have in common: no WCS is needed, shifts of up to 60 px are found.
    mode
        ``auto``, ``convolveTemplate`` or ``convolveScience``.
    score, sources
        Make the significance image; detect and measure.
    pictures
        Keep what pictures are drawn of.
    options
        Options of image differencing (`diffim.options`) over those of the instrument file.
    checksums
        Of the two files, where they are known: of many images in them each is read once.

    Raises
    ------
    MismatchError, WcsMissing, DifferencingError
        The two do not fit together: the message says what to do.
    """
    way = _way(rules, registered, register, mode, score, sources, pictures, options)
    start = time.perf_counter()
    pair, checksums = _read((science, template), rules, checksums)
    seconds = round(time.perf_counter() - start, 3)
    made = _of_pair(pair, way, rules, registered, register, options, (science.name, template.name), checksums)
    made.report["seconds"] = {"read": seconds} | made.report["seconds"]
    return made


def difference_pair(
    new: Exposure, old: Exposure, rules: Instrument, *, registered: bool = False, register: bool = False,
    mode: str = "auto", score: bool = False, sources: bool = False, pictures: bool = False,
    options: Mapping[str, Any] | None = None, names: tuple[str, str] = ("the image", "the template"),
    checksums: tuple[str, str] = ("", ""),
) -> Difference:  # fmt: skip
    """Subtract one exposure from another; parameters and errors as for `difference_files`.

    The exposures are changed in place: their sky is taken off, missing variances are filled in, stars measured.

    Parameters
    ----------
    names, checksums
        What messages and cards call the two, and the checksums of their files.
    """
    way = _way(rules, registered, register, mode, score, sources, pictures, options)
    return _of_pair([new, old], way, rules, registered, register, options, names, checksums)


def _of_pair(
    pair: list[Exposure], way: Differencing, rules: Instrument, registered: bool, register: bool,
    options: Mapping[str, Any] | None, names: tuple[str, str], checksums: Sequence[str],
) -> Difference:  # fmt: skip
    """Subtract a pair, which is taken from the list: a template's own pixels are let go once it is resampled."""
    new, old = pair
    pair.clear()
    facts = [
        facts_of(e, rules, *which) for e, which in zip((new, old), zip(names, checksums, strict=True), strict=True)
    ]
    warnings = [facts[0].problem, check_distinct(new, old, names)]
    if not (registered or register):
        check_wcs((new, old), names)
    _leave_calibration(new, old)
    old_wcs = old.wcs
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    new, old, new_stars = prepare_pair(new, old, rules, registered, register)
    if not register:
        warnings.append(check_one_grid(new, old, new_stars, old_wcs, names, registered))
    seconds["prepare"] = round(time.perf_counter() - start, 3)
    start = time.perf_counter()
    result = way.run(new, old, new_stars)
    difference = result.subtractedExposure
    assert difference is not None
    seconds["difference"] = round(time.perf_counter() - start, 3)
    # what was detected is no property of the pixels: the mask of the file says which are unusable
    difference.clear_planes("DETECTED", "DETECTED_NEGATIVE")
    for made in (difference, result.scoreExposure):
        if made is not None:
            forget_missing(made)
            made.visit_info, made.band, made.physical_filter = facts[0].info, facts[0].band, facts[0].physical_filter
    difference.photo_calib = facts[0].calib
    report = _report(way, difference, result.diaSources, [w for w in warnings if w]) | {"seconds": seconds}
    cards = difference_cards(
        difference, facts[0], facts[1], way.numbers, "given" if registered else "stars" if register else "wcs",
        {**(rules.task_config.get("ImageDifferenceTask") or {}), **(options or {})},
    )  # fmt: skip
    subject = Subject(
        difference, new, result.matchedExposure, result.subtractRes, result.diaSources, str(report["convolved"])
    )
    return Difference(
        difference, result.scoreExposure, result.diaSources, report, subject, cards, facts[0].unit, facts[1].calib
    )


def _report(
    way: Differencing, difference: Exposure, sources: "pd.DataFrame | None", warnings: list[str]
) -> dict[str, Any]:
    """Return the numbers that users are told."""
    report = {key: way.numbers[key] for key in _REPORTED if key in way.numbers}
    if difference.wcs is not None:
        scale = difference.pixel_scale_arcsec()
        report["seeing"] = {of: round(scale * way.numbers[f"{of}PsfSize"], 3) for of in ("science", "template")}
    if sources is not None and "reliability" in sources:
        below = (sources.reliability < RELIABLE) & ~sources.sky_source
        report["nBelowReliability"] = int(below.sum())
    narrow = _undersampled(report["sciencePsfSize"], report["templatePsfSize"])
    said = [w for w in (*warnings, narrow, way.numbers.get("kernelWarning")) if w]
    return report | {"undersampled": narrow is not None, "warnings": said}


def _undersampled(science: float, template: float) -> str | None:
    """Return what to say where stars are too narrow (FWHM, px) for the pixels."""
    if min(science, template) >= UNDERSAMPLED_FWHM:
        return None
    return (
        f"stars are {science:.1f} (image) and {template:.1f} px (template) wide (FWHM), less than {UNDERSAMPLED_FWHM} px: "
        "expect residuals at bright stars"
    )


def _leave_calibration(new: Exposure, old: Exposure) -> None:
    """Let the stars say how the fluxes of the two compare; a band that is not known is taken to be that of the other."""
    new.photo_calib = old.photo_calib = None
    new.band = new.band or old.band or "r"
    old.band = old.band or new.band


def _way(
    rules: Instrument, registered: bool, register: bool, mode: str, score: bool, sources: bool, pictures: bool,
    options: Mapping[str, Any] | None,
) -> Differencing:  # fmt: skip
    """Return what subtracts; wrong options are refused here, before any file is read."""
    if registered and register:
        raise MismatchError("--registered and --register exclude each other: the pair is registered or it is not")
    overrides = {
        **(rules.task_config.get("ImageDifferenceTask") or {}), **(options or {}), "doDetection": sources or score,
        "doMeasurement": sources, "doWriteScore": score, "doWriteMatchedExp": pictures,
    }  # fmt: skip
    if mode != "auto":
        overrides["mode"] = mode
    return Differencing(plain_options(overrides), registered=registered or register)


def _read(
    paths: tuple[Path, Path], rules: Instrument, checksums: tuple[str, str] | None
) -> tuple[list[Exposure], tuple[str, str]]:
    """Return the two images and the checksums of their files."""

    def open_one(path: Path) -> tuple[Exposure, str]:
        return read_planes(path, rules), "" if checksums else checksum(split_choice(path)[0])

    (new, of_new), (old, of_old) = in_threads(open_one, paths)
    return [new, old], checksums or (of_new, of_old)
