"""Visits by state and alerts by night as sums of changes, and indices for looks at nights and at what changed last."""

from importlib.resources import files
from pathlib import Path

from alembic import op

revision = "0012"
down_revision = "0011"

_FUNCTIONS = ("entered_visits", "changed_visit", "deleted_visits", "no_visits", "stored_alerts", "changed_alerts")


def upgrade() -> None:
    """Add; the triggers are made in the same transaction as the first counts, so that a program that works meanwhile is counted."""
    op.execute((Path(__file__).parent / "r0012_tallies.sql").read_text(encoding="utf-8").replace(":", "\\:"))
    op.execute((files("apdb.schema") / "tallies.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away."""
    for name in _FUNCTIONS:
        op.execute(f"DROP FUNCTION IF EXISTS tally_{name} CASCADE")
    op.execute('DROP TABLE "Tally"')
    op.execute('DROP INDEX "IDX_VisitLedger_midpoint", "IDX_VisitLedger_updated"')
