-- What was submitted under which key, changes of state as they happened, visits that wait for their image; frozen.

ALTER TABLE "VisitLedger" ADD COLUMN "waitUntil" TIMESTAMP WITH TIME ZONE;

CREATE INDEX "IDX_VisitLedger_created" ON "VisitLedger" ("createdAt", visit, detector);

CREATE INDEX "IDX_VisitLedger_time" ON "VisitLedger" ("midpointMjdTai") WHERE state IN ('queued', 'running');

CREATE TABLE "VisitEvent" (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    "transaction" BIGINT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    visit BIGINT NOT NULL,
    detector SMALLINT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    "errorCode" TEXT,
    PRIMARY KEY (id)
);

CREATE INDEX "IDX_VisitEvent_transaction" ON "VisitEvent" ("transaction", id);

CREATE TABLE "IdempotencyKey" (
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    status SMALLINT,
    answer JSON,
    "createdAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT "PK_IdempotencyKey" PRIMARY KEY (principal, key)
);

CREATE INDEX "IDX_IdempotencyKey_created" ON "IdempotencyKey" ("createdAt");

CREATE INDEX "IDX_AccessAudit_at" ON "AccessAudit" (at);

CREATE TABLE "NextVisit" (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    "createdAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    "expiresAt" TIMESTAMP WITH TIME ZONE NOT NULL,
    announcement JSONB NOT NULL,
    PRIMARY KEY (id)
);
