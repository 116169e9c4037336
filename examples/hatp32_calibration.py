"""One night of a small telescope: joint calibration -> visit summaries -> differences, and what it did to them.

    python -m examples.hatp32_calibration FOLDER_OF_FRAMES OUT

For each frame the sources are measured; all frames are fitted at once (`JointcalTask`: one map and one zero point per
frame, the middle frame as reference catalogue); the results go as overrides into the summary of each visit
(`UpdateVisitSummaryTask`); each frame is subtracted from a template twice, with the WCS of its header and with that of
its summary. OUT gets `report.json` and two pictures.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sep
from astropy.table import Table
from numpy.typing import NDArray

from calibration import ReferenceStars
from calibration.characterize import characterize
from calibration.joint.config import JointcalConfig
from calibration.joint.io.outputs import catalogues
from calibration.joint.task import JointcalTask
from calibration.summary.config import UpdateVisitSummaryConfig
from calibration.summary.providers import GlobalInput
from calibration.summary.task import UpdateVisitSummaryTask
from diffim import ImageDifferenceTask
from diffim.pixels.warp import warp_exposure
from exposure import Exposure, ExposureCatalog, PhotoCalib, load_instrument
from exposure.camera import Camera, CameraDetector
from exposure.io.exposure_catalog import ExposureRecord
from tasks.base import make_task

PIXEL_ARCSEC = 5.21  # arcsec per pixel
APERTURE_PX = 4.0
FLUX_ERROR = 1.35  # of an aperture's flux over that of the PSF's, and the night's scintillation
CAMERA = Camera("Cecilia", {0: CameraDetector(0, "ccd", (0, 0, 650, 500), (0.009, 0.009), (0.0, 0.0))})


def measure(path: Path, reference: ReferenceStars | None) -> Exposure:
    """Read one frame, smooth it, fit its PSF, measure its sources; its WCS stays that of the header."""
    rules = load_instrument("hatp32")
    frame = Exposure.read_fits(path, rules)
    wcs = frame.require_wcs()
    if reference is None:
        frame.photo_calib = PhotoCalib.from_zeropoint(25.0, "fixed")
    characterize(frame, rules, reference)
    frame.wcs = wcs
    return frame


def sources_of(frame: Exposure) -> pd.DataFrame:
    """Return the measured sources of a frame."""
    if frame.sources is None:
        raise ValueError("measure the frame first")
    return frame.sources


def source_table(frame: Exposure, visit: int) -> pd.DataFrame:
    """Return the columns of a source table; position errors are seeing over S/N, with the pixel as the least seeing."""
    s, psf = sources_of(frame), frame.require_psf()
    good = s.isolated & ~s.flagged & (s.snr > 0)
    s = s[good]
    fwhm = 2.3548 * np.sqrt(psf.moments_at(*psf.average_position())[0, :2].mean())
    error = np.hypot(fwhm / 2.3548 / s.snr.to_numpy(), 0.01)
    flux = aperture_flux(frame, s.x.to_numpy(), s.y.to_numpy())
    return pd.DataFrame(
        {
            "visit": visit,
            "detector": 0,
            "sourceId": visit * 10_000 + np.arange(len(s)),
            "x": s.x.to_numpy(),
            "y": s.y.to_numpy(),
            "xErr": error,
            "yErr": error,
            "apFlux_12_0_instFlux": flux,
            "apFlux_12_0_instFluxErr": FLUX_ERROR * np.abs(flux) / s.snr.to_numpy(),
        }
    )


def aperture_flux(frame: Exposure, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Flux in a circle of 4 px less the local sky: no PSF model repeats to better than 9 mmag at 2 px per FWHM."""
    image = np.ascontiguousarray(np.nan_to_num(frame.image))
    return np.asarray(sep.sum_circle(image, x, y, APERTURE_PX, bkgann=(8.0, 12.0))[0], np.float64)


def reference_table(frame: Exposure) -> pd.DataFrame:
    """The middle frame as reference catalogue: relative calibration needs no other."""
    s = sources_of(frame)
    s = s[s.isolated & ~s.flagged & (s.snr > 30)]
    ra, dec = frame.require_wcs().pixel_to_sky(s.x.to_numpy(), s.y.to_numpy())
    flux = aperture_flux(frame, s.x.to_numpy(), s.y.to_numpy()) * frame.require_photo_calib().mean
    error = np.radians(0.1 * PIXEL_ARCSEC / 3600)
    return pd.DataFrame(
        {
            "coord_ra": np.radians(ra),
            "coord_dec": np.radians(dec),
            "coord_raErr": error,
            "coord_decErr": error,
            "r_flux": flux,
            "r_fluxErr": flux * np.hypot(0.01, 1 / s.snr.to_numpy()),
        }
    )


def summary(frame: Exposure, visit: int) -> ExposureCatalog:
    """The summary that a single-frame pipeline would have written."""
    table = Table(
        {
            "id": [0],
            "visit": [visit],
            "band": ["r"],
            "physical_filter": ["Clear"],
            "bbox_min_x": [0],
            "bbox_min_y": [0],
            "bbox_max_x": [frame.width - 1],
            "bbox_max_y": [frame.height - 1],
            "expTime": [60.0],
        }
    )
    info = frame.require_visit_info()
    record = ExposureRecord(
        frame.wcs, frame.psf, frame.photo_calib, frame.ap_corr, replace(info, visit=visit, detector=0)
    )
    return ExposureCatalog(table, {0: record})


