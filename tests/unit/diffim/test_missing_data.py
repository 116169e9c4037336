"""What a difference has no data of: beside holes of either image, and where a kernel leaves the image."""

import numpy as np
import pytest

from exposure.mask import plane_bits
from forced.calibrated import FLAG_BITS, measure_pair
from tests.support.difference_scene import ORIGIN, scene, subtract

FLUX, APART, REACH = 6000.0, 34, 12
BESIDE = (-3, 2, 4, 6, 8)  # px from a source to a hole


def with_transients(sigmas, holed):
    """Return a pair, its stars and the places of new sources beside holes, which are in the image or in the template."""
    science, stars = scene(sigmas[0], 4.0, 5)
    template, _ = scene(sigmas[1], 4.0, 6, pad=40)
    rng, h = np.random.default_rng(7), 20
    grid = np.arange(28, 240, APART)
    x, y = (a.ravel() + rng.uniform(-0.4, 0.4, a.size) for a in np.meshgrid(grid, grid))
    free = (
        np.hypot(stars.x.to_numpy() - ORIGIN[0] - x[:, None], stars.y.to_numpy() - ORIGIN[1] - y[:, None]).min(1) > 14
    )
    x, y = x[free], y[free]
    beside = np.array(BESIDE)[np.arange(x.size) % len(BESIDE)]
    stamps = FLUX * science.psf.image_at(x + ORIGIN[0], y + ORIGIN[1])
    for k, (i, j) in enumerate(zip(*(np.floor(p + 0.5).astype(int) for p in (x, y)), strict=True)):
        part = np.s_[j - h : j + h + 1, i - h : i + h + 1]
        science.image[part] += stamps[k][: science.image[part].shape[0], : science.image[part].shape[1]]
        science.variance[part] += stamps[k]
        science.image[part] += rng.normal(size=(41, 41)) * np.sqrt(stamps[k])
        image, pad = (science, 0) if holed == "science" else (template, 40)
        hole = np.s_[j + pad - 6 : j + pad + 7, i + pad + beside[k] : i + pad + beside[k] + 9]
        image.mask[hole] |= plane_bits(["NO_DATA"])
        image.image[hole] = np.nan
    return science, template, stars, x + ORIGIN[0], y + ORIGIN[1], beside


@pytest.mark.parametrize("holed", ["science", "template"])
@pytest.mark.parametrize("sigmas", [(2.4, 1.9), (1.9, 2.4)])
def test_new_sources_beside_a_hole_have_their_flux_or_none(sigmas, holed):
    science, template, stars, x, y, beside = with_transients(sigmas, holed)
    difference = subtract(science, template, stars, doSubtractBackground=False)[1].subtractedExposure
    assert (np.isfinite(difference.image) == ~difference.flagged("NO_DATA")).all()
    t = measure_pair(difference, science, x, y)
    kept = np.isfinite(t.psfFlux.to_numpy())
    assert not kept[beside < 0].any()
    assert kept[beside == 8].all()
    assert ((t["flags"].to_numpy()[beside <= 6] >> FLAG_BITS["no_data"]) & 1).all()
    pull = ((t.psfFlux - FLUX) / t.psfFluxErr).to_numpy()[kept]
    assert np.abs(pull).max() < 4
    assert abs(pull.mean()) < 4 / np.sqrt(kept.sum())


@pytest.mark.parametrize(("sigmas", "pad"), [((2.4, 1.9), 40), ((1.9, 2.4), 40), ((2.4, 1.9), 0)])
def test_constant_stars_leave_no_source_at_the_edge_of_the_kernels(sigmas, pad):
    """120 stars, many on the edge: filters that find nothing beyond it leave rings there."""
    science, stars = scene(sigmas[0], 4.0, 5, n=120)
    template, _ = scene(sigmas[1], 4.0, 6, pad=pad, n=120)
    # the stars of a scene end 25 px from its edge, those of this part of it do not
    part = (ORIGIN[0] + 30, ORIGIN[1] + 30, 196, 196)
    grown = (part[0] - pad // 2, part[1] - pad // 2, 196 + pad, 196 + pad)
    result = subtract(science.cutout(*part), template.cutout(*grown), stars)[1]
    edge = result.subtractedExposure.flagged("EDGE")
    depth = np.minimum.reduce([*np.indices(edge.shape), *(195 - np.indices(edge.shape))])
    assert edge[depth == 0].all()
    assert not edge[depth > REACH].any()
    assert len(result.diaSources) == 0
