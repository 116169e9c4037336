"""Of which instrument a visit is that was stored without the service."""

from pathlib import Path

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0015_instruments.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away."""
    op.execute('DROP INDEX "IDX_DiaForcedSourceWithdrawn_visit"')
    op.execute('ALTER TABLE "StoreLedger" DROP COLUMN instrument')
