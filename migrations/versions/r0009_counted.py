"""Totals of what was published, ids of the forced sources of each store, indices for looks at what is newest."""

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0009_counted.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away."""
    op.execute("DROP FUNCTION IF EXISTS count_delivered CASCADE")
    op.execute('DROP TABLE "DeliveryTotals"')
    op.execute('DROP INDEX "IDX_AlertOutbox_published", "IDX_VisitLedger_done"')
    op.execute('ALTER TABLE "StoreLedger" DROP COLUMN "forcedIds"')
