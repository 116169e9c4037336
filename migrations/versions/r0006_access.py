"""Who may do what: tokens of the HTTP API, what was done with them, how much was used."""

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0006_access.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away."""
    op.execute('DROP TABLE "AccessToken", "AccessAudit", "AccessUsage"')
