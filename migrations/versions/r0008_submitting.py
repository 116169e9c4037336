"""Keys of what was submitted, changes of state, visits that wait for their image, announcements of next visits."""

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0008_submitting.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away; visits of states that are not known before count as failed."""
    op.execute("DROP FUNCTION IF EXISTS note_visit_event CASCADE")
    op.execute("UPDATE \"VisitLedger\" SET state = 'failed' WHERE state IN ('waiting', 'cancelled')")
    op.execute('DROP INDEX "IDX_VisitLedger_created", "IDX_VisitLedger_time", "IDX_AccessAudit_at"')
    op.execute('ALTER TABLE "VisitLedger" DROP COLUMN "waitUntil"')
    op.execute('DROP TABLE "VisitEvent", "IdempotencyKey", "NextVisit"')
