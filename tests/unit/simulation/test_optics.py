"""The way from the sky to the focal plane of a simulated mosaic, against the way back."""

import numpy as np

from exposure.wcs.tangent import deproject
from simulation.focal_plane import MosaicSettings, simulate_mosaic


def test_the_way_to_the_focal_plane_is_the_inverse_of_the_way_to_the_sky():
    s = simulate_mosaic(MosaicSettings(3, 1, 9, 20.0, centre=(0.0, 80.0)))
    visit, reach = s.extra["visits"][0], s.optics.radius_arcsec * 0.015 / 0.168
    fx, fy = (a.ravel() for a in np.meshgrid(np.linspace(-reach, reach, 120), np.linspace(-reach, reach, 120)))
    back = s.optics.to_focal(visit, *s.optics.to_sky(visit, fx, fy))
    assert np.abs(np.array(back) - [fx, fy]).max() < 1e-8  # mm; what is left is the rounding of RA in degrees


def test_stars_beyond_the_camera_have_no_place():
    """The distortion folds far out: there the steps would come to rest at any place, on a chip too."""
    s = simulate_mosaic(MosaicSettings(3, 1, 1, 20.0))
    visit = s.extra["visits"][0]
    away = np.linspace(1.6, 5.0, 50) * s.optics.radius_arcsec
    fx, fy = s.optics.to_focal(visit, *deproject(away, 0.0 * away, (visit.ra, visit.dec)))
    assert np.isnan(fx).all()
    assert np.isnan(fy).all()
