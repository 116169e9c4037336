"""What a small mosaic becomes in the joint fit, and two detectors in a visit summary."""

from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table

from benchmarks.fingerprints.hashing import Fingerprints, moved
from benchmarks.fingerprints.inputs import tan
from exposure import ApCorrMap, ChebyshevField, Exposure, ExposureCatalog, GaussianPsf, PhotoCalib, SkyWcs, VisitInfo
from tasks import make_task

__all__ = ["joint", "summary"]


def _record(**values: Any) -> Any:
    return moved("ExposureRecord", "exposure.io.exposure_catalog", "exposure.catalog")(**values)


def _mosaic(seed: int, visits: int, chips: int) -> Any:
    from simulation import focal_plane

    settings = getattr(focal_plane, "MosaicSettings", None)  # trees before 0.2.0 take them one by one
    simulate: Any = focal_plane.simulate_mosaic
    return simulate(seed, visits, chips) if settings is None else simulate(settings(seed, visits, chips))


def joint(out: Fingerprints) -> None:
    """A joint fit of astrometry and photometry of a small mosaic: stars, WCS, zero points, metrics."""
    from calibration import JointcalTask
    from calibration.joint.config import JointcalConfig

    for case, values in (
        ("constrained", {}),
        ("simple", {"astrometryModel": "simple", "photometryModel": "simpleFlux"}),
    ):
        s = _mosaic(1, 3, 3 if case == "constrained" else 2)
        rows: dict[int, list[dict[str, Any]]] = {}
        records: dict[int, dict[int, Any]] = {}
        for (v, d), h in s.headers.items():
            size = {"bbox_max_x": h["IMAGEW"] - 1, "bbox_max_y": h["IMAGEH"] - 1}
            rows.setdefault(v, []).append(
                {"id": d, "visit": v, "physical_filter": "HSC-Z", "band": "z", "bbox_min_x": 0, "bbox_min_y": 0} | size
            )
            info = VisitInfo(v, d, h["MJD-OBS"], 0.0, boresight_ra=h["RABORE"], boresight_dec=h["DECBORE"], airmass=1.2)
            records.setdefault(v, {})[d] = _record(
                wcs=SkyWcs.from_header(h), photo_calib=PhotoCalib(h["CALMEAN"]), visit_info=info
            )
        config = JointcalConfig()
        for name, value in values.items():
            setattr(config, name, value)
        config.validate()
        task = JointcalTask(config=config, astrometry_refs=s.references, photometry_refs=s.references)
        result = task.run(s.sources, [ExposureCatalog(Table(rows=rows[v]), records[v]) for v in rows], s.camera)
        out.add(f"joint.{case}.stars", result.stars)
        out.add(f"joint.{case}.metrics", dict(sorted(result.metrics.items())))
        x, y = (g.ravel() for g in np.meshgrid(np.linspace(50, 2000, 4), np.linspace(50, 4100, 4)))
        for key, wcs in sorted(result.outputWcs.items()):
            out.add(f"joint.{case}.wcs.{key[0]}.{key[1]}", np.array(wcs.pixel_to_sky(x, y)))
        for key, calib in sorted(result.outputPhotoCalib.items()):
            out.add(f"joint.{case}.photoCalib.{key[0]}.{key[1]}", calib.at(x, y))


def summary(out: Fingerprints) -> None:
    """The rows of a visit summary with PSF, aperture correction and WCS replaced."""
    from calibration import UpdateVisitSummaryTask
    from exposure.camera import Camera, CameraDetector

    box = (0, 0, 100, 100)
    camera = Camera(
        "test", {d: CameraDetector(d, str(d), box, (0.01, 0.01), (2.0 * d, 0.0), 0.0, 1.0, 5.0) for d in (0, 1)}
    )
    info = VisitInfo(7, 0, 59234.7083333334, 10.0, longitude=-70.7366, latitude=-30.2407, elevation=2650.0)
    correction = ApCorrMap({"base_PsfFlux_instFlux": ChebyshevField(np.array([[1.0, 0.02]]), box)})

    def catalogue(sigma: float, shift: float) -> ExposureCatalog:
        n = 2
        table = Table({
            "id": np.arange(n), "visit": np.full(n, 7), "band": ["i"] * n, "bbox_min_x": [0] * n, "bbox_min_y": [0] * n,
            "bbox_max_x": [99] * n, "bbox_max_y": [99] * n, "expTime": [10.0] * n, "astromOffsetMean": [0.01] * n,
        })  # fmt: skip
        record = _record(
            wcs=tan(49.5 + shift, 49.5, 300.0, 0.0),
            psf=GaussianPsf(sigma, 25),
            photo_calib=PhotoCalib(0.3),
            ap_corr=correction,
            visit_info=info,
        )
        return ExposureCatalog(table, dict.fromkeys(range(n), record))

    exposures = {}
    for d in (0, 1):
        values = np.random.default_rng(d).normal(100, 10, (100, 100)).astype(np.float32)
        exposures[d] = Exposure(values, np.full_like(values, 100), np.zeros(values.shape, np.int32), band="i")
        exposures[d].metadata |= {"gain": 1.0, "readNoise": 5.0}
    rng = np.random.default_rng(1)
    n = 80
    chosen = {"detector": np.arange(n) % 2, "calib_psf_used": np.ones(n, bool), "slot_Centroid_x": rng.uniform(0, 99, n),
              "slot_Centroid_y": rng.uniform(0, 99, n), "slot_PsfFlux_instFlux": np.full(n, 1e4),
              "slot_PsfFlux_instFluxErr": np.full(n, 50.0), "slot_Shape_flag": np.zeros(n, bool),
              "slot_PsfFlux_flag": np.zeros(n, bool)}  # fmt: skip
    for axis, mean in (("xx", 4.2), ("yy", 3.8), ("xy", 0.1)):
        chosen[f"slot_Shape_{axis}"] = mean + rng.normal(0, 0.02, n)
        chosen[f"slot_PsfShape_{axis}"] = np.full(n, 0.0 if axis == "xy" else 4.0)
    task = make_task(UpdateVisitSummaryTask, {})
    task = UpdateVisitSummaryTask(config=task.config, camera=camera)
    result = task.run(
        catalogue(2.0, 0.0),
        exposures,
        psf_overrides=catalogue(2.1, 0.0),
        psf_star_catalog=Table(chosen),
        ap_corr_overrides=catalogue(2.1, 0.0),
    )
    out.add("summary", result.output_summary_catalog.table)
    geometry = getattr(result, "visit_geometry", None)
    if isinstance(geometry, Table | pd.DataFrame):
        out.add("summary.geometry", geometry)
