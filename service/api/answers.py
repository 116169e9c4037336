"""Streamed answers to reads: one read-only statement each, a few at a time, in the format that a request asks for."""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from apdb import Database
from apdb.errors import Busy, NotFound

if TYPE_CHECKING:
    from collections.abc import Generator

    import pandas as pd

    from apdb.queries import Query

__all__ = ["STREAM_TIMEOUT_S", "Answers", "format_of"]

MAX_STREAMS = 8
STREAM_TIMEOUT_S = 60
WAIT_S = 2.0
_ACCEPTED = {
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
    "application/x-votable+xml": "votable",
    "application/json": "json",
}


def format_of(request: Request, chosen: str | None) -> str:
    """Return the format that is asked for by name, else by the first type of ``Accept``; json by default."""
    accepted = request.headers.get("accept", "").partition(";")[0].split(",")[0].strip()
    return chosen or _ACCEPTED.get(accepted, "json")


class Answers:
    """Runs queries for responses: at most a few at a time, each on a read-only connection of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._free = threading.BoundedSemaphore(MAX_STREAMS)

    def frames(self, query: "Query") -> "Generator[pd.DataFrame]":
        """Yield frames of the answer; the connection lives as long as the generator.

        Raises
        ------
        Busy
            Too many answers are being given.
        """
        from apdb.copy.decode import stream_frames

        if not self._free.acquire(timeout=WAIT_S):
            raise Busy(f"{MAX_STREAMS} answers are being given already: try again")
        try:
            with self._database.session() as connection:
                yield from stream_frames(connection, query.statement, query.columns, query.parameters)
        finally:
            self._free.release()

    def give(self, query: "Query", kind: str, *, one: bool = False) -> Response:
        """Return the streaming response for a query.

        Parameters
        ----------
        kind
            A key of `service.api.formats.FORMATS`.
        one
            An empty answer is an error.

        Raises
        ------
        NotFound
            `one`, and there is no row.
        Busy
            Too many answers are being given.
        """
        from service.api import formats

        frames = self.frames(query)
        first = next(frames)  # what fails, fails before the status is sent
        if one and first.empty:
            frames.close()
            raise NotFound(f"no such {query.name.rstrip('s').replace('_', ' ')}")

        def all_frames() -> "Iterator[pd.DataFrame]":
            yield first
            yield from frames

        headers = {}
        if kind in ("csv", "parquet"):
            headers["Content-Disposition"] = f'attachment; filename="{query.name}.{kind}"'
        return StreamingResponse(
            formats.write(kind, all_frames(), query), media_type=formats.MEDIA_TYPES[kind], headers=headers
        )

    def time_of_visit(self, visit: int, detector: int) -> float:
        """Return when the association of a visit looked at the database, MJD TAI (`apdb.queries.time_of_visit`)."""
        from apdb import queries

        with self._database.session() as connection:
            return queries.time_of_visit(connection, visit, detector)
