"""`DiaPipelineTask`: from the DiaSources of one detector to what is stored and alerted."""

from collections.abc import Callable
from typing import Any

import lsst.pex.config as pexConfig
import numpy as np
import pandas as pd
from astropy.time import Time
from lsst.pipe.base import Struct

from apdb import VisitUnitOfWork, empty_frame
from apdb.sky.htm import polygon
from association.config import DiaPipelineConfig
from association.confirmation import older_than, unconfirmed
from association.errors import AssociationError, TooManyDiaObjects
from association.forced_rows import ForcedRules, forced_rows, qualified_objects
from association.matching import associate
from association.new_objects import NewSourceRules, NewSources, filter_new_sources
from association.own_transaction import LOCK_MARGIN, check_same_sources, own_transaction
from association.quantum import run_quantum
from association.solar_system import bodies_on_image, match_solar_system, no_bodies
from association.source_table import check_one_visit, pointing_problems, with_optional_columns
from association.steps import (
    History,
    ObjectTables,
    SourceGroups,
    VisitInput,
    check_duplicates,
    check_founded,
    lacking_forced,
    summarize_objects,
    with_forced_means,
)
from association.times import TimeLimits, check_midpoint
from exposure import Exposure
from exposure.exposure_ids import id_generator
from tasks import AlertTask, IdFactory, IdGenerator
from tasks.arrays import Flags
from tasks.datasets import Columns

__all__ = ["LOCK_MARGIN", "ApdbMarker", "DiaPipelineConfig", "DiaPipelineTask"]


def _forced_ids(image: Exposure, bits: int | None) -> IdGenerator | IdFactory:
    """Return the ids of a caller that brings none; with `bits` those of the older scheme, which has room for 1000 detectors.

    Raises
    ------
    AssociationError
        A detector that has no place in the older scheme.
    """
    if bits is None:
        return id_generator(image)
    visit, detector = image.key
    if detector >= 1000:
        raise AssociationError(
            "ids of ccdExposureIdBits have room for detectors below 1000: give idGenerator", **image.where
        )
    return IdFactory(visit * 1000 + detector, bits)


class ApdbMarker(pexConfig.Config):
    """Its presence says that the ccdVisit is in the APDB (final once the transaction is committed)."""


