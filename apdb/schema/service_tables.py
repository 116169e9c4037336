"""Tables of the service beside the published ones: queue, outbox, dead letters, flags, tokens, corrections."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from tasks.lacking import LACKING_BITS

__all__ = ["add_service_tables"]

_NOW = sa.text("now()")
_MOMENT = sa.DateTime(timezone=True)
_LACKING = sa.text(f"(flags & {LACKING_BITS}) <> 0")


def add_service_tables(meta: sa.MetaData) -> None:
    """Describe the tables of the service in `meta`."""
    for add in (
        _queue_tables,
        _submitting_tables,
        _delivery_tables,
        _tally_table,
        _dead_letter_table,
        _side_tables,
        _archive_table,
        _access_tables,
        _correction_tables,
        _tables_of_people,
    ):
        add(meta)


def _queue_tables(meta: sa.MetaData) -> None:
    """Metadata, ledger (the queue), leases and outbox."""
    sa.Table(
        "metadata", meta, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
    )
    sa.Table(
        "VisitLedger",
        meta,
        *_visit_key(),
        sa.Column("instrument", sa.Text, nullable=False),
        sa.Column("message", pg.JSONB, nullable=False),
        sa.Column("messageHash", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("release", sa.Integer, nullable=False, server_default="0"),
        sa.Column("nextAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("errorCode", sa.Text),
        sa.Column("errorText", sa.Text),
        sa.Column("midpointMjdTai", sa.Double),
        sa.Column("band", sa.Text),
        sa.Column("region", pg.ARRAY(sa.BigInteger)),
        sa.Column("counts", pg.JSONB),
        sa.Column("seconds", pg.JSONB),
        sa.Column("configHash", sa.Text),
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("updatedAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("finishedAt", _MOMENT),
        sa.Column("waitUntil", _MOMENT),
        sa.PrimaryKeyConstraint("visit", "detector", name="PK_VisitLedger"),
        sa.Index("IDX_VisitLedger_queue", "state", "priority", "midpointMjdTai"),
        sa.Index("IDX_VisitLedger_time", "midpointMjdTai", postgresql_where=sa.text("state IN ('queued', 'running')")),
        sa.Index("IDX_VisitLedger_created", "createdAt", "visit", "detector"),
        sa.Index("IDX_VisitLedger_midpoint", "midpointMjdTai"),
        sa.Index("IDX_VisitLedger_updated", "updatedAt"),
        sa.Index("IDX_VisitLedger_done", "finishedAt", postgresql_where=sa.text("state = 'done'")),
    )
    sa.Table(
        "VisitLease",
        meta,
        *_visit_key(),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("until", _MOMENT, nullable=False),
        sa.Column("backend", sa.Integer),
        sa.Column("backendStart", _MOMENT),
        sa.PrimaryKeyConstraint("visit", "detector", name="PK_VisitLease"),
    )


def _submitting_tables(meta: sa.MetaData) -> None:
    """Changes of state as they happened, keys under which something was submitted, announcements of next visits."""
    sa.Table(
        "VisitEvent",
        meta,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("transaction", sa.BigInteger, nullable=False),
        sa.Column("at", _MOMENT, nullable=False, server_default=_NOW),
        *_visit_key(),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("errorCode", sa.Text),
        sa.Index("IDX_VisitEvent_transaction", "transaction", "id"),
    )
    sa.Table(
        "IdempotencyKey",
        meta,
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("answer", pg.JSON),  # as it was written, to the byte
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("principal", "key", name="PK_IdempotencyKey"),
        sa.Index("IDX_IdempotencyKey_created", "createdAt"),
    )
    sa.Table(
        "NextVisit",
        meta,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("expiresAt", _MOMENT, nullable=False),
        sa.Column("announcement", pg.JSONB, nullable=False),
    )


def _delivery_tables(meta: sa.MetaData) -> None:
    """Alerts on their way to the topic, how far they are published and how many in all, and under which schema ids."""
    sa.Table(
        "AlertOutbox",
        meta,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        *_visit_key(),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("publishOrder", sa.BigInteger),
        sa.Column("publishedAt", _MOMENT),
        sa.Column("heldReason", sa.Text),
        sa.Column("droppedAt", _MOMENT),
        sa.Column("alertIndex", sa.LargeBinary),
        sa.Column("idXor", sa.BigInteger),
        sa.Column("traceparent", sa.Text),
        sa.Column("shutterCloseMjdTai", sa.Double),
        sa.Column("publishedCount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("publishStartedAt", _MOMENT),
        sa.Column("secondsSinceShutterClose", sa.Double),
        sa.Column("topicCount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("topicXor", sa.BigInteger, nullable=False, server_default="0"),
        sa.UniqueConstraint("visit", "detector", "attempt", name="UQ_AlertOutbox_attempt"),
        sa.Index("IDX_AlertOutbox_unpublished", "id", postgresql_where=sa.text('"publishedAt" IS NULL')),
        sa.Index("IDX_AlertOutbox_order", "publishOrder", unique=True),
        sa.Index("IDX_AlertOutbox_published", "publishedAt", postgresql_where=sa.text('"publishedAt" IS NOT NULL')),
    )
    sa.Sequence("AlertPublishOrder", metadata=meta)
    sa.Table(
        "DeliveryTotals",
        meta,
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("alerts", sa.BigInteger, nullable=False),
        sa.Column("visits", sa.BigInteger, nullable=False),
        sa.Column("shutterSeconds", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="PK_DeliveryTotals"),
    )
    sa.Table(
        "AlertTopicOffset",
        meta,
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("next", sa.BigInteger, nullable=False),
        sa.Column("caughtUpAt", _MOMENT),
        sa.PrimaryKeyConstraint("topic", "partition", name="PK_AlertTopicOffset"),
    )
    sa.Table(
        "AlertSchemaId",
        meta,
        sa.Column("registry", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("schemaId", sa.Integer, nullable=False),
        sa.Column("wireId", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("registry", "subject", "schemaId", name="PK_AlertSchemaId"),
    )


def _tally_table(meta: sa.MetaData) -> None:
    """Changes of numbers that grow as long as a survey runs; see `apdb.tallies`."""
    sa.Table(
        "Tally",
        meta,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("night", sa.Integer),
        sa.Column("change", sa.BigInteger, nullable=False),
        sa.Index("IDX_Tally_name", "name", "night"),
    )


def _dead_letter_table(meta: sa.MetaData) -> None:
    """Visit messages that could not be entered."""
    sa.Table(
        "DeadLetter",
        meta,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", pg.JSONB, nullable=False),
        sa.Column("sentAt", _MOMENT),
        sa.Column("errorCode", sa.Text, nullable=False),
        sa.Column("errorText", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("topicError", sa.Text),
        sa.Column("publishedAt", _MOMENT),
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("updatedAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.UniqueConstraint("topic", "partition", "offset", "digest", name="UQ_DeadLetter_place"),
        sa.Index("IDX_DeadLetter_state", "state", "id"),
    )


def _side_tables(meta: sa.MetaData) -> None:
    """What the published tables have no place for: flags, quality, what was stored, what was changed."""
    sa.Table(
        "DiaForcedSourceFlags",
        meta,
        sa.Column("diaObjectId", sa.BigInteger, nullable=False),
        *_visit_key(),
        sa.Column("flags", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("diaObjectId", "visit", "detector", name="PK_DiaForcedSourceFlags"),
        sa.Index("IDX_DiaForcedSourceFlags_lacking", "diaObjectId", postgresql_where=_LACKING),
    )
    sa.Table(
        "VisitQuality",
        meta,
        *_visit_key(),
        sa.Column("metrics", pg.JSONB, nullable=False),
        sa.PrimaryKeyConstraint("visit", "detector", name="PK_VisitQuality"),
    )
    sa.Table(
        "StoreLedger",
        meta,
        sa.Column("contentHash", sa.Text, nullable=False),
        sa.Column("visit", sa.BigInteger),
        sa.Column("detector", sa.SmallInteger),
        sa.Column("visitTimeMjdTai", sa.Double, nullable=False),
        sa.Column("nObjects", sa.Integer, nullable=False),
        sa.Column("nSources", sa.Integer, nullable=False),
        sa.Column("nForcedSources", sa.Integer, nullable=False),
        sa.Column("storedAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("sourceIds", pg.INT8RANGE),
        sa.Column("forcedIds", pg.INT8RANGE),
        sa.Column("instrument", sa.Text),
        sa.PrimaryKeyConstraint("contentHash", name="PK_StoreLedger"),
        sa.Index("IDX_StoreLedger_visitDetector", "visit", "detector"),
        sa.Index("IDX_StoreLedger_sourceIds", "sourceIds", postgresql_using="gist"),
        sa.Index("IDX_StoreLedger_forcedIds", "forcedIds", postgresql_using="gist"),
    )
    sa.Table(
        "ApdbAudit",
        meta,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("at", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("tableName", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("detail", pg.JSONB, nullable=False),
        sa.Column("by", sa.Text, nullable=False, server_default=sa.text("CURRENT_USER")),
    )


def _archive_table(meta: sa.MetaData) -> None:
    """Months in the archive, by generation, and what of each object lies in them: valid sources, the first and the last."""
    sa.Table(
        "ApdbArchive",
        meta,
        sa.Column("partition", sa.Text, nullable=False),
        sa.Column("tableName", sa.Text, nullable=False),
        sa.Column("beginMjdTai", sa.Double, nullable=False),
        sa.Column("endMjdTai", sa.Double, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("archivedAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("relation", sa.Text),
        sa.Column("noted", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("partition", "generation", name="PK_ApdbArchive"),
    )
    kinds = (sa.Text, sa.BigInteger, sa.Integer, sa.Double, sa.Double)
    names = ("partition", "diaObjectId", "count", "firstMjdTai", "lastMjdTai")
    columns: list[sa.Column[Any]] = [sa.Column(n, k, nullable=False) for n, k in zip(names, kinds, strict=True)]
    sa.Table("ArchivedSources", meta, *columns, sa.Index("IDX_ArchivedSources_diaObjectId", "diaObjectId"))


def _access_tables(meta: sa.MetaData) -> None:
    """Who may do what: tokens (their hashes), what was done and by whom, what each principal used in a day."""
    sa.Table(
        "AccessToken",
        meta,
        sa.Column("tokenId", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("scopes", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("createdBy", sa.Text, nullable=False),
        sa.Column("expiresAt", _MOMENT, nullable=False),
        sa.Column("lastUsedAt", _MOMENT),
        sa.Column("revokedAt", _MOMENT),
        sa.Column("revokedBy", sa.Text),
        sa.PrimaryKeyConstraint("tokenId", name="PK_AccessToken"),
        sa.UniqueConstraint("hash", name="UQ_AccessToken_hash"),
    )
    sa.Table(
        "AccessAudit",
        meta,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("at", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("status", sa.SmallInteger),
        sa.Column("address", sa.Text),
        sa.Column("requestId", sa.Text),
        sa.Column("detail", pg.JSONB),
        sa.Index("IDX_AccessAudit_principal", "principal", "at"),
        sa.Index("IDX_AccessAudit_at", "at"),
    )
    sa.Table(
        "AccessUsage",
        meta,
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("visits", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("principal", "day", name="PK_AccessUsage"),
    )


def _correction_tables(meta: sa.MetaData) -> None:
    """Corrections of alerts by batch (one transaction each), and how many of them the reconciler has found in the topic."""
    sa.Table(
        "CorrectionBatch",
        meta,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("publishOrder", sa.BigInteger),
        sa.Column("publishedCount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("publishedAt", _MOMENT),
        sa.Index("IDX_CorrectionBatch_order", "publishOrder", unique=True),
        sa.Index("IDX_CorrectionBatch_unpublished", "id", postgresql_where=sa.text('"publishedAt" IS NULL')),
    )
    sa.Table(
        "AlertCorrection",
        meta,
        sa.Column("batch", sa.BigInteger, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("diaSourceId", sa.BigInteger, nullable=False),
        sa.Column("oldDiaObjectId", sa.BigInteger),
        sa.Column("newDiaObjectId", sa.BigInteger),
        *_visit_key(),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("mjdTai", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("batch", "number", name="PK_AlertCorrection"),
        sa.Index("IDX_AlertCorrection_diaSourceId", "diaSourceId"),
        sa.Index("IDX_AlertCorrection_visitDetector", "visit", "detector"),
    )
    sa.Table(
        "CorrectionTopicCount",
        meta,
        *_visit_key(),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("xor", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("visit", "detector", name="PK_CorrectionTopicCount"),
    )


def _tables_of_people(meta: sa.MetaData) -> None:
    """What people enter: labels of detections, and queries that run while nobody waits, with their answers."""
    sa.Table(
        "SourceLabel",
        meta,
        sa.Column("diaSourceId", sa.BigInteger, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("at", _MOMENT, nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("diaSourceId", "principal", name="PK_SourceLabel"),
    )
    sa.Table(
        "TapJob",
        meta,
        sa.Column("jobId", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("parameters", pg.JSONB, nullable=False),
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("startedAt", _MOMENT),
        sa.Column("endedAt", _MOMENT),
        sa.Column("destroyAt", _MOMENT, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("mediaType", sa.Text),
        sa.Column("result", sa.LargeBinary),
        sa.PrimaryKeyConstraint("jobId", name="PK_TapJob"),
        sa.Index("IDX_TapJob_destroyAt", "destroyAt"),
    )


def _visit_key() -> list[sa.Column[Any]]:
    return [sa.Column("visit", sa.BigInteger, nullable=False), sa.Column("detector", sa.SmallInteger, nullable=False)]
