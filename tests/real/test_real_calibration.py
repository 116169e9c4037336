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
from exposure.io.exposure_catalog import ExposureRecord
from exposure.wcs.tangent import project

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
        rows.append(
            {
                "id": d,
                "visit": 1180,
                "physical_filter": "HSC-Z",
                "band": "z",
                "bbox_min_x": 0,
                "bbox_min_y": 0,
                "bbox_max_x": 2047,
                "bbox_max_y": 4175,
            }
        )
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


SUMMARIES = DATA / "hsc_visit_summaries"


@pytest.mark.skipif(not SUMMARIES.is_dir(), reason="real data not here")
@pytest.mark.parametrize("visit", [1176, 36446])
def test_stored_statistics_of_hsc_come_out_again(visit, tmp_path):
    from calibration.summary import statistics as st
    from exposure.io.rubin_catalog import read_exposure_catalog

    catalog = read_exposure_catalog(SUMMARIES / f"visitSummary_{visit}.fits.gz")
    assert len(catalog.table) == 103
    # float32 columns: 1e-6 relative; the stored zenith distances took the TAI date for UTC
    limits = {
        "raCorners": 1e-10, "decCorners": 1e-10, "ra": 1e-10, "dec": 1e-10, "zenithDistance": 5e-6, "zeroPoint": 4e-6,
    }  # fmt: skip
    for row in catalog.table[::6]:
        record = catalog.records[int(row["id"])]
        box = (0, 0, int(row["bbox_max_x"]) + 1, int(row["bbox_max_y"]) + 1)
        made = st.wcs_statistics(record.wcs, box, record.visit_info, tai_as_utc=True)
        made |= st.photometry_statistics(record.photo_calib)
        for name, limit in limits.items():
            assert np.allclose(made[name], row[name], rtol=0, atol=limit), name
        moments = (row["psfIxx"] * row["psfIyy"] - row["psfIxy"] ** 2) ** 0.25
        assert moments == pytest.approx(float(row["psfSigma"]), rel=1e-6)
    catalog.table, kept = catalog.table[:3], {d: catalog.records[d] for d in catalog.table["id"][:3]}
    ExposureCatalog(catalog.table, kept).write_fits(tmp_path / "c.fits")
    ExposureCatalog(catalog.table, kept).write_parquet(tmp_path / "c.parquet")
    again = ExposureCatalog.read_fits(tmp_path / "c.fits")
    plain = ExposureCatalog.read_parquet(tmp_path / "c.parquet")
    assert np.array_equal(plain.table["raCorners"], catalog.table["raCorners"])
    x, y = np.array([0.0, 2000.0]), np.array([4000.0, 10.0])
    for d, record in kept.items():
        assert np.array_equal(again.records[d].wcs.pixel_to_sky(x, y), record.wcs.pixel_to_sky(x, y))
        assert again.records[d].photo_calib.mean == pytest.approx(record.photo_calib.mean, rel=1e-14)
        assert again.records[d].visit_info == record.visit_info
        assert np.array_equal(plain.records[d].wcs.pixel_to_sky(x, y), record.wcs.pixel_to_sky(x, y))
        assert plain.records[d].visit_info == record.visit_info
        assert np.array_equal(again.records[d].valid_polygon, record.valid_polygon)
