"""Visit summaries where something is missing: PSFs undefined in places, data ids without records, HEALPix of any order."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

from calibration.errors import SummaryError
from calibration.summary import statistics as st
from calibration.summary.config import UpdateVisitSummaryConfig, UpdateVisitSummaryConnections
from calibration.summary.providers import HealpixInput
from calibration.summary.quantum import gather_inputs
from calibration.summary.task import UpdateVisitSummaryTask
from exposure import Exposure, ExposureCatalog, GaussianPsf, GridPsf
from exposure.io.exposure_catalog import ExposureRecord

SIDE = 300
BOX = (0, 0, SIDE, SIDE)


def cells(*defined: int) -> GridPsf:
    """3 x 3 cells over the box, of which those that are named have a round Gaussian PSF of sigma 2 px."""
    cube = np.full((9, 25, 25), np.nan, np.float32)
    cube[list(defined)] = GaussianPsf(2.0, 25).kernel_at(0, 0)[0]
    return GridPsf(cube, 3, 3, BOX)


def summary(psfs: dict[int, GridPsf]) -> tuple[ExposureCatalog, ExposureCatalog]:
    n = len(psfs)
    table = Table({name: np.full(n, 1.5) for name in st.GROUPS["psf"]})
    for name, value in (("id", range(n)), ("visit", [7] * n), ("band", ["r"] * n), ("expTime", [30.0] * n)):
        table[name] = value
    for axis in "xy":
        table[f"bbox_min_{axis}"], table[f"bbox_max_{axis}"] = [0] * n, [SIDE - 1] * n
    records = {d: ExposureRecord(psf=psf) for d, psf in psfs.items()}
    return ExposureCatalog(table, {}), ExposureCatalog(table, records)


def test_a_psf_that_is_undefined_at_one_detector_is_nan_there_and_named(caplog):
    psfs = {0: cells(*range(9)), 1: cells(0), 2: cells(*range(9))}
    before, overrides = summary(psfs)
    image = np.zeros((SIDE, SIDE), np.float32)
    exposures = {d: Exposure(image, image + 1, image.astype(np.int32)) for d in psfs}
    config = UpdateVisitSummaryConfig()
    config.do_refit_pointing = config.do_fit_sip_approximations = False
    stars = Table({"detector": np.zeros(0, int)})
    with caplog.at_level(logging.WARNING, "alertprod.summary"):
        out = UpdateVisitSummaryTask(config=config).run(
            before, exposures, psf_overrides=overrides, psf_star_catalog=stars
        )
    table = out.output_summary_catalog.table
    assert np.isnan([table[name][1] for name in st.GROUPS["psf"]]).all()
    assert table["psfSigma"][[0, 2]] == pytest.approx(2.0, abs=0.01)
    assert [r.getMessage().split(":")[0] for r in caplog.records if "PSF" in r.getMessage()] == ["detector 1"]


def test_variation_of_a_psf_is_taken_where_it_is_defined():
    whole = st.psf_statistics(cells(*range(9)), BOX, None, np.zeros((SIDE, SIDE), np.int32), step=30)
    partly = st.psf_statistics(cells(1, 4, 7), BOX, None, np.zeros((SIDE, SIDE), np.int32), step=30)
    assert whole["psfTraceRadiusDelta"] == pytest.approx(0.0, abs=1e-3)
    assert partly["psfTraceRadiusDelta"] == pytest.approx(0.0, abs=1e-3)
    assert partly["psfSigma"] == pytest.approx(2.0, abs=0.01)


def quantum_inputs(**handles) -> dict:
    return {"input_summary_catalog": summary({0: cells(4)})[0], "input_exposures": [], **handles}


def handle(**data_id) -> SimpleNamespace:
    return SimpleNamespace(dataId=data_id, get=lambda: ExposureCatalog(Table({"id": [0]}), {}))


def test_the_nearest_of_several_tracts_is_not_guessed_without_their_records():
    task = SimpleNamespace(config=UpdateVisitSummaryConfig())
    inputs = quantum_inputs(wcs_overrides_tract=[handle(tract=3), handle(tract=4)])
    with pytest.raises(SummaryError, match=r"tract 3 has no dimension records.*expandDataId"):
        gather_inputs(inputs, task)
    one = gather_inputs(quantum_inputs(wcs_overrides_tract=[handle(tract=3)]), task)["wcs_overrides"]
    assert list(one.catalogs) == [3]


@pytest.mark.parametrize("order", [3, 5])
def test_healpix_pixels_are_of_the_order_that_is_configured(order):
    config = UpdateVisitSummaryConfig()
    config.wcs_provider = f"healpix{order}"
    connections = UpdateVisitSummaryConnections(config=config)
    assert connections.wcs_overrides_healpix.dimensions == ("instrument", "visit", f"healpix{order}")
    # an expanded data id knows coarser pixels too
    pixels = [handle(healpix1=2, **{f"healpix{order}": 77})]
    got = gather_inputs(quantum_inputs(wcs_overrides_healpix=pixels), SimpleNamespace(config=config))["wcs_overrides"]
    assert isinstance(got, HealpixInput)
    assert (got.order, list(got.catalogs)) == (order, [77])
