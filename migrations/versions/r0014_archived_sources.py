"""What of each object lies in archived months; ids of visits that were withdrawn."""

from pathlib import Path

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0014_archived_sources.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away."""
    op.execute('DELETE FROM "StoreLedger" WHERE visit IS NULL AND "contentHash" LIKE \'withdrawn %\'')
    op.execute('DROP TABLE "ArchivedSources"')
    op.execute('ALTER TABLE "ApdbArchive" DROP COLUMN noted')
