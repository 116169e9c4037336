"""The PostgreSQL APDB: schema, reads, store, ledger (which is the queue), outbox, partitions, queries for people.

Imports: ``tasks`` only. Knows SQL and DataFrames, not images. What needs a database is loaded when it is asked for: the
errors and states alone, which every command knows, load neither drivers nor tables.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from apdb.errors import ApdbError, DatabaseUnavailable, LeaseLost, SchemaMismatch, VisitConflict
from apdb.queue.states import VisitState

if TYPE_CHECKING:
    from apdb.client.postgres_apdb import PostgresApdb, open
    from apdb.database import Database
    from apdb.queue.claims import Claim
    from apdb.queue.ledger import Ledger
    from apdb.schema.columns import columns_of, empty_frame
    from apdb.visit.unit_of_work import VisitUnitOfWork

_MODULES = {
    "Claim": "apdb.queue.claims",
    "Database": "apdb.database",
    "Ledger": "apdb.queue.ledger",
    "PostgresApdb": "apdb.client.postgres_apdb",
    "VisitUnitOfWork": "apdb.visit.unit_of_work",
    "columns_of": "apdb.schema.columns",
    "empty_frame": "apdb.schema.columns",
    "open": "apdb.client.postgres_apdb",
}

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
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
