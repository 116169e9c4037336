"""The bytes of a COPY answer, taken from the connection's socket in large pieces.

libpq hands out one row per call and allocates each: with hundreds of thousands of rows that costs more than the query.
So the query is written to the socket as a simple-query message of the PostgreSQL protocol (version 3), and the answer is
read up to ReadyForQuery; libpq, idle before and after, sees nothing of it. A connection with TLS or GSSAPI keeps to
libpq.
"""

import os
import select
import struct
import time
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import pq

__all__ = ["copy_rows"]

PIECE = 1 << 20
TIMEOUT_S = 600.0
PAUSE_S = 0.0002
_HEADER_LENGTH = 19  # signature, flags, length of the (empty) extension


def copy_rows(connection: psycopg.Connection[Any], query: bytes) -> Iterator[NDArray[np.uint8]]:
    """Yield pieces of whole rows of ``COPY ... TO STDOUT (FORMAT BINARY)``, without header and trailer.

    Raises
    ------
    psycopg.Error
        What the server says, or a broken connection.
    """
    if _is_plain(connection.pgconn):
        yield from _from_socket(connection, query)
    else:
        yield from _from_libpq(connection, query)


def _is_plain(pgconn: pq.abc.PGconn) -> bool:
    return not pgconn.ssl_in_use and not getattr(pgconn, "used_gssapi", False)


def _from_libpq(connection: psycopg.Connection[Any], query: bytes) -> Iterator[NDArray[np.uint8]]:
    """The same through libpq, row by row, joined to pieces."""
    pg = connection.pgconn
    result = pg.exec_(query)
    if result.status != pq.ExecStatus.COPY_OUT:
        raise psycopg.errors.error_from_result(result)
    rows: list[Any] = []
    size, skip, finished = 0, _HEADER_LENGTH, False
    try:
        while True:
            length, data = pg.get_copy_data(0)
            if length <= 0:
                break
            row = data[skip:]
            skip = 0
            if len(row) > 2:  # the trailer is a field count of -1
                rows.append(row)
                size += len(row)
            if size >= PIECE:
                yield np.frombuffer(b"".join(rows), np.uint8)
                rows, size = [], 0
        finished = True
        if rows:
            yield np.frombuffer(b"".join(rows), np.uint8)
    finally:
        if not finished:
            pg.get_cancel().cancel()
            while pg.get_copy_data(0)[0] > 0:
                pass
        error = None
        while (result := pg.get_result()) is not None:  # type: ignore[assignment]
            if result.status == pq.ExecStatus.FATAL_ERROR:
                error = psycopg.errors.error_from_result(result)
        if error is not None and finished:
            raise error


def _from_socket(connection: psycopg.Connection[Any], query: bytes) -> Iterator[NDArray[np.uint8]]:
    pg = connection.pgconn
    if pg.transaction_status not in (pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS):
        raise psycopg.errors.InFailedSqlTransaction("the connection is not ready for a query")
    handle = pg.socket
    _write(handle, b"Q" + struct.pack("!I", len(query) + 5) + query + b"\0")
    buffer, held = np.empty(2 * PIECE, np.uint8), 0
    state = np.array([_HEADER_LENGTH, 0], np.int64)
    error, ready, used = b"", False, np.int64(0)
    try:
        while not ready:
            if used == 0:  # nothing whole is left: read on
                if held == buffer.size:
                    buffer = np.concatenate([buffer, np.empty(buffer.size, np.uint8)])
                held += _read_much(handle, buffer[held:])
            rows = np.empty(held, np.uint8)
            used, length, error_at = _unframe(buffer[:held], rows, state)
            if error_at >= 0 and not error:
                error = bytes(buffer[error_at:used])
            ready = bool(state[1])
            held -= int(used)
            buffer[:held] = buffer[used : used + held].copy()
            if length and not error:
                yield rows[:length]
    finally:
        if not ready:  # the reader went away
            pg.get_cancel().cancel()
            _drain(handle, buffer, held, state)
            if connection.info.transaction_status == pq.TransactionStatus.INTRANS:
                _tell_libpq(pg)
    if error:
        _tell_libpq(pg)
        raise _error(error)


