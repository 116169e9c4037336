"""Missing data stays missing: forced fluxes beside holes are unbiased and flagged, or there is none."""

import numpy as np
import pandas as pd
import pytest

from association.statistics.summary import forced_means
from exposure import Exposure, GaussianPsf, PhotoCalib, SkyWcs, VisitInfo
from exposure.mask import plane_bits
from forced import ForcedPhotCcdFromDataFrameTask
from forced.calibrated import FLAG_BITS, measure_pair
from tasks import make_task
from tasks.lacking import LACKING_BITS

SIZE, SIGMA, FLUX = 101, 2.0, 5000.0
AT = np.array([50.3]), np.array([49.8])


def star(hole_from: int | None = None, value: float = np.nan, plane: str = "NO_DATA") -> Exposure:
    """A star without noise at `AT`; columns from `hole_from` px right of it on have no data, and any value."""
    psf = GaussianPsf(SIGMA, 31)
    image = np.zeros((SIZE, SIZE), np.float32)
    image[50 - 15 : 50 + 16, 50 - 15 : 50 + 16] = FLUX * psf.image_at(*AT)[0]
    e = Exposure(
        image, np.ones_like(image), np.zeros(image.shape, np.int32), psf=psf, photo_calib=PhotoCalib(1.0), band="r"
    )
    if hole_from is not None:
        e.image[:, 50 + hole_from :] = value
        e.mask[:, 50 + hole_from :] = plane_bits([plane])
    return e


def flagged(flags: np.ndarray, name: str) -> bool:
    return bool((flags[0] >> FLAG_BITS[name]) & 1)


@pytest.mark.parametrize("value", [np.nan, 0.0, 1e5])
@pytest.mark.parametrize(("hole", "kept"), [(-3, False), (1, False), (2, True), (4, True), (6, True)])
def test_a_flux_beside_a_hole_is_that_of_the_whole_star_or_there_is_none(value: float, hole: int, kept: bool) -> None:
    """0.66 of the light of this star lies left of a hole from 1 px on (half a pixel before), 0.82 from 2 px on."""
    t = measure_pair(star(hole, value), star(), *AT)
    flags = t["flags"].to_numpy()
    assert flagged(flags, "no_data")
    assert flagged(flags, "noGoodPixels") == (not kept)
    assert not flagged(flags >> 16, "no_data")  # the image has all of it
    assert t.scienceFlux[0] == pytest.approx(FLUX, rel=1e-5)
    if kept:
        assert t.psfFlux[0] == pytest.approx(FLUX, rel=1e-5)
        assert t.psfFluxErr[0] > t.scienceFluxErr[0]
    else:
        assert np.isnan([t.psfFlux[0], t.psfFluxErr[0]]).all()


def test_a_hole_far_away_is_no_matter() -> None:
    t = measure_pair(star(10), star(), *AT)
    assert not t["flags"].any()
    assert t.psfFluxErr[0] == pytest.approx(t.scienceFluxErr[0], rel=1e-4)


def test_the_edge_of_the_kernel_is_no_data_on_a_difference_alone() -> None:
    t = measure_pair(star(1, 0.0, "EDGE"), star(1, 0.0, "EDGE"), *AT)
    assert np.isnan(t.psfFlux[0])
    assert flagged(t["flags"].to_numpy(), "edge")
    assert t.scienceFlux[0] < FLUX  # the image is measured as it is


def test_a_flux_where_the_psf_is_inexact_says_so_and_is_kept() -> None:
    difference = star()
    difference.mask[50, 51] = plane_bits(["INEXACT_PSF"])
    t = measure_pair(difference, star(), *AT)
    assert t["flags"][0] == 1 << FLAG_BITS["inexact_psf"]
    assert not t["flags"][0] & LACKING_BITS
    assert t.psfFlux[0] == pytest.approx(FLUX, rel=1e-5)


def test_a_flux_that_is_not_there_has_no_part_in_a_mean() -> None:
    rows = pd.concat([measure_pair(star(k), star(), *AT) for k in (None, 1, 4)], ignore_index=True)
    rows = rows.assign(diaObjectId=7, band="r")
    summary = pd.DataFrame(index=pd.Index([7], name="diaObjectId"))
    forced_means(summary, rows)
    assert summary.r_fpFluxMean[7] == pytest.approx(FLUX, rel=1e-5)


@pytest.mark.parametrize("planes", [[], ["NO_DATA"]])
@pytest.mark.parametrize(
    ("hole", "value", "kept"), [(-3, 0.0, False), (1, 0.0, False), (3, 0.0, True), (8, np.nan, True)]
)
def test_a_ccd_is_measured_without_pixels_that_have_no_data(
    planes: list[str], hole: int, value: float, kept: bool
) -> None:
    """Less than 0.7 of the light of a star at a pixel's middle lies left of a hole from 1 px on, 0.89 from 3 px on."""
    e = star(hole, value)
    e.wcs = SkyWcs.tan((50, 50), (150.0, 2.0), [[-0.2 / 3600, 0], [0, 0.2 / 3600]])
    e.visit_info = VisitInfo(1, 2, 61000.0, 30.0)
    task = make_task(ForcedPhotCcdFromDataFrameTask, {"badMaskPlanes": planes, "doApCorr": False})
    ra, dec = e.wcs.pixel_to_sky(*AT)
    reference = task.mergeAndFilterReferences(e, [pd.DataFrame({"diaObjectId": [1], "ra": ra, "dec": dec})])
    cat, _ = task.generateMeasCat(None, e, reference)
    row = task.run(task.attachFootprints(cat, reference, e), e, reference).measCat.iloc[0]
    assert row.base_PsfFlux_flag == row.base_PsfFlux_flag_noGoodPixels == (not kept)
    if kept:
        assert row.psfFlux == pytest.approx(FLUX, rel=1e-5)
    else:
        assert np.isnan([row.psfFlux, row.psfFluxErr]).all()
