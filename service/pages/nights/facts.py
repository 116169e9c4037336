"""What a night was: its ccdVisits, the time of their steps, failures and gaps with their reasons."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from apdb import Database
from apdb.queue.states import VisitState
from service.pages.shared import reading

__all__ = [
    "BUDGET_S", "STEPS", "Gap", "Night", "Pace", "StepTime", "in_order", "night_of", "nights", "open_nights", "with_metrics",
]  # fmt: skip

STEPS = (
    "open", "template", "characterize", "difference", "standardize", "lock", "take back", "ephemerides", "associate",
    "alerts", "products", "commit",
)  # fmt: skip
BUDGET_S = 60.0  # from the shutter's closing to the alert
MOST = 20_000  # ccdVisits of a night that a page looks at
LONG_GAP = 3.0  # times the usual pause between visits
LEAST_GAP_S = 60.0
_VISITS = (
    'SELECT l.visit, l.detector, l.instrument, l.band, l."midpointMjdTai" AS mjd, l.state, l.attempt, l.failures, '
    'l."errorCode" AS code, l."errorText" AS text, l."nextAt" AS next_at, l.counts::text, l.seconds::text, l."createdAt" AS created, '
    'l."finishedAt" AS finished, o."heldReason" AS held, o."secondsSinceShutterClose" AS latency, '
    'o.count AS alerts, o."publishedAt" AS published FROM "VisitLedger" l '
    'LEFT JOIN "AlertOutbox" o ON o.visit = l.visit AND o.detector = l.detector AND o.attempt = l.attempt '
    'WHERE {} ORDER BY l."midpointMjdTai" DESC NULLS FIRST, l.visit DESC, l.detector LIMIT %s'
)


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step over a night."""

    name: str
    median: float
    p95: float
    longest: float
    share: float
    visit: tuple[int, int]


@dataclass(frozen=True)
class Gap:
    """Minutes in which nothing was taken, or a part of a visit that gave nothing; and why."""

    begin: float | None
    end: float | None
    what: str
    reason: str
    link: str | None = None


@dataclass(frozen=True)
class Pace:
    """ccdVisits that were finished, and the minutes in which any of them waited or was processed."""

    finished: int
    minutes: float

    @property
    def per_minute(self) -> float:
        """How many in a minute."""
        return self.finished / self.minutes


