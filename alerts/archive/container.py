"""Avro object container files with one alert per block: any alert can be read, checked and sent without the others.

https://avro.apache.org/docs/1.12.0/specification/#object-container-files
"""

import hashlib
import io
import zlib
from collections.abc import Callable, Iterable
from typing import IO

import fastavro
import numpy as np
from backports import zstd
from numpy.typing import NDArray

from alerts.packets.schemas import SCHEMA_ID, schema
from alerts.packets.wire import Alert, varint
from apdb.queue.corrections import ALERT_INDEX

__all__ = ["CODECS", "INDEX", "block_body", "write_container"]

INDEX = ALERT_INDEX
ZSTD_LEVEL = -3  # half the time of level 1 for a tenth more bytes: pixels of sky do not compress
CODECS = ("zstandard", "deflate", "null")


def _compressor(codec: str) -> Callable[[bytes], bytes]:
    if codec == "zstandard":
        return lambda data: zstd.compress(data, level=ZSTD_LEVEL)
    if codec == "deflate":
        return lambda data: zlib.compress(data, 1)[2:-4]
    return lambda data: data


def block_body(block: bytes | memoryview, codec: str) -> bytes:
    """Return the Avro bytes of the alert of a stored block."""
    if codec == "zstandard":
        return zstd.decompress(block)
    if codec == "deflate":
        return zlib.decompress(block, -15)
    return bytes(block)


def write_container(out: IO[bytes], alerts: Iterable[Alert], name: str, codec: str) -> tuple[NDArray[np.void], str]:
    """Write a file that any Avro library reads.

    Parameters
    ----------
    out
        Where to.
    alerts
        Encoded packets.
    name
        Name of the file: it decides the sync marker, so that the same alerts give the same bytes.
    codec
        One of `CODECS`.

    Returns
    -------
    index, checksum
        Shape (alerts,), of type `INDEX` (offset and size of the stored block, its CRC-32); SHA-256 of the index.
    """
    sync = hashlib.md5(name.encode(), usedforsecurity=False).digest()
    head = _header(codec, sync)
    offset, rows, compress = len(head), [], _compressor(codec)
    out.write(head)
    for alert in alerts:
        data = compress(alert.body)
        front = varint(1) + varint(len(data))
        rows.append((alert.diaSourceId, alert.key, offset + len(front), len(data), zlib.crc32(data)))
        out.writelines((front, data, sync))
        offset += len(front) + len(data) + len(sync)
    index = np.array(rows, INDEX)
    return index, hashlib.sha256(index.tobytes()).hexdigest()


def _header(codec: str, sync: bytes) -> bytes:
    buffer = io.BytesIO()
    metadata = {"alertprod.schema_id": str(SCHEMA_ID)}
    fastavro.writer(buffer, schema(), [], codec=codec, metadata=metadata, sync_marker=sync)
    return buffer.getvalue()
