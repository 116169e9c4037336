-- The schema of revision 0001. Generated once from the published APDB schema 10.0.0; frozen since.

CREATE TABLE "AlertOutbox" (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    visit BIGINT NOT NULL,
    detector SMALLINT NOT NULL,
    attempt INTEGER NOT NULL,
    file TEXT NOT NULL,
    count INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    "createdAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    "publishOrder" BIGINT,
    "publishedAt" TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    CONSTRAINT "UQ_AlertOutbox_attempt" UNIQUE (visit, detector, attempt)
);

CREATE UNIQUE INDEX "IDX_AlertOutbox_order" ON "AlertOutbox" ("publishOrder");

CREATE INDEX "IDX_AlertOutbox_unpublished" ON "AlertOutbox" (id) WHERE "publishedAt" IS NULL;

CREATE TABLE "DiaForcedSource" (
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
    CONSTRAINT "PK_DiaForcedSource" PRIMARY KEY ("diaObjectId", visit, detector, "midpointMjdTai")
)
 PARTITION BY RANGE ("midpointMjdTai");

CREATE INDEX "IDX_DiaForcedSource_visitDetector" ON "DiaForcedSource" (visit, detector);

CREATE TABLE "DiaForcedSourceFlags" (
    "diaObjectId" BIGINT NOT NULL,
    visit BIGINT NOT NULL,
    detector SMALLINT NOT NULL,
    flags INTEGER NOT NULL,
    CONSTRAINT "PK_DiaForcedSourceFlags" PRIMARY KEY ("diaObjectId", visit, detector)
);

CREATE TABLE "DiaObject" (
    "diaObjectId" BIGINT NOT NULL,
    "validityStartMjdTai" DOUBLE PRECISION NOT NULL,
    "validityEndMjdTai" DOUBLE PRECISION,
    ra DOUBLE PRECISION NOT NULL,
    "raErr" REAL,
    dec DOUBLE PRECISION NOT NULL,
    "decErr" REAL,
    "ra_dec_Cov" REAL,
    "u_psfFluxMean" REAL,
    "u_psfFluxMeanErr" REAL,
    "u_psfFluxSigma" REAL,
    "u_psfFluxNdata" INTEGER NOT NULL,
    "u_fpFluxMean" REAL,
    "u_fpFluxMeanErr" REAL,
    "g_psfFluxMean" REAL,
    "g_psfFluxMeanErr" REAL,
    "g_psfFluxSigma" REAL,
    "g_psfFluxNdata" INTEGER NOT NULL,
    "g_fpFluxMean" REAL,
    "g_fpFluxMeanErr" REAL,
    "r_psfFluxMean" REAL,
    "r_psfFluxMeanErr" REAL,
    "r_psfFluxSigma" REAL,
    "r_psfFluxNdata" INTEGER NOT NULL,
    "r_fpFluxMean" REAL,
    "r_fpFluxMeanErr" REAL,
    "i_psfFluxMean" REAL,
    "i_psfFluxMeanErr" REAL,
    "i_psfFluxSigma" REAL,
    "i_psfFluxNdata" INTEGER NOT NULL,
    "i_fpFluxMean" REAL,
    "i_fpFluxMeanErr" REAL,
    "z_psfFluxMean" REAL,
    "z_psfFluxMeanErr" REAL,
    "z_psfFluxSigma" REAL,
    "z_psfFluxNdata" INTEGER NOT NULL,
    "z_fpFluxMean" REAL,
    "z_fpFluxMeanErr" REAL,
    "y_psfFluxMean" REAL,
    "y_psfFluxMeanErr" REAL,
    "y_psfFluxSigma" REAL,
    "y_psfFluxNdata" INTEGER NOT NULL,
    "y_fpFluxMean" REAL,
    "y_fpFluxMeanErr" REAL,
    "u_scienceFluxMean" REAL,
    "u_scienceFluxMeanErr" REAL,
    "g_scienceFluxMean" REAL,
    "g_scienceFluxMeanErr" REAL,
    "r_scienceFluxMean" REAL,
    "r_scienceFluxMeanErr" REAL,
    "i_scienceFluxMean" REAL,
    "i_scienceFluxMeanErr" REAL,
    "z_scienceFluxMean" REAL,
    "z_scienceFluxMeanErr" REAL,
    "y_scienceFluxMean" REAL,
    "y_scienceFluxMeanErr" REAL,
    "u_psfFluxMin" REAL,
    "u_psfFluxMax" REAL,
    "u_psfFluxMaxSlope" REAL,
    "u_psfFluxErrMean" REAL,
    "g_psfFluxMin" REAL,
    "g_psfFluxMax" REAL,
    "g_psfFluxMaxSlope" REAL,
    "g_psfFluxErrMean" REAL,
    "r_psfFluxMin" REAL,
    "r_psfFluxMax" REAL,
    "r_psfFluxMaxSlope" REAL,
    "r_psfFluxErrMean" REAL,
    "i_psfFluxMin" REAL,
    "i_psfFluxMax" REAL,
    "i_psfFluxMaxSlope" REAL,
    "i_psfFluxErrMean" REAL,
    "z_psfFluxMin" REAL,
    "z_psfFluxMax" REAL,
    "z_psfFluxMaxSlope" REAL,
    "z_psfFluxErrMean" REAL,
    "y_psfFluxMin" REAL,
    "y_psfFluxMax" REAL,
    "y_psfFluxMaxSlope" REAL,
    "y_psfFluxErrMean" REAL,
    "firstDiaSourceMjdTai" DOUBLE PRECISION,
    "lastDiaSourceMjdTai" DOUBLE PRECISION,
    "nDiaSources" INTEGER NOT NULL,
    "pixelId" BIGINT NOT NULL,
    CONSTRAINT "PK_DiaObject" PRIMARY KEY ("diaObjectId", "validityStartMjdTai")
);

