"""Generations of the archive, ids of the sources of each store, a mark for rows that other clients wrote."""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"

_ONE_GENERATION = """
DO $$
DECLARE item RECORD;
BEGIN
    IF EXISTS (SELECT 1 FROM "ApdbArchive" WHERE state <> 'restored' GROUP BY partition HAVING count(*) > 1) THEN
        RAISE EXCEPTION 'months with several generations in the archive: run ''alertprod apdb restore'' on them first';
    END IF;
    FOR item IN SELECT partition, relation FROM "ApdbArchive" WHERE relation IS NOT NULL AND relation <> partition LOOP
        EXECUTE format('ALTER TABLE %I RENAME TO %I', item.relation, item.partition);
    END LOOP;
END $$
"""


def upgrade() -> None:
    """Add."""
    op.execute((Path(__file__).parent / "r0004_archive.sql").read_text(encoding="utf-8").replace(":", "\\:"))


def downgrade() -> None:
    """Take away; refused where a month has several generations."""
    op.execute("DROP FUNCTION IF EXISTS note_other_writer CASCADE")
    op.execute(_ONE_GENERATION)
    op.execute("DELETE FROM \"ApdbArchive\" WHERE state = 'restored'")
    op.execute(
        'ALTER TABLE "ApdbArchive" DROP CONSTRAINT "PK_ApdbArchive", DROP COLUMN generation, DROP COLUMN relation'
    )
    op.execute('ALTER TABLE "ApdbArchive" ADD PRIMARY KEY (partition)')
    op.execute('ALTER TABLE "StoreLedger" DROP COLUMN "sourceIds"')
