"""Monthly partitions of DiaSource and DiaForcedSource by midpointMjdTai, made ahead and online.

A month that was archived is not made anew: what still comes of it waits in the default partition, where it can be read,
until it is archived too or the month is restored (`apdb.operate.archive`).
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from psycopg import sql

from apdb.errors import ApdbError
from apdb.schema.tables import PARTITIONED

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LOCK_TIMEOUT_S",
    "NO_MONTH_LEAVES",
    "Partition",
    "PartitionKeeper",
    "archived_months",
    "attach",
    "ensure_months",
    "is_archived",
    "lock_partitions",
    "missing_months",
    "mjd_of",
    "month_bounds",
    "partitions",
    "refuse_archived",
    "waiting_months",
]

_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)
LOCK_TIMEOUT_S = 5
# A snapshot that is older than the end of an archive sees neither the rows of the month, which are detached, nor that it is
# archived. This statement takes no snapshot: said first in a transaction, it waits for such an archive, and lets no further one end.
NO_MONTH_LEAVES = 'LOCK TABLE ONLY "DiaSource", ONLY "DiaForcedSource" IN ACCESS SHARE MODE'
_LOCK = 7001
# times outside of 1995-2131 are mistakes; they go to the default partition
_SANE = (49_718.0, 99_400.0)
MAX_NEW_MONTHS = 4


def mjd_of(moment: datetime) -> float:
    """Return the MJD of a moment (UTC)."""
    return (moment - _EPOCH).total_seconds() / 86400


def _first_of_month(mjd: float, shift: int = 0) -> datetime:
    day = _EPOCH + timedelta(days=mjd)
    months = day.year * 12 + day.month - 1 + shift
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def month_bounds(mjd: float, shift: int = 0) -> tuple[str, float, float]:
    """Return (label such as 2026m11, first MJD, MJD of the next month) of the month `shift` after that of `mjd`."""
    low, high = _first_of_month(mjd, shift), _first_of_month(mjd, shift + 1)
    return f"{low:%Y}m{low:%m}", mjd_of(low), mjd_of(high)


def ensure_months(connection: psycopg.Connection[Any], mjd: float, ahead: int = 2) -> list[str]:
    """Make the partitions of the month of `mjd` and of the next `ahead` ones where they are missing and not archived.

    Returns the names of those that were made. Safe to call from several sessions at once (advisory lock). Rows that
    wait in the default partition move into the new one. Readers and writers are held up for at most the lock time-out.
    Times outside of 1995 to 2131 get none: their rows, if they are stored at all, stay in the default partition.
    """
    new_names: list[str] = []
    if not _SANE[0] <= mjd <= _SANE[1]:
        return new_names
    with connection.transaction():
        lock_partitions(connection)
        missing = set(missing_months(connection, mjd, ahead))
        for shift in range(ahead + 1):
            label, low, high = month_bounds(mjd, shift)
            for table in PARTITIONED:
                name = f"{table}_{label}"
                if name in missing:
                    _make_month(connection, table, name, low, high)
                    new_names.append(name)
    return new_names


def lock_partitions(connection: psycopg.Connection[Any]) -> None:
    """Hold, until the transaction ends, the right to attach and detach partitions."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


def archived_months(connection: psycopg.Connection[Any]) -> set[str]:
    """Return the names of the partitions that are in the archive, be their tables still there or not."""
    return {row[0] for row in connection.execute("SELECT partition FROM \"ApdbArchive\" WHERE state <> 'restored'")}


def missing_months(connection: psycopg.Connection[Any], mjd: float, ahead: int = 2) -> list[str]:
    """Return the names that `ensure_months` would make."""
    names = [f"{table}_{month_bounds(mjd, shift)[0]}" for shift in range(ahead + 1) for table in PARTITIONED]
    rows = connection.execute("SELECT n FROM unnest(%s::text[]) n WHERE to_regclass(quote_ident(n)) IS NULL", (names,))
    missing = {row[0] for row in rows} - archived_months(connection)
    return [n for n in names if n in missing]


def refuse_archived(connection: psycopg.Connection[Any], days_mjd: Iterable[float]) -> None:
    """Refuse to change what is stored of some times: rows in the archive cannot be withdrawn, and come back as they were.

    Raises
    ------
    ApdbError
        A month is in the archive: the message names what to restore.
    """
    gone = sorted(_archived_among(connection, days_mjd))
    if gone:
        commands = " and ".join(f"'alertprod apdb restore {name}'" for name in gone)
        raise ApdbError(
            f"what is stored of that month is in the archive, where it cannot be replaced: run {commands} first"
        )


