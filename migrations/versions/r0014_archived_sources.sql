-- What of each object lies in archived months; ids of visits that were withdrawn; frozen.

ALTER TABLE "ApdbArchive" ADD COLUMN noted BOOLEAN DEFAULT false NOT NULL;

CREATE TABLE "ArchivedSources" (
    partition TEXT NOT NULL,
    "diaObjectId" BIGINT NOT NULL,
    count INTEGER NOT NULL,
    "firstMjdTai" DOUBLE PRECISION NOT NULL,
    "lastMjdTai" DOUBLE PRECISION NOT NULL
);

CREATE INDEX "IDX_ArchivedSources_diaObjectId" ON "ArchivedSources" ("diaObjectId");

-- Sources that were taken back hold their ids, and no store knows of them: entries of no visit, for the look at ids alone.
INSERT INTO "StoreLedger" ("contentHash", "visitTimeMjdTai", "nObjects", "nSources", "nForcedSources", "sourceIds")
SELECT 'withdrawn audit ' || a.id, 0, 0, 0, 0, int8range(r.low, nullif(r.high, 9223372036854775807), '[]')
FROM "ApdbAudit" a CROSS JOIN LATERAL (
    SELECT min(s::bigint) AS low, max(s::bigint) AS high FROM jsonb_array_elements_text(a.detail -> 'sources') s
) r
WHERE a.action IN ('withdraw visit', 'replace visit') AND r.low IS NOT NULL;
