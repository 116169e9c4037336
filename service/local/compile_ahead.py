"""Compiles code before anybody waits for it: ``python -m service.local.compile_ahead``, at installation.

The joint fit of a tiny simulated survey, a template and a difference of tiny images call compiled functions with the types
that real ones have; the machine code is kept on disk, beside the modules or where ``NUMBA_CACHE_DIR`` says, for this kind
of processor.
"""

import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from astropy.table import Table

from calibration.joint.config import JointcalConfig
from calibration.joint.joint import JointFit
from exposure import Exposure, ExposureCatalog, PhotoCalib, SkyWcs, VisitInfo, load_instrument
from exposure.io.exposure_catalog import ExposureRecord
from service.pairs.difference import PairOptions, difference_pair
from service.processing.build_template import template_from_frames
from simulation.focal_plane import MosaicSettings, MosaicSurvey, simulate_mosaic
from simulation.survey import SurveyConfig, write_survey

__all__ = ["compile_joint_fit", "compile_subtraction", "main"]

log = logging.getLogger("alertprod.local")
SURVEY = SurveyConfig(
    visits=4, template_visits=2, detectors=1, size=400, stars=1100, galaxies=50, variables=60, transients=25, asteroids=2
)  # fmt: skip


def compile_joint_fit() -> float:
    """Fit a tiny survey; return how long it took, s."""
    start = time.perf_counter()
    survey = simulate_mosaic(MosaicSettings(1, 2, 2, 60.0, outliers=0.02))
    config = JointcalConfig()
    config.minMeasuredStarsPerCcd = config.minRefStarsPerCcd = 0
    logging.getLogger("alertprod.jointcal").setLevel(logging.CRITICAL)
    JointFit(config, survey.references, survey.references).run(survey.sources, _summaries(survey), survey.camera)
    return time.perf_counter() - start


def compile_subtraction() -> float:
    """Build a template of tiny images, and subtract two from each other; return how long it took, s."""
    start = time.perf_counter()
    rules = load_instrument("simcam")
    with TemporaryDirectory() as folder:
        index = write_survey(SURVEY, Path(folder))
        frames = [Path(p) for p in index[index.isTemplate].path]
        template_from_frames(Path(folder) / "templates", "tiny", frames, rules)
        new, old = (Exposure.read_fits(p, rules) for p in index[~index.isTemplate].path)
        for exposure in (new, old):
            exposure.psf = None
            exposure.variance[:] = float("nan")
        difference_pair(new, old, rules, PairOptions(sources=True))
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


def main() -> int:
    """Compile all there is, whatever fails; return how many parts failed."""
    failed = 0
    for what, compiling in (
        ("the code of differences", compile_subtraction),
        ("the joint fit's code", compile_joint_fit),
    ):
        try:
            print(f"{what} is compiled ({compiling():.0f} s)")
        except Exception:
            log.exception("%s is not compiled ahead: it will be at its first use", what)
            failed += 1
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
