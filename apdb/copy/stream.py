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
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
from psycopg import pq

from tasks.arrays import I64, U8
from tasks.compiled import compiled

__all__ = ["copy_rows", "word"]

PIECE = 1 << 20
TIMEOUT_S = 600.0
PAUSE_S = 0.0002
_READY = b"Z\0\0\0\5"  # begins the last message of an answer, of which one byte follows
_HEADER_LENGTH = 19  # signature, flags, length of the (empty) extension


def copy_rows(
    connection: psycopg.Connection[Any], query: bytes, meanwhile: Callable[[], object] | None = None
) -> Iterator[U8]:
    """Yield the answer to ``COPY ... TO STDOUT (FORMAT BINARY)`` without header and trailer: bytes, shape (N,), of complete rows.

    `meanwhile` is called once, on a plain connection while the server works.

    Raises
    ------
    psycopg.Error
        What the server says, or a broken connection.
    """
    if _is_plain(connection.pgconn):
        yield from _from_socket(connection, query, meanwhile)
    else:
        if meanwhile is not None:
            meanwhile()
        yield from _from_libpq(connection, query)


def _is_plain(pgconn: pq.abc.PGconn) -> bool:
    return not pgconn.ssl_in_use and not getattr(pgconn, "used_gssapi", False)


def _from_libpq(connection: psycopg.Connection[Any], query: bytes) -> Iterator[U8]:
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


def _from_socket(
    connection: psycopg.Connection[Any], query: bytes, meanwhile: Callable[[], object] | None
) -> Iterator[U8]:
    pg = connection.pgconn
    if pg.transaction_status not in (pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS):
        raise psycopg.errors.InFailedSqlTransaction("the connection is not ready for a query")
    handle = pg.socket
    _write(handle, b"Q" + struct.pack("!I", len(query) + 5) + query + b"\0")
    answer = _Answer(handle)
    try:
        if meanwhile is not None:
            meanwhile()
        while not answer.ready:
            rows = answer.step()
            if len(rows) and not answer.error:
                yield rows
    finally:
        if not answer.ready:  # the reader went away: stop the server, and read what is on its way
            pg.get_cancel().cancel()
            while not answer.ready:
                answer.step()
            if connection.info.transaction_status == pq.TransactionStatus.INTRANS:
                _tell_libpq(pg)
    if answer.error:
        _tell_libpq(pg)
        raise _error(answer.error)


class _Answer:
    """The answer to one query on a socket, step by step: whether it is complete, and the first error in it."""

    def __init__(self, handle: int) -> None:
        self.ready = False
        self.error = b""
        self._handle = handle
        self._buffer, self._held = np.empty(2 * PIECE, np.uint8), 0
        self._state = np.array([_HEADER_LENGTH, 0], np.int64)
        self._used = np.int64(0)

    def step(self) -> U8:
        """Take whole messages from what was read, reading on where there are none; returns the rows in them."""
        if self._used == 0:
            if self._held == self._buffer.size:
                self._buffer = np.concatenate([self._buffer, np.empty(self._buffer.size, np.uint8)])
            self._held += _read_much(self._handle, self._buffer[self._held :])
        rows = np.empty(self._held, np.uint8)
        used, length, error_offset = _unframe(self._buffer[: self._held], rows, self._state)
        if error_offset >= 0 and not self.error:
            self.error = bytes(self._buffer[error_offset:used])
        self.ready, self._used = bool(self._state[1]), used
        self._held -= int(used)
        self._buffer[: self._held] = self._buffer[used : used + self._held].copy()
        return rows[:length]


def _tell_libpq(pg: pq.abc.PGconn) -> None:
    """Let libpq learn that the transaction has failed."""
    pg.exec_(b"SELECT 1")


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


def _read(handle: int, into: U8) -> int:
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


def _read_much(handle: int, into: U8) -> int:
    """Read as `_read`, then on until the buffer is full or nothing comes for a moment.

    The server sends in pieces of 8 kB: to wake up for each costs both sides more than to wait a little.
    """
    count = _read(handle, into)
    while count < into.size:
        if into[:count][-6:-1].tobytes() == _READY:
            break
        time.sleep(PAUSE_S)
        try:
            more = os.readv(handle, [into[count:].data])
        except OSError:
            break
        if more == 0:
            break
        count += more
    return count


@compiled(inline=True)
def word(data: U8, offset: np.int64) -> np.uint32:
    """Return the four bytes of `data`, shape (N,), from an offset on as a big-endian number (the compiler makes one load and a swap of it)."""
    return np.uint32(
        np.uint32(data[offset]) << np.uint32(24)
        | np.uint32(data[offset + 1]) << np.uint32(16)
        | np.uint32(data[offset + 2]) << np.uint32(8)
        | np.uint32(data[offset + 3])
    )


@compiled
def _unframe(data: U8, rows: U8, state: I64) -> tuple[np.int64, np.int64, np.int64]:
    """Copy the payload of complete CopyData messages to `rows`; returns bytes used, bytes copied, offset of an error or -1.

    `state` holds: bytes of COPY's header still to skip, whether ReadyForQuery came.
    """
    offset, length, error_offset = np.int64(0), np.int64(0), np.int64(-1)
    while offset + 5 <= data.size:
        end = offset + 1 + np.int64(word(data, offset + 1))
        if end > data.size:
            break
        kind = data[offset]
        if kind == 100:  # d: CopyData
            begin = offset + 5 + state[0]
            state[0] = 0
            count = end - begin
            if count > 2:
                rows[length : length + count] = data[begin:end]
                length += count
        elif kind == 69:  # E: ErrorResponse
            error_offset = offset + 5
            return end, length, error_offset
        elif kind == 90:  # Z: ReadyForQuery
            state[1] = 1
            return end, length, error_offset
        offset = end
    return offset, length, error_offset


def _error(fields: bytes) -> psycopg.Error:
    """Return the exception for an ErrorResponse."""
    parts = {part[:1]: part[1:].decode("utf-8", "replace") for part in fields.split(b"\0") if part}
    kind = psycopg.errors.lookup(parts[b"C"]) if b"C" in parts else psycopg.DatabaseError
    return kind(parts.get(b"M", "the server reported an error"))
