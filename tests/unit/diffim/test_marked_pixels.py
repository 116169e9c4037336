"""Pixels that are marked as bad or as cosmic rays, of either image, have no part in a flux: it is unbiased and flagged, or NULL."""

import numpy as np
import pytest

from exposure.mask import plane_bits
from forced.calibrated import FLAG_BITS, measure_pair
from tasks.lacking import SOURCE_FLAGS
from tests.support.difference_scene import ORIGIN, scene, subtract

FLUX, JUNK, HALF = 6000.0, 2000.0, 20
TRANSIENTS = np.arange(28, 240, 34)


def with_marked(sigmas, plane, which, right):
    """Return a pair, its stars and new sources, each with three marked pixels of `JUNK` some px right of its centre."""
    science, stars = scene(sigmas[0], 4.0, 5)
    template, _ = scene(sigmas[1], 4.0, 6, pad=40)
    x, y = (a.ravel() for a in np.meshgrid(TRANSIENTS, TRANSIENTS))
    sx, sy = stars.x.to_numpy() - ORIGIN[0], stars.y.to_numpy() - ORIGIN[1]
    free = np.hypot(sx - x[:, None], sy - y[:, None]).min(1) > 14
    g, rng = np.arange(-HALF, HALF + 1), np.random.default_rng(7)
    star = np.exp(-0.5 * (g[:, None] ** 2 + g**2) / sigmas[0] ** 2) * FLUX / (2 * np.pi * sigmas[0] ** 2)
    image, pad = (science, 0) if which == "science" else (template, 40)
    for i, j in zip(x[free], y[free], strict=True):
        part = np.s_[j - HALF : j + HALF + 1, i - HALF : i + HALF + 1]
        science.image[part] += star + rng.normal(size=star.shape) * np.sqrt(star)
        science.variance[part] += star
        marked = np.s_[j + pad - 1 : j + pad + 2, i + pad + right]
        image.image[marked] += JUNK
        image.mask[marked] |= plane_bits([plane])
    return science, template, stars, x[free].astype(float) + ORIGIN[0], y[free].astype(float) + ORIGIN[1]


@pytest.mark.parametrize("right", [2, 4])
@pytest.mark.parametrize(("plane", "which"), [("BAD", "science"), ("CR", "template")])
@pytest.mark.parametrize("sigmas", [(2.4, 1.9), (1.9, 2.4)])
def test_fluxes_beside_marked_pixels_are_unbiased_and_flagged(sigmas, plane, which, right):
    science, template, stars, x, y = with_marked(sigmas, plane, which, right)
    result = subtract(science, template, stars, doSubtractBackground=False, badSourceFlags=[])[1]
    t = measure_pair(result.subtractedExposure, science, x, y)
    flags = t["flags"].to_numpy()
    assert ((flags >> FLAG_BITS["no_data"]) & 1).all()
    pulls = [((t.psfFlux - FLUX) / t.psfFluxErr).to_numpy()]
    if which == "science":  # its own pixels are smeared by nothing
        assert ((flags >> (FLAG_BITS["no_data"] + 16)) & 1).all()
        pulls.append(((t.scienceFlux - FLUX) / t.scienceFluxErr).to_numpy())
        assert np.isfinite(pulls[1]).all()
    s = result.diaSources
    near = np.hypot(s.x.to_numpy() - x[:, None], s.y.to_numpy() - y[:, None]).min(0) < 2
    near &= ~s.centroid_flag.to_numpy(bool)  # those are elsewhere
    assert s.loc[near, list(SOURCE_FLAGS)].any(axis=1).all()
    pulls.append(((s.psfInstFlux - FLUX) / s.psfInstFluxErr).to_numpy()[near])
    for pull in (p[np.isfinite(p)] for p in pulls):
        assert pull.size == 0 or np.abs(pull).max() < 4.5
        assert pull.size == 0 or abs(pull.mean()) < 4 / np.sqrt(pull.size)


def test_interpolated_rays_of_a_template_void_nothing():
    """A coadd marks the cosmic rays of all its frames, and holds the light of the others there."""
    science, template, stars, x, y = with_marked((2.4, 1.9), "CR", "template", 4)
    marked = template.flagged("CR")
    template.image[marked] -= np.float32(JUNK)
    template.set_plane("INTRP", marked)
    difference = subtract(science, template, stars, doSubtractBackground=False, doDetection=False)[1].subtractedExposure
    t = measure_pair(difference, science, x, y)
    assert not difference.flagged("CR").any()
    assert (((t["flags"].to_numpy()) >> FLAG_BITS["no_data"]) & 1).sum() == 0
    assert abs(((t.psfFlux - FLUX) / t.psfFluxErr).mean()) < 4 / np.sqrt(len(t))
