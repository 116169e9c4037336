-- Held alerts, ledger of stores, audit, archive of partitions, BRIN indices by time; frozen.

ALTER TABLE "AlertOutbox" ADD COLUMN "heldReason" TEXT, ADD COLUMN "droppedAt" TIMESTAMP WITH TIME ZONE;

ALTER TABLE "DiaSource" ALTER COLUMN "trailNdata" SET DEFAULT '0';

CREATE INDEX "IDX_DiaSource_midpoint" ON "DiaSource" USING brin ("midpointMjdTai");

CREATE INDEX "IDX_DiaForcedSource_midpoint" ON "DiaForcedSource" USING brin ("midpointMjdTai");

DROP INDEX "IDX_DiaObject_pixelId";

DROP INDEX "IDX_DiaObject_validityStart";

CREATE INDEX "IDX_DiaObject_validityStart" ON "DiaObject" USING brin ("validityStartMjdTai");

DROP INDEX "IDX_DiaSource_ssObjectId";

CREATE INDEX "IDX_DiaSource_ssObjectId" ON "DiaSource" ("ssObjectId") WHERE "ssObjectId" IS NOT NULL;

CREATE TABLE "StoreLedger" (
    "contentHash" TEXT NOT NULL,
    visit BIGINT,
    detector SMALLINT,
    "visitTimeMjdTai" DOUBLE PRECISION NOT NULL,
    "nObjects" INTEGER NOT NULL,
    "nSources" INTEGER NOT NULL,
    "nForcedSources" INTEGER NOT NULL,
    "storedAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT "PK_StoreLedger" PRIMARY KEY ("contentHash")
);

CREATE INDEX "IDX_StoreLedger_visitDetector" ON "StoreLedger" (visit, detector);

CREATE TABLE "ApdbAudit" (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    action TEXT NOT NULL,
    "tableName" TEXT NOT NULL,
    count INTEGER NOT NULL,
    detail JSONB NOT NULL,
    by TEXT DEFAULT CURRENT_USER NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE "ApdbArchive" (
    partition TEXT NOT NULL,
    "tableName" TEXT NOT NULL,
    "beginMjdTai" DOUBLE PRECISION NOT NULL,
    "endMjdTai" DOUBLE PRECISION NOT NULL,
    file TEXT NOT NULL,
    rows BIGINT NOT NULL,
    checksum TEXT NOT NULL,
    state TEXT NOT NULL,
    "archivedAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (partition)
);
