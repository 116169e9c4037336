"""Compiles the joint fit's code before anybody waits for it: ``python -m service.local.compile_ahead``, at installation.

A fit of a tiny simulated survey calls every compiled function with the types that real ones have; the machine code is kept
on disk, beside the modules or where ``NUMBA_CACHE_DIR`` says, for this kind of processor.
"""

import logging
import time

from astropy.table import Table

from calibration.joint.config import JointcalConfig
from calibration.joint.joint import JointFit
from exposure import ExposureCatalog, PhotoCalib, SkyWcs, VisitInfo
from exposure.io.exposure_catalog import ExposureRecord
from simulation.focal_plane import MosaicSettings, MosaicSurvey, simulate_mosaic

__all__ = ["compile_joint_fit"]


def compile_joint_fit() -> float:
    """Fit a tiny survey; return how long it took, s."""
    start = time.perf_counter()
    survey = simulate_mosaic(MosaicSettings(1, 2, 2, 60.0, outliers=0.02))
    config = JointcalConfig()
    config.minMeasuredStarsPerCcd = config.minRefStarsPerCcd = 0
    logging.getLogger("alertprod.jointcal").setLevel(logging.CRITICAL)
    JointFit(config, survey.references, survey.references).run(survey.sources, _summaries(survey), survey.camera)
    return time.perf_counter() - start


def _summaries(survey: MosaicSurvey) -> list[ExposureCatalog]:
    out = []
    for visit in sorted({v for v, _ in survey.headers}):
        headers = {d: h for (v, d), h in survey.headers.items() if v == visit}
        rows = [
            {
                "id": d,
                "visit": visit,
                "physical_filter": "z",
                "band": "z",
                "bbox_min_x": 0,
                "bbox_min_y": 0,
                "bbox_max_x": h["IMAGEW"] - 1,
                "bbox_max_y": h["IMAGEH"] - 1,
            }
            for d, h in headers.items()
        ]
        records = {
            d: ExposureRecord(
                wcs=SkyWcs.from_header(h),
                photo_calib=PhotoCalib(h["CALMEAN"]),
                visit_info=VisitInfo(visit, d, h["MJD-OBS"], 0.0, boresight_ra=h["RABORE"], boresight_dec=h["DECBORE"]),
            )
            for d, h in headers.items()
        }
        out.append(ExposureCatalog(Table(rows=rows), records))
    return out


if __name__ == "__main__":
    print(f"the joint fit's code is compiled ({compile_joint_fit():.0f} s)")
