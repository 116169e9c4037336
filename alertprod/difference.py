"""Differences of two images."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alertprod.errors import InputType
from alertprod.reading import read_quietly, rules_of
from tasks.arrays import F32, I32

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table

    from exposure import Exposure, Instrument
    from service.pairs.difference import Difference as Made

__all__ = ["Difference", "subtract"]


@dataclass(frozen=True, repr=False)
class Difference:
    """What `subtract` returns.

    Parameters
    ----------
    exposure
        The difference: new minus old on the pixels of the new image, in its unit, with variance, mask, PSF and WCS.
    sources
        What changed: one row per source, as ``alertprod diff --sources`` writes them (``docs/differencing.md``).
    score
        Significance of a point source at every pixel, where it was asked for.
    report
        Numbers of the subtraction: which image was convolved, kernel stars, residuals, seconds.
    """

    exposure: "Exposure"
    sources: "pd.DataFrame"
    score: "Exposure | None"
    report: Mapping[str, Any]
    pair: "Made"

    @property
    def image(self) -> "F32":
        """The pixels, (height, width)."""
        return self.exposure.image

    @property
    def variance(self) -> "F32":
        """The variance of the pixels."""
        return self.exposure.variance

    @property
    def mask(self) -> "I32":
        """Bits of the planes in `exposure.PLANES`."""
        return self.exposure.mask

    def table(self) -> "Table":
        """Return the sources as astropy Table, with units and descriptions."""
        from service.pairs.source_files import astropy_table

        return astropy_table(self.pair.table())

    def write(self, path: "str | PathLike[str]", sources: "str | PathLike[str] | None" = None) -> None:
        """Write the difference as FITS with what it was made of in its header.

        Parameters
        ----------
        path
            Of the difference (IMAGE, MASK, VARIANCE, PSF); ``.fits``, ``.fits.fz``, ``.fits.gz``.
        sources
            Of the sources: .csv .ecsv .fits .parquet .vot or .reg (DS9).

        Raises
        ------
        InputType
            No path.
        OutputError
            An ending that says no format, or a file that cannot be written.
        """
        from exposure.io.writing import write_exposure
        from service.pairs.output_checks import check_format, check_outputs, writing
        from service.pairs.source_files import write_sources

        target, table = _path(path, "path"), None if sources is None else _path(sources, "sources")
        if table is not None:
            check_format(table)
        check_outputs((), [p for p in (target, table) if p is not None])
        with writing(target):
            write_exposure(self.exposure, target, cards=self.pair.cards, unit=self.pair.unit)
        if table is not None:
            with writing(table):
                write_sources(self.pair.table(), table)

    def plot(self, folder: "str | PathLike[str]") -> list[Path]:
        """Draw the difference, its noise, PSF, kernel, kernel stars and dipoles as PNG; returns the paths."""
        from diffim.pictures.difference_pages import draw_subtraction
        from service.pairs.output_checks import check_outputs, writing

        target = _path(folder, "folder")
        check_outputs((), (), [target])
        with writing(target):
            return draw_subtraction(self.pair.subject, target)

    def __repr__(self) -> str:
        from exposure.preview import describe

        convolved = self.report.get("convolved", "")
        return f"{describe(self.exposure, 'Difference')[:-1]},\n {convolved}, {len(self.sources)} sources>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a picture, masked pixels in blue, and the facts."""
        from exposure.preview import exposure_html

        facts = [("sources", str(len(self.sources))), ("convolved", str(self.report.get("convolved", "")))]
        return exposure_html(self.exposure, "Difference", signed=True, more=facts)


def _path(given: Any, name: str) -> Path:
    if not isinstance(given, str | PathLike):
        raise InputType(f"{name} must be a path; got {type(given).__name__}")
    return Path(given)


def subtract(
    new: Any,
    old: Any,
    *,
    instrument: "str | Instrument | None" = None,
    registered: bool = False,
    register: bool = False,
    mode: str = "auto",
    score: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Difference:
    """Subtract an old image from a new one, and find what changed.

    Parameters
    ----------
    new, old
        Whatever `alertprod.read` reads: paths, arrays, CCDData, exposures. They are not changed. The old one is resampled
        to the pixels of the new one by their WCS; skies and missing variances and PSFs are measured.
    instrument
        Camera by whose rules files and arrays are read, and whose options of image differencing hold.
    registered
        The two are on one pixel grid already: no WCS is needed.
    register
        Register the old one by the stars that both have: no WCS is needed; shifts of up to 60 px are found.
    mode
        Which image is convolved: ``auto``, ``convolveTemplate`` (the old one) or ``convolveScience`` (the new one).
    score
        Keep the significance image too.
    options
        Further options of image differencing (``docs/differencing.md``).

    Raises
    ------
    InputType
        One of the images is of no kind that can be read.
    WcsMissing
        An image has no WCS: say `registered` or `register`.
    SameImage, MismatchError, TooFewStars, DifferencingError, NoTemplateCoverage
        The two do not fit together; the message says what to do.

    Examples
    --------
    >>> difference = subtract("new.fits", "old.fits")
    >>> int((difference.sources.reliability > 0.5).sum())
    6
    """
    from service.checksums import checksum
    from service.pairs.difference import PairOptions, difference_pair

    given = (new, old)
    pair = read_quietly(new, instrument), read_quietly(old, instrument)
    if not (registered or register):
        _require_wcs(pair)
    names = tuple(_name(image, usual) for image, usual in zip(given, ("new image", "old image"), strict=True))
    sums = tuple(checksum(Path(image)) if isinstance(image, str | PathLike) else "" for image in given)
    wanted = PairOptions(registered, register, mode, score, sources=True, pictures=True, options=options or {})
    result = difference_pair(
        *pair, rules_of(instrument), wanted, names=(names[0], names[1]), checksums=(sums[0], sums[1])
    )
    return Difference(result.exposure, result.table().rows, result.score, result.report, result)


def _name(image: Any, usual: str) -> str:
    return Path(image).name if isinstance(image, str | PathLike) else usual


def _require_wcs(pair: "tuple[Exposure, Exposure]") -> None:
    from exposure.errors import WcsMissing, WcsUnsupported

    missing = [name for name, image in zip(("new", "old"), pair, strict=True) if image.wcs is None]
    if missing:
        problems = [e.wcs_problem for e in pair if e.wcs is None and isinstance(e.wcs_problem, WcsUnsupported)]
        why = f" ({'; '.join(p.message for p in problems)})" if problems else ""
        raise (WcsUnsupported if problems else WcsMissing)(
            f"no WCS says where the {' and the '.join(missing)} image lies{why}: give one to read(..., wcs=), or subtract with "
            "registered=True where the two are on one pixel grid, or with register=True to find their stars"
        )
