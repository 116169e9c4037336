"""simulation/artefacts: what is damaged is marked, and equal seeds damage equally."""

import numpy as np
import pytest

from simulation.artefacts import FRAME_KINDS, KINDS, SCIENCE_KINDS, damage, move_stars, spoil_wings

SIGMA, FWHM = 7.0, 4.0


def sky(seed=3, size=200):
    return np.random.default_rng(seed).normal(100, SIGMA, (size, size)).astype(np.float32)


def changed(kind, seed=13):
    image = sky()
    labels = damage(image, SIGMA, FWHM, (kind,), np.random.default_rng(seed), 4.0)
    return (image - sky()) / SIGMA, labels


@pytest.mark.parametrize("kind", SCIENCE_KINDS)
def test_what_is_bright_enough_to_see_is_marked(kind):
    added, labels = changed(kind)
    assert (np.abs(added) > 1).any()
    assert (labels[np.abs(added) > 1] == KINDS.index(kind)).all()
    assert np.isin(labels, (0, KINDS.index(kind))).all()


def test_a_step_of_the_sky_is_marked_where_it_steps():
    added, labels = changed("coadd seam")
    step = np.abs(np.diff(added, axis=1)) > 1
    assert (labels[:, 1:][step] > 0).all()
    flat = (labels == 0) & (np.abs(added) > 1)  # far from the step there is nothing to see
    assert flat.any()


def test_a_hole_holds_one_number_and_no_stars():
    image = sky()
    image[90:110, 90:110] += 5000
    before = image.copy()
    labels = damage(image, SIGMA, FWHM, ("template hole",), np.random.default_rng(4), 4.0)
    hole = image != before
    assert hole.any()
    assert image[hole].max() < 100 + 12 * SIGMA
    assert (labels[hole & (np.abs(image - before) > SIGMA)] > 0).all()


@pytest.mark.parametrize("kind", [SCIENCE_KINDS[0], FRAME_KINDS[0]])
def test_equal_seeds_damage_equally(kind):
    assert np.array_equal(changed(kind, 5)[0], changed(kind, 5)[0])
    assert not np.array_equal(changed(kind, 5)[0], changed(kind, 6)[0])


def test_a_star_that_moves_keeps_its_light():
    image = np.zeros((60, 60), np.float32)
    stamp = np.zeros((1, 5, 5), np.float32)
    stamp[0, 2, 2] = 900.0
    image[20, 30] = 900.0
    labels = move_stars(
        image, (stamp, np.array([30.0]), np.array([20.0])), (stamp, np.array([33.2]), np.array([21.0])), SIGMA, FWHM
    )
    assert image[20, 30] == 0
    assert image[21, 33] == 900.0
    assert labels[20, 30] == labels[21, 33] == KINDS.index("moved star")
    assert labels[50, 10] == 0


def test_haloes_change_around_bright_stars_only():
    image = sky()
    labels = spoil_wings(
        image, np.array([60.0]), np.array([60.0]), np.array([2e6]), SIGMA, FWHM, np.random.default_rng(1)
    )
    added = (image - sky()) / SIGMA
    assert np.abs(added[50:70, 50:70]).max() > 1
    assert (labels[np.abs(added) > 1] == KINDS.index("saturated wing")).all()
