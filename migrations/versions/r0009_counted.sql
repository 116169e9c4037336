-- Totals of what was published, ids of the forced sources of each store, indices for looks at what is newest; frozen.

CREATE TABLE "DeliveryTotals" (
    name TEXT NOT NULL,
    alerts BIGINT NOT NULL,
    visits BIGINT NOT NULL,
    "shutterSeconds" DOUBLE PRECISION NOT NULL,
    CONSTRAINT "PK_DeliveryTotals" PRIMARY KEY (name)
);

-- the trigger that goes on counting is made after the migrations: until then nobody may publish
LOCK TABLE "AlertOutbox" IN SHARE MODE;

INSERT INTO "DeliveryTotals" SELECT 'published', coalesce(sum(count) FILTER (WHERE "publishedAt" IS NOT NULL), 0),
    count("secondsSinceShutterClose"), coalesce(sum("secondsSinceShutterClose"), 0) FROM "AlertOutbox";

CREATE INDEX "IDX_AlertOutbox_published" ON "AlertOutbox" ("publishedAt") WHERE "publishedAt" IS NOT NULL;

CREATE INDEX "IDX_VisitLedger_done" ON "VisitLedger" ("finishedAt") WHERE state = 'done';

ALTER TABLE "StoreLedger" ADD COLUMN "forcedIds" INT8RANGE;

CREATE INDEX "IDX_StoreLedger_forcedIds" ON "StoreLedger" USING gist ("forcedIds");