def is_archived(connection: psycopg.Connection[Any], days_mjd: Iterable[float]) -> bool:
    """Return whether a month of some times is in the archive."""
    return bool(_archived_among(connection, days_mjd))


def _archived_among(connection: psycopg.Connection[Any], days_mjd: Iterable[float]) -> set[str]:
    labels = {month_bounds(mjd)[0] for mjd in days_mjd if _SANE[0] <= mjd <= _SANE[1]}
    return {f"{t}_{label}" for t in PARTITIONED for label in labels} & archived_months(connection)


def waiting_months(connection: psycopg.Connection[Any]) -> list["Partition"]:
    """Return the months of the rows in the default partitions, as if they were partitions of their own."""
    counts: dict[tuple[str, float], int] = {}
    for table in PARTITIONED:
        query = sql.SQL(
            'SELECT floor("midpointMjdTai"), count(*) FROM {} WHERE "midpointMjdTai" >= %s AND "midpointMjdTai" < %s GROUP BY 1'
        ).format(sql.Identifier(f"{table}_default"))
        for day, count in connection.execute(query, _SANE):
            key = table, month_bounds(day)[1]
            counts[key] = counts.get(key, 0) + count
    out = []
    for (table, begin), count in sorted(counts.items()):
        label, low, high = month_bounds(begin)
        out.append(Partition(table, f"{table}_{label}", low, high, count, 0, 0))
    return out


def _make_month(connection: psycopg.Connection[Any], table: str, name: str, low: float, high: float) -> None:
    new, default = sql.Identifier(name), sql.Identifier(f"{table}_default")
    connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(new, sql.Identifier(table)))
    connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
    # attaching needs this lock; held before, no row comes in between
    connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(default))
    connection.execute(
        sql.SQL(
            'WITH moved AS (DELETE FROM {} WHERE "midpointMjdTai" >= {} AND "midpointMjdTai" < {} RETURNING *) '
            "INSERT INTO {} SELECT * FROM moved"
        ).format(default, sql.Literal(low), sql.Literal(high), new)
    )
    attach(connection, table, name, low, high)


def attach(connection: psycopg.Connection[Any], table: str, name: str, low: float, high: float) -> None:
    """Attach a table as the partition of [low, high)."""
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            sql.Identifier(table), sql.Identifier(name), sql.Literal(low), sql.Literal(high)
        )
    )


class PartitionKeeper:
    """Makes the partitions of the months that rows fall into, asking the database once for each month and process."""

    def __init__(self) -> None:
        self._existing: set[str] = set()

    def prepare(
        self, connect: Callable[[], AbstractContextManager[psycopg.Connection[Any]]], rows: "Mapping[str, pd.DataFrame]"
    ) -> None:
        """Make what is missing for frames that have ``midpointMjdTai`` (at most a few months; the default takes more)."""
        days: set[int] = set()
        for frame in rows.values():
            times = frame.midpointMjdTai.to_numpy(np.float64)
            days |= set(np.unique(times[np.isfinite(times)] // 1).astype(int).tolist())
        months = {month_bounds(float(d))[0]: float(d) for d in sorted(days) if _SANE[0] <= d <= _SANE[1]}
        missing = {label: day for label, day in months.items() if label not in self._existing}
        if not missing or len(missing) > MAX_NEW_MONTHS:
            return
        with connect() as connection:
            for label, day in missing.items():
                ensure_months(connection, day, ahead=0)
                self._existing.add(label)


@dataclass(frozen=True)
class Partition:
    """One partition: its table, bounds (NaN for the default), estimated rows and bytes."""

    table: str
    name: str
    begin_mjd: float
    end_mjd: float
    rows: int
    table_bytes: int
    index_bytes: int


def partitions(connection: psycopg.Connection[Any]) -> list[Partition]:
    """Return all attached partitions in order of table and time, the default ones last."""
    rows = connection.execute(
        'SELECT "table", partition, bounds, "rowsEstimated", "tableBytes", "indexBytes" FROM partition_size'
    ).fetchall()
    out = []
    for table, name, bounds, count, table_bytes, index_bytes in rows:
        numbers = [
            float(x) for x in bounds.replace("'", "").replace("(", " ").replace(")", " ").split() if _is_number(x)
        ]
        begin, end = numbers if len(numbers) == 2 else (np.nan, np.nan)
        out.append(Partition(table, name, begin, end, int(count), int(table_bytes), int(index_bytes)))
    return sorted(out, key=lambda p: (p.table, np.isnan(p.begin_mjd), p.begin_mjd))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
