"""The PostgreSQL APDB: schema, reads, store, ledger (which is the queue), outbox, partitions, queries for people.

Imports: ``tasks`` only. Knows SQL and DataFrames, not images. `PostgresApdb` and `open`, the published client, are
loaded when they are asked for: they import ``lsst.dax.apdb``, which the hot path does not need.
"""

from typing import TYPE_CHECKING, Any

from apdb.database import Database
from apdb.errors import ApdbError, DatabaseUnavailable, LeaseLost, SchemaMismatch, VisitConflict
from apdb.ledger import Claim, Ledger, VisitState
from apdb.schema import columns_of, empty_frame
from apdb.unit_of_work import VisitUnitOfWork

if TYPE_CHECKING:
    from apdb.postgres_apdb import PostgresApdb, open

__all__ = [
    "ApdbError",
    "Claim",
    "Database",
    "DatabaseUnavailable",
    "LeaseLost",
    "Ledger",
    "PostgresApdb",
    "SchemaMismatch",
    "VisitConflict",
    "VisitState",
    "VisitUnitOfWork",
    "columns_of",
    "empty_frame",
    "open",
]


def __getattr__(name: str) -> Any:
    if name in ("PostgresApdb", "open"):
        from apdb import postgres_apdb

        return getattr(postgres_apdb, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
