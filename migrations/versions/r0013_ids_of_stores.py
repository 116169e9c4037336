"""Ids of the sources of stores from before they were entered; in a new database, what is read most first in a source."""

from pathlib import Path

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Fill."""
    op.execute((Path(__file__).parent / "r0013_ids_of_stores.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away the entries that are of no store; ids of stores and the order of columns may stay."""
    op.execute('DELETE FROM "StoreLedger" WHERE "contentHash" LIKE \'revision 0013%\'')
