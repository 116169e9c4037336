"""Fluxes that lack light stay out of means, whatever they say."""

import numpy as np
import pandas as pd
import pytest

from association.statistics.summary import forced_means, summarize
from tasks.lacking import FLAG_BITS, blanked, lacking_keys, without_lacking

TRUE, ERR = 2000.0, 20.0
ROWS = pd.DataFrame(
    {
        "diaObjectId": 7,
        "visit": [1, 2, 3],
        "detector": np.int16(0),
        "band": "r",
        "midpointMjdTai": [61000.0, 61001.0, 61002.0],
        "psfFlux": np.float32([TRUE, TRUE, 998]),
        "psfFluxErr": np.float32([ERR, ERR, 10]),
        "scienceFlux": np.float32([3000, 3000, 3000]),
        "scienceFluxErr": np.float32([30, 30, 30]),
    }
)
OBJECT = pd.DataFrame(
    {"diaObjectId": [7], "ra": [10.0], "dec": [0.0], "nDiaSources": [0], "firstDiaSourceMjdTai": [np.nan], "lastDiaSourceMjdTai": [np.nan]}
)  # fmt: skip


@pytest.mark.parametrize("flag", ["edge", "no_data", "noGoodPixels"])
def test_a_forced_flux_that_lacks_light_has_no_part_in_the_mean(flag: str) -> None:
    """998 +- 10 beside two of 2000 +- 20 would make 1332 +- 8 of them (weights 1/400, 1/400, 1/100)."""
    summary = OBJECT.set_index("diaObjectId")
    forced_means(summary, ROWS)
    assert summary.r_fpFluxMean[7] == pytest.approx((2 * TRUE / 400 + 998 / 100) / (2 / 400 + 1 / 100))
    forced_means(summary, ROWS, lacking_keys(ROWS.assign(flags=[1 << FLAG_BITS["neighbour"], 0, 1 << FLAG_BITS[flag]])))
    assert summary.r_fpFluxMean[7] == pytest.approx(TRUE)
    assert summary.r_fpFluxMeanErr[7] == pytest.approx(ERR / np.sqrt(2))
    # of the science image: that is the image's own flux, which has no mean
    forced_means(summary, ROWS, lacking_keys(ROWS.assign(flags=[0, 0, 1 << (16 + FLAG_BITS[flag])])))
    assert summary.r_fpFluxMean[7] < 1400


@pytest.mark.parametrize("flag", ["pixelFlags_edge", "pixelFlags_nodata"])
@pytest.mark.parametrize("none", [False, None])
def test_a_source_that_lacks_light_counts_and_has_no_part_in_statistics_of_flux(flag: str, none: bool | None) -> None:
    table = ROWS.assign(diaSourceId=[1, 2, 3], ra=10.0, dec=0.0, **{flag: [none, none, True]})
    row = summarize(OBJECT, table).loc[7]
    assert row.nDiaSources == 3
    assert row.r_psfFluxNdata == 2
    assert row.r_psfFluxMean == row.r_psfFluxMin == row.r_psfFluxMax == pytest.approx(TRUE)
    assert row.r_psfFluxErrMean == pytest.approx(ERR)
    assert row.r_scienceFluxMeanErr == pytest.approx(30 / np.sqrt(3))
    lost = summarize(OBJECT, table.assign(forced_PsfFlux_flag=[True, False, False])).loc[7]
    assert lost.r_scienceFluxMeanErr == pytest.approx(30 / np.sqrt(2))


def test_only_the_row_of_the_same_image_is_blanked_and_nothing_is_copied_where_none_is() -> None:
    keys = pd.DataFrame({"diaObjectId": [7, 7], "visit": [2, 3], "detector": [0, 1]})
    out = blanked(ROWS, keys)
    np.testing.assert_array_equal(np.isnan(out.psfFlux), [False, True, False])
    np.testing.assert_array_equal(np.isnan(out.psfFluxErr), [False, True, False])
    assert np.isfinite(out.scienceFlux).all()
    assert out.psfFlux.dtype == np.float32
    assert blanked(ROWS, keys.iloc[:0]) is ROWS
    assert without_lacking(ROWS) is ROWS