@dataclass(frozen=True)
class Night:
    """One night.

    Parameters
    ----------
    number
        Integer part of MJD - 0.5 of its exposures, None where no visit came yet.
    visits
        A dictionary per ccdVisit, the newest first.
    cut
        Whether there are more than `MOST` of them.
    """

    number: int | None
    visits: list[dict[str, Any]] = field(default_factory=list)
    cut: bool = False

    @cached_property
    def states(self) -> dict[str, int]:
        """Numbers of ccdVisits by state, all states."""
        counted = Counter(v["state"] for v in self.visits)
        return {state.value: counted.get(state.value, 0) for state in VisitState}

    @cached_property
    def failures(self) -> list[dict[str, Any]]:
        """Those that failed, or failed before and are tried again."""
        return [v for v in self.visits if v["state"] == VisitState.FAILED or (v["failures"] and v["state"] in _OPEN)]

    @property
    def alerts(self) -> int:
        """Alerts that were made."""
        return sum(v["alerts"] or 0 for v in self.visits)

    def latency(self) -> dict[str, float | None]:
        """Return ``median`` and ``p95`` of the seconds from the shutter's closing to a ccdVisit's last alert, None before any went out."""
        known = [v["latency"] for v in self.visits if v["latency"] is not None]
        median, slow = np.percentile(known, [50, 95]).tolist() if known else (None, None)
        return {"median": median, "p95": slow}

    def pace(self, minutes: float = 10.0) -> "Pace | None":
        """Return how fast ccdVisits were finished in the last minutes in which any were; None where none was.

        What counts is the time in which any of them waited or was processed: between nights nothing is slow.
        """
        ended = [v for v in self.visits if v["finished"] is not None and v["created"] is not None]
        if not ended:
            return None
        ends = np.array([v["finished"].timestamp() for v in ended])
        since = ends.max() - 60 * minutes
        late = ends >= since
        begins = np.maximum([v["created"].timestamp() for v in ended], since)[late]
        order = np.argsort(begins, kind="stable")
        begins, ends = begins[order], ends[late][order]
        before = np.maximum.accumulate(np.concatenate([[-np.inf], ends[:-1]]))
        busy = float(np.maximum(ends - np.maximum(begins, before), 0).sum())  # the length of the union of the intervals
        return Pace(len(ends), busy / 60) if busy > 0 else None

    @property
    def absent(self) -> int:
        """Images that never came, of visits of which others did."""
        return sum(len(lacking) for _, lacking in self.lacking.values())

    @cached_property
    def lacking(self) -> dict[tuple[str, int], tuple[float | None, list[int]]]:
        """Mid-exposure and the detectors that sent nothing, by instrument and visit, of visits of which others did."""
        return _lacking(self.visits)

    def steps(self) -> list[StepTime]:
        """Return the times of the steps in the order in which they are taken, of the ccdVisits that are done."""
        timed = [v for v in self.visits if v["seconds"]]
        names = in_order({name for v in timed for name in v["seconds"]})
        total = sum(sum(v["seconds"].values()) for v in timed)
        out = []
        for name in names:
            having = [(float(v["seconds"][name]), (v["visit"], v["detector"])) for v in timed if name in v["seconds"]]
            values = np.array([s for s, _ in having])
            longest = max(having)
            median, p95 = np.percentile(values, [50, 95])
            share = float(values.sum()) / total if total else 0.0
            out.append(StepTime(name, float(median), float(p95), longest[0], share, longest[1]))
        return out

    def gaps(self) -> list[Gap]:
        """Return pauses between exposures and parts that gave no alerts, with reasons, in order of time."""
        return [*_pauses(self.visits), *_missing(self.lacking), *_without_alerts(self.visits)]


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of steps in the order in which they are taken; the database keeps none."""
    return sorted(names, key=lambda name: (STEPS.index(name) if name in STEPS else len(STEPS), name))


_OPEN = (VisitState.QUEUED, VisitState.RUNNING)


def nights(database: Database) -> list[int]:
    """Return the numbers of the nights, the newest first."""
    with reading(database) as cursor:
        rows = cursor.execute(
            # from each night to the one before by the index: a scan would cost more the longer a survey runs
            'WITH RECURSIVE n(night) AS (SELECT floor(max("midpointMjdTai") - 0.5) FROM "VisitLedger" UNION ALL SELECT (SELECT '
            'floor(max("midpointMjdTai") - 0.5) FROM "VisitLedger" WHERE "midpointMjdTai" < n.night + 0.5) FROM n WHERE n.night IS NOT '
            "NULL) SELECT night::int FROM n WHERE night IS NOT NULL LIMIT 1000"
        ).fetchall()
    return [row["night"] for row in rows]


def open_nights(database: Database) -> dict[int, int]:
    """Return how many ccdVisits are queued or running by night, the newest first."""
    with reading(database) as cursor:
        rows = cursor.execute(
            'SELECT floor("midpointMjdTai" - 0.5)::int AS night, count(*) AS n FROM "VisitLedger" WHERE state = ANY(%s) AND '
            '"midpointMjdTai" IS NOT NULL GROUP BY 1 ORDER BY 1 DESC LIMIT 20',
            ([str(s) for s in _OPEN],),
        ).fetchall()
    return {row["night"]: row["n"] for row in rows}


def night_of(database: Database, number: int | None, *, newest: bool) -> Night:
    """Return a night; the newest holds those whose time is not known yet too."""
    where = "FALSE" if number is None else 'l."midpointMjdTai" >= %s AND l."midpointMjdTai" < %s'
    values: list[Any] = [] if number is None else [number + 0.5, number + 1.5]
    if newest:
        where = f'({where} OR l."midpointMjdTai" IS NULL)'
    with reading(database) as cursor:
        rows = cursor.execute(_VISITS.format(where), [*values, MOST + 1]).fetchall()
    for name in ("counts", "seconds"):  # one text for all: a call for each takes most of a page's time
        parsed = json.loads(f"[{','.join(row[name] or 'null' for row in rows)}]")
        for row, value in zip(rows, parsed, strict=True):
            row[name] = value
    return Night(number, rows[:MOST], len(rows) > MOST)


def with_metrics(database: Database, visits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ccdVisits of one visit with their metrics: those of a whole night are too many to be read for each page."""
    keys = [v["visit"] for v in visits[:1]], [v["detector"] for v in visits]
    with reading(database) as cursor:
        rows = cursor.execute(
            'SELECT detector, metrics FROM "VisitQuality" WHERE visit = ANY(%s) AND detector = ANY(%s)', keys
        )
        metrics = {row["detector"]: row["metrics"] for row in rows}
    return [{**v, "metrics": metrics.get(v["detector"])} for v in visits]


