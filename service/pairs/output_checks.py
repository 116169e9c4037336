"""The files that a command is to write, looked at before anything is computed."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import OutputError

__all__ = ["TABLES", "check_format", "check_outputs", "file_of", "writing"]

TABLES = (".csv", ".ecsv", ".fits", ".parquet", ".vot", ".reg")  # what `service.pairs.source_files` writes
REFUSED = (".zip", ".z")  # endings that would promise what is not written


def file_of(given: Path) -> Path:
    """Return the file of an input that may name an extension: ``mosaic.fits`` of ``mosaic.fits[3]``.

    `exposure.io.opening.split_choice` does it for those who read; a command line does not wait for what reading loads.
    """
    return given if given.exists() else Path(re.sub(r"\[[^\[\]]+\]$", "", str(given)))


def check_format(path: Path) -> str:
    """Return the format of a table that a file's suffix stands for, whatever the case of its letters.

    Raises
    ------
    OutputError
        None that can be written.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise OutputError(
            f"{path} ends in none of {' '.join(TABLES)}: the suffix says in which format the sources are written"
        )
    return suffix


def check_outputs(inputs: Iterable[Path], files: Iterable[Path], folders: Iterable[Path] = ()) -> None:
    """Make the folders of outputs where they are missing, and see that all can be written.

    Raises
    ------
    OutputError
        An output is an input or another output, a folder stands where a file is to be, or the other way round, or a folder
        cannot be written to.
    """
    taken = {path.resolve(): f"the input {path}" for path in inputs}
    for path in files:
        resolved = path.resolve()
        if resolved in taken or any(_same(path, other) for other in taken):
            what = taken.get(resolved, "another file of this command")
            raise OutputError(f"{path} would be written over {what}: name another file")
        if path.is_dir():
            raise OutputError(f"{path} is a folder: name a file in it")
        if path.suffix.lower() in REFUSED:
            raise OutputError(f"{path}: files are packed as .gz, .bz2, .xz or .fz, not as {path.suffix}")
        taken[resolved] = f"the output {path}"
        _writable(path.parent, path)
    for folder in folders:
        _writable(folder, folder)


def _same(path: Path, other: Path) -> bool:
    """Whether two names are one file, through links of either kind."""
    return path.exists() and other.exists() and path.samefile(other)


def _writable(folder: Path, asked: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{asked} cannot be written: {_reason(error)} ({folder})") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written (a full disk, for example) into our own error."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {_reason(error)}") from error