def _tell_libpq(pg: pq.abc.PGconn) -> None:
    """Let libpq learn that the transaction has failed."""
    pg.exec_(b"SELECT 1")


def _drain(handle: int, buffer: NDArray[np.uint8], held: int, state: NDArray[np.int64]) -> None:
    """Read the rest of an answer that nobody wants."""
    used = np.int64(0)
    while True:
        rows = np.empty(held, np.uint8)
        used, _, _ = _unframe(buffer[:held], rows, state)
        held -= int(used)
        buffer[:held] = buffer[used : used + held].copy()
        if state[1]:
            return
        if used == 0:
            if held == buffer.size:
                buffer = np.concatenate([buffer, np.empty(buffer.size, np.uint8)])
            held += _read(handle, buffer[held:])


def _wait(handle: int, event: int) -> None:
    poll = select.poll()
    poll.register(handle, event)
    if not poll.poll(TIMEOUT_S * 1e3):
        raise psycopg.OperationalError(f"the server does not answer within {TIMEOUT_S:.0f} s")


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        _wait(handle, select.POLLOUT)
        try:
            view = view[os.write(handle, view) :]
        except BlockingIOError:
            continue
        except OSError as error:
            raise psycopg.OperationalError(f"the connection broke: {error}") from error


def _read(handle: int, into: NDArray[np.uint8]) -> int:
    """Read what is there, waiting for it; returns the number of bytes."""
    while True:
        _wait(handle, select.POLLIN)
        try:
            count = os.readv(handle, [into.data])
        except BlockingIOError:
            continue
        except OSError as error:
            raise psycopg.OperationalError(f"the connection broke: {error}") from error
        if count == 0:
            raise psycopg.OperationalError("the server closed the connection unexpectedly")
        return count


def _read_much(handle: int, into: NDArray[np.uint8]) -> int:
    """Read as `_read`, then on until the buffer is full or nothing comes for a moment.

    The server sends in pieces of 8 kB: to wake up for each costs both sides more than to wait a little.
    """
    count = _read(handle, into)
    while count < into.size:
        time.sleep(PAUSE_S)
        try:
            more = os.readv(handle, [into[count:].data])
        except OSError:
            break
        if more == 0:
            break
        count += more
    return count


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _unframe(
    data: NDArray[np.uint8], rows: NDArray[np.uint8], state: NDArray[np.int64]
) -> tuple[np.int64, np.int64, np.int64]:
    """Copy the payload of whole CopyData messages to `rows`; returns bytes used, bytes copied, place of an error or -1.

    `state` holds: bytes of COPY's header still to skip, whether ReadyForQuery came.
    """
    at, length, error_at = np.int64(0), np.int64(0), np.int64(-1)
    while at + 5 <= data.size:
        size = np.int64(0)
        for b in range(4):
            size = size << 8 | np.int64(data[at + 1 + b])
        end = at + 1 + size
        if end > data.size:
            break
        kind = data[at]
        if kind == 100:  # d: CopyData
            begin = at + 5 + state[0]
            state[0] = 0
            count = end - begin
            if count > 2:
                rows[length : length + count] = data[begin:end]
                length += count
        elif kind == 69:  # E: ErrorResponse
            error_at = at + 5
            return end, length, error_at
        elif kind == 90:  # Z: ReadyForQuery
            state[1] = 1
            return end, length, error_at
        at = end
    return at, length, error_at


def _error(fields: bytes) -> psycopg.Error:
    """Return the exception for an ErrorResponse."""
    found = {part[:1]: part[1:].decode("utf-8", "replace") for part in fields.split(b"\0") if part}
    kind = psycopg.errors.lookup(found[b"C"]) if b"C" in found else psycopg.DatabaseError
    return kind(found.get(b"M", "the server reported an error"))