class DiaPipelineTask(AlertTask):
    """Load history, associate, summarise, force photometry, store."""

    ConfigClass = DiaPipelineConfig
    _DefaultName = "diaPipe"
    associatedDiaSourceSchema = Columns("diaSource")
    diaForcedSourceSchema = Columns("diaForcedSource")
    diaObjectSchema = Columns("diaObject")

    def __init__(self, initInputs: Any = None, **kwargs: Any) -> None:
        super().__init__(initInputs=initInputs, **kwargs)
        c = self.config
        self.new_source_rules = NewSourceRules(
            tuple(c.newObjectBadFlags),
            c.newObjectFluxField,
            c.newObjectSnrThreshold,
            c.newObjectReliabilityThreshold,
            c.newObjectLowReliabilitySnrThreshold,
            c.newObjectLowSnrReliabilityThreshold,
        )
        self._forced_rules = ForcedRules(
            c.historyThreshold,
            c.forcedReliabilityThreshold,
            c.forcedTrailLengthThreshold,
            tuple(c.forcedBadFlags),
            c.forcedNeedsReliability,
        )
        self._limits = TimeLimits(c.earliestMjdTai, c.futureDays)

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return empty tables of what is stored."""
        return {
            table[0].lower() + table[1:]: empty_frame(table) for table in ("DiaSource", "DiaForcedSource", "DiaObject")
        }

    def run(
        self,
        diaSourceTable: pd.DataFrame,
        diffIm: Exposure,
        exposure: Exposure,
        warpedExposure: Exposure,
        ccdExposureIdBits: int | None = None,
        *,
        unitOfWork: VisitUnitOfWork | None = None,
        idGenerator: IdGenerator | IdFactory | None = None,
        solarSystemObjectTable: pd.DataFrame | None = None,
        band: str | None = None,
        processedMjdTai: float | None = None,
        beforeCommit: Callable[[Struct], None] | None = None,
    ) -> Struct:
        """Process one detector's sources.

        Inside a unit of work nothing is committed here. Without one, the APDB of the configuration is opened, the sky
        locked, and the visit committed; what happens to one that is there already is said by ``onStored``.

        Parameters
        ----------
        diaSourceTable
            DiaSource rows (APDB names and units) of this visit and detector; optional columns that it
            lacks are NULL; the band is that of the image.
        diffIm, exposure, warpedExposure
            Difference, calibrated science image, warped template.
        ccdExposureIdBits
            Bits of the exposure's id in those of the forced sources, where no `idGenerator` is given.
        unitOfWork
            Open transaction; the caller commits.
        idGenerator
            Ids of the forced sources.
        solarSystemObjectTable
            Ephemerides at the visit's time (ssObjectId, ephRa, ephDec, ...), None for none.
        processedMjdTai
            Processing time (validity, timeProcessed); now by default.
        beforeCommit
            Called with the result before it is committed here; what it raises leaves the APDB as it was.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            apdbMarker (apdb_maker by its older name), associatedDiaSources (stored), diaForcedSources, diaObjects (all on the image),
            updatedDiaObjects, associatedSsSources, unassociatedSsObjects, newDiaSources, marginalDiaSources,
            historySources, historyForcedSources, lackingForcedSources (keys of the forced sources that lack light); of the
            stored: alertDiaSources, and unconfirmedDiaSources that wait for another.

        Raises
        ------
        AssociationError, DuplicateRecords, TooManyDiaObjects, IdLayoutConflict, VisitConflict
            Before anything is written.
        """
        self._validate(diffIm, exposure, warpedExposure, band)
        clock = float(Time.now().tai.mjd)
        now = clock if processedMjdTai is None else processedMjdTai
        midpoint = diffIm.require_visit_info().midpoint_mjd_tai
        check_midpoint(midpoint, self._limits, max(now, clock), *diffIm.key)
        generator = idGenerator or _forced_ids(diffIm, ccdExposureIdBits)
        table = with_optional_columns(diaSourceTable, diffIm.band)
        visit = VisitInput(table, diffIm, exposure, solarSystemObjectTable, generator, now)
        if unitOfWork is not None:
            return self._process(visit, unitOfWork)
        with own_transaction(self.config, diffIm, generator, now) as (work, stored):
            result = self._process(visit, work)
            if stored is not None:
                check_same_sources(diffIm, result.associatedDiaSources, stored)
            if beforeCommit is not None:
                beforeCommit(result)
        return result

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read, associate, put the tables, commit, put the marker; see `association.quantum`."""
        run_quantum(self, butlerQC, inputRefs, outputRefs)

    def _process(self, visit: VisitInput, work: VisitUnitOfWork) -> Struct:
        """Do all steps of `run` within a transaction of the caller's."""
        check_one_visit(visit.sources, visit.difference, visit.science)
        with self.step("load"):
            history = self._load(work, visit.difference, visit.now)
        with self.step("associate"):
            bodies = self._bodies(visit.ephemerides, visit.difference)
            parts = self._associate(visit.sources, history.objects, bodies)
            check_duplicates(parts.stored, history)
            check_founded(parts.unmatched.good, work.positions_of(parts.unmatched.good.diaObjectId.to_numpy(np.int64)))
        with self.step("summarize"):
            objects = summarize_objects(parts, history)
        with self.step("forced"):
            forced, flags = self._forced(objects, visit)
            lacking = lacking_forced(history, flags)
            updated = with_forced_means(objects.updated, history.forced, forced, lacking)
        updated["validityStartMjdTai"] = visit.now
        with self.step("store", "writeToApdbDuration"):
            bodies_seen = parts.solar.associatedSsSources
            work.store(visit.now, updated, parts.stored, forced, bodies_seen, flags, of=visit.difference.key)
        waiting = self._waiting(work, visit, parts.stored, updated, objects.sources)
        marker = ApdbMarker()
        return Struct(
            apdbMarker=marker,
            apdb_maker=marker,
            associatedDiaSources=parts.stored,
            diaForcedSources=forced,
            diaObjects=objects.on_image,
            updatedDiaObjects=updated,
            associatedSsSources=parts.solar.associatedSsSources,
            unassociatedSsObjects=parts.solar.unassociatedSsObjects,
            newDiaSources=parts.unmatched.good,
            marginalDiaSources=parts.unmatched.marginal,
            historySources=history.sources,
            historyForcedSources=history.forced,
            lackingForcedSources=lacking,
            alertDiaSources=parts.stored[~waiting],
            unconfirmedDiaSources=parts.stored[waiting],
        )

    def _waiting(
        self,
        work: VisitUnitOfWork,
        visit: VisitInput,
        stored: pd.DataFrame,
        updated: pd.DataFrame,
        sources: pd.DataFrame,
    ) -> Flags:
        """Return which stored sources are no alerts yet; `sources` are those of the objects in the history window."""
        least, repeated = self.config.alertLeastDiaSources, dict[int, int]()
        if least > 1:
            midpoint = visit.difference.require_visit_info().midpoint_mjd_tai
            repeated = work.repeated_sources(older_than(sources, updated), midpoint)
        waiting = unconfirmed(stored, updated, least, self.config.alertSingleSnr, sources, repeated)
        self.put("nUnconfirmedDiaSources", int(waiting.sum()))
        return waiting

    def _validate(self, diffIm: Exposure, exposure: Exposure, template: Exposure, band: str | None) -> None:
        problems = []
        if (used := band or diffIm.band) not in self.config.validBands:
            problems.append(f"band {used!r} is none of {''.join(self.config.validBands)}")
        elif used != diffIm.band:
            problems.append(f"the band asked for is {used!r}, that of the difference image {diffIm.band!r}")
        for name, image in (("science", exposure), ("difference", diffIm), ("template", template)):
            if image.photo_calib is None:
                problems.append(f"the {name} image has no photometric calibration")
            if image.wcs is None:
                problems.append(f"the {name} image has no WCS")
            if image.psf is None:
                problems.append(f"the {name} image has no PSF")
            if not image.band or image.width <= 0 or image.height <= 0:
                problems.append(f"the {name} image has no band or no pixels")
            if name != "template" and (image.visit_info is None or not np.isfinite(image.visit_info.midpoint_mjd_tai)):
                problems.append(f"the {name} image has no valid time")
            elif name != "template":
                problems += [f"the {name} image has {what}" for what in pointing_problems(image.require_visit_info())]
        if problems:
            raise AssociationError("; ".join(problems), **diffIm.where)

    def _load(self, work: VisitUnitOfWork, difference: Exposure, now_mjd: float) -> History:
        """Load the objects on the image, with a margin, and their sources of the history window.

        Times beyond the limits, as seen from the processing time `now_mjd`, are left out (MJD, TAI).
        """
        midpoint = difference.require_visit_info().midpoint_mjd_tai
        latest = self._limits.latest(now_mjd, midpoint)
        margin = self.config.imagePixelMargin + self.config.angleMargin / difference.pixel_scale_arcsec()
        with self.step("loadObjects", "loadDiaObjectsDuration"):
            around = work.load_objects(polygon(*difference.sky_corners(margin)))
            x, y = difference.require_wcs().sky_to_pixel(around.ra.to_numpy(), around.dec.to_numpy())
            objects = around[difference.contains(x, y, self.config.imagePixelMargin)].reset_index(drop=True)
            objects = self._limits.of_objects(objects, latest)
        ids = objects.diaObjectId.to_numpy(np.int64)
        with self.step("loadSources", "loadDiaSourcesDuration"):
            sources = self._limits.of_history(work.load_sources(ids, midpoint), latest)
        with self.step("loadForcedSources", "loadDiaForcedSourcesDuration"):
            forced = self._limits.of_history(work.load_forced_sources(ids, midpoint), latest)
            lacking = work.load_lacking(ids)
        return History(objects, sources, forced, lacking)

    def _bodies(self, ephemerides: pd.DataFrame | None, diffIm: Exposure) -> pd.DataFrame:
        if ephemerides is None or not self.config.doSolarSystemAssociation:
            return no_bodies()
        return bodies_on_image(ephemerides, diffIm)

    def _associate(self, table: pd.DataFrame, objects: pd.DataFrame, bodies: pd.DataFrame) -> SourceGroups:
        """Match solar-system bodies first, then known objects; the rest founds new objects or is marginal."""
        finite = np.isfinite(table.ra.to_numpy(np.float64)) & np.isfinite(table.dec.to_numpy(np.float64))
        for lost in table.diaSourceId[~finite]:
            self.log.warning("DiaSource %d has no position: dropped.", lost)
        solar = match_solar_system(table[finite], bodies, self.config.solarSystemMaxDistArcSeconds)
        result = associate(
            solar.unAssocDiaSources,
            objects,
            self.config.maxDistArcSeconds,
            sigma_floor_arcsec=self.config.sigmaFloorArcSeconds,
            fallback_sigma_arcsec=self.config.fallbackSigmaArcSeconds,
        )
        # a source is of an object or of a body: what it was before does not count
        result.diaSources["ssObjectId"] = np.int64(0)
        matched = result.diaSources[result.diaSources.diaObjectId != 0]
        unmatched = self._new_sources(result.diaSources[result.diaSources.diaObjectId == 0])
        for key, value in {
            "numUpdatedDiaObjects": result.nUpdatedDiaObjects,
            "numNewDiaObjects": len(unmatched.good),
            "numUnassociatedDiaObjects": result.nUnassociatedDiaObjects,
            "nRejectedNewDiaObjects": len(unmatched.marginal),
            "numTotalSolarSystemObjects": len(bodies),
            "numAssociatedSsObjects": solar.nAssociatedSsObjects,
            "nExpectedSsObjects": len(bodies),
            "nAssociatedSsObjects": solar.nAssociatedSsObjects,
        }.items():
            self.put(key, value)
        stored = pd.concat([matched, unmatched.good, solar.ssoAssocDiaSources])
        stored = stored.sort_values("diaSourceId", ignore_index=True).astype(table.dtypes.to_dict()).copy()
        return SourceGroups(stored, unmatched, solar)

    def _new_sources(self, unmatched: pd.DataFrame) -> NewSources:
        """Test unmatched sources; those that pass get their object's id, which is their own."""
        split = NewSources(good=unmatched.copy(), marginal=unmatched.iloc[:0].copy())
        if self.config.filterUnAssociatedSources:
            split = filter_new_sources(unmatched, self.new_source_rules)
        if 0 < self.config.maxNewDiaObjects < len(split.good):
            raise TooManyDiaObjects(f"{len(split.good)} new objects, more than {self.config.maxNewDiaObjects}")
        split.good["diaObjectId"] = split.good.diaSourceId
        return split

    def _forced(self, objects: ObjectTables, visit: VisitInput) -> tuple[pd.DataFrame, pd.DataFrame]:
        ids = np.zeros(0, np.int64)
        if self.config.doRunForcedMeasurement and len(objects.on_image):
            ids = qualified_objects(objects.on_image, objects.sources, self._forced_rules)
        updated = objects.updated.diaObjectId.to_numpy()
        return forced_rows(objects.on_image, ids, updated, visit.difference, visit.science, visit.forced_ids, visit.now)
