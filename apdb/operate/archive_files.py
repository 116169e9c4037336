"""The files of the archive: one Parquet file and one manifest for each generation, written once and never again."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from apdb.errors import ApdbError

__all__ = ["check_file", "manifest_of", "read_frames", "write_generation"]

_BATCH_ROWS = 50_000


def write_generation(
    frames: Iterable[pd.DataFrame],
    schema: pa.Schema,
    target: str,
    manifest: dict[str, Any],
    progress: Callable[[int], None],
) -> tuple[str, int, str]:
    """Write rows beside their place, read them back, and only then give the file its name.

    A file that has the name already stays as it is: where it holds other rows, the new one takes a longer name.

    Parameters
    ----------
    target
        Path or fsspec URL without its ending.
    manifest
        What is written to the file's manifest, beside its name, rows and checksum.
    progress
        Called with the number of rows written so far.

    Returns
    -------
    file, rows, checksum
        Where the rows are, how many they are, and the SHA-256 of the file.

    Raises
    ------
    ApdbError
        The file reads back with another number of rows than were written.
    """
    system, path = fsspec.core.url_to_fs(target)
    partial = f"{path}.partial"
    with suppress(OSError):
        system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    rows = 0
    with system.open(partial, "wb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for frame in frames:
                writer.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False))
                rows += len(frame)
                progress(rows)
        _to_disk(file)
    checksum = _digest(system, partial)
    with system.open(partial, "rb") as file:
        held = pq.ParquetFile(file).metadata.num_rows
    if held != rows:
        raise ApdbError(f"{partial} holds {held} rows, {rows} were written: the rows were left in place")
    name = path
    if system.exists(f"{name}.parquet") and _digest(system, f"{name}.parquet") != checksum:
        name = f"{path}.{checksum[:12]}"
    system.mv(partial, f"{name}.parquet")
    file_url = target.removesuffix(path.rsplit("/", 1)[1]) + name.rsplit("/", 1)[1] + ".parquet"
    about = manifest | {"file": name.rsplit("/", 1)[1] + ".parquet", "rows": rows, "sha256": checksum}
    with system.open(manifest_of(f"{name}.parquet"), "wb") as file:
        file.write(json.dumps(about, indent=1).encode() + b"\n")
        _to_disk(file)
    return file_url, rows, checksum


def manifest_of(file: str) -> str:
    """Return the place of the manifest of a file of the archive."""
    return f"{file.removesuffix('.parquet')}.manifest.json"


def _to_disk(file: Any) -> None:
    """Have a local file on the disk before the database gives up its rows (stores of objects have no such thing)."""
    with suppress(AttributeError, OSError):
        file.flush()
        os.fsync(file.fileno())


def _digest(system: Any, path: str) -> str:
    digest = hashlib.sha256()
    with system.open(path, "rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def check_file(file: str, checksum: str, partition: str) -> None:
    """Refuse a file that is gone, short or changed.

    Raises
    ------
    ApdbError
        The file cannot be read, or it is not the one that was written.
    """
    try:
        digest = _digest(*fsspec.core.url_to_fs(file))
    except OSError as error:
        raise ApdbError(f"the archive file of {partition} cannot be read: {error}") from error
    if digest != checksum:
        raise ApdbError(f"{file} is not the file that was written for {partition}: its checksum differs")


def read_frames(file: str, columns: list[str] | None = None) -> Iterator[pd.DataFrame]:
    """Yield the rows of a file (all columns, or some) in frames with nullable types."""
    types = {
        pa.int64(): pd.Int64Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    with fsspec.open(file, "rb") as opened:
        for batch in pq.ParquetFile(opened).iter_batches(_BATCH_ROWS, columns=columns):
            yield batch.to_pandas(types_mapper=types.get)
