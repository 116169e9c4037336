"""AST FrameSets: pixels that are moved and turned take the distortion with them."""

import numpy as np
import pytest

from exposure.wcs.ast import AstWcs, ast_text

BOX = (0, 0, 2000, 4000)
X, Y = np.array([10.0, 1000.0, 1990.0, 30.0]), np.array([20.0, 3000.0, 3990.0, 2000.0])


@pytest.fixture(scope="module")
def wcs() -> AstWcs:
    """A TAN-SIP frame set with several px of distortion at the corners."""
    import starlink.Ast as Ast

    cards = {
        "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 1000.5,
        "CRPIX2": 2000.5, "CD1_1": -4.7e-5, "CD1_2": 1e-6, "CD2_1": 1e-6, "CD2_2": 4.7e-5, "A_ORDER": 2, "B_ORDER": 2,
        "A_2_0": 1e-6, "A_0_2": 5e-7, "B_1_1": 8e-7, "B_0_2": -6e-7, "RADESYS": "ICRS",
    }  # fmt: skip
    channel = Ast.FitsChan()
    for key, value in cards.items():
        channel.putfits(f"{key:8}= {value!r:>20}" if not isinstance(value, str) else f"{key:8}= '{value:8}'", False)
    channel.clear("Card")
    return AstWcs(ast_text(channel.read()), BOX)


def far_mas(a, b) -> float:
    return 3.6e6 * float(np.abs(np.asarray(a) - np.asarray(b)).max())


def test_the_frame_set_is_distorted(wcs):
    from exposure.wcs.tangent import local_linear

    assert far_mas(local_linear(wcs, 1000, 2000).pixel_to_sky(X, Y), wcs.pixel_to_sky(X, Y)) > 300


def test_shifted_pixels_have_the_same_sky(wcs):
    moved = wcs.shifted(13.25, -7.5)
    assert far_mas(moved.pixel_to_sky(X + 13.25, Y - 7.5), wcs.pixel_to_sky(X, Y)) < 1e-3
    assert np.allclose(moved.sky_to_pixel(*moved.pixel_to_sky(X, Y)), (X, Y), atol=1e-3)
    assert moved.bbox[2:] == wcs.bbox[2:]


def test_corrected_pixels_have_the_sky_of_where_they_truly_are(wcs):
    matrix, offset = np.array([[1.0001, 2e-4], [-3e-4, 0.9999]]), np.array([0.123, -4.56])
    centre = wcs.reference_pixel[:, None]
    true = matrix @ (np.array([X, Y]) - centre) + centre + offset[:, None]
    fixed = wcs.affine_corrected(matrix, offset)
    assert far_mas(fixed.pixel_to_sky(X, Y), wcs.pixel_to_sky(*true)) < 1e-3
    assert isinstance(AstWcs(fixed.text, fixed.bbox), AstWcs)
