"""What pages work with: a part of what the HTTP API holds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import psycopg
from fastapi import Depends, Request
from psycopg.rows import dict_row

from apdb import Database
from service.settings import Settings
from tasks.sphere import separation_arcsec

if TYPE_CHECKING:
    import pandas as pd
    from psycopg import sql

    from apdb.schema.columns import Column

__all__ = ["Pages", "Shared", "curve_frame", "need_answer", "reading", "resources_of", "with_distance"]


class Shared(Protocol):
    """Settings, and connections whose statements are short."""

    @property
    def settings(self) -> Settings:
        """Settings of the service."""
        ...

    @property
    def database(self) -> Database:
        """Connections whose statements are short."""
        ...


def resources_of(request: Request) -> Shared:
    """Return what the application that answers a request works with."""
    shared: Shared = request.app.state.resources
    return shared


async def _resources(request: Request) -> Shared:
    return resources_of(request)


Pages = Annotated[Shared, Depends(_resources)]


@contextmanager
def reading(database: Database) -> Iterator[psycopg.Cursor[dict[str, Any]]]:
    """Yield a cursor whose rows are dictionaries, on a connection that is closed afterwards."""
    with database.session() as connection, connection.cursor(row_factory=dict_row) as cursor:
        yield cursor


def need_answer(database: Database) -> None:
    """Find out that the database answers, before the first part of a page goes out that shows nothing of it.

    Raises
    ------
    DatabaseUnavailable
        It does not.
    """
    with reading(database) as cursor:
        cursor.execute("SELECT 1")


def with_distance(rows: list[dict[str, Any]], ra: float, dec: float) -> list[dict[str, Any]]:
    """Return rows with their angle from a place (degrees) as ``away`` (arcsec), the nearest first."""
    away = separation_arcsec([r["ra"] for r in rows], [r["dec"] for r in rows], ra, dec).tolist() if rows else []
    return sorted(({**r, "away": a} for r, a in zip(rows, away, strict=True)), key=lambda r: r["away"])


def curve_frame(
    database: Database, statement: "sql.Composable", columns: "Sequence[Column]", parameters: tuple[Any, ...]
) -> "pd.DataFrame":
    """Return the rows of a statement as one frame; missing integers and flags are of pandas' nullable types."""
    import pandas as pd  # loaded by the first page that needs it

    from apdb.copy.decode import stream_frames

    with database.session() as connection:
        return pd.concat(list(stream_frames(connection, statement, columns, parameters)), ignore_index=True)
