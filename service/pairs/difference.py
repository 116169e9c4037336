"""The algorithm alone: subtract one FITS image from another, without database, broker or calibration."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from service.pairs.facts import Facts, facts_of
from service.pairs.prepare import prepare_pair
from service.pairs.source_columns import RELIABLE
from tasks.errors import CallerError
from tasks.reprs import short_repr

if TYPE_CHECKING:
    import pandas as pd
    from astropy.io import fits

    from service.pairs.source_table import SourceTable

__all__ = ["Difference", "PairOptions", "difference_files", "difference_pair"]

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
            self.sources,
            self.exposure,
            template_unit=self.report["templateUnit"],
            template_calib=self.template_calib,
            unit=self.unit,
            meta=table_cards(self.cards, self.exposure, self.sources),
        )

    __repr__ = short_repr


@dataclass(frozen=True)
class PairOptions:
    """How two images are subtracted, and what is made of them.

    Parameters
    ----------
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
    """

    registered: bool = False
    register: bool = False
    mode: str = "auto"
    score: bool = False
    sources: bool = False
    pictures: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def alignment(self) -> str:
        """How the template comes onto the pixels of the image: ``wcs``, ``stars`` or ``given``."""
        return "given" if self.registered else "stars" if self.register else "wcs"

    def task_options(self, rules: Instrument) -> dict[str, Any]:
        """Return the options of image differencing: those given over those of the instrument file."""
        return {**(rules.task_config.get("ImageDifferenceTask") or {}), **self.options}

    def pipeline(self, rules: Instrument) -> Differencing:
        """Return what subtracts; wrong options are refused here, before any file is read.

        Raises
        ------
        MismatchError
            The template is to be registered, and is registered already.
        DifferencingError
            An option that is none, or a value that it cannot have.
        """
        if self.registered and self.register:
            raise MismatchError("--registered and --register exclude each other: the pair is registered or it is not")
        overrides = (
            {"qualityGate": "warn"}
            | self.task_options(rules)
            | {
                "doDetection": self.sources or self.score,
                "doMeasurement": self.sources,
                "doWriteScore": self.score,
                "doWriteMatchedExp": self.pictures,
            }
        )
        if self.mode != "auto":
            overrides["mode"] = self.mode
        return Differencing(plain_options(overrides), registered=self.registered or self.register)


@dataclass(frozen=True)
class _Origin:
    """What messages and cards call the two images, and the checksums of their files."""

    names: tuple[str, str]
    checksums: tuple[str, str]

    def facts(self, exposures: tuple[Exposure, Exposure], rules: Instrument) -> tuple[Facts, Facts]:
        new, old = zip(exposures, self.names, self.checksums, strict=True)
        return facts_of(new[0], rules, *new[1:]), facts_of(old[0], rules, *old[1:])


def difference_files(
    science: Path,
    template: Path,
    rules: Instrument,
    options: PairOptions | None = None,
    *,
    checksums: tuple[str, str] | None = None,
) -> Difference:
    """Subtract `template` from `science`.

    Parameters
    ----------
    rules
        The instrument whose file says which HDU holds which plane.
    options
        By default nothing is detected.
    checksums
        Of the two files, where they are known: of many images in them each is read once.

    Raises
    ------
    MismatchError, WcsMissing, DifferencingError
        The two do not fit together: the message says what to do.
    """
    options = options or PairOptions()
    pipeline = options.pipeline(rules)
    start = time.perf_counter()
    pair, checksums = _read((science, template), rules, checksums)
    seconds = round(time.perf_counter() - start, 3)
    difference = _of_pair(pair, pipeline, rules, options, _Origin((science.name, template.name), checksums))
    difference.report["seconds"] = {"read": seconds} | difference.report["seconds"]
    return difference


def difference_pair(
    new: Exposure,
    old: Exposure,
    rules: Instrument,
    options: PairOptions | None = None,
    *,
    names: tuple[str, str] = ("the image", "the template"),
    checksums: tuple[str, str] = ("", ""),
) -> Difference:
    """Subtract one exposure from another; parameters and errors as for `difference_files`.

    The exposures are changed in place: their sky is taken off, missing variances are filled in, stars measured.

    Parameters
    ----------
    names, checksums
        What messages and cards call the two, and the checksums of their files.
    """
    options = options or PairOptions()
    return _of_pair([new, old], options.pipeline(rules), rules, options, _Origin(names, checksums))


def _of_pair(
    pair: list[Exposure], pipeline: Differencing, rules: Instrument, options: PairOptions, origin: _Origin
) -> Difference:
    """Subtract a pair, which is taken from the list: a template's own pixels are let go once it is resampled."""
    new, old = pair
    pair.clear()
    of_new, of_old = origin.facts((new, old), rules)
    warnings = [of_new.problem, check_distinct(new, old, origin.names)]
    if options.alignment == "wcs":
        check_wcs((new, old), origin.names)
    _leave_calibration(new, old)
    old_wcs = old.wcs
    start = time.perf_counter()
    new, old, new_stars = prepare_pair(new, old, rules, options.registered, options.register)
    if not options.register:
        warnings.append(check_one_grid(new, old, new_stars, old_wcs, origin.names, options.registered))
    prepared = time.perf_counter()
    result = pipeline.run(new, old, new_stars)
    difference = result.subtractedExposure
    assert difference is not None
    seconds = {"prepare": round(prepared - start, 3), "difference": round(time.perf_counter() - prepared, 3)}
    # what was detected is no property of the pixels: the mask of the file says which are unusable
    difference.clear_planes("DETECTED", "DETECTED_NEGATIVE")
    for image in (difference, result.scoreExposure):
        if image is not None:
            forget_missing(image)
            image.visit_info, image.band, image.physical_filter = of_new.info, of_new.band, of_new.physical_filter
    difference.photo_calib = of_new.calib
    report = _report(pipeline.numbers, difference, result.diaSources, [w for w in warnings if w]) | {"seconds": seconds}
    return Difference(
        exposure=difference,
        score=result.scoreExposure,
        sources=result.diaSources,
        report=report,
        subject=Subject(
            difference,
            new,
            None if result.matchedExposure is None else result.matchedExposure.image,
            result.subtractRes,
            result.diaSources,
            str(report["convolved"]),
        ),
        cards=difference_cards(
            difference, of_new, of_old, pipeline.numbers, options.alignment, options.task_options(rules)
        ),
        unit=of_new.unit,
        template_calib=of_old.calib,
    )


