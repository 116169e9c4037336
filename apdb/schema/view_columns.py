"""The columns of the views of `views.sql` and of the functions of read-only roles: types, units and meanings, in their order.

They are what the reference, TAP and HTTP say of them; a test compares them with what the database has.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from apdb.schema.columns import PIXEL_COLUMN, Column, columns_of, named

__all__ = ["FUNCTIONS", "VIEWS", "view_columns"]

VIEWS: Mapping[str, str] = MappingProxyType({
    "dia_object_latest": "the open version of every object: that whose validityEndMjdTai is null",
    "light_curve": "detections and forced photometry (snr and reliability are null), one row each, withdrawn ones too; without detections of solar-system bodies",
    "visit_summary": "state, counts and times by visit and detector",
    "night_summary": "counts and times by night and band, of `visit_summary`",
    "alert_delivery": "the outbox: alerts of each attempt that was stored, when they were published, what waits",
    "partition_size": "rows and bytes of the monthly partitions",
})  # fmt: skip

# signature, what it gives back, arguments with what they are
FUNCTIONS: Mapping[str, tuple[str, str, Mapping[str, str]]] = MappingProxyType({
    "object_light_curve(object_id bigint, max_rows integer DEFAULT 10000)": (
        "light_curve", "rows of one object that are not withdrawn, in order of time",
        {"object_id": "diaObjectId", "max_rows": "rows at most; never more than 100000 are given"},
    ),
    "visit_sources(visit_id bigint, detector_id integer, max_rows integer DEFAULT 10000)": (
        "DiaSource", "DiaSources of one visit and detector that are not withdrawn, in order of diaSourceId, all columns",
        {"visit_id": "visit number", "detector_id": "detector number",
         "max_rows": "rows at most; never more than 100000 are given"},
    ),
})  # fmt: skip


@cache
def view_columns(view: str) -> tuple[Column, ...]:
    """Return the columns of a view, in order; of types that no published table has, ``timestamp`` (with time zone) and ``json``."""
    made: dict[str, tuple[Column, ...]] = {
        "dia_object_latest": (*columns_of("DiaObject"), PIXEL_COLUMN),
        "light_curve": _light_curve(),
        "visit_summary": (*_KEY, *_VISIT),
        "night_summary": _NIGHT,
        "alert_delivery": (*_KEY, *_DELIVERY),
        "partition_size": _PARTITION,
    }
    return made[view]


def _light_curve() -> tuple[Column, ...]:
    first, *others = named(
        columns_of("DiaSource"), "diaObjectId", "visit", "detector", "band", "midpointMjdTai", "psfFlux", "psfFluxErr",
        "scienceFlux", "scienceFluxErr", "snr", "reliability", "timeWithdrawnMjdTai",
    )  # fmt: skip
    return (first, Column("kind", "string", False, 9, "", "detection or forced"), *others)


_KEY = (
    Column("visit", "long", False, None, "", "visit number"),
    Column("detector", "short", False, None, "", "detector number"),
)
_NIGHT_WORDS = "integer part of MJD - 0.5"
_VISIT = (
    Column("instrument", "text", False, None, "", "name of the instrument file"),
    Column("band", "text", True, None, "", "one of u g r i z y; null until the header was read"),
    Column("midpointMjdTai", "double", True, None, "d", "middle of the exposure, MJD (TAI); null until the header was read"),
    Column("night", "int", True, None, "", f"{_NIGHT_WORDS}, of midpointMjdTai"),
    Column("state", "text", False, None, "", "waiting, queued or running; done, no_work, failed, cancelled or withdrawn, which are ends"),
    Column("attempt", "int", False, None, "", "attempts that were begun"),
    Column("failures", "int", False, None, "", "failures that count towards ALERTPROD_ATTEMPTS"),
    Column("errorCode", "text", True, None, "", "code of the error of the last attempt; null where it went well"),
    Column("nDiaSources", "int", True, None, "", "detections stored; null until it is done"),
    Column("nNewDiaObjects", "int", True, None, "", "objects made of detections that belong to no known one"),
    Column("nUpdatedDiaObjects", "int", True, None, "", "known objects that got a detection"),
    Column("nDiaForcedSources", "int", True, None, "", "forced fluxes stored"),
    Column("nAlerts", "int", True, None, "", "alerts made"),
    Column("secondsToFinish", "double", True, None, "s", "from createdAt to finishedAt; null until it has ended. Of a visit that was retried or replaced from its first coming in to its last end"),
    Column("seconds", "json", True, None, "s", "seconds of each step, by name"),
    Column("createdAt", "timestamp", False, None, "", "when it came in first"),
    Column("finishedAt", "timestamp", True, None, "", "when it ended (state done, no_work, failed, cancelled or withdrawn); null while it is waiting, queued or running"),
    Column("priority", "int", False, None, "", "above 0: a target of opportunity; below: when there is nothing else"),
    Column("createdMjdUtc", "double", False, None, "d", "createdAt as MJD (UTC)"),
    Column("finishedMjdUtc", "double", True, None, "d", "finishedAt as MJD (UTC)"),
)  # fmt: skip
_NIGHT = (
    Column("night", "int", True, None, "", _NIGHT_WORDS),
    Column("band", "text", True, None, "", "one of u g r i z y"),
    Column("nVisits", "long", False, None, "", "(visit, detector) that came in"),
    Column("nDone", "long", False, None, "", "of them in state done"),
    Column("nFailed", "long", False, None, "", "of them in state failed"),
    Column("nDiaSources", "long", True, None, "", "detections stored"),
    Column("nNewDiaObjects", "long", True, None, "", "new objects"),
    Column("nAlerts", "long", True, None, "", "alerts made"),
    Column("unassociatedFraction", "double", True, None, "", "nNewDiaObjects / nDiaSources: the share of detections that belong to no known object; null without detections"),
    Column("medianSecondsToFinish", "double", True, None, "s", "median of secondsToFinish"),
    Column("p95SecondsToFinish", "double", True, None, "s", "95th percentile of secondsToFinish"),
)  # fmt: skip
_DELIVERY = (
    Column("attempt", "int", False, None, "", "the attempt that stored the visit"),
    Column("nAlerts", "int", False, None, "", "alerts of this visit and detector"),
    Column("createdAt", "timestamp", False, None, "", "when they were stored"),
    Column("publishedAt", "timestamp", True, None, "", "when the last of them was in the topic"),
    Column("publishOrder", "long", True, None, "", "place in the order of publication, from when its turn came"),
    Column("secondsToPublish", "double", False, None, "s", "from createdAt to publishedAt, or to now"),
    Column("waiting", "boolean", False, None, "", "whether they are neither published nor held"),
    Column("heldReason", "text", True, None, "", "why they are held back; null where they are not"),
    Column("droppedAt", "timestamp", True, None, "", "when they were given up (alertprod alerts drop, or the visit was replaced)"),
    Column("nPublished", "int", False, None, "", "alerts that the relay has published"),
    Column("publishStartedAt", "timestamp", True, None, "", "when the relay began with them"),
    Column("secondsSinceShutterClose", "double", True, None, "s", "from the end of the exposure to the last alert in the topic; null until all are published (waiting, held, dropped), where the length of the exposure is not known, and where a relay found them in the topic when it started, sent by one that was killed"),
    Column("nInTopic", "int", False, None, "", "messages of the visit that reconcile found in the topic"),
)  # fmt: skip
_PARTITION = (
    Column("table", "string", False, None, "", "DiaSource or DiaForcedSource"),
    Column("partition", "string", False, None, "", "name of the partition"),
    Column("bounds", "text", True, None, "", "its bounds, MJD (TAI) of midpointMjdTai"),
    Column("rowsEstimated", "long", True, None, "", "rows as of the last ANALYZE"),
    Column("tableBytes", "long", True, None, "byte", "bytes of the table without its indexes"),
    Column("indexBytes", "long", True, None, "byte", "bytes of its indexes"),
)  # fmt: skip
