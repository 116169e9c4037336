-- Alert delivery: where each alert lies in its file, progress within a file, what the topic really holds; frozen.

ALTER TABLE "AlertOutbox"
    ADD COLUMN "alertIndex" BYTEA,
    ADD COLUMN "idXor" BIGINT,
    ADD COLUMN traceparent TEXT,
    ADD COLUMN "shutterCloseMjdTai" DOUBLE PRECISION,
    ADD COLUMN "publishedCount" INTEGER DEFAULT '0' NOT NULL,
    ADD COLUMN "publishStartedAt" TIMESTAMP WITH TIME ZONE,
    ADD COLUMN "secondsSinceShutterClose" DOUBLE PRECISION,
    ADD COLUMN "topicCount" INTEGER DEFAULT '0' NOT NULL,
    ADD COLUMN "topicXor" BIGINT DEFAULT '0' NOT NULL;

UPDATE "AlertOutbox" SET "publishedCount" = count WHERE "publishedAt" IS NOT NULL;

CREATE SEQUENCE "AlertPublishOrder";

SELECT setval('"AlertPublishOrder"', (SELECT coalesce(max("publishOrder"), 0) + 1 FROM "AlertOutbox"));

CREATE TABLE "AlertTopicOffset" (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next BIGINT NOT NULL,
    "caughtUpAt" TIMESTAMP WITH TIME ZONE,
    CONSTRAINT "PK_AlertTopicOffset" PRIMARY KEY (topic, partition)
);

CREATE TABLE "AlertSchemaId" (
    registry TEXT NOT NULL,
    subject TEXT NOT NULL,
    "schemaId" INTEGER NOT NULL,
    "wireId" INTEGER NOT NULL,
    CONSTRAINT "PK_AlertSchemaId" PRIMARY KEY (registry, subject, "schemaId")
);