CREATE UNIQUE INDEX "IDX_DiaObject_open" ON "DiaObject" ("diaObjectId") WHERE "validityEndMjdTai" IS NULL;

CREATE INDEX "IDX_DiaObject_pixelId" ON "DiaObject" ("pixelId");

CREATE INDEX "IDX_DiaObject_validityStart" ON "DiaObject" ("validityStartMjdTai");

CREATE TABLE "DiaObjectLast" (
    "diaObjectId" BIGINT NOT NULL,
    "validityStartMjdTai" DOUBLE PRECISION NOT NULL,
    "lastDiaSourceMjdTai" DOUBLE PRECISION,
    ra DOUBLE PRECISION NOT NULL,
    "raErr" REAL,
    dec DOUBLE PRECISION NOT NULL,
    "decErr" REAL,
    "ra_dec_Cov" REAL,
    "firstDiaSourceMjdTai" DOUBLE PRECISION,
    "nDiaSources" INTEGER NOT NULL,
    "pixelId" BIGINT NOT NULL,
    CONSTRAINT "PK_DiaObjectLast" PRIMARY KEY ("diaObjectId")
)
 WITH (fillfactor = 85);

CREATE INDEX "IDX_DiaObjectLast_pixelId" ON "DiaObjectLast" ("pixelId");

CREATE TABLE "DiaObject_To_Object_Match" (
    "diaObjectId" BIGINT NOT NULL,
    "objectId" BIGINT NOT NULL,
    dist REAL,
    "lnP" REAL
);

CREATE INDEX "IDX_DiaObject_To_Object_Match_diaObjectId" ON "DiaObject_To_Object_Match" ("diaObjectId");

CREATE INDEX "IDX_DiaObject_To_Object_Match_objectId" ON "DiaObject_To_Object_Match" ("objectId");

CREATE TABLE "DiaSource" (
    "diaSourceId" BIGINT NOT NULL,
    visit BIGINT NOT NULL,
    detector SMALLINT NOT NULL,
    "diaObjectId" BIGINT,
    "ssObjectId" BIGINT,
    "parentDiaSourceId" BIGINT,
    "ssObjectReassocTimeMjdTai" DOUBLE PRECISION,
    "midpointMjdTai" DOUBLE PRECISION NOT NULL,
    "exposureTime" REAL,
    ra DOUBLE PRECISION NOT NULL,
    "raErr" REAL,
    dec DOUBLE PRECISION NOT NULL,
    "decErr" REAL,
    "ra_dec_Cov" REAL,
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
    "psfFlux" REAL,
    "psfFluxErr" REAL,
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
    "trailNdata" INTEGER NOT NULL,
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
    "scienceFlux" REAL,
    "scienceFluxErr" REAL,
    "forced_PsfFlux_flag" BOOLEAN,
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
    band VARCHAR(1),
    "isDipole" BOOLEAN,
    "dipoleFitAttempted" BOOLEAN,
    "timeProcessedMjdTai" DOUBLE PRECISION NOT NULL,
    "timeWithdrawnMjdTai" DOUBLE PRECISION,
    "bboxSize" INTEGER NOT NULL,
    "pixelFlags" BOOLEAN,
    "pixelFlags_bad" BOOLEAN,
    "pixelFlags_cr" BOOLEAN,
    "pixelFlags_crCenter" BOOLEAN,
    "pixelFlags_edge" BOOLEAN,
    "pixelFlags_nodata" BOOLEAN,
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
    "pixelId" BIGINT NOT NULL,
    CONSTRAINT "PK_DiaSource" PRIMARY KEY ("diaSourceId", "midpointMjdTai")
)
 PARTITION BY RANGE ("midpointMjdTai");

