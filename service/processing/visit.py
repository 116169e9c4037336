"""The way of one ccdVisit: image in, difference, association, alert file, one commit."""

from typing import Any

import numpy as np
import pandas as pd
from astropy.time import Time
from lsst.pipe.base import Struct

from alerts import AlertArchive, AlertInputs, build_alerts
from apdb import Claim, Database, Ledger, VisitState, VisitUnitOfWork
from apdb.queue.ledger import Outcome
from apdb.queue.outbox import OutboxEntry
from apdb.sky.htm import polygon
from apdb.sky.locks import lock_pixels, sky_locks
from association import DiaPipelineTask, standardize
from association.standardize import filter_dia_sources
from association.task import LOCK_MARGIN
from diffim import ImageDifferenceTask, TemplateStore
from exposure import Exposure, Instrument, VisitInfo
from exposure.io.writing import write_exposure
from forced.calibrated import measure_pair
from service.crash import crash_at
from service.errors import WaitForEarlier
from service.pairs.facts import map_cards
from service.processing.ephemerides import bodies_of, ephemerides
from service.processing.images import Clock, calibrated_pair, open_science
from service.processing.instruments import checked_instrument
from service.processing.positions import read_positions
from service.processing.products import difference_path
from service.processing.task_config import task_overrides
from service.settings import Settings
from tasks import IdGenerator, make_task

__all__ = ["Processor"]


