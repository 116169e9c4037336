"""Alert delivery: index of alert files, progress within a file, reconciliation with the topic, registry ids."""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"

COLUMNS = ("alertIndex", "idXor", "traceparent", "shutterCloseMjdTai", "publishedCount", "publishStartedAt",
           "secondsSinceShutterClose", "topicCount", "topicXor")  # fmt: skip


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0003_delivery.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away (the view is made again by the next start)."""
    op.execute("DROP VIEW IF EXISTS alert_delivery CASCADE")
    op.execute('DROP TABLE "AlertSchemaId", "AlertTopicOffset"')
    op.execute('DROP SEQUENCE "AlertPublishOrder"')
    op.execute('ALTER TABLE "AlertOutbox" ' + ", ".join(f'DROP COLUMN "{c}"' for c in COLUMNS))
