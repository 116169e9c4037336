-- Ids of stores that were made before they were entered; in a new database, what is read most comes first in a source; frozen.

-- Stores from before revisions 0004 (sources) and 0009 (forced sources): what lies in an archived month is not here to be asked.
-- In groups, at worst by one pass: a look for each visit may be answered by a walk along the primary keys of all months.
UPDATE "StoreLedger" l SET "sourceIds" = int8range(r.low, nullif(r.high, 9223372036854775807), '[]')
FROM (
    SELECT s.visit, s.detector, min(s."diaSourceId") AS low, max(s."diaSourceId") AS high FROM "DiaSource" s
    WHERE (s.visit, s.detector) IN (SELECT visit, detector FROM "StoreLedger" WHERE "sourceIds" IS NULL AND "nSources" > 0)
    GROUP BY s.visit, s.detector
) r
WHERE l.visit = r.visit AND l.detector = r.detector AND l."sourceIds" IS NULL AND l."nSources" > 0;

UPDATE "StoreLedger" l SET "forcedIds" = int8range(r.low, nullif(r.high, 9223372036854775807), '[]')
FROM (
    SELECT s.visit, s.detector, min(s."diaForcedSourceId") AS low, max(s."diaForcedSourceId") AS high FROM "DiaForcedSource" s
    WHERE (s.visit, s.detector) IN (SELECT visit, detector FROM "StoreLedger" WHERE "forcedIds" IS NULL AND "nForcedSources" > 0)
    GROUP BY s.visit, s.detector
) r
WHERE l.visit = r.visit AND l.detector = r.detector AND l."forcedIds" IS NULL AND l."nForcedSources" > 0;

-- Sources that no such entry knows (stores of several visits, another client): entries of no visit, for the look at ids alone. They
-- are searched for only where there can be any.
INSERT INTO "StoreLedger" ("contentHash", "visitTimeMjdTai", "nObjects", "nSources", "nForcedSources", "sourceIds")
SELECT 'revision 0013: ' || s.visit || ' ' || s.detector, max(s."timeProcessedMjdTai"), 0, count(*), 0,
    int8range(min(s."diaSourceId"), nullif(max(s."diaSourceId"), 9223372036854775807), '[]')
FROM "DiaSource" s
WHERE (
    EXISTS (SELECT 1 FROM metadata WHERE name = 'status:other-writers')
    OR EXISTS (SELECT 1 FROM "StoreLedger" WHERE visit IS NULL AND "sourceIds" IS NULL AND "nSources" > 0)
) AND NOT EXISTS (
    SELECT 1 FROM "StoreLedger" l WHERE l.visit = s.visit AND l.detector = s.detector AND l."sourceIds" IS NOT NULL
)
GROUP BY s.visit, s.detector;

DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_inherits WHERE inhparent = '"DiaSource"'::regclass)
        AND NOT EXISTS (SELECT 1 FROM "ApdbArchive") THEN
        DROP TABLE "DiaSource";
        CREATE TABLE "DiaSource" (
            "diaSourceId" BIGINT NOT NULL,
            visit BIGINT NOT NULL,
            "midpointMjdTai" DOUBLE PRECISION NOT NULL,
            ra DOUBLE PRECISION NOT NULL,
            dec DOUBLE PRECISION NOT NULL,
            "pixelId" BIGINT NOT NULL,
            detector SMALLINT NOT NULL,
            "timeWithdrawnMjdTai" DOUBLE PRECISION,
            "diaObjectId" BIGINT,
            "raErr" REAL,
            "decErr" REAL,
            "ra_dec_Cov" REAL,
            "psfFlux" REAL,
            "psfFluxErr" REAL,
            "scienceFlux" REAL,
            "scienceFluxErr" REAL,
            "pixelFlags_edge" BOOLEAN,
            "pixelFlags_nodata" BOOLEAN,
            "forced_PsfFlux_flag" BOOLEAN,
            band VARCHAR(1),
            "ssObjectId" BIGINT,
            "parentDiaSourceId" BIGINT,
            "ssObjectReassocTimeMjdTai" DOUBLE PRECISION,
            "exposureTime" REAL,
            x REAL NOT NULL,
            "xErr" REAL,
            y REAL NOT NULL,
            "yErr" REAL,
            centroid_flag BOOLEAN,
            "apFlux" REAL,
            "apFluxErr" REAL,
            "apFlux_flag" BOOLEAN,
            "apFlux_flag_apertureTruncated" BOOLEAN,
            "isNegative" BOOLEAN,
            snr REAL,
            "psfLnL" REAL,
            "psfChi2" REAL,
            "psfNdata" INTEGER NOT NULL,
            "psfFlux_flag" BOOLEAN,
            "psfFlux_flag_edge" BOOLEAN,
            "psfFlux_flag_noGoodPixels" BOOLEAN,
            "trailFlux" REAL,
            "trailFluxErr" REAL,
            "trailRa" DOUBLE PRECISION,
            "trailRaErr" REAL,
            "trailDec" DOUBLE PRECISION,
            "trailDecErr" REAL,
            "trailLength" REAL,
            "trailLengthErr" REAL,
            "trailAngle" REAL,
            "trailAngleErr" REAL,
            "trailChi2" REAL,
            "trailNdata" INTEGER DEFAULT '0' NOT NULL,
            "trailAlgorithm" INTEGER,
            trail_flag_edge BOOLEAN,
            trail_flag BOOLEAN,
            "dipoleMeanFlux" REAL,
            "dipoleMeanFluxErr" REAL,
            "dipoleFluxDiff" REAL,
            "dipoleFluxDiffErr" REAL,
            "dipoleLength" REAL,
            "dipoleAngle" REAL,
            "dipoleChi2" REAL,
            "dipoleNdata" INTEGER NOT NULL,
            "forced_PsfFlux_flag_edge" BOOLEAN,
            "forced_PsfFlux_flag_noGoodPixels" BOOLEAN,
            "templateFlux" REAL,
            "templateFluxErr" REAL,
            ixx REAL,
            iyy REAL,
            ixy REAL,
            "ixxPSF" REAL,
            "iyyPSF" REAL,
            "ixyPSF" REAL,
            shape_flag BOOLEAN,
            shape_flag_no_pixels BOOLEAN,
            shape_flag_not_contained BOOLEAN,
            shape_flag_parent_source BOOLEAN,
            extendedness REAL,
            reliability REAL,
            "reliabilityVersion" VARCHAR(7),
            "isDipole" BOOLEAN,
            "dipoleFitAttempted" BOOLEAN,
            "timeProcessedMjdTai" DOUBLE PRECISION NOT NULL,
            "bboxSize" INTEGER NOT NULL,
            "pixelFlags" BOOLEAN,
            "pixelFlags_bad" BOOLEAN,
            "pixelFlags_cr" BOOLEAN,
            "pixelFlags_crCenter" BOOLEAN,
            "pixelFlags_nodataCenter" BOOLEAN,
            "pixelFlags_interpolated" BOOLEAN,
            "pixelFlags_interpolatedCenter" BOOLEAN,
            "pixelFlags_offimage" BOOLEAN,
            "pixelFlags_saturated" BOOLEAN,
            "pixelFlags_saturatedCenter" BOOLEAN,
            "pixelFlags_suspect" BOOLEAN,
            "pixelFlags_suspectCenter" BOOLEAN,
            "pixelFlags_streak" BOOLEAN,
            "pixelFlags_streakCenter" BOOLEAN,
            "pixelFlags_injected" BOOLEAN,
            "pixelFlags_injectedCenter" BOOLEAN,
            "pixelFlags_injected_template" BOOLEAN,
            "pixelFlags_injected_templateCenter" BOOLEAN,
            glint_trail BOOLEAN,
            CONSTRAINT "PK_DiaSource" PRIMARY KEY ("diaSourceId", "midpointMjdTai")
        )
         PARTITION BY RANGE ("midpointMjdTai");
        CREATE INDEX "IDX_DiaSource_diaObjectId" ON "DiaSource" ("diaObjectId");
        CREATE INDEX "IDX_DiaSource_midpoint" ON "DiaSource" USING brin ("midpointMjdTai");
        CREATE INDEX "IDX_DiaSource_pixelId" ON "DiaSource" ("pixelId");
        CREATE INDEX "IDX_DiaSource_ssObjectId" ON "DiaSource" ("ssObjectId") WHERE "ssObjectId" IS NOT NULL;
        CREATE INDEX "IDX_DiaSource_visitDetector" ON "DiaSource" (visit, detector);
    END IF;
END $$;
