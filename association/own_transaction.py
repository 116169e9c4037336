"""The transaction of a `DiaPipelineTask` that was given none: its APDB, the lock of its sky, and what is there already."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd

from apdb import Database, VisitUnitOfWork
from apdb.sky.htm import polygon
from apdb.sky.locks import lock_pixels, sky_locks
from association.apdb_address import apdb_uri
from association.errors import AssociationError, DuplicateRecords
from exposure import Exposure

if TYPE_CHECKING:
    from association.config import DiaPipelineConfig

__all__ = ["LOCK_MARGIN", "check_same_sources", "own_transaction"]

LOCK_MARGIN = 30  # px around the image: objects beyond the edge may be touched


@contextmanager
def own_transaction(
    config: "DiaPipelineConfig", image: Exposure, now: float
) -> "Iterator[tuple[VisitUnitOfWork, set[int] | None]]":
    """Lock the sky of an image and open a unit of work in the configured APDB.

    Yields the unit of work and, of a visit whose stored rows are to be used once more, the ids of its sources: what was
    stored is taken back within the transaction, which must not be committed then, so that association finds what it found.

    Parameters
    ----------
    now
        Processing time, MJD TAI.

    Raises
    ------
    AssociationError
        Nothing names the APDB.
    DuplicateRecords
        The visit is there already, and ``onStored`` is ``error``.
    """
    visit, detector = image.key
    try:
        database = Database(apdb_uri(config.apdb_config_url))
    except AssociationError as error:
        error.at(visit, detector)
        raise
    database.ensure_partitions(image.require_visit_info().midpoint_mjd_tai)
    pixels = lock_pixels(polygon(*image.sky_corners(LOCK_MARGIN)))
    with database.connect() as connection, sky_locks(connection, pixels), VisitUnitOfWork(connection) as work:
        stored: set[int] | None = None
        if work.contains_visit(visit, detector):
            if config.onStored == "error":
                raise DuplicateRecords("the visit is in the APDB already", visit=visit, detector=detector)
            if config.onStored == "reuse":
                stored = work.source_ids(visit, detector)
            work.remove_visit(visit, detector, now)
        yield work, stored


def check_same_sources(image: Exposure, new_sources: pd.DataFrame, stored: set[int]) -> None:
    """Refuse to use once more what is stored of a visit where other sources would be stored now.

    Raises
    ------
    DuplicateRecords
        The ids differ.
    """
    if set(new_sources.diaSourceId.tolist()) != stored:
        raise DuplicateRecords(
            f"the visit is in the APDB already, with {len(stored)} sources, and {len(new_sources)} would be stored now that are not the "
            "same: onStored=replace takes it back first",
            **image.where,
        )
