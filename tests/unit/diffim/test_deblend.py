"""Sources that share a footprint: measured apart, they have the fluxes and places that were put in."""

import numpy as np
import pytest

from diffim.measurement.deblend import MOST
from exposure.mask import PLANES
from tests.support.detections import apart, paired, search
from tests.support.matched_pair import ORIGINS


def pairs(origin, seed, signs=(1, 1), separation=9.0):
    """Twenty pairs of sources, each a blend of about 80 and 60 sigma."""
    rng = np.random.default_rng(seed)
    f = apart(origin)
    angle = rng.uniform(0, np.pi, 20)
    f.x = np.concatenate([f.x, f.x + separation * np.cos(angle)])
    f.y = np.concatenate([f.y, f.y + separation * np.sin(angle)])
    f.flux = np.concatenate([np.full(20, 4000.0 * signs[0]), np.full(20, 3000.0 * signs[1])])
    return f


def pulls(f, table):
    distance, row = paired(table, f)
    assert distance.max() < 2
    t = table.iloc[row]
    return (t.psfInstFlux.to_numpy() - f.flux) / t.psfInstFluxErr.to_numpy(), t


@pytest.mark.parametrize("origin", ORIGINS)
def test_blended_fluxes_and_places_are_right_to_their_errors(origin):
    apart_pulls, together_pulls, off = [], [], []
    for seed in range(6):
        f = pairs(origin, seed)
        d = f.exposure(2.4, 4.0, seed)
        _, t, _ = search(d, doDeblend=True)
        assert len(t) == 40
        pull, row = pulls(f, t)
        apart_pulls.append(pull)
        off += [(row.x.to_numpy() - f.x - origin[0]) / row.xErr, (row.y.to_numpy() - f.y - origin[1]) / row.yErr]
        together_pulls.append(pulls(f, search(d)[1])[0])
    pull, off = np.concatenate(apart_pulls), np.concatenate(off)
    assert np.mean(np.concatenate(together_pulls)) > 2  # alone each has some of the other's light
    assert abs(pull.mean()) < 0.25
    assert pull.std() == pytest.approx(1.0, abs=0.15)
    assert abs(off.mean()) < 0.25
    assert off.std() == pytest.approx(1.0, abs=0.15)


def test_blends_of_both_signs_are_measured_apart():
    f = pairs((0, 0), 3, signs=(1, -1), separation=13.0)
    d = f.exposure(2.4, 2.0, 3)
    _, t, _ = search(d, doDeblend=True)
    pull, row = pulls(f, t)
    assert abs(pull.mean()) < 0.5
    assert (row.isNegative.to_numpy() == (f.flux < 0)).all()
    assert not row.isDipole.any()


def test_sources_alone_are_measured_as_without():
    f = apart((0, 0))
    d = f.exposure(2.4, 0.2, 1)
    plain, deblended = search(d)[1], search(d, doDeblend=True)[1]
    for column in ("x", "y", "psfInstFlux", "ixx"):
        np.testing.assert_array_equal(plain[column], deblended[column])


def test_a_heap_of_peaks_is_left_and_marked():
    f = apart((0, 0))
    gx, gy = np.meshgrid(np.arange(60, 60 + 9 * 6, 9.0), np.arange(60, 60 + 9 * 5, 9.0))
    f.x, f.y = gx.ravel(), gy.ravel()
    assert f.x.size > MOST
    f.flux = np.full(f.x.size, 4000.0)
    d = f.exposure(2.4, 1.0, 2)
    _, t, made = search(d, doDeblend=True)
    assert len(t) > MOST
    assert made.flagged("NOT_DEBLENDED")[60:96, 60:105].all()
    np.testing.assert_array_equal(t.psfInstFlux, search(d)[1].psfInstFlux)
    assert "NOT_DEBLENDED" in PLANES
