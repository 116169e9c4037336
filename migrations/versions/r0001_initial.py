"""All tables of the first version, from the frozen SQL beside this file."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None

TABLES = (
    "VisitQuality", "DiaForcedSourceFlags", "AlertOutbox", "VisitLease", "VisitLedger", "metadata", "SSSource",
    "DiaObject_To_Object_Match", "DiaForcedSource", "DiaSource", "DiaObjectLast", "DiaObject",
)  # fmt: skip


def upgrade() -> None:
    """Create."""
    op.execute((Path(__file__).parent / "r0001_initial.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Drop (with every row)."""
    for table in TABLES:
        op.execute(f'DROP TABLE "{table}" CASCADE')
