"""Held alerts, ledger of stores, audit of changes, archive of partitions, BRIN indices."""

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"

VIEWS = ("alert_delivery", "dia_object_latest", "light_curve", "night_summary", "partition_size", "visit_summary")


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0002_stores.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away (views are made again by the next start)."""
    for view in VIEWS:
        op.execute(f'DROP VIEW IF EXISTS "{view}" CASCADE')
    for table in ("ApdbArchive", "ApdbAudit", "StoreLedger"):
        op.execute(f'DROP TABLE "{table}"')
    op.execute('DROP INDEX "IDX_DiaForcedSource_midpoint"')
    op.execute('DROP INDEX "IDX_DiaSource_midpoint"')
    op.execute('ALTER TABLE "AlertOutbox" DROP COLUMN "heldReason", DROP COLUMN "droppedAt"')
    op.execute('DROP INDEX "IDX_DiaSource_ssObjectId"')
    op.execute('CREATE INDEX "IDX_DiaSource_ssObjectId" ON "DiaSource" ("ssObjectId")')
    op.execute('DROP INDEX "IDX_DiaObject_validityStart"')
    op.execute('CREATE INDEX "IDX_DiaObject_validityStart" ON "DiaObject" ("validityStartMjdTai")')
    op.execute('CREATE INDEX "IDX_DiaObject_pixelId" ON "DiaObject" ("pixelId")')
    op.execute('ALTER TABLE "DiaSource" ALTER COLUMN "trailNdata" DROP DEFAULT')
