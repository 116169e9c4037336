"""Visits that are taken back: withdrawn forced sources, corrections of alerts and how far they are published."""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0007_taken_back.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Put withdrawn forced sources back where their keys are free, and take away."""
    columns = (
        '"diaForcedSourceId", "diaObjectId", ra, dec, visit, detector, "psfFlux", "psfFluxErr", "midpointMjdTai", '
        '"scienceFlux", "scienceFluxErr", band, "timeProcessedMjdTai", "timeWithdrawnMjdTai"'
    )
    op.execute(
        f'INSERT INTO "DiaForcedSource" ({columns}) SELECT DISTINCT ON ("diaObjectId", visit, detector) {columns} FROM '
        '"DiaForcedSourceWithdrawn" w WHERE NOT EXISTS (SELECT 1 FROM "DiaForcedSource" t WHERE t."diaObjectId" = '
        'w."diaObjectId" AND t.visit = w.visit AND t.detector = w.detector) ORDER BY "diaObjectId", visit, detector, id DESC'
    )
    op.execute('DROP TABLE "DiaForcedSourceWithdrawn", "AlertCorrection", "CorrectionBatch", "CorrectionTopicCount"')
