"""Joint calibration and visit summaries on real measurements."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.spatial import cKDTree

from calibration.joint.config import JointcalConfig
from calibration.joint.task import JointcalTask
from exposure import ExposureCatalog, PhotoCalib, SkyWcs, VisitInfo
from exposure.camera import Camera, CameraDetector
from exposure.catalog import ExposureRecord
from exposure.mapped_wcs import project

DATA = Path(__file__).parents[3] / "shared" / "data"
HSC = DATA / "hsc_visit1180_astrometry"
BORESIGHT = (150.2105, 2.23082)
MJD = 56744.29 + 135.0 / 86400


def _hsc() -> tuple[list[pd.DataFrame], ExposureCatalog, Camera]:
    """Detections, rough headers, and a camera whose chips sit where these headers put them (parity flipped)."""
    tables, rows, records, detectors = [], [], {}, {}
    for path in sorted(HSC.glob("*.fits.gz")):
        with fits.open(path) as hdus:
            header, table = hdus[0].header, Table(hdus[1].data).to_pandas().astype(float)
        d = int(header["DET-ID"])
        tables.append(table.assign(visit=1180, detector=d, sourceId=d * 100_000 + np.arange(len(table))))
        wcs = SkyWcs.from_header(header)
        rows.append({
            "id": d, "visit": 1180, "physical_filter": "HSC-Z", "band": "z", "bbox_min_x": 0, "bbox_min_y": 0,
            "bbox_max_x": 2047, "bbox_max_y": 4175,
        })  # fmt: skip
        info = VisitInfo(1180, d, MJD, 270.0, boresight_ra=BORESIGHT[0], boresight_dec=BORESIGHT[1], airmass=1.09)
        records[d] = ExposureRecord(wcs=wcs, photo_calib=PhotoCalib(1.0), visit_info=info)
        xi, eta = project(*wcs.pixel_to_sky(np.array([1023.5, 1024.5]), np.array([2087.5, 2087.5])), BORESIGHT)
        turn = np.degrees(np.arctan2(eta[1] - eta[0], -(xi[1] - xi[0])))
        mm = 0.015 / 0.168
        detectors[d] = CameraDetector(
            d, str(d), (0, 0, 2048, 4176), (0.015, 0.015), (float(-xi[0] * mm), float(eta[0] * mm)), float(turn)
        )
    return tables, ExposureCatalog(Table(rows=rows), records), Camera("HSC", detectors)


@pytest.mark.skipif(not HSC.is_dir(), reason="real data not here")
def test_hsc_visit_with_rough_headers_lands_on_held_out_gaia_stars():
    tables, summary, camera = _hsc()
    gaia = pd.read_parquet(HSC / "gaia_refcat.parquet")
    held = np.random.default_rng(1).uniform(size=len(gaia)) < 0.25
    config = JointcalConfig()
    config.doPhotometry = False
    result = JointcalTask(config=config, astrometry_refs=gaia[~held]).run(tables, [summary], camera)
    assert result.converged
    assert len(result.outputWcs) == 51
    judge = gaia[held]
    years = (MJD - judge.epoch.to_numpy()) / 365.25
    dec = np.degrees(judge.coord_dec.to_numpy() + np.nan_to_num(judge.pm_dec.to_numpy()) * years)
    ra = np.degrees(
        judge.coord_ra.to_numpy() + np.nan_to_num(judge.pm_ra.to_numpy()) * years / np.cos(judge.coord_dec.to_numpy())
    )
    target = np.column_stack(project(ra, dec, BORESIGHT))
    offsets, scatters = [], []
    for table in tables:
        wcs = result.outputWcs[1180, int(table.detector.iloc[0])]
        found = np.column_stack(project(*wcs.pixel_to_sky(table.x.to_numpy(), table.y.to_numpy()), BORESIGHT))
        distance, index = cKDTree(found).query(target, distance_upper_bound=1.0)
        hit = np.isfinite(distance)
        if hit.sum() >= 3:
            off = found[index[hit]] - target[hit]
            offsets.append(float(np.hypot(*np.median(off, axis=0))))
            scatters.append(1.4826 * np.median(np.abs(off - np.median(off, axis=0)), axis=0).max())
    assert len(offsets) > 30
    assert np.median(offsets) < 0.02  # arcsec; a rough header is up to 2.5 off
    assert max(offsets) < 0.05
    assert max(scatters) < 0.1