class Processor:
    """Processes claims one after the other; keeps templates and connections warm between visits."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.database())
        self._ledger = Ledger(self._database)
        self._templates = TemplateStore(settings.template_dir)
        self._archive = AlertArchive(settings.archive_dir)
        self._roots = [*settings.data_roots, settings.upload_dir]
        self._ephemerides = ephemerides(settings)
        self._positions = read_positions(settings.forced_positions) if settings.forced_positions else None
        self._months: set[int] = set()

    def run(self, claim: Claim) -> dict[str, Any]:
        """Process one visit to its commit; returns counts and seconds.

        Raises
        ------
        AlertProdError, lsst.pipe.base.NoWorkFound
            Nothing was written.
        """
        clock, rules = Clock(), checked_instrument(claim.message["instrument"])
        crash_at("start", self._settings.crash_point)
        with clock.step("open"):
            science = open_science(claim.message, rules, self._roots)
            self._note(claim, science)
        name = claim.message.get("templates") or self._settings.template_set
        template, report = calibrated_pair(science, rules, self._templates, name, clock)
        result = self._difference(claim, science, template, rules, clock)
        crash_at("differenced", self._settings.crash_point)
        return self._store(claim, science, result, rules, clock, report)

    def _note(self, claim: Claim, science: Exposure) -> None:
        """Tell the ledger when and where this is; give way to an earlier visit that is not done."""
        info = science.visit_info
        assert info is not None
        region = lock_pixels(polygon(*science.sky_corners()))
        earlier = self._ledger.note_times(claim, info.midpoint_mjd_tai, science.band, region)
        if earlier and claim.message.get("midpointMjdTai") is None and claim.attempt == 1:
            raise WaitForEarlier("an earlier visit of this patch is not done yet")
        month = int(info.midpoint_mjd_tai // 28)
        if month not in self._months:
            self._database.ensure_partitions(info.midpoint_mjd_tai)
            self._months.add(month)

    def _difference(
        self, claim: Claim, science: Exposure, template: Exposure, rules: Instrument, clock: Clock
    ) -> Struct:
        ids = IdGenerator(rules.packer(), claim.visit, claim.detector, claim.release)
        task = make_task(ImageDifferenceTask, task_overrides(ImageDifferenceTask, rules, science))
        with clock.step("difference"):
            result = task.run(science, science.sources, template, idFactory=ids)
        with clock.step("standardize"):
            now = float(Time.now().tai.mjd)
            table = standardize(result.diaSources, result.subtractedExposure, now)
            split = filter_dia_sources(result.diaSources, table, result.subtractedExposure.pixel_scale_arcsec())
        keys = ("kernelResidualRms", "spatialKernelSum", "nKernelUsed", "scaleDiffimVarianceFactor", "convolved",
                "templateCoveragePercent", "starFluxResidual", "starPositionResidual", "significanceScale")  # fmt: skip
        metrics = {k: task.metadata[k] for k in keys if k in task.metadata}
        return Struct(
            difference=result.subtractedExposure, template=_cut(template, science), sources=split.good,
            rejected=len(split.rejected), trailed=len(split.trailed), metrics=metrics,
        )  # fmt: skip

    def _store(
        self, claim: Claim, science: Exposure, r: Struct, rules: Instrument, clock: Clock, report: dict[str, float]
    ) -> dict[str, Any]:
        """Lock the sky, associate, write the alert file, commit."""
        info = science.visit_info
        assert info is not None
        pixels = lock_pixels(polygon(*science.sky_corners(LOCK_MARGIN)))
        with self._database.connect() as connection:
            with clock.step("lock"):
                locks = sky_locks(connection, pixels)
                locks.__enter__()
            try:
                with VisitUnitOfWork(connection) as work:
                    counts = self._associate_and_write(claim, science, r, rules, clock, report, work)
                    crash_at("before_commit", self._settings.crash_point)
                    with clock.step("commit"):
                        work.commit()
                    crash_at("after_commit", self._settings.crash_point)
            finally:
                locks.__exit__(None, None, None)
        return {"state": VisitState.DONE, "counts": counts, "seconds": clock.seconds}

    def _associate_and_write(
        self, claim: Claim, science: Exposure, r: Struct, rules: Instrument, clock: Clock, report: dict[str, float],
        work: VisitUnitOfWork,
    ) -> dict[str, int]:  # fmt: skip
        info = science.visit_info
        assert info is not None
        now = float(Time.now().tai.mjd)
        if claim.message.get("reprocess") == "replace":
            work.remove_visit(claim.visit, claim.detector, now)
        task = make_task(DiaPipelineTask, task_overrides(DiaPipelineTask, rules, science))
        report = report | {"associationRadiusArcsec": float(task.config.maxDistArcSeconds)}
        forced_ids = IdGenerator(rules.packer(), claim.visit, claim.detector, claim.release)
        with clock.step("ephemerides"):
            bodies = bodies_of(self._ephemerides, science)
        with clock.step("associate"):
            done = task.run(
                r.sources, r.difference, science, r.template, unitOfWork=work, idGenerator=forced_ids,
                solarSystemObjectTable=bodies, processedMjdTai=now,
            )  # fmt: skip
        crash_at("associated", self._settings.crash_point)
        with clock.step("alerts"):
            inputs = AlertInputs(
                done.alertDiaSources, done.updatedDiaObjects, done.historySources, done.historyForcedSources,
                done.diaForcedSources, done.associatedSsSources, r.difference, science, r.template, bodies,
                self._settings.cutout_psf,
            )  # fmt: skip
            file = self._archive.write(claim.visit, claim.detector, claim.attempt, build_alerts(inputs))
        with clock.step("products"):
            self._extras(claim, science, r)
        counts = {
            "diaSources": len(done.associatedDiaSources), "newObjects": len(done.newDiaSources),
            "updatedObjects": len(done.updatedDiaObjects) - len(done.newDiaSources), "marginal": len(done.marginalDiaSources),
            "solarSystem": len(done.associatedSsSources), "forced": len(done.diaForcedSources), "alerts": file.count,
            "rejected": r.rejected, "trailed": r.trailed, "unconfirmed": len(done.unconfirmedDiaSources),
        }  # fmt: skip
        metrics = {
            k: v for k, v in {**report, **r.metrics}.items() if not (isinstance(v, float) and not np.isfinite(v))
        }
        outcome = Outcome(VisitState.DONE, counts, clock.seconds, info.midpoint_mjd_tai, science.band, metrics)
        work.finish(claim.visit, claim.detector, claim.attempt, outcome)
        held = veto_reason(self._settings.alert_veto, {**metrics, **counts})
        work.add_outbox(
            OutboxEntry(
                claim.visit,
                claim.detector,
                claim.attempt,
                file.name,
                file.count,
                file.checksum,
                index=file.index,
                id_xor=file.id_xor(),
                held=held,
                traceparent=claim.message.get("traceparent"),
                shutter_close=_shutter_close(info),
            )
        )
        return counts | ({"held": file.count} if held else {})

    def _extras(self, claim: Claim, science: Exposure, r: Struct) -> None:
        """Write the difference image and the fluxes at the configured positions, when asked."""
        directory = self._settings.products_dir
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        stem = f"{claim.visit}_{claim.detector}_{claim.attempt}"
        path = difference_path(directory, claim.visit, claim.detector, claim.attempt)
        write_exposure(r.difference, path, cards=map_cards(science))
        if self._positions is not None:
            x, y = science.require_wcs().sky_to_pixel(self._positions.ra.to_numpy(), self._positions.dec.to_numpy())
            inside = science.contains(x, y)
            info = science.visit_info
            assert info is not None
            table = self._positions[inside][["id", "ra", "dec"]].reset_index(drop=True)
            table.insert(1, "visit", claim.visit)
            table.insert(2, "detector", claim.detector)
            table.insert(3, "mjd", info.midpoint_mjd_tai)
            table.insert(4, "band", science.band)
            fluxes = measure_pair(r.difference, science, x[inside], y[inside])
            pd.concat([table, fluxes], axis=1).to_parquet(directory / f"positions_{stem}.parquet")


def _cut(template: Exposure, science: Exposure) -> Exposure:
    return template.cutout(*science.bbox)


def _shutter_close(info: VisitInfo) -> float | None:
    """Return the end of the exposure (MJD TAI), None when its length is not known."""
    close = info.midpoint_mjd_tai + 0.5 * info.exposure_time / 86_400
    return float(close) if np.isfinite(close) else None


def veto_reason(limits: dict[str, float], found: dict[str, Any]) -> str | None:
    """Return why the alerts of a visit are held, None when they are not.

    A metric that has a limit and was not measured holds them too: nobody knows that the subtraction is good.
    """
    reasons = []
    for name, limit in sorted(limits.items()):
        value = found.get(name)
        if not isinstance(value, int | float) or not np.isfinite(value):
            reasons.append(f"{name} was not measured")
        elif value > limit:
            reasons.append(f"{name} is {value:g}, more than {limit:g}")
    return "; ".join(reasons) or None
