-- Visits that are taken back: forced sources whose keys are needed again, corrections of alerts; frozen.

CREATE TABLE "DiaForcedSourceWithdrawn" (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    "diaForcedSourceId" BIGINT NOT NULL,
    "diaObjectId" BIGINT NOT NULL,
    ra DOUBLE PRECISION NOT NULL,
    dec DOUBLE PRECISION NOT NULL,
    visit BIGINT NOT NULL,
    detector SMALLINT NOT NULL,
    "psfFlux" REAL,
    "psfFluxErr" REAL,
    "midpointMjdTai" DOUBLE PRECISION NOT NULL,
    "scienceFlux" REAL,
    "scienceFluxErr" REAL,
    band VARCHAR(1),
    "timeProcessedMjdTai" DOUBLE PRECISION NOT NULL,
    "timeWithdrawnMjdTai" DOUBLE PRECISION,
    "sideFlags" INTEGER,
    PRIMARY KEY (id)
);

CREATE TABLE "CorrectionBatch" (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    count INTEGER NOT NULL,
    "createdAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    "publishOrder" BIGINT,
    "publishedCount" INTEGER DEFAULT '0' NOT NULL,
    "publishedAt" TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
);

CREATE UNIQUE INDEX "IDX_CorrectionBatch_order" ON "CorrectionBatch" ("publishOrder");

CREATE INDEX "IDX_CorrectionBatch_unpublished" ON "CorrectionBatch" (id) WHERE "publishedAt" IS NULL;

CREATE TABLE "AlertCorrection" (
    batch BIGINT NOT NULL,
    number INTEGER NOT NULL,
    "diaSourceId" BIGINT NOT NULL,
    "oldDiaObjectId" BIGINT,
    "newDiaObjectId" BIGINT,
    visit BIGINT NOT NULL,
    detector SMALLINT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT NOT NULL,
    "mjdTai" DOUBLE PRECISION NOT NULL,
    CONSTRAINT "PK_AlertCorrection" PRIMARY KEY (batch, number)
);

CREATE INDEX "IDX_AlertCorrection_diaSourceId" ON "AlertCorrection" ("diaSourceId");

CREATE INDEX "IDX_AlertCorrection_visitDetector" ON "AlertCorrection" (visit, detector);

CREATE TABLE "CorrectionTopicCount" (
    visit BIGINT NOT NULL,
    detector SMALLINT NOT NULL,
    count INTEGER NOT NULL,
    xor BIGINT NOT NULL,
    CONSTRAINT "PK_CorrectionTopicCount" PRIMARY KEY (visit, detector)
);
