-- Read-only views for dashboards and notebooks; examples in docs/database.md. Recreated by every migration.

CREATE OR REPLACE VIEW dia_object_latest AS
SELECT * FROM "DiaObject" WHERE "validityEndMjdTai" IS NULL;

CREATE OR REPLACE VIEW light_curve AS
SELECT "diaObjectId", 'detection' AS kind, visit, detector, band, "midpointMjdTai", "psfFlux", "psfFluxErr",
       "scienceFlux", "scienceFluxErr", snr, reliability, "timeWithdrawnMjdTai"
FROM "DiaSource" WHERE "diaObjectId" IS NOT NULL
UNION ALL
SELECT "diaObjectId", 'forced', visit, detector, band, "midpointMjdTai", "psfFlux", "psfFluxErr",
       "scienceFlux", "scienceFluxErr", NULL::real, NULL::real, "timeWithdrawnMjdTai"
FROM "DiaForcedSource";

CREATE OR REPLACE VIEW visit_summary AS
SELECT visit, detector, instrument, band, "midpointMjdTai", floor("midpointMjdTai" - 0.5)::int AS night, state,
       attempt, failures, "errorCode", (counts ->> 'diaSources')::int AS "nDiaSources",
       (counts ->> 'newObjects')::int AS "nNewDiaObjects", (counts ->> 'updatedObjects')::int AS "nUpdatedDiaObjects",
       (counts ->> 'forced')::int AS "nDiaForcedSources", (counts ->> 'alerts')::int AS "nAlerts",
       extract(epoch FROM "finishedAt" - "createdAt")::float8 AS "secondsToFinish", seconds, "createdAt", "finishedAt", priority,
       40587 + extract(epoch FROM "createdAt")::float8 / 86400 AS "createdMjdUtc",
       40587 + extract(epoch FROM "finishedAt")::float8 / 86400 AS "finishedMjdUtc"
FROM "VisitLedger";

CREATE OR REPLACE VIEW night_summary AS
SELECT night, band, count(*) AS "nVisits", count(*) FILTER (WHERE state = 'done') AS "nDone",
       count(*) FILTER (WHERE state = 'failed') AS "nFailed", sum("nDiaSources") AS "nDiaSources",
       sum("nNewDiaObjects") AS "nNewDiaObjects", sum("nAlerts") AS "nAlerts",
       sum("nNewDiaObjects")::float8 / nullif(sum("nDiaSources"), 0) AS "unassociatedFraction",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY "secondsToFinish") AS "medianSecondsToFinish",
       percentile_cont(0.95) WITHIN GROUP (ORDER BY "secondsToFinish") AS "p95SecondsToFinish"
FROM visit_summary GROUP BY night, band;

CREATE OR REPLACE VIEW alert_delivery AS
SELECT visit, detector, attempt, count AS "nAlerts", "createdAt", "publishedAt", "publishOrder",
       extract(epoch FROM coalesce("publishedAt", now()) - "createdAt")::float8 AS "secondsToPublish",
       "publishedAt" IS NULL AND "heldReason" IS NULL AS waiting, "heldReason", "droppedAt",
       "publishedCount" AS "nPublished", "publishStartedAt", "secondsSinceShutterClose", "topicCount" AS "nInTopic"
FROM "AlertOutbox";

CREATE OR REPLACE VIEW partition_size AS
SELECT p.relname AS "table", c.relname AS partition, pg_get_expr(c.relpartbound, c.oid) AS bounds,
       greatest(c.reltuples, 0)::bigint AS "rowsEstimated", pg_table_size(c.oid) AS "tableBytes",
       pg_indexes_size(c.oid) AS "indexBytes"
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
WHERE c.relkind = 'r' AND p.relnamespace = current_schema()::regnamespace;
