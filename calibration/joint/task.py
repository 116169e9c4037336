"""`JointcalTask`: joint astrometric and photometric calibration of many visits of one field."""

import logging
import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from lsst.pipe.base import Struct

from calibration.errors import JointCalibrationError
from calibration.joint.build_astrometry import build_wcs, fit_epoch
from calibration.joint.build_photometry import build_calibrations
from calibration.joint.config import JointcalConfig
from calibration.joint.data import Images
from calibration.joint.halves import fit_astrometry, fit_photometry
from calibration.joint.inputs import gather, images_of, most_common_filter
from calibration.joint.outputs import catalogues
from calibration.joint.references import References, colour_corrected, load_references, read_colorterms
from calibration.joint.result import Half, star_table
from calibration.joint.stars import bounding_circle
from exposure import ExposureCatalog
from exposure.camera import Camera
from tasks.base import AlertTask

__all__ = ["JointcalTask"]

log = logging.getLogger("alertprod.jointcal")


class JointcalTask(AlertTask):
    """Fit WCS and calibrations of all images of a field at once, with the places and fluxes of their stars.

    Parameters
    ----------
    config
        `JointcalConfig`.
    astrometry_refs, photometry_refs
        Reference catalogues (columns as documented); only that of a half that is on is needed.
    store
        Where `runDataRef` gets its inputs: a mapping from data reference to (source table, summary), with the camera
        under the key ``"camera"``.
    butler, initInputs
        Of the published interface; not used.
    """

    ConfigClass = JointcalConfig
    _DefaultName = "jointcal"

    def __init__(
        self, butler: Any = None, initInputs: Any = None, *, astrometry_refs: pd.DataFrame | None = None,
        photometry_refs: pd.DataFrame | None = None, store: "Mapping[Any, Any] | None" = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.astrometryRefObjLoader = astrometry_refs
        self.photometryRefObjLoader = photometry_refs
        self.store = store
        self.colorterms = read_colorterms(self.config.colorterms) if self.config.applyColorTerms else {}

    def run(
        self, inputSourceTableVisit: "Sequence[Any]", inputVisitSummary: "Sequence[ExposureCatalog]",
        inputCamera: Camera, tract: int | None = None,
        progress: "Callable[[str, float, int], None] | None" = None,
    ) -> Struct:  # fmt: skip
        """Fit in memory.

        Parameters
        ----------
        inputSourceTableVisit
            Source tables (frames or deferred handles), one or more visits each, in any order.
        inputVisitSummary
            Summaries of the same visits, in any order.
        inputCamera
            Where the detectors sit.
        tract
            Named in log and metadata only.
        progress
            Called with (label, chi2, ndof) after each stage.

        Returns
        -------
        result
            ``outputWcs``, ``outputPhotoCalib``: dicts by (visit, detector), None when that half is off; ``metrics``
            (also as ``job``); ``stars`` (table); ``images``; ``astrometry``, ``photometry`` (the fits); ``converged``;
            both reference loaders.

        Raises
        ------
        JointCalibrationError
            No data to process, no reference stars, unknown columns, contradictory inputs.
        ModelInvalid, SingularFit, FitDiverged, FloatingPointError
            The fit failed.
        """
        start = time.perf_counter()
        with self.step("load"):
            images, measurements = gather(inputSourceTableVisit, images_of(inputVisitSummary), self.config)
        astrometry: Half | None = None
        photometry: Half | None = None
        metrics: dict[str, Any] = {}
        fitted, wcs, calibs = images, None, None
        tag = f"{tract or 0}_{most_common_filter(images)[0]}"
        if self.config.doAstrometry:
            with self.step("astrometry"):
                fitted, astrometry = fit_astrometry(
                    images,
                    measurements,
                    self._references("astrometry", images),
                    inputCamera,
                    self.config,
                    progress,
                    tag,
                )
            wcs = build_wcs(astrometry.builder)
            metrics |= astrometry.metrics
        if self.config.doPhotometry:
            with self.step("photometry"):
                photo_images, photometry = fit_photometry(
                    _with_wcs(images, wcs), measurements, self._references("photometry", images), inputCamera,
                    self.config, progress, tag,
                )  # fmt: skip
            calibs = build_calibrations(photometry.builder)
            metrics |= photometry.metrics
            fitted = photo_images if astrometry is None else fitted
        converged = all(h.report.converged for h in (astrometry, photometry) if h is not None)
        metrics |= {
            "wall_s": time.perf_counter() - start,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0, "converged": converged,
        }  # fmt: skip
        for key, value in metrics.items():
            self.put(key, value)
        if not converged:
            log.error("the joint fit%s did not converge", "" if tract is None else f" of tract {tract}")
        return Struct(
            outputWcs=wcs, outputPhotoCalib=calibs, metrics=metrics, job=metrics, converged=converged,
            stars=star_table(astrometry, photometry), images=fitted, astrometry=astrometry, photometry=photometry,
            astrometryRefObjLoader=self.astrometryRefObjLoader, photometryRefObjLoader=self.photometryRefObjLoader,
        )  # fmt: skip

    def _references(self, need: str, images: Images) -> References:
        table = self.astrometryRefObjLoader if need == "astrometry" else self.photometryRefObjLoader
        if table is None:
            raise JointCalibrationError(
                f"do{need.capitalize()} is on but no {need} reference catalogue was given: pass {need}_refs"
            )
        config = self.config.astrometryRefs if need == "astrometry" else self.config.photometryRefs
        physical, band = most_common_filter(images)
        if need == "photometry" and self.config.applyColorTerms:
            table = colour_corrected(table, self.colorterms, config.name, physical)
        epoch = fit_epoch(images)
        if epoch != epoch:
            log.warning("no image has a time: reference stars stay at their catalogue's epoch")
        colour = tuple(self.config.dcrColor) if self.config.fitDcr and need == "astrometry" else None
        return load_references(
            table, config, [n for n in (physical, band) if n], epoch, bounding_circle(images),
            reference_err_mas=self.config.astrometryReferenceErr, need=need, colour_bands=colour,  # type: ignore[arg-type]
        )  # fmt: skip

    def loadData(self, dataRefs: "Sequence[Any]", associations: Any = None, jointcalControl: Any = None) -> Any:
        """Fetch the inputs of data references from the store.

        Returns
        -------
        oldWcsList, filters
            The input WCS of every image, and a count of their filters.
        """
        tables, summaries, _ = self._fetch(dataRefs)
        images, _measurements = gather(tables, images_of(summaries), self.config)
        return images.wcs, Counter(images.physical_filter)

    def _fetch(self, dataRefs: "Sequence[Any]") -> tuple[list[Any], list[ExposureCatalog], Camera]:
        if self.store is None:
            raise JointCalibrationError("runDataRef and loadData need the store that JointcalTask was given")
        missing = [r for r in [*dataRefs, "camera"] if r not in self.store]
        if missing:
            raise JointCalibrationError(f"the store has no {missing[0]!r} ({len(missing)} missing of {len(dataRefs)})")
        pairs = [self.store[r] for r in dataRefs]
        return [p[0] for p in pairs], [p[1] for p in pairs], self.store["camera"]

    def runDataRef(self, dataRefs: "Sequence[Any]") -> Struct:
        """Fit the images of data references of the store.

        Returns
        -------
        result
            ``dataRefs``, ``oldWcsList``, ``metrics``, and ``result`` (that of `run`).
        """
        tables, summaries, camera = self._fetch(dataRefs)
        old, _ = self.loadData(dataRefs)
        result = self.run(tables, summaries, camera)
        return Struct(dataRefs=list(dataRefs), oldWcsList=old, metrics=result.metrics, result=result)

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read the inputs of a quantum, fit, and write one catalogue per visit and half."""
        inputs = butlerQC.get(inputRefs)
        result = self.run(
            inputs["inputSourceTableVisit"], inputs["inputVisitSummary"], inputs["inputCamera"],
            butlerQC.quantum.dataId.get("tract"),
        )  # fmt: skip
        for name in ("outputWcs", "outputPhotoCalib"):
            values = getattr(result, name)
            if values is None:
                continue
            made = catalogues(values, result.images)
            for ref in getattr(outputRefs, name):
                if (visit := int(ref.dataId["visit"])) in made:
                    butlerQC.put(made[visit], ref)

    @classmethod
    def parseAndRun(cls, args: Any = None, config: Any = None, log: Any = None, doReturnResults: bool = False) -> Any:
        """Run the command line of ``alertprod jointcal run`` on `args`.

        Returns
        -------
        result
            ``argumentParser``, ``parsedCmd``, ``taskRunner``, ``resultList`` (empty unless `doReturnResults`).
        """
        from calibration.joint.command import parse, run_parsed

        parser, parsed = parse(args, config)
        results = run_parsed(parsed, cls)
        return Struct(
            argumentParser=parser,
            parsedCmd=parsed,
            taskRunner=run_parsed,
            resultList=results if doReturnResults else [],
        )


def _with_wcs(images: Images, wcs: "Mapping[tuple[int, int], Any] | None") -> Images:
    """Take the fitted WCS for matching fluxes where there is one."""
    if wcs is None:
        return images
    import dataclasses

    return dataclasses.replace(images, wcs=[wcs.get(images.key(i), images.wcs[i]) for i in range(len(images))])
