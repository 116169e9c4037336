-- Labels that people give to detections, and queries that run while nobody waits; frozen.

CREATE TABLE "SourceLabel" (
    "diaSourceId" BIGINT NOT NULL,
    principal TEXT NOT NULL,
    label TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT "PK_SourceLabel" PRIMARY KEY ("diaSourceId", principal)
);

CREATE TABLE "TapJob" (
    "jobId" TEXT NOT NULL,
    owner TEXT NOT NULL,
    phase TEXT NOT NULL,
    parameters JSONB NOT NULL,
    "createdAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    "startedAt" TIMESTAMP WITH TIME ZONE,
    "endedAt" TIMESTAMP WITH TIME ZONE,
    "destroyAt" TIMESTAMP WITH TIME ZONE NOT NULL,
    error TEXT,
    "mediaType" TEXT,
    result BYTEA,
    CONSTRAINT "PK_TapJob" PRIMARY KEY ("jobId")
);

CREATE INDEX "IDX_TapJob_destroyAt" ON "TapJob" ("destroyAt");
