"""Monthly partitions of DiaSource and DiaForcedSource by midpointMjdTai."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

__all__ = ["PARTITIONED", "ensure_months", "month_bounds"]

PARTITIONED = ("DiaSource", "DiaForcedSource")
_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)


def _first_of_month(mjd: float, shift: int = 0) -> datetime:
    day = _EPOCH + timedelta(days=mjd)
    months = day.year * 12 + day.month - 1 + shift
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def month_bounds(mjd: float, shift: int = 0) -> tuple[str, float, float]:
    """Return (label such as 2026m11, first MJD, MJD of the next month) of the month `shift` after that of `mjd`."""
    low, high = _first_of_month(mjd, shift), _first_of_month(mjd, shift + 1)
    return f"{low:%Y}m{low:%m}", (low - _EPOCH).total_seconds() / 86400, (high - _EPOCH).total_seconds() / 86400


def ensure_months(connection: psycopg.Connection[Any], mjd: float, ahead: int = 2) -> list[str]:
    """Make the partitions of the month of `mjd` and of the next `ahead` ones where they are missing.

    Returns the names of those that were made. Safe to call from several sessions at once (advisory lock).
    """
    made = []
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(7001)")
        for shift in range(ahead + 1):
            label, low, high = month_bounds(mjd, shift)
            for table in PARTITIONED:
                name = f"{table}_{label}"
                if connection.execute("SELECT to_regclass(%s)", (f'"{name}"',)).fetchone() == (None,):
                    connection.execute(
                        sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                            sql.Identifier(name), sql.Identifier(table), sql.Literal(low), sql.Literal(high)
                        )
                    )
                    made.append(name)
    return made
