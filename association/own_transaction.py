"""The transaction of a `DiaPipelineTask` that was given none: its APDB, the lock of its sky, and what is there already."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from apdb import Database, VisitUnitOfWork
from apdb.id_layouts import claim_layout, note_instrument, refuse_other_camera
from apdb.sky.htm import polygon
from apdb.sky.locks import lock_pixels, sky_locks
from apdb.visit.take_back import pixels_of_visit
from association.apdb_address import apdb_uri
from association.errors import AssociationError, DuplicateRecords
from exposure import Exposure
from exposure.exposure_ids import claimed_sizes
from tasks import IdFactory, IdGenerator
from tasks.arrays import F64

if TYPE_CHECKING:
    from association.config import DiaPipelineConfig

__all__ = ["LOCK_MARGIN", "check_same_sources", "own_transaction"]

LOCK_MARGIN = 30  # px around the image: objects beyond the edge may be touched
_NO_NAME = "(no name)"
# what two processings of other pixels, or with other settings, do not share; another processor may change the last digits
_LIMITS = {"ra": 1e-4 / 3600, "dec": 1e-4 / 3600, "midpointMjdTai": 1e-8}  # deg, d
_FLUXES, _SAME_FLUX = ("psfFlux", "psfFluxErr", "apFlux", "scienceFlux"), 1e-4


@contextmanager
def own_transaction(
    config: "DiaPipelineConfig", image: Exposure, ids: IdGenerator | IdFactory, now: float
) -> "Iterator[tuple[VisitUnitOfWork, pd.DataFrame | None]]":
    """Lock the sky of an image and open a unit of work in the configured APDB, which is committed at the end.

    Yields the unit of work and, of a visit whose stored rows are to be used once more, its sources: what was
    stored is taken back within the transaction, which is not committed then, so that association finds what it found.

    Parameters
    ----------
    ids
        Of the forced sources: their layout is that of the instrument, unless they are of a scheme of the caller's (`IdFactory`).
    now
        Processing time, MJD TAI.

    Raises
    ------
    AssociationError
        Nothing names the APDB.
    DuplicateRecords
        The visit is there already, and ``onStored`` is ``error``.
    IdLayoutConflict
        The ids could meet others of the database.
    VisitConflict
        What is stored of the visit is of another camera.
    """
    visit, detector = image.key
    instrument = image.require_visit_info().instrument or _NO_NAME
    try:
        database = Database(apdb_uri(config.apdb_config_url))
    except AssociationError as error:
        error.at(visit, detector)
        raise
    database.ensure_partitions(image.require_visit_info().midpoint_mjd_tai)
    with database.connect() as connection:
        if isinstance(ids, IdGenerator):
            claim_layout(connection, instrument, claimed_sizes(ids.packer))
        # what is taken back may lie elsewhere: the image was calibrated in another way
        before = pixels_of_visit(connection, visit, detector) if config.onStored != "error" else []
        pixels = sorted({*lock_pixels(polygon(*image.sky_corners(LOCK_MARGIN))), *before})
        with sky_locks(connection, pixels), VisitUnitOfWork(connection) as work:
            stored: pd.DataFrame | None = None
            if work.contains_visit(visit, detector):
                if config.onStored == "error":
                    raise DuplicateRecords("the visit is in the APDB already", visit=visit, detector=detector)
                refuse_other_camera(connection, visit, detector, instrument)
                if config.onStored == "reuse":
                    stored = work.sources_of(visit, detector)
                work.remove_visit(visit, detector, now)
            yield work, stored
            if stored is None:
                note_instrument(connection, visit, detector, instrument)
                work.commit()


def check_same_sources(image: Exposure, new_sources: pd.DataFrame, stored: pd.DataFrame) -> None:
    """Refuse to use once more what is stored of a visit where other sources would be stored now.

    Ids say no more than how many there are: positions (to 0.1 mas), times and fluxes (to 1e-4 of flux and error) are compared as well.

    Raises
    ------
    DuplicateRecords
        They differ.
    """
    new = new_sources.sort_values("diaSourceId", ignore_index=True)
    old = stored.sort_values("diaSourceId", ignore_index=True)
    hint = "onStored=replace takes it back first"
    if new.diaSourceId.tolist() != old.diaSourceId.tolist():
        raise DuplicateRecords(
            f"the visit is in the APDB already, with {len(old)} sources, and {len(new)} would be stored now that are not the "
            f"same: {hint}",
            **image.where,
        )
    for name in (*_LIMITS, *_FLUXES):
        one, two = _numbers(old, name), _numbers(new, name)
        limit = _LIMITS.get(name, _SAME_FLUX * (np.abs(one) + np.nan_to_num(_numbers(old, "psfFluxErr"))))
        other = ~((np.abs(one - two) <= limit) | (np.isnan(one) & np.isnan(two)))
        if other.any():
            row = int(np.argmax(other))
            raise DuplicateRecords(
                f"the visit is in the APDB already, and {int(other.sum())} of its {len(old)} sources would be others now; the first "
                f"in row {row} (diaSourceId {int(old.diaSourceId[row])}), whose {name} is {one[row]:.9g} there, and {two[row]:.9g} "
                f"here: {hint}",
                **image.where,
            )


def _numbers(table: pd.DataFrame, name: str) -> F64:
    return table[name].to_numpy(np.float64) if name in table else np.full(len(table), np.nan)
