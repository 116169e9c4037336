"""The PostgreSQL APDB: schema, reads, store, ledger (which is the queue), outbox, partitions.

Imports: ``tasks`` only. Knows SQL and DataFrames, not images.
"""

from apdb.client import PostgresApdb, open
from apdb.errors import ApdbError, DatabaseUnavailable, LeaseLost, SchemaMismatch
from apdb.ledger import Claim, Ledger, VisitState
from apdb.schema import columns_of, empty_frame
from apdb.unit_of_work import VisitUnitOfWork

__all__ = [
    "ApdbError",
    "Claim",
    "DatabaseUnavailable",
    "LeaseLost",
    "Ledger",
    "PostgresApdb",
    "SchemaMismatch",
    "VisitState",
    "VisitUnitOfWork",
    "columns_of",
    "empty_frame",
    "open",
]