def _pauses(visits: list[dict[str, Any]]) -> list[Gap]:
    times = np.array(sorted({v["mjd"] for v in visits if v["mjd"] is not None}))
    if len(times) < 3:
        return []
    pauses = np.diff(times)
    usual = float(np.median(pauses))
    limit = max(LONG_GAP * usual, LEAST_GAP_S / 86400)
    return [
        Gap(
            float(times[k]),
            float(times[k + 1]),
            "no exposure",
            f"no visit was sent for {1440 * pauses[k]:.0f} min, usually one comes every {1440 * usual:.1f} min: "
            "clouds, slews and the camera are not known here",
        )
        for k in np.flatnonzero(pauses > limit)
    ]


def _lacking(visits: list[dict[str, Any]]) -> dict[tuple[str, int], tuple[float | None, list[int]]]:
    """Return mid-exposure and the detectors that sent nothing, by instrument and visit, of visits of which others of the instrument did."""
    every: dict[str, set[int]] = {}
    came: dict[tuple[str, int], set[int]] = {}
    when: dict[tuple[str, int], float | None] = {}
    for v in visits:
        every.setdefault(v["instrument"], set()).add(v["detector"])
        came.setdefault((v["instrument"], v["visit"]), set()).add(v["detector"])
        when[v["instrument"], v["visit"]] = v["mjd"]
    lacking = {key: sorted(every[key[0]] - detectors) for key, detectors in came.items()}
    return {key: (when[key], detectors) for key, detectors in lacking.items() if detectors}


def _missing(lacking_of: dict[tuple[str, int], tuple[float | None, list[int]]]) -> list[Gap]:
    """Detectors that sent nothing of a visit of which others did."""
    out = []
    for (_, visit), (mjd, lacking) in lacking_of.items():
        names = ", ".join(map(str, lacking[:8])) + (f" and {len(lacking) - 8} more" if len(lacking) > 8 else "")
        out.append(Gap(mjd, mjd, f"visit {visit}: detector {names}", "never came: nobody sent a message for it"))
    return sorted(out, key=lambda g: g.begin or 0.0)


def _without_alerts(visits: list[dict[str, Any]]) -> list[Gap]:
    out = []
    for v in visits:
        reason = None
        if v["state"] in (VisitState.FAILED, VisitState.NO_WORK):
            reason = f"{v['code'] or v['state']}: {v['text'] or 'no reason is kept'}"
        elif v["state"] == VisitState.WITHDRAWN:
            reason = "withdrawn: its rows were taken back by an operator"
        elif v["held"]:
            reason = f"its alerts are held: {v['held']}"
        if reason is not None:
            name = f"visit {v['visit']}, detector {v['detector']}"
            out.append(Gap(v["mjd"], v["mjd"], name, reason, f"/visit/{v['visit']}/{v['detector']}"))
    return sorted(out, key=lambda g: g.begin or 0.0)
