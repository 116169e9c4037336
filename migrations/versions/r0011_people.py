"""Labels that people give to detections, and queries that run while nobody waits."""

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0011_people.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away."""
    op.execute('DROP TABLE "SourceLabel", "TapJob"')
