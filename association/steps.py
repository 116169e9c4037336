"""What the steps of `DiaPipelineTask` hand to each other, and those steps that need no configuration."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from association.errors import DuplicateRecords
from association.new_objects import NewSources, new_objects
from association.solar_system import SolarSystemMatches
from association.statistics.summary import forced_means, summarize
from exposure import Exposure
from tasks import IdFactory, IdGenerator
from tasks.lacking import lacking_keys
from tasks.sphere import chord_arcsec, unit_vectors

__all__ = [
    "History",
    "ObjectTables",
    "SourceGroups",
    "VisitInput",
    "check_duplicates",
    "check_founded",
    "lacking_forced",
    "summarize_objects",
    "with_forced_means",
]


_STORED_AS_REAL = ("raErr", "decErr", "ra_dec_Cov", "psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr")


@dataclass(frozen=True)
class VisitInput:
    """One detector of a visit: its sources and images, the ids of its forced sources, the processing time (MJD, TAI)."""

    sources: pd.DataFrame
    difference: Exposure
    science: Exposure
    ephemerides: pd.DataFrame | None
    forced_ids: IdGenerator | IdFactory
    now: float


@dataclass(frozen=True)
class History:
    """The objects on the image, their sources and forced sources from before the visit, and keys of those forced that lack light."""

    objects: pd.DataFrame
    sources: pd.DataFrame
    forced: pd.DataFrame
    lacking: pd.DataFrame


@dataclass(frozen=True)
class SourceGroups:
    """The sources of a visit: those to be stored, in order of id; those without an object before; those of known bodies."""

    stored: pd.DataFrame
    unmatched: NewSources
    solar: SolarSystemMatches


@dataclass(frozen=True)
class ObjectTables:
    """All objects on the image, the updated ones with all columns, and the history with the visit's sources."""

    on_image: pd.DataFrame
    updated: pd.DataFrame
    sources: pd.DataFrame


def check_duplicates(stored: pd.DataFrame, history: History) -> None:
    """Refuse sources to be stored whose ids are there already.

    Raises
    ------
    DuplicateRecords
        An id occurs twice among them, is that of an earlier source, or that of an object which a source would found.
    """
    repeated = stored.diaSourceId[stored.diaSourceId.duplicated()]
    stored_before = stored.diaSourceId[stored.diaSourceId.isin(history.sources.diaSourceId)]
    founds = stored.diaObjectId == stored.diaSourceId
    founded = stored.diaObjectId[founds & stored.diaObjectId.isin(history.objects.diaObjectId)]
    for name, ids in (("input", repeated), ("database", stored_before), ("objects", founded)):
        if len(ids):
            raise DuplicateRecords(
                f"{len(ids)} ids (first: {int(ids.iloc[0])}) are twice in the {name}: is the visit stored already?"
            )


def check_founded(founding: pd.DataFrame, elsewhere: Mapping[int, tuple[float, float, int]]) -> None:
    """Refuse sources whose ids are those of objects elsewhere: an object takes the id of the source that founds it.

    Parameters
    ----------
    founding
        Sources that found objects: diaSourceId, ra, dec (deg).
    elsewhere
        Position (deg) and number of sources of the objects in the database that have one of these ids.

    Raises
    ------
    DuplicateRecords
        There is one; nothing was written.
    """
    if not elsewhere:
        return
    number, (ra, dec, _) = min(elsewhere.items())
    source = founding[founding.diaSourceId == number].iloc[0]
    chord = np.linalg.norm(unit_vectors([source.ra], [source.dec]) - unit_vectors([ra], [dec]), axis=1)
    raise DuplicateRecords(
        f"{len(elsewhere)} new sources have the ids of objects that are stored already (first: {number}, at ra {ra:.5f}, dec "
        f"{dec:.5f}, {chord_arcsec(chord)[0] / 3600:.5f} deg from the source): do two cameras, or two layouts "
        "of ids, share this database?"
    )


def summarize_objects(groups: SourceGroups, history: History) -> ObjectTables:
    """Renew the statistics of the objects that got a source; new ones are made."""
    fresh = groups.stored[groups.stored.diaObjectId != 0]
    # in the precision in which they are stored: statistics that are made anew later are the same
    fresh = fresh.assign(**{c: fresh[c].astype(np.float32) for c in _STORED_AS_REAL if c in fresh})
    sources = _joined([history.sources.assign(isNew=False), fresh.assign(isNew=True)])
    objects = _joined([history.objects, new_objects(groups.unmatched.good)])
    touched = objects[objects.diaObjectId.isin(fresh.diaObjectId)]
    updated = summarize(touched, sources[sources.diaObjectId.isin(touched.diaObjectId)]).reset_index()
    others = objects[~objects.diaObjectId.isin(touched.diaObjectId)]
    on_image = pd.concat([f for f in (updated, others) if len(f)] or [updated], ignore_index=True)
    return ObjectTables(on_image.sort_values("diaObjectId", ignore_index=True), updated, sources)


def lacking_forced(history: History, flags: pd.DataFrame) -> pd.DataFrame:
    """Return the keys of the forced sources that lack light: those of the history, and those of the visit by their flags."""
    return _joined([history.lacking, lacking_keys(flags)])


def with_forced_means(
    updated: pd.DataFrame, history: pd.DataFrame, forced: pd.DataFrame, lacking: pd.DataFrame
) -> pd.DataFrame:
    """Return updated objects with the means of their forced photometry up to their last detection, this visit's included.

    What was measured after it is there already where a visit comes late: the order in which visits come must not matter.
    What lacks light (`lacking_forced`) has no part in them.
    """
    if updated.empty:
        return updated
    summary = updated.set_index("diaObjectId")
    rows = pd.concat([history, forced], ignore_index=True)
    forced_means(summary, rows[rows.midpointMjdTai <= rows.diaObjectId.map(summary.lastDiaSourceMjdTai)], lacking)
    return summary.reset_index()


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of frames one after the other; empty frames, which would change types, only where all are empty."""
    return pd.concat([f for f in frames if len(f)] or frames, ignore_index=True)
