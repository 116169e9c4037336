"""Labels that people give to detections, and queries that run while nobody waits."""

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0009_people.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away."""
    op.execute('DROP TABLE "SourceLabel", "TapJob"')
