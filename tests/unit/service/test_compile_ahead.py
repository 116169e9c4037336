"""Compiled code is ready after the installation."""

from calibration.joint.model.linearise import add_map_gradient, expand, map_pixels, subtract_stars
from calibration.joint.solve.elimination import contributions, pulls, soften, star_steps
from diffim.pixels import masked_image, warp
from exposure.stamps import gather, shift_stamps
from service.local.compile_ahead import compile_joint_fit, compile_subtraction


def test_a_tiny_fit_calls_what_fits_are_made_of():
    assert compile_joint_fit() > 0
    for function in (map_pixels, subtract_stars, add_map_gradient, expand, contributions, pulls, soften, star_steps):
        assert function.signatures, function.__name__


def test_a_tiny_pair_calls_what_subtractions_are_made_of():
    assert compile_subtraction() > 0
    for function in (gather, shift_stamps, warp._resample, warp._mark, masked_image._window):
        assert function.signatures, function.__name__
