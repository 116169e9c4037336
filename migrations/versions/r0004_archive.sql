-- Months are archived in generations, each with a file of its own; stores know the ids of their sources; frozen.

ALTER TABLE "ApdbArchive"
    ADD COLUMN generation INTEGER DEFAULT 1 NOT NULL,
    ADD COLUMN relation TEXT,
    DROP CONSTRAINT "ApdbArchive_pkey",
    ADD CONSTRAINT "PK_ApdbArchive" PRIMARY KEY (partition, generation);

ALTER TABLE "ApdbArchive" ALTER COLUMN generation DROP DEFAULT;

UPDATE "ApdbArchive" SET relation = partition WHERE state = 'detached';

ALTER TABLE "StoreLedger" ADD COLUMN "sourceIds" INT8RANGE;

CREATE INDEX "IDX_StoreLedger_sourceIds" ON "StoreLedger" USING gist ("sourceIds");

-- rows that neither ledger knows: visits are looked for in the tables as well
INSERT INTO metadata (name, value)
SELECT 'status:other-writers', 'yes' WHERE EXISTS (
    SELECT 1 FROM (
        SELECT DISTINCT visit, detector FROM "DiaSource" UNION SELECT DISTINCT visit, detector FROM "DiaForcedSource"
    ) v
    WHERE NOT EXISTS (SELECT 1 FROM "StoreLedger" s WHERE s.visit = v.visit AND s.detector = v.detector)
    AND NOT EXISTS (SELECT 1 FROM "VisitLedger" l WHERE l.visit = v.visit AND l.detector = v.detector AND l.state = 'done')
) ON CONFLICT (name) DO NOTHING;
