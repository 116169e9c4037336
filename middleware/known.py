"""What a repository knows of frames and stars that come once more."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from lsst.daf.butler import Butler, DatasetRef
from lsst.resources import ResourcePath

from exposure.io.opening import split_choice
from middleware.errors import RepositoryError
from middleware.records import FrameFacts

__all__ = ["leave_out_changed", "same_numbers", "stored_files"]


def stored_files(butler: Butler, refs: Iterable[DatasetRef]) -> dict[uuid.UUID, tuple[Path | None, int]]:
    """Return file and size, bytes, of those datasets that are there, by their ids; no file of copies in the repository."""
    return {
        dataset: (_outside(info.path), info.file_size)
        for records in butler._datastore.export_records(list(refs)).values()
        for dataset, tables in records.records.items()
        for infos in tables.values()
        for info in infos
    }


def _outside(text: str) -> Path | None:
    uri = ResourcePath(text, forceAbsolute=False)
    return Path(uri.ospath) if uri.isabs() and uri.isLocal else None


def leave_out_changed(
    facts: dict[tuple[int, int], FrameFacts],
    known: Mapping[tuple[int, int], tuple[Path | None, int] | None],
    bad_frame: Callable[[Path, Exception], None] | None,
) -> None:
    """Take those frames away that are not what is known of their visit and detector.

    Parameters
    ----------
    facts
        Frames by visit and detector.
    known
        File and size of what is known of each.
    bad_frame
        Told of each; without it the first is an error.

    Raises
    ------
    RepositoryError
        The frame is known as another file, or its file had another size.
    """
    for key, stored in known.items():
        path = split_choice(facts[key].path)[0].resolve()
        if stored is None or (stored[0] in (path, None) and stored[1] == path.stat().st_size):
            continue
        other = stored[0] not in (path, None)
        what = f"is known as {stored[0]}" if other else "has changed since it was entered"
        error = RepositoryError(f"{path} {what}: give --replace to take it as it is now").at(*key)
        if bad_frame is None:
            raise error
        bad_frame(facts.pop(key).path, error)


def same_numbers(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Return whether two tables have the same columns and numbers; text changes its type in a file."""
    if list(one.columns) != list(other.columns) or len(one) != len(other):
        return False
    numbers = other.select_dtypes("number").columns
    return all(np.array_equal(one[c].to_numpy(float), other[c].to_numpy(float), equal_nan=True) for c in numbers)
