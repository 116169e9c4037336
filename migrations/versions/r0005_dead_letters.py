"""Dead letters of the ingest; the database session that works under a lease."""

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0005_dead_letters.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away."""
    op.execute('DROP TABLE "DeadLetter"')
    op.execute('ALTER TABLE "VisitLease" DROP COLUMN backend, DROP COLUMN "backendStart"')
