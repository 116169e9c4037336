"""`ConsolidateVisitSummaryTask`: one table of the detectors of a visit, and one of its stars, for fits of many visits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table
from lsst.pipe.base import Struct

from calibration.errors import SummaryError
from calibration.source_columns import no_sources
from calibration.summary.columns import as_frame, empty_summary
from calibration.summary.providers import GlobalInput
from calibration.summary.task import UpdateVisitSummaryTask
from exposure import Exposure, ExposureCatalog
from exposure.blank import blank_exposure
from exposure.exposure_ids import id_generator
from exposure.io.exposure_catalog import ExposureRecord
from tasks.base import AlertTask, AlertTaskConfig, AlertTaskConnections, make_config
from tasks.datasets import VISIT, Columns, columns_of, reads, writes
from tasks.quanta import quantum_errors

__all__ = ["FLUX", "ConsolidateVisitSummaryConfig", "ConsolidateVisitSummaryTask", "star_rows"]

FLUX = "psf"  # name of the flux columns: ``psf_instFlux``; sourceFluxType of the joint fit


class ConsolidateVisitSummaryConnections(AlertTaskConnections, dimensions=VISIT):  # type: ignore[call-arg]
    """The detectors of a visit in, their summary and their stars out."""

    exposures = reads("preliminary_visit_image", multiple=True, deferLoad=True)
    stars = reads("single_visit_star_unstandardized", multiple=True, deferLoad=True)
    summary = writes("preliminary_visit_summary")
    visit_stars = writes("single_visit_star")
    summary_schema = columns_of("preliminary_visit_summary")
    visit_stars_schema = columns_of("single_visit_star")


class ConsolidateVisitSummaryConfig(AlertTaskConfig, pipelineConnections=ConsolidateVisitSummaryConnections):  # type: ignore[call-arg]
    """Nothing to set."""


class ConsolidateVisitSummaryTask(AlertTask):
    """Gather what is known of the detectors of a visit."""

    ConfigClass = ConsolidateVisitSummaryConfig
    _DefaultName = "consolidateVisitSummary"
    visit_stars_schema = Columns("single_visit_star")

    def __init__(self, *, initInputs: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.summary_schema = ExposureCatalog(empty_summary())

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return tables without a row: the summary, and the stars."""
        return {
            "preliminary_visit_summary": as_frame(empty_summary()),
            "single_visit_star": star_rows(no_sources(), blank_exposure()),
        }

    def run(self, exposures: Mapping[int, Any], stars: Mapping[int, Any]) -> Struct:
        """Gather.

        Parameters
        ----------
        exposures, stars
            By detector: exposure and table of its sources, or handles; one is read at a time.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            summary (`ExposureCatalog`), visit_stars (table).

        Raises
        ------
        SummaryError
            No detector.
        """
        if not exposures:
            raise SummaryError("a visit without a detector has no summary")
        rows, records, tables = [], {}, []
        for detector in sorted(exposures):
            exposure: Exposure = _fetched(exposures[detector])
            rows.append(_facts(exposure))
            records[detector] = ExposureRecord(
                exposure.wcs, exposure.psf, exposure.photo_calib, exposure.ap_corr, exposure.visit_info
            )
            if detector in stars:
                tables.append(star_rows(_fetched(stars[detector]), exposure))
        base = ExposureCatalog(_filled(rows), records)
        return Struct(summary=_with_statistics(base, exposures), visit_stars=pd.concat(tables, ignore_index=True))

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read handles, gather, store."""
        inputs = butlerQC.get(inputRefs)
        by_detector = {n: {int(h.dataId["detector"]): h for h in inputs[n]} for n in ("exposures", "stars")}
        with quantum_errors(self):
            result = self.run(**by_detector)
        butlerQC.put(result, outputRefs)


def _fetched(value: Any) -> Any:
    return value if isinstance(value, Exposure | pd.DataFrame) else value.get()


def _facts(exposure: Exposure) -> dict[str, Any]:
    info, (x0, y0, width, height) = exposure.require_visit_info(), exposure.bbox
    return {
        "id": info.detector,
        "visit": info.visit,
        "band": exposure.band,
        "physical_filter": exposure.physical_filter or exposure.band,
        "expTime": info.exposure_time,
        "bbox_min_x": x0,
        "bbox_min_y": y0,
        "bbox_max_x": x0 + width - 1,
        "bbox_max_y": y0 + height - 1,
    }


def _filled(rows: list[dict[str, Any]]) -> Table:
    """Return rows of facts with all columns of a summary; numbers that are not known yet are NaN."""
    empty, n = empty_summary(), len(rows)
    out = Table()
    for name in empty.colnames:
        kind, shape = empty[name].dtype, (n, *empty[name].shape[1:])
        if name in rows[0]:
            out[name] = np.array([r[name] for r in rows], dtype=kind)
        else:
            out[name] = np.full(shape, np.nan if kind.kind == "f" else 0, dtype=kind)
    return out


def _with_statistics(base: ExposureCatalog, exposures: Mapping[int, Any]) -> ExposureCatalog:
    """Return a summary with the numbers that its own parts give, as `UpdateVisitSummaryTask` computes them."""
    config = make_config(
        UpdateVisitSummaryTask.ConfigClass, {"do_refit_pointing": False, "do_fit_sip_approximations": False}
    )
    no_stars = Table({"detector": np.zeros(0, np.int64)})
    own = GlobalInput(base)
    done: ExposureCatalog = (
        UpdateVisitSummaryTask(config=config)
        .run(base, exposures, base, no_stars, base, own, own)
        .output_summary_catalog
    )
    done.table.keep_columns([name for name in done.table.colnames if name in base.table.colnames])
    return done


def star_rows(sources: pd.DataFrame, exposure: Exposure) -> pd.DataFrame:
    """Return isolated, unflagged sources with the columns that a joint fit takes.

    Errors of positions are those of a star whose noise is the sky's: sqrt(2) sigma / (S/N), sigma that of the stars
    (King 1983, PASP 95, 163).
    """
    s = sources[(sources.isolated & ~sources.flagged & np.isfinite(sources.snr) & (sources.snr > 0)).to_numpy(bool)]
    stars = sources[sources.star.to_numpy(bool)]
    sigma = np.sqrt(np.nanmedian((stars if len(stars) else sources)["size"]) / 2) if len(sources) else np.nan
    error = np.sqrt(2) * sigma / s.snr.to_numpy(np.float64)
    info = exposure.require_visit_info()
    ra, dec = exposure.require_wcs().pixel_to_sky(s.x.to_numpy(np.float64), s.y.to_numpy(np.float64))
    return pd.DataFrame(
        {
            "sourceId": id_generator(exposure).take(len(s)),
            "visit": np.int64(info.visit),
            "detector": np.int64(info.detector),
            "band": exposure.band,
            "x": s.x.to_numpy(np.float64),
            "y": s.y.to_numpy(np.float64),
            "xErr": error,
            "yErr": error,
            "ra": ra,
            "dec": dec,
            f"{FLUX}_instFlux": s.psfFlux.to_numpy(np.float64),
            f"{FLUX}_instFluxErr": s.psfFluxErr.to_numpy(np.float64),
            f"{FLUX}_flag": False,
            "sizeExtendedness": np.where(s.star.to_numpy(bool), 0.0, 1.0),
        }
    )
