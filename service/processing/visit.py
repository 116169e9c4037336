"""Processing of one ccdVisit: image in, difference, association, alert file, one commit."""

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psycopg
from astropy.time import Time
from lsst.pipe.base import NoWorkFound

from alerts import AlertArchive, AlertInputs, build_alerts
from apdb import Claim, Database, Ledger, VisitState, VisitUnitOfWork
from apdb.id_layouts import note_instrument, refuse_other_camera
from apdb.queue.claims import note_session
from apdb.queue.ledger import Outcome
from apdb.queue.outbox import OutboxEntry
from apdb.schema.partitions import refuse_archived
from apdb.sky.htm import polygon
from apdb.sky.locks import lock_pixels, sky_locks
from apdb.visit.take_back import pixels_of_visit
from association import DiaPipelineTask, standardize
from association.standardize import filter_dia_sources
from association.task import LOCK_MARGIN
from association.times import TimeLimits, check_midpoint
from diffim import ImageDifferenceTask, TemplateStore
from diffim.checks.gate import LIMITS
from exposure import Exposure, Instrument, VisitInfo
from exposure.io.writing import write_exposure
from exposure.task_config import task_overrides
from forced.calibrated import measure_pair
from service.crash import crash_at
from service.errors import SkyBusy, WaitForEarlier
from service.pairs.facts import map_cards
from service.processing.conditions import conditions_of
from service.processing.ephemerides import bodies_of, ephemerides
from service.processing.faults import fault_of, opening
from service.processing.images import Clock, calibrated_pair, open_science
from service.processing.instruments import checked_instrument, claim_ids
from service.processing.positions import read_positions
from service.processing.prepare import prepare
from service.processing.veto import veto_reason
from service.product_files import difference_path
from service.settings import Settings
from tasks import AlertProdError, IdGenerator, make_task
from tasks.errors import TransientError

if TYPE_CHECKING:
    from lsst.pipe.base import Struct

__all__ = ["Processor"]

# of the difference task's metadata: what the ledger keeps, and what a veto may look at; all that the gate has a limit for
_METRICS = (
    *LIMITS,
    "spatialKernelSum",
    "nKernelUsed",
    "scaleDiffimVarianceFactor",
    "convolved",
    "templateCoveragePercent",
    "significanceScale",
    "significanceScaleMax",
    "templateStarShare",
    "residualFootprintRatioMean",
    "residualFootprintRatioStdev",
    "psfFluxErrorFactor",
    "diffimM5",
    "nChecksNotMade",
    "checksNotMade",
    "qualityProblems",
    "qualityVeto",
)


@dataclass(frozen=True)
class _Run:
    """One claim, the rules of its instrument, and the seconds that its steps took."""

    claim: Claim
    rules: Instrument
    clock: Clock = field(default_factory=Clock)

    @property
    def replaces(self) -> bool:
        """Whether it takes the place of an earlier processing."""
        return bool(self.claim.message.get("reprocess") == "replace")

    @property
    def ids(self) -> IdGenerator:
        """Return the generator of the ids of this visit, detector and release; it counts from the beginning."""
        return IdGenerator(self.rules.packer(), self.claim.visit, self.claim.detector, self.claim.release)