def _report(
    numbers: Mapping[str, Any], difference: Exposure, sources: "pd.DataFrame | None", warnings: list[str]
) -> dict[str, Any]:
    """Return the numbers that users are told."""
    report = {key: numbers[key] for key in _REPORTED if key in numbers}
    if difference.wcs is not None:
        scale = difference.pixel_scale_arcsec()
        report["seeing"] = {of: round(scale * numbers[f"{of}PsfSize"], 3) for of in ("science", "template")}
    if sources is not None and "reliability" in sources:
        below = (sources.reliability < RELIABLE) & ~sources.sky_source
        report["nBelowReliability"] = int(below.sum())
    narrow = _undersampled(report["sciencePsfSize"], report["templatePsfSize"])
    said = [w for w in (*warnings, narrow, numbers.get("kernelWarning"), numbers.get("qualityProblems")) if w]
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


def _read(
    paths: tuple[Path, Path], rules: Instrument, checksums: tuple[str, str] | None
) -> tuple[list[Exposure], tuple[str, str]]:
    """Return the two images and the checksums of their files."""

    def open_one(path: Path) -> tuple[Exposure, str]:
        return read_planes(path, rules), "" if checksums else checksum(split_choice(path)[0])

    (new, of_new), (old, of_old) = in_threads(open_one, paths)
    return [new, old], checksums or (of_new, of_old)