def settings() -> JointcalConfig:
    """One map and one zero point per frame; distances in a camera of 5 arcsec per pixel."""
    c = JointcalConfig()
    c.astrometryModel, c.photometryModel = "simple", "constrainedMagnitude"
    c.photometryVisitOrder = 2
    c.matchCut = 3 * PIXEL_ARCSEC
    c.astrometryRefs.anyFilterMapsToThis, c.astrometryRefs.requireProperMotion = None, False
    return c


def residual(frame: Exposure, template: Exposure) -> dict[str, float]:
    """Subtract and say what is left at bright stars: rms of the difference over the science image's photon noise."""
    rules = load_instrument("hatp32")
    task = make_task(ImageDifferenceTask, rules.task_config.get("ImageDifferenceTask"))
    x0, y0, w, h = frame.bbox
    border = 20
    warped = warp_exposure(template, frame.require_wcs(), (x0 - border, y0 - border, w + 2 * border, h + 2 * border))
    warped = replace(warped, psf=template.psf, photo_calib=template.photo_calib, ap_corr=template.ap_corr)
    result = task.run(frame, templateExposure=warped)
    return {
        "footprintRatio": float(task.metadata["differenceFootprintRatioMean"]),
        "sources": float(len(result.diaSources)),
        "residualRms": float(task.metadata["kernelResidualRms"]),
    }


def main(folder: Path, out: Path) -> dict[str, Any]:
    """Run everything; returns the report that is written too."""
    paths = sorted(folder.glob("hatp32_*.fits.gz"))
    out.mkdir(parents=True, exist_ok=True)
    middle = measure(paths[len(paths) // 2], None)
    stars = reference_table(middle)
    reference = ReferenceStars(
        pd.DataFrame(
            {
                "ra": np.degrees(stars.coord_ra),
                "dec": np.degrees(stars.coord_dec),
                "flux": stars.r_flux,
            }
        )
    )
    frames = []
    for number, path in enumerate(paths):
        frames.append(measure(path, reference))
        print(f"\rmeasured {number + 1} of {len(paths)} frames", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    visits = list(range(1, len(frames) + 1))
    summaries = [summary(f, v) for f, v in zip(frames, visits, strict=True)]
    tables = [source_table(f, v) for f, v in zip(frames, visits, strict=True)]
    fit = JointcalTask(config=settings(), astrometry_refs=stars, photometry_refs=stars).run(tables, summaries, CAMERA)
    updated = _update(frames, summaries, fit)
    report = {
        "metrics": fit.metrics,
        "relative_rms_px": fit.metrics["relative_rms_mas"] / 1e3 / PIXEL_ARCSEC,
        "zero_points": [float(u.table["zeroPoint"][0]) for u in updated],
        "differences": _differences(frames, updated, middle),
        "seconds_of_night": [86400 * (_time(f) - _time(frames[0])) for f in frames],
    }
    from calibration.joint.io.pictures import draw

    draw(fit, out / "pictures")
    (out / "report.json").write_text(json.dumps(report, indent=1, default=float), encoding="utf-8")
    return report


def _time(frame: Exposure) -> float:
    return frame.require_visit_info().midpoint_mjd_tai


def _update(frames: list[Exposure], summaries: list[ExposureCatalog], fit: Any) -> list[ExposureCatalog]:
    """Put the fitted WCS and calibrations into the summaries."""
    wcs, calibs = catalogues(fit.outputWcs, fit.images), catalogues(fit.outputPhotoCalib, fit.images)
    config = UpdateVisitSummaryConfig()
    config.wcs_provider = config.photo_calib_provider = "global"
    config.do_add_missing_statistics, config.do_refit_pointing = True, False
    out = []
    for frame, before in zip(frames, summaries, strict=True):
        visit = int(before.table["visit"][0])
        task = UpdateVisitSummaryTask(config=config, camera=CAMERA)
        out.append(
            task.run(
                before,
                {0: frame},
                wcs_overrides=GlobalInput(wcs[visit]),
                photo_calib_overrides=GlobalInput(calibs[visit]),
            ).output_summary_catalog
        )
    return out


def _differences(
    frames: list[Exposure], updated: list[ExposureCatalog], template: Exposure
) -> dict[str, list[dict[str, float]]]:
    """Subtract every sixth frame with the WCS and calibration of its header, and with those of its summary."""
    out: dict[str, list[dict[str, float]]] = {"header": [], "summary": []}
    record = updated[len(frames) // 2].records[0]
    base = {"header": template, "summary": replace(template, wcs=record.wcs, photo_calib=record.photo_calib)}
    for number in range(0, len(frames), 6):
        if number == len(frames) // 2:
            continue
        for name in out:
            frame = frames[number].copy()
            if name == "summary":
                now = updated[number].records[0]
                frame.wcs, frame.photo_calib = now.wcs, now.photo_calib
            out[name].append({"frame": float(number), **residual(frame, base[name])})
    return out


if __name__ == "__main__":
    made = main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({k: v for k, v in made.items() if k != "zero_points"}, indent=1, default=float))
