"""An index of the forced sources whose flux lacks part of its light: they have no part in means."""

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0010_lacking.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    """Take away."""
    op.execute('DROP INDEX "IDX_DiaForcedSourceFlags_lacking"')