@dataclass(frozen=True)
class _Subtracted:
    """Science exposure, difference, template on its pixels, and the sources that the association takes.

    Parameters
    ----------
    sources
        Standardised DiaSources (columns of the APDB).
    rejected, trailed
        Numbers of sources that were thrown away.
    metrics
        Numbers of calibration and subtraction by name.
    """

    science: Exposure
    difference: Exposure
    template: Exposure
    sources: pd.DataFrame
    rejected: int
    trailed: int
    metrics: dict[str, Any]


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
        self._limits = TimeLimits(
            settings.earliest_mjd, settings.future_days, ("ALERTPROD_EARLIEST_MJD", "ALERTPROD_FUTURE_DAYS")
        )
        self._layouts: set[str] = set()

    def run(self, claim: Claim) -> dict[str, Any]:
        """Process one visit to its commit; returns state, counts and seconds.

        Raises
        ------
        AlertProdError, lsst.pipe.base.NoWorkFound
            Nothing was written.
        """
        run = _Run(claim, checked_instrument(claim.message["instrument"]))
        claim_ids(self._database, run.rules, self._layouts)
        crash_at("start", self._settings.crash_point)
        try:
            return self._difference_and_store(run)
        except NoWorkFound:
            raise
        except Exception as error:
            raise fault_of(error, claim.message, run.clock.current) from error

    def prepare(self, announcement: dict[str, Any]) -> dict[str, int]:
        """Read what an announced visit will need (`service.processing.prepare`)."""
        return prepare(announcement, self._templates, self._settings.template_set, self._database)

    def _difference_and_store(self, run: _Run) -> dict[str, Any]:
        claim = run.claim
        with run.clock.step("open"):
            with opening(claim.message, self._roots):
                science = open_science(claim.message, run.rules, self._roots)
            self._note(claim, science)
        crash_at("opened", self._settings.crash_point)
        name = claim.message.get("templates") or self._settings.template_set
        template, report = calibrated_pair(science, run.rules, self._templates, name, run.clock)
        subtracted = self._subtract(run, science, template, report)
        crash_at("differenced", self._settings.crash_point)
        return self._store(run, subtracted)

    def _subtract(self, run: _Run, science: Exposure, template: Exposure, report: dict[str, float]) -> _Subtracted:
        """Subtract; of a pair that is refused the ledger keeps what was measured (what a replaced visit stored keeps its own)."""
        task = make_task(ImageDifferenceTask, task_overrides(ImageDifferenceTask, run.rules, science))
        try:
            return _subtract(run, task, science, template, report)
        except AlertProdError:
            if not run.replaces:
                with suppress(TransientError):  # the refusal is what must be told
                    self._ledger.note_metrics(run.claim, _finite(_measured(task, science, report)))
            raise

    def _note(self, claim: Claim, science: Exposure) -> None:
        """Tell the ledger when and where this is; give way to an earlier visit that is not done."""
        info = science.require_visit_info()
        check_midpoint(info.midpoint_mjd_tai, self._limits, float(Time.now().tai.mjd), claim.visit, claim.detector)
        region = lock_pixels(polygon(*science.sky_corners()))
        earlier = self._ledger.note_times(claim, info.midpoint_mjd_tai, science.band, region)
        urgent = claim.message.get("priority", 0) > 0  # the association takes earlier visits when they come
        if earlier and not urgent and claim.message.get("midpointMjdTai") is None and claim.attempt == 1:
            raise WaitForEarlier("an earlier visit of this patch is not done yet")
        if claim.message.get("reprocess") == "replace":
            with self._database.session() as connection:
                refuse_archived(connection, [info.midpoint_mjd_tai])
        month = int(info.midpoint_mjd_tai // 28)
        if month not in self._months:
            self._database.ensure_partitions(info.midpoint_mjd_tai)
            self._months.add(month)

    def _store(self, run: _Run, subtracted: _Subtracted) -> dict[str, Any]:
        """Lock the sky, associate, write the alert file, commit."""
        pixels = lock_pixels(polygon(*subtracted.science.sky_corners(LOCK_MARGIN)))
        with self._database.connect() as connection, ExitStack() as held:
            claim = run.claim
            note_session(connection, claim.visit, claim.detector, claim.attempt)
            if run.replaces:  # what is taken back may lie elsewhere: the image was calibrated in another way
                pixels = sorted({*pixels, *pixels_of_visit(connection, run.claim.visit, run.claim.detector)})
            with run.clock.step("lock"):
                try:
                    held.enter_context(sky_locks(connection, pixels))
                except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
                    raise SkyBusy("another visit of this patch holds it: this one waits for its end") from error
            crash_at("locked", self._settings.crash_point)
            with VisitUnitOfWork(connection) as work:
                if run.replaces:  # what the pipelines have stored is not in the queue, where this is asked first
                    refuse_other_camera(connection, claim.visit, claim.detector, run.rules.name)
                counts = self._associate_and_write(run, subtracted, work)
                note_instrument(connection, claim.visit, claim.detector, run.rules.name)
                crash_at("before_commit", self._settings.crash_point)
                with run.clock.step("commit"):
                    work.commit()
                crash_at("after_commit", self._settings.crash_point)
        band = subtracted.science.band
        return {"state": VisitState.DONE, "counts": counts, "seconds": run.clock.seconds, "band": band}

    def _associate_and_write(self, run: _Run, subtracted: _Subtracted, work: VisitUnitOfWork) -> dict[str, int]:
        """Associate, write alert file and products, and fill the unit of work; returns the counts."""
        claim, now = run.claim, float(Time.now().tai.mjd)
        withdrawn = 0
        if run.replaces:
            with run.clock.step("take back"):
                withdrawn = work.remove_visit(claim.visit, claim.detector, now)
            crash_at("taken_back", self._settings.crash_point)
        limits = {"earliestMjdTai": self._limits.earliest_mjd, "futureDays": self._limits.future_days}
        task = make_task(DiaPipelineTask, limits | task_overrides(DiaPipelineTask, run.rules, subtracted.science))
        with run.clock.step("ephemerides"):
            bodies = bodies_of(self._ephemerides, subtracted.science)
        with run.clock.step("associate"):
            associated = task.run(
                subtracted.sources,
                subtracted.difference,
                subtracted.science,
                subtracted.template,
                unitOfWork=work,
                idGenerator=run.ids,
                solarSystemObjectTable=bodies,
                processedMjdTai=now,
            )
        crash_at("associated", self._settings.crash_point)
        with run.clock.step("alerts"):
            inputs = _alert_inputs(associated, subtracted, bodies, self._settings.cutout_psf)
            file = self._archive.write(claim.visit, claim.detector, claim.attempt, build_alerts(inputs))
        crash_at("alerts_written", self._settings.crash_point)
        with run.clock.step("products"):
            self._write_products(claim, subtracted)
        counts = _counts(associated, subtracted, file.count) | ({"withdrawn": withdrawn} if withdrawn else {})
        metrics = subtracted.metrics | {"associationRadiusArcsec": float(task.config.maxDistArcSeconds)}
        metrics = _finite(metrics)
        info = subtracted.science.require_visit_info()
        seconds, band = run.clock.seconds, subtracted.science.band
        outcome = Outcome(VisitState.DONE, counts, seconds, info.midpoint_mjd_tai, band, metrics)
        work.finish(claim.visit, claim.detector, claim.attempt, outcome)
        held = veto_reason(self._settings.alert_veto, {**metrics, **counts}, str(metrics.get("qualityVeto", "")))
        entry = OutboxEntry(
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
        work.add_outbox(entry)
        return counts | ({"held": file.count} if held else {})

    def _write_products(self, claim: Claim, subtracted: _Subtracted) -> None:
        """Write the difference image and the fluxes at the configured positions, when asked."""
        directory = self._settings.products_dir
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        path = difference_path(directory, claim.visit, claim.detector, claim.attempt)
        write_exposure(subtracted.difference, path, cards=map_cards(subtracted.science))
        if self._positions is not None:
            table = _fluxes_at(self._positions, claim, subtracted)
            table.to_parquet(directory / f"positions_{claim.visit}_{claim.detector}_{claim.attempt}.parquet")


def _measured(task: ImageDifferenceTask, science: Exposure, report: dict[str, float]) -> dict[str, Any]:
    """Return the numbers of calibration and subtraction, as far as it came."""
    return {**report, **conditions_of(science), **{k: task.metadata[k] for k in _METRICS if k in task.metadata}}


def _finite(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics that were measured: JSON has no NaN."""
    return {k: v for k, v in metrics.items() if not (isinstance(v, float) and not np.isfinite(v))}


def _subtract(
    run: _Run, task: ImageDifferenceTask, science: Exposure, template: Exposure, report: dict[str, float]
) -> _Subtracted:
    """Subtract the template and bring the sources into the columns of the APDB."""
    with run.clock.step("difference"):
        result = task.run(science, science.sources, template, idFactory=run.ids)
    difference: Exposure = result.subtractedExposure
    with run.clock.step("standardize"):
        table = standardize(result.diaSources, difference, float(Time.now().tai.mjd))
        split = filter_dia_sources(result.diaSources, table, difference.pixel_scale_arcsec())
    return _Subtracted(
        science=science,
        difference=difference,
        template=template.cutout(*science.bbox),
        sources=split.good,
        rejected=len(split.rejected),
        trailed=len(split.trailed),
        metrics=_measured(task, science, report),
    )


def _alert_inputs(
    associated: "Struct", subtracted: _Subtracted, bodies: pd.DataFrame | None, cutout_psf: str
) -> AlertInputs:
    return AlertInputs(
        associated.alertDiaSources,
        associated.updatedDiaObjects,
        associated.historySources,
        associated.historyForcedSources,
        associated.diaForcedSources,
        associated.associatedSsSources,
        subtracted.difference,
        subtracted.science,
        subtracted.template,
        bodies,
        cutout_psf,
        associated.lackingForcedSources,
    )


def _counts(associated: "Struct", subtracted: _Subtracted, alerts: int) -> dict[str, int]:
    """Return what the ledger says of the rows of a visit."""
    founded = len(associated.newDiaSources)
    return {
        "diaSources": len(associated.associatedDiaSources),
        "newObjects": founded,
        "updatedObjects": len(associated.updatedDiaObjects) - founded,
        "marginal": len(associated.marginalDiaSources),
        "solarSystem": len(associated.associatedSsSources),
        "forced": len(associated.diaForcedSources),
        "alerts": alerts,
        "rejected": subtracted.rejected,
        "trailed": subtracted.trailed,
        "unconfirmed": len(associated.unconfirmedDiaSources),
    }


def _fluxes_at(positions: pd.DataFrame, claim: Claim, subtracted: _Subtracted) -> pd.DataFrame:
    """Return fluxes (nJy) at those of the positions (columns id, ra, dec; ICRS deg) that lie on the image."""
    science = subtracted.science
    x, y = science.require_wcs().sky_to_pixel(positions.ra.to_numpy(), positions.dec.to_numpy())
    inside = science.contains(x, y)
    table = positions[inside][["id", "ra", "dec"]].reset_index(drop=True)
    table.insert(1, "visit", claim.visit)
    table.insert(2, "detector", claim.detector)
    table.insert(3, "mjd", science.require_visit_info().midpoint_mjd_tai)
    table.insert(4, "band", science.band)
    return pd.concat([table, measure_pair(subtracted.difference, science, x[inside], y[inside])], axis=1)


def _shutter_close(info: VisitInfo) -> float | None:
    """Return the end of the exposure (MJD TAI), None when its length is not known."""
    close = info.midpoint_mjd_tai + 0.5 * info.exposure_time / 86_400
    return float(close) if np.isfinite(close) else None
