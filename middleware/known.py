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


def stored_files(butler: Butler, refs: Iterable[DatasetRef]) -> dict[uuid.UUID, tuple[Path, int]]:
    """Return file and size, bytes, of those datasets that are there, by their ids."""
    return {
        dataset: (Path(ResourcePath(info.path).ospath), info.file_size)
        for records in butler._datastore.export_records(list(refs)).values()
        for dataset, tables in records.records.items()
        for infos in tables.values()
        for info in infos
    }


def leave_out_changed(
    facts: dict[tuple[int, int], FrameFacts],
    known: Mapping[tuple[int, int], tuple[Path, int] | None],
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
        if stored is None or stored == (path, path.stat().st_size):
            continue
        what = "has changed since it was entered" if stored[0] == path else f"is known as {stored[0]}"
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
