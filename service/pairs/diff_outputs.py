"""The files of one subtraction: looked at before it, written after it, and named for each image where there are several."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.pairs.output_checks import check_format, check_outputs, writing

if TYPE_CHECKING:
    from service.pairs.difference import Difference

__all__ = ["DiffOutputs", "check_all"]

_ENDING = re.compile(r"((\.[A-Za-z]\w*)?\.(gz|bz2|xz|fz)|\.[A-Za-z]\w*)$", re.IGNORECASE)  # .fits.fz is one ending


@dataclass(frozen=True)
class DiffOutputs:
    """Where the difference goes, and the table of sources, the significance and the pictures where they are wanted."""

    output: Path
    sources: Path | None = None
    score: Path | None = None
    plots: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All files; the pictures lie in a folder."""
        return [p for p in (self.output, self.score, self.sources) if p is not None]

    def named(self, label: str) -> "DiffOutputs":
        """Return the outputs of one of several images: its name before the ending of files, a folder of its own for pictures."""
        word = re.sub(r"[^A-Za-z0-9.+-]+", "_", label).strip("_.") or "image"

        def with_name(path: Path) -> Path:
            ending = _ENDING.search(path.name)
            stem_length = ending.start() if ending and ending.start() else len(path.name)
            return path.with_name(f"{path.name[:stem_length]}_{word}{path.name[stem_length:]}")

        return DiffOutputs(
            with_name(self.output),
            None if self.sources is None else with_name(self.sources),
            None if self.score is None else with_name(self.score),
            None if self.plots is None else self.plots / word,
        )

    def names(self) -> dict[str, str]:
        """Return the paths as a report holds them."""
        given = {"output": self.output, "sources": self.sources, "score": self.score}
        return {name: str(path) for name, path in given.items() if path is not None}

    def write(self, difference: "Difference") -> None:
        """Write all of it; where the pictures lie is noted in the report.

        Raises
        ------
        OutputError
            A file cannot be written.
        """
        from exposure.io.writing import write_exposure

        with writing(self.output):
            write_exposure(difference.exposure, self.output, cards=difference.cards, unit=difference.unit)
        if self.score is not None and difference.score is not None:
            with writing(self.score):
                write_exposure(difference.score, self.score, cards=difference.cards)
        if self.sources is not None:
            from service.pairs.source_files import write_sources

            with writing(self.sources):
                write_sources(difference.table(), self.sources)
        if self.plots is not None:
            from diffim.pictures.difference_pages import draw_subtraction

            with writing(self.plots):
                difference.report["plots"] = [str(p) for p in draw_subtraction(difference.subject, self.plots)]


def check_all(inputs: Iterable[Path], outputs: Iterable[DiffOutputs]) -> None:
    """See that all files of one command or of several images can be written; their folders are made.

    Raises
    ------
    OutputError
        One cannot, or two of them are one file.
    """
    every = list(outputs)
    for path in (o.sources for o in every if o.sources is not None):
        check_format(path)
    check_outputs(inputs, [p for o in every for p in o.files], [o.plots for o in every if o.plots is not None])
