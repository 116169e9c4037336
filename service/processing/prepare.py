"""What is read before an announced visit comes: template tiles into this process, history into the database's memory."""

from typing import Any

import numpy as np
import psycopg
from lsst.sphgeom import Angle, Circle, LonLat, UnitVector3d
from psycopg import sql

from apdb import Database
from apdb.visit.load import IN_RANGES, pixel_ranges
from diffim import TemplateStore
from tasks.arrays import F64

__all__ = ["prepare"]

STATEMENT_S = 20
GRID = 121  # positions along the diameter: tiles of 0.05 degrees in a circle of three


def prepare(announcement: dict[str, Any], templates: TemplateStore, name: str, database: Database) -> dict[str, int]:
    """Read what a visit in a circle will need; returns how many tiles and objects that were.

    Parameters
    ----------
    name
        Template set where the announcement names none.

    Raises
    ------
    NoTemplate, DatabaseUnavailable
    """
    ra, dec, radius = (float(announcement[key]) for key in ("ra", "dec", "radiusDeg"))
    chosen = templates.get(announcement.get("templates") or name, announcement["band"])
    tiles = templates.keep(chosen, *_grid(ra, dec, radius))
    region = Circle(UnitVector3d(LonLat.fromDegrees(ra, dec)), Angle.fromDegrees(radius))
    with database.session(STATEMENT_S) as connection:
        return {"tiles": tiles, "objects": _touch_history(connection, region)}


def _grid(ra: float, dec: float, radius: float) -> tuple[F64, F64]:
    """Return positions in a circle, the centre first, as densely as the smallest tiles ask for."""
    steps = np.linspace(-radius, radius, GRID)
    x, y = (part.ravel() for part in np.meshgrid(steps, steps))
    order = np.argsort(np.hypot(x, y), kind="stable")
    order = order[np.hypot(x, y)[order] <= radius]
    return (ra + x[order] / max(np.cos(np.radians(dec)), 0.01)) % 360.0, np.clip(dec + y[order], -90.0, 90.0)


def _touch_history(connection: psycopg.Connection[Any], region: Circle) -> int:
    """Read objects and their sources, so that they are in the memory of the database."""
    statement = sql.SQL(
        'WITH near AS (SELECT t."diaObjectId" FROM "DiaObjectLast" t {}) SELECT count(DISTINCT n."diaObjectId"), '
        'count(s."psfFlux") FROM near n LEFT JOIN "DiaSource" s ON s."diaObjectId" = n."diaObjectId"'
    ).format(IN_RANGES)
    row = connection.execute(statement, pixel_ranges(region)).fetchone()
    return int(row[0]) if row else 0
