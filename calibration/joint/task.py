"""`JointcalTask`: joint astrometric and photometric calibration of many visits of one field."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from lsst.pipe.base import Struct

from calibration.errors import JointCalibrationError
from calibration.joint.io.inputs import gather, images_of
from calibration.joint.io.outputs import catalogues, no_catalogue
from calibration.joint.io.references import read_colorterms
from calibration.joint.joint import JointFit
from calibration.joint.solve.fit import Progress
from calibration.joint.task_config import JointcalTaskConfig
from exposure import ExposureCatalog
from exposure.camera import Camera
from tasks.base import AlertTask
from tasks.command_line import exit_status
from tasks.quanta import quantum_errors

__all__ = ["JointcalTask"]

log = logging.getLogger("alertprod.jointcal")


class JointcalTask(AlertTask):
    """Fit WCS and calibrations of all images of a field at once, with the positions and fluxes of their stars.

    Parameters
    ----------
    config
        `JointcalTaskConfig`, or a `JointcalConfig`.
    astrometry_refs, photometry_refs
        Reference catalogues (columns as documented); only that of a half that is on is needed.
    store
        Where `runDataRef` gets its inputs: a mapping from data reference to (source table, summary), with the camera
        under the key ``"camera"``.
    butler, initInputs
        Of the published interface; not used.
    """

    ConfigClass = JointcalTaskConfig
    _DefaultName = "jointcal"

    def __init__(
        self,
        butler: Any = None,
        initInputs: Any = None,
        *,
        astrometry_refs: pd.DataFrame | None = None,
        photometry_refs: pd.DataFrame | None = None,
        store: "Mapping[Any, Any] | None" = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.astrometryRefObjLoader = astrometry_refs
        self.photometryRefObjLoader = photometry_refs
        self.store = store
        self.colorterms = read_colorterms(self.config.colorterms) if self.config.applyColorTerms else {}

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return the tables of the catalogues that the halves which are on make."""
        halves = {
            "jointcalSkyWcsCatalog": self.config.doAstrometry,
            "jointcalPhotoCalibCatalog": self.config.doPhotometry,
        }
        table = pd.DataFrame(no_catalogue().table.to_pandas())
        return {name: table for name, wanted in halves.items() if wanted}

    @property
    def outputWcsSchema(self) -> ExposureCatalog:
        """A catalogue without a detector, which is stored once for a run."""
        return no_catalogue()

    outputPhotoCalibSchema = outputWcsSchema

    def run(
        self,
        inputSourceTableVisit: "Sequence[Any]",
        inputVisitSummary: "Sequence[ExposureCatalog]",
        inputCamera: Camera,
        tract: int | None = None,
        progress: "Progress | None" = None,
    ) -> Struct:
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
        ModelInvalid, SingularFit, FitDiverged
            The fit failed.
        """
        fit = JointFit(
            self.config, self.astrometryRefObjLoader, self.photometryRefObjLoader, self.step, self.colorterms
        )
        result = fit.run(inputSourceTableVisit, inputVisitSummary, inputCamera, tract, progress)
        for key, value in result.metrics.items():
            self.put(key, value)
        return Struct(**vars(result))

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
        for half in ("astrometry", "photometry"):
            if inputs.get(f"{half}RefCat"):  # one that was given to the task goes before none
                shards = [h if isinstance(h, pd.DataFrame) else h.get() for h in inputs[f"{half}RefCat"]]
                setattr(self, f"{half}RefObjLoader", pd.concat(shards, ignore_index=True))
        with quantum_errors(self):
            result = self.run(
                inputs["inputSourceTableVisit"],
                inputs["inputVisitSummary"],
                inputs["inputCamera"],
                butlerQC.quantum.dataId.get("tract"),
            )
        for name in ("outputWcs", "outputPhotoCalib"):
            values = getattr(result, name)
            if values is None:
                continue
            by_visit = catalogues(values, result.images, result.image_quality)
            for ref in getattr(outputRefs, name):
                if (visit := int(ref.dataId["visit"])) in by_visit:
                    butlerQC.put(by_visit[visit], ref)

    @classmethod
    def parseAndRun(cls, args: Any = None, config: Any = None, log: Any = None, doReturnResults: bool = False) -> Any:
        """Run the command line of ``alertprod jointcal run`` on `args`; a fit that fails ends the program with status 1.

        Returns
        -------
        result
            ``argumentParser``, ``parsedCmd``, ``taskRunner``, ``resultList``: one with exitStatus, and with what was fitted
            where `doReturnResults` says so.
        """
        from calibration.joint.command import parse, run_parsed

        parser, parsed = parse(args, config, cls.applyOverrides)
        results = run_parsed(parsed, cls)
        exit_status(results, lambda r: int(r.exitStatus), no_exit=parsed.noExit)
        return Struct(
            argumentParser=parser,
            parsedCmd=parsed,
            taskRunner=run_parsed,
            resultList=results if doReturnResults else [Struct(exitStatus=r.exitStatus) for r in results],
        )
