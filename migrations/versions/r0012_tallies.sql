-- Visits by state and alerts by night as sums of changes, and indices for looks at nights and at what changed last; frozen.

CREATE TABLE "Tally" (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    night INTEGER,
    change BIGINT NOT NULL,
    CONSTRAINT "PK_Tally" PRIMARY KEY (id)
);

CREATE INDEX "IDX_Tally_name" ON "Tally" (name, night);

CREATE INDEX "IDX_VisitLedger_midpoint" ON "VisitLedger" ("midpointMjdTai");

CREATE INDEX "IDX_VisitLedger_updated" ON "VisitLedger" ("updatedAt");

-- from here to the end of the transaction, which makes the triggers, nobody changes what is counted
LOCK TABLE "VisitLedger", "AlertOutbox" IN SHARE ROW EXCLUSIVE MODE;

INSERT INTO "Tally" (name, change) SELECT 'visits:' || state, count(*) FROM "VisitLedger" GROUP BY state;

INSERT INTO "Tally" (name, night, change)
SELECT t.name, t.night, sum(t.change) FROM (
    SELECT floor("shutterCloseMjdTai" - 0.5)::int AS night, sum(count) AS alerts, count(*) AS visits, sum("topicCount") AS in_topic,
        coalesce(sum(count) FILTER (WHERE "droppedAt" IS NOT NULL), 0) AS dropped,
        coalesce(sum(count) FILTER (WHERE "publishedAt" IS NOT NULL), 0) AS published FROM "AlertOutbox" GROUP BY 1
) n CROSS JOIN LATERAL (VALUES ('alerts:stored', NULL, n.alerts), ('alerts:in_topic', NULL, n.in_topic),
    ('alerts:dropped', NULL, n.dropped), ('alerts:published', NULL, n.published), ('night:visits', n.night, n.visits),
    ('night:alerts', n.night, n.alerts), ('night:published', n.night, n.published)) t(name, night, change)
WHERE t.change <> 0 GROUP BY t.name, t.night;
