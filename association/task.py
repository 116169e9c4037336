"""`DiaPipelineTask`: from the DiaSources of one detector to what is stored and alerted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lsst.pex.config as pexConfig
import numpy as np
import pandas as pd
from astropy.time import Time
from lsst.pipe.base import Struct

from apdb import Database, VisitUnitOfWork, empty_frame
from apdb.sky.htm import polygon
from apdb.sky.locks import lock_pixels, sky_locks
from association.config import DiaPipelineConfig
from association.confirmation import unconfirmed
from association.errors import AssociationError, DuplicateRecords, TooManyDiaObjects
from association.forced_rows import ForcedRules, forced_rows, qualified_objects
from association.matching import associate
from association.new_objects import NewSourceRules, filter_new_sources, new_objects
from association.solar_system import bodies_on_image, match_solar_system, no_bodies
from association.statistics import forced_means, summarize
from exposure import Exposure
from tasks import AlertTask, IdFactory, IdGenerator, IdPacker

__all__ = ["ApdbMarker", "DiaPipelineConfig", "DiaPipelineTask"]


LOCK_MARGIN = 30  # px around the image: objects beyond the edge may be touched


def _forced_ids(image: Exposure, bits: int | None) -> IdGenerator | IdFactory:
    """Return the ids of a caller that brings none; with `bits` those of the older scheme."""
    visit, detector = image.key
    return (
        IdGenerator(IdPacker(1 << 40, 256), visit, detector)
        if bits is None
        else IdFactory(visit * 1000 + detector, bits)
    )


class ApdbMarker(pexConfig.Config):
    """Its presence says that the ccdVisit is in the APDB (final once the transaction is committed)."""


class DiaPipelineTask(AlertTask):
    """Load history, associate, summarise, force photometry, store."""

    ConfigClass = DiaPipelineConfig
    _DefaultName = "diaPipe"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
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
        )

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return empty tables of what is stored."""
        return {n: empty_frame(t) for n, t in (("diaSource", "DiaSource"), ("diaObject", "DiaObject"))}

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
    ) -> Struct:
        """Process one detector's sources.

        Inside a unit of work nothing is committed here. Without one, the APDB of the configuration is opened, the sky
        locked, and the visit committed; a visit that is there already is refused.

        Parameters
        ----------
        diaSourceTable
            DiaSource rows (APDB names and units).
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

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            apdbMarker (apdb_maker by its older name), associatedDiaSources (stored), diaForcedSources, diaObjects (all on the image),
            updatedDiaObjects, associatedSsSources, unassociatedSsObjects, newDiaSources, marginalDiaSources,
            historySources, historyForcedSources; of the stored: alertDiaSources, and unconfirmedDiaSources that wait for another.

        Raises
        ------
        AssociationError, DuplicateRecords, TooManyDiaObjects
            Before anything is written.
        """
        self._validate(diffIm, exposure, warpedExposure, band or diffIm.band)
        now = float(Time.now().tai.mjd) if processedMjdTai is None else processedMjdTai
        generator = idGenerator or _forced_ids(diffIm, ccdExposureIdBits)
        if unitOfWork is None:
            with self._own_transaction(diffIm) as work:
                done = self.run(
                    diaSourceTable,
                    diffIm,
                    exposure,
                    warpedExposure,
                    unitOfWork=work,
                    idGenerator=generator,
                    solarSystemObjectTable=solarSystemObjectTable,
                    band=band,
                    processedMjdTai=now,
                )
                work.commit()
            return done
        info = diffIm.visit_info
        assert info is not None
        with self.step("load", "loadDiaObjectsDuration"):
            objects = self._load_objects(unitOfWork, diffIm)
            ids = objects.diaObjectId.to_numpy(np.int64)
            history = unitOfWork.load_sources(ids, info.midpoint_mjd_tai)
            forced_history = unitOfWork.load_forced_sources(ids, info.midpoint_mjd_tai)
        with self.step("associate"):
            parts = self._associate(diaSourceTable, objects, self._bodies(solarSystemObjectTable, diffIm))
            self._check_duplicates(parts.stored, history, objects)
        with self.step("summarize"):
            everything, updated, merged = self._summarize(parts, objects, history)
        with self.step("forced"):
            forced, flags = self._forced(everything, merged, updated, diffIm, exposure, generator, now)
            if len(updated):
                summary = updated.set_index("diaObjectId")
                forced_means(summary, pd.concat([forced_history, forced], ignore_index=True))
                updated = summary.reset_index()
        updated["validityStartMjdTai"] = now
        with self.step("store", "writeToApdbDuration"):
            unitOfWork.store(now, updated, parts.stored, forced, parts.ss_rows, flags)
        marker = ApdbMarker()
        waiting = unconfirmed(parts.stored, updated, self.config.alertLeastDiaSources, self.config.alertSingleSnr)
        self.put("nUnconfirmedDiaSources", int(waiting.sum()))
        return Struct(
            apdbMarker=marker,
            apdb_maker=marker,
            associatedDiaSources=parts.stored,
            diaForcedSources=forced,
            diaObjects=everything,
            updatedDiaObjects=updated,
            associatedSsSources=parts.ss_rows,
            unassociatedSsObjects=parts.ss_missed,
            newDiaSources=parts.new,
            marginalDiaSources=parts.marginal,
            historySources=history,
            historyForcedSources=forced_history,
            alertDiaSources=parts.stored[~waiting],
            unconfirmedDiaSources=parts.stored[waiting],
        )

    def _validate(self, diffIm: Exposure, exposure: Exposure, template: Exposure, band: str) -> None:
        problems = []
        if band not in self.config.validBands:
            problems.append(f"band {band!r} is none of {''.join(self.config.validBands)}")
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
        if problems:
            raise AssociationError("; ".join(problems), **diffIm.where)

    @contextmanager
    def _own_transaction(self, diffIm: Exposure) -> Iterator[VisitUnitOfWork]:
        """Lock the sky of a visit and open a unit of work in the configured APDB."""
        visit, detector = diffIm.key
        if not self.config.apdb_config_url:
            raise AssociationError(
                "neither a unit of work nor apdb_config_url names the APDB", visit=visit, detector=detector
            )
        database = Database(self.config.apdb_config_url)
        assert diffIm.visit_info is not None
        database.ensure_partitions(diffIm.visit_info.midpoint_mjd_tai)
        pixels = lock_pixels(polygon(*diffIm.sky_corners(LOCK_MARGIN)))
        with database.connect() as connection, sky_locks(connection, pixels), VisitUnitOfWork(connection) as work:
            if work.contains_visit(visit, detector):
                raise DuplicateRecords("the visit is in the APDB already", visit=visit, detector=detector)
            yield work

    def _load_objects(self, unitOfWork: VisitUnitOfWork, diffIm: Exposure) -> pd.DataFrame:
        wcs = diffIm.require_wcs()
        margin = self.config.imagePixelMargin + self.config.angleMargin / diffIm.pixel_scale_arcsec()
        objects = unitOfWork.load_objects(polygon(*diffIm.sky_corners(margin)))
        x, y = wcs.sky_to_pixel(objects.ra.to_numpy(), objects.dec.to_numpy())
        return objects[diffIm.contains(x, y, self.config.imagePixelMargin)].reset_index(drop=True)

    def _bodies(self, ephemerides: pd.DataFrame | None, diffIm: Exposure) -> pd.DataFrame:
        if ephemerides is None or not self.config.doSolarSystemAssociation:
            return no_bodies()
        return bodies_on_image(ephemerides, diffIm)

    def _associate(self, table: pd.DataFrame, objects: pd.DataFrame, bodies: pd.DataFrame) -> Struct:
        """Solar system first, then known objects; the rest founds new objects or is marginal."""
        finite = np.isfinite(table.ra.to_numpy(np.float64)) & np.isfinite(table.dec.to_numpy(np.float64))
        for lost in table.diaSourceId[~finite]:
            self.log.warning("DiaSource %d has no position: dropped.", lost)
        sources = table[finite]
        solar = match_solar_system(sources, bodies, self.config.solarSystemMaxDistArcSeconds)
        found = associate(
            solar.unAssocDiaSources,
            objects,
            self.config.maxDistArcSeconds,
            sigma_floor_arcsec=self.config.sigmaFloorArcSeconds,
            fallback_sigma_arcsec=self.config.fallbackSigmaArcSeconds,
        )
        matched = found.diaSources[found.diaSources.diaObjectId != 0]
        rest = found.diaSources[found.diaSources.diaObjectId == 0]
        split = Struct(good=rest.copy(), marginal=rest.iloc[:0].copy())
        if self.config.filterUnAssociatedSources:
            split = filter_new_sources(rest, self.new_source_rules)
        if 0 < self.config.maxNewDiaObjects < len(split.good):
            raise TooManyDiaObjects(f"{len(split.good)} new objects, more than {self.config.maxNewDiaObjects}")
        split.good["diaObjectId"] = split.good.diaSourceId
        for key, value in {
            "numUpdatedDiaObjects": found.nUpdatedDiaObjects,
            "numNewDiaObjects": len(split.good),
            "numUnassociatedDiaObjects": found.nUnassociatedDiaObjects,
            "nRejectedNewDiaObjects": len(split.marginal),
            "numTotalSolarSystemObjects": len(bodies),
            "numAssociatedSsObjects": solar.nAssociatedSsObjects,
            "nExpectedSsObjects": len(bodies),
            "nAssociatedSsObjects": solar.nAssociatedSsObjects,
        }.items():
            self.put(key, value)
        stored = pd.concat([matched, split.good, solar.ssoAssocDiaSources])
        stored = stored.sort_values("diaSourceId", ignore_index=True).astype(table.dtypes.to_dict()).copy()
        return Struct(
            stored=stored,
            new=split.good,
            marginal=split.marginal,
            ss_rows=solar.associatedSsSources,
            ss_missed=solar.unassociatedSsObjects,
        )

    def _check_duplicates(self, stored: pd.DataFrame, history: pd.DataFrame, objects: pd.DataFrame) -> None:
        twice = stored.diaSourceId[stored.diaSourceId.duplicated()]
        known = stored.diaSourceId[stored.diaSourceId.isin(history.diaSourceId)]
        founded = stored.diaObjectId[
            (stored.diaObjectId == stored.diaSourceId) & stored.diaObjectId.isin(objects.diaObjectId)
        ]
        for name, ids in (("input", twice), ("database", known), ("objects", founded)):
            if len(ids):
                raise DuplicateRecords(
                    f"{len(ids)} ids (first: {int(ids.iloc[0])}) are twice in the {name}: is the visit stored already?"
                )

    def _summarize(
        self, parts: Struct, objects: pd.DataFrame, history: pd.DataFrame
    ) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Return (all objects on the image, the updated ones with all columns, history with the new sources)."""
        fresh = parts.stored[parts.stored.diaObjectId != 0]
        frames = [history.assign(isNew=False), fresh.assign(isNew=True)]
        merged = pd.concat([f for f in frames if len(f)] or frames, ignore_index=True)
        founded = new_objects(parts.new)
        known = pd.concat([f for f in (objects, founded) if len(f)] or [objects, founded], ignore_index=True)
        touched = known[known.diaObjectId.isin(fresh.diaObjectId)]
        updated = summarize(touched, merged[merged.diaObjectId.isin(touched.diaObjectId)]).reset_index()
        rest = known[~known.diaObjectId.isin(touched.diaObjectId)]
        everything = pd.concat([f for f in (updated, rest) if len(f)] or [updated], ignore_index=True)
        return everything.sort_values("diaObjectId", ignore_index=True), updated, merged

    def _forced(
        self,
        everything: pd.DataFrame,
        merged: pd.DataFrame,
        updated: pd.DataFrame,
        diffIm: Exposure,
        exposure: Exposure,
        generator: IdGenerator | IdFactory,
        now: float,
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        ids = np.zeros(0, np.int64)
        if self.config.doRunForcedMeasurement and len(everything):
            ids = qualified_objects(everything, merged, self._forced_rules)
        return forced_rows(everything, ids, updated.diaObjectId.to_numpy(), diffIm, exposure, generator, now)
