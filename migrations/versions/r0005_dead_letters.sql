-- Dead letters: visit messages that could not be entered; the database session of a lease; frozen.

CREATE TABLE "DeadLetter" (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    digest TEXT NOT NULL,
    key BYTEA,
    value BYTEA,
    headers JSONB NOT NULL,
    "sentAt" TIMESTAMP WITH TIME ZONE,
    "errorCode" TEXT NOT NULL,
    "errorText" TEXT NOT NULL,
    state TEXT NOT NULL,
    "topicError" TEXT,
    "publishedAt" TIMESTAMP WITH TIME ZONE,
    "createdAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    "updatedAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT "UQ_DeadLetter_place" UNIQUE (topic, partition, "offset", digest)
);

CREATE INDEX "IDX_DeadLetter_state" ON "DeadLetter" (state, id);

ALTER TABLE "VisitLease"
    ADD COLUMN backend INTEGER,
    ADD COLUMN "backendStart" TIMESTAMP WITH TIME ZONE;
