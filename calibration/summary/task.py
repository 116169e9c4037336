"""`UpdateVisitSummaryTask`: rebuild the summary of a visit from its final components."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.table import Column, Table
from lsst.pipe.base import Struct

from calibration.errors import SummaryError
from calibration.summary import statistics as st
from calibration.summary.columns import as_frame, empty_summary
from calibration.summary.config import UpdateVisitSummaryConfig
from calibration.summary.pointing import Pointing, fit_pointing
from calibration.summary.providers import PossiblyMultipleInput
from calibration.summary.regions import visit_geometry
from calibration.summary.row import SummaryRow, box_of, fetch
from exposure import ExposureCatalog
from exposure.camera import Camera
from exposure.io.exposure_catalog import ExposureRecord
from tasks.base import AlertTask
from tasks.quanta import quantum_errors

__all__ = ["UpdateVisitSummaryTask"]

log = logging.getLogger("alertprod.summary")


class UpdateVisitSummaryTask(AlertTask):
    """Give every detector of a visit its final components, and recompute what depends on them.

    Parameters
    ----------
    initInputs
        ``{"input_summary_schema": ...}``, a table (of any length) with the columns of the summaries to come; when
        given, the output's columns are known from the start (`getSchemaCatalogs`).
    camera
        Where detectors sit, with gains and read noise (for the limiting magnitude and the pointing).
    """

    ConfigClass = UpdateVisitSummaryConfig
    _DefaultName = "updateVisitSummary"

    def __init__(
        self, *, initInputs: "dict[str, Any] | None" = None, camera: Camera | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.camera = camera
        self.schema: Table | None = None
        if initInputs is not None and (initInputs or self.config.do_read_schema):
            if "input_summary_schema" not in initInputs:
                raise SummaryError("initInputs lacks input_summary_schema: the schema of the input visit summary")
            catalogue = initInputs["input_summary_schema"]
            table = catalogue.table if isinstance(catalogue, ExposureCatalog) else Table(catalogue)
            self.schema = self._with_columns(table[:0].copy())
            self.output_summary_schema = ExposureCatalog(self.schema)

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return the empty output table (array columns by their item type).

        Without the schema of the input, it is that of the summaries that `ConsolidateVisitSummaryTask` makes.
        """
        schema = self._with_columns(empty_summary()) if self.schema is None else self.schema
        return {"visit_summary": as_frame(schema)}

    def run(
        self,
        input_summary_catalog: ExposureCatalog,
        input_exposures: "Mapping[int, Any]",
        psf_overrides: ExposureCatalog | None = None,
        psf_star_catalog: Table | None = None,
        ap_corr_overrides: ExposureCatalog | None = None,
        photo_calib_overrides: PossiblyMultipleInput | None = None,
        wcs_overrides: PossiblyMultipleInput | None = None,
        background_originals: "Mapping[int, Any] | None" = None,
        background_overrides: "Mapping[int, Any] | None" = None,
    ) -> Struct:
        """Return the updated summary; inputs are not changed.

        An override that is not given leaves component and numbers as they are; one that has the detector replaces
        them; one that has not resets them. See ``docs/visit-summary.md``.

        Parameters
        ----------
        input_exposures
            Exposure or deferred handle (``get()``) of each detector; fetched one at a time.
        psf_star_catalog
            Table of PSF stars with the column ``detector``; required with `psf_overrides`.
        background_originals, background_overrides
            By detector: layers already subtracted from the image, and layers still to subtract (see `layers_of`).

        Returns
        -------
        result
            ``output_summary_catalog``; ``visit_geometry`` (None unless asked for).

        Raises
        ------
        SummaryError
            A detector twice, an exposure missing, PSFs without stars, backgrounds without their originals. If a later
            step fails (the pointing), the error carries the table as ``partial``.
        """
        self._check(input_summary_catalog, input_exposures, psf_overrides, psf_star_catalog)
        self._check_backgrounds(input_summary_catalog, background_originals, background_overrides)
        table = self._with_columns(input_summary_catalog.table.copy())
        stars = _by_detector(psf_star_catalog)
        records: dict[int, ExposureRecord] = {}
        for index, row in enumerate(input_summary_catalog.table):
            detector = int(row["id"])
            before = input_summary_catalog.records.get(detector, ExposureRecord())
            work = SummaryRow(self.config, self.camera, row, before, box_of(row))
            work.update_wcs(wcs_overrides)
            exposure = fetch(input_exposures[detector])
            work.update_psf(psf_overrides, ap_corr_overrides, stars.get(detector), exposure)
            work.update_photo_calib(photo_calib_overrides)
            work.update_background(background_originals, background_overrides, exposure)
            work.update_depth(exposure)
            del exposure
            records[detector] = work.record
            for name, value in work.values.items():
                if name in table.colnames:
                    table[name][index] = value
        out = ExposureCatalog(table, records)
        geometry = None
        if self.config.do_refit_pointing:
            out = self._refit(out)
        if self.config.do_write_visit_geometry:
            geometry = visit_geometry(out)
        return Struct(output_summary_catalog=out, visit_geometry=geometry)

    def _check(
        self, catalog: ExposureCatalog, exposures: Mapping[int, Any], psfs: ExposureCatalog | None, stars: Table | None
    ) -> None:
        ids = [int(i) for i in catalog.table["id"]]
        visit = int(catalog.table["visit"][0]) if "visit" in catalog.table.colnames and len(catalog.table) else None
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise SummaryError(
                f"the input summary has detector {twice[0]} more than once", visit=visit, detector=twice[0]
            )
        missing = [i for i in ids if i not in exposures]
        if missing:
            raise SummaryError(
                f"no exposure for {len(missing)} detectors of the input summary: {missing[:10]}",
                visit=visit,
                detector=missing[0],
            )
        if psfs is not None and stars is None:
            raise SummaryError(
                "psf_overrides were given without psf_star_catalog: it is required with them", visit=visit
            )

    def _check_backgrounds(
        self, catalog: ExposureCatalog, originals: Mapping[int, Any] | None, overrides: Mapping[int, Any] | None
    ) -> None:
        if overrides is None or originals is None:
            return
        lost = sorted(set(overrides) - set(originals))
        if lost:
            visit = int(catalog.table["visit"][0]) if "visit" in catalog.table.colnames else None
            raise SummaryError(
                f"background_overrides has detectors that background_originals lacks: {lost[:10]}",
                visit=visit,
                detector=lost[0],
            )

    def _with_columns(self, table: Table) -> Table:
        """Add the provenance columns that the configuration asks for."""
        n = len(table)
        adds: dict[str, Any] = {}
        if self.config.do_add_missing_statistics:
            for name in (name for group in st.GROUPS.values() for name in group if name not in table.colnames):
                shape = (n, 4) if name.endswith("Corners") else (n,)
                adds[name] = np.zeros(n, np.int32) if name == "nPsfStar" else np.full(shape, np.nan)
        if self.config.wcs_provider == "tract":
            adds["wcsTractId"] = np.full(n, -1, np.int64)
        if self.config.wcs_provider.startswith("healpix"):
            adds["wcsSkypixId"] = np.full(n, -1, np.int64)
        if self.config.wcs_provider != "input_summary":
            adds["wcs_corner_max_offset"] = np.full(n, np.nan)
            adds["astromStatsStale"] = np.zeros(n, bool)
        if self.config.photo_calib_provider == "tract":
            adds["photoCalibTractId"] = np.full(n, -1, np.int64)
        if self.config.do_fit_sip_approximations:
            adds |= {"wcs_sip_delta_sky": np.full(n, np.nan), "wcs_sip_delta_pixel": np.full(n, np.nan)}
        for name, values in adds.items():
            table[name] = Column(values)
        return table

    def _refit(self, catalog: ExposureCatalog) -> ExposureCatalog:
        """Put the refitted boresight and rotation into every visit info."""
        if self.camera is None:
            log.warning("do_refit_pointing is on but the task has no camera: the pointing stays as it is")
            return catalog
        boxes = {int(row["id"]): box_of(row) for row in catalog.table}
        wcs = {d: (r.wcs, boxes[d]) for d, r in catalog.records.items() if r.wcs is not None}
        try:
            pointing: Pointing = fit_pointing(wcs, self.camera)
        except Exception as error:
            catalog.table.meta["partial"] = True
            raised = SummaryError(f"the pointing cannot be refitted: {error}")
            raised.partial = catalog
            raise raised from error
        for name in ("ra", "dec", "rotation", "scale", "scatter"):
            self.put(f"pointing_{name}", getattr(pointing, name))
        records = {}
        for detector, record in catalog.records.items():
            info = record.visit_info
            if info is not None:
                info = dataclasses.replace(
                    info, boresight_ra=pointing.ra, boresight_dec=pointing.dec, rotation=pointing.rotation
                )
            records[detector] = dataclasses.replace(record, visit_info=info)
        return ExposureCatalog(catalog.table, records)

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read the inputs of a quantum, update, and write the summary (a partial one too, before it raises)."""
        from calibration.summary.quantum import gather_inputs

        inputs = gather_inputs(butlerQC.get(inputRefs), self)
        with quantum_errors(self):
            try:
                result = self.run(**inputs)
            except SummaryError as error:
                if getattr(error, "partial", None) is not None:
                    butlerQC.put(error.partial, outputRefs.output_summary_catalog)
                raise
        butlerQC.put(result.output_summary_catalog, outputRefs.output_summary_catalog)


def _by_detector(stars: Table | None) -> dict[int, Table]:
    if stars is None:
        return {}
    table = stars if isinstance(stars, Table) else Table.from_pandas(stars)
    if "detector" not in table.colnames:
        raise SummaryError("psf_star_catalog lacks the column 'detector'")
    if not any(name.startswith("ext_shapeHSM_HigherOrderMomentsSource_") for name in table.colnames):
        log.warning("psf_star_catalog has no ext_shapeHSM_HigherOrderMomentsSource_* columns: those medians are NaN")
    ids = np.asarray(table["detector"])
    return {int(d): table[ids == d] for d in np.unique(ids)}
