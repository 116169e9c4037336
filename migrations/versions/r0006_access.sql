-- Who may do what: tokens of the HTTP API (hashes only), what was done with them, how much each principal used; frozen.

CREATE TABLE "AccessToken" (
    "tokenId" TEXT NOT NULL,
    name TEXT NOT NULL,
    hash BYTEA NOT NULL,
    scopes TEXT[] NOT NULL,
    "createdAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    "createdBy" TEXT NOT NULL,
    "expiresAt" TIMESTAMP WITH TIME ZONE NOT NULL,
    "lastUsedAt" TIMESTAMP WITH TIME ZONE,
    "revokedAt" TIMESTAMP WITH TIME ZONE,
    "revokedBy" TEXT,
    CONSTRAINT "PK_AccessToken" PRIMARY KEY ("tokenId"),
    CONSTRAINT "UQ_AccessToken_hash" UNIQUE (hash)
);

CREATE TABLE "AccessAudit" (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    principal TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT,
    status SMALLINT,
    address TEXT,
    "requestId" TEXT,
    detail JSONB,
    PRIMARY KEY (id)
);

CREATE INDEX "IDX_AccessAudit_principal" ON "AccessAudit" (principal, at);

CREATE TABLE "AccessUsage" (
    principal TEXT NOT NULL,
    day DATE NOT NULL,
    visits INTEGER DEFAULT '0' NOT NULL,
    CONSTRAINT "PK_AccessUsage" PRIMARY KEY (principal, day)
);