CREATE INDEX "IDX_DiaSource_diaObjectId" ON "DiaSource" ("diaObjectId");

CREATE INDEX "IDX_DiaSource_pixelId" ON "DiaSource" ("pixelId");

CREATE INDEX "IDX_DiaSource_ssObjectId" ON "DiaSource" ("ssObjectId");

CREATE INDEX "IDX_DiaSource_visitDetector" ON "DiaSource" (visit, detector);

CREATE TABLE "SSSource" (
    "diaSourceId" BIGINT NOT NULL,
    "ssObjectId" BIGINT NOT NULL,
    designation VARCHAR(16),
    "eclLambda" DOUBLE PRECISION NOT NULL,
    "eclBeta" DOUBLE PRECISION NOT NULL,
    "galLon" DOUBLE PRECISION NOT NULL,
    "galLat" DOUBLE PRECISION NOT NULL,
    elongation REAL,
    "phaseAngle" REAL,
    "topoRange" REAL,
    "topoRangeRate" REAL,
    "helioRange" REAL,
    "helioRangeRate" REAL,
    "ephRa" DOUBLE PRECISION,
    "ephDec" DOUBLE PRECISION,
    "ephVmag" REAL,
    "ephRate" REAL,
    "ephRateRa" REAL,
    "ephRateDec" REAL,
    "ephOffset" REAL,
    "ephOffsetRa" DOUBLE PRECISION,
    "ephOffsetDec" DOUBLE PRECISION,
    "ephOffsetAlongTrack" REAL,
    "ephOffsetCrossTrack" REAL,
    helio_x REAL,
    helio_y REAL,
    helio_z REAL,
    helio_vx REAL,
    helio_vy REAL,
    helio_vz REAL,
    helio_vtot REAL,
    topo_x REAL,
    topo_y REAL,
    topo_z REAL,
    topo_vx REAL,
    topo_vy REAL,
    topo_vz REAL,
    topo_vtot REAL,
    "diaDistanceRank" SMALLINT,
    CONSTRAINT "PK_SSSource" PRIMARY KEY ("diaSourceId")
);

CREATE INDEX "IDX_SSSource_ssObjectId" ON "SSSource" ("ssObjectId");

CREATE TABLE "VisitLease" (
    visit BIGINT NOT NULL,
    detector SMALLINT NOT NULL,
    attempt INTEGER NOT NULL,
    owner TEXT NOT NULL,
    until TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT "PK_VisitLease" PRIMARY KEY (visit, detector)
);

CREATE TABLE "VisitLedger" (
    visit BIGINT NOT NULL,
    detector SMALLINT NOT NULL,
    instrument TEXT NOT NULL,
    message JSONB NOT NULL,
    "messageHash" TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER DEFAULT '0' NOT NULL,
    attempt INTEGER DEFAULT '0' NOT NULL,
    failures INTEGER DEFAULT '0' NOT NULL,
    release INTEGER DEFAULT '0' NOT NULL,
    "nextAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    "errorCode" TEXT,
    "errorText" TEXT,
    "midpointMjdTai" DOUBLE PRECISION,
    band TEXT,
    region BIGINT[],
    counts JSONB,
    seconds JSONB,
    "configHash" TEXT,
    "createdAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    "updatedAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    "finishedAt" TIMESTAMP WITH TIME ZONE,
    CONSTRAINT "PK_VisitLedger" PRIMARY KEY (visit, detector)
);

CREATE INDEX "IDX_VisitLedger_queue" ON "VisitLedger" (state, priority, "midpointMjdTai");

CREATE TABLE "VisitQuality" (
    visit BIGINT NOT NULL,
    detector SMALLINT NOT NULL,
    metrics JSONB NOT NULL,
    CONSTRAINT "PK_VisitQuality" PRIMARY KEY (visit, detector)
);

CREATE TABLE metadata (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
);
