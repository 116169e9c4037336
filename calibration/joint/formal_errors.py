"""Formal errors of what a joint fit publishes: of the WCS and of the calibration of each image.

What few stars leave open is as wide as what was known before, and such an image looks as good as the others in chi2: its
error tells it.
"""

import numpy as np

from calibration.joint.data import tangent_frames
from calibration.joint.model.astrometry import AstrometryProblem, MeasuredPositions, StarAstrometry
from calibration.joint.model.build_astrometry import AstrometryBuilder
from calibration.joint.model.build_photometry import PhotometryBuilder
from calibration.joint.model.photometry import POGSON, MeasuredFluxes, PhotometryProblem, StarPhotometry
from calibration.joint.solve.draws import displacements
from tasks.arrays import F64, I64

__all__ = ["calibration_errors", "wcs_errors"]

_SIDE = np.linspace(-1.0, 1.0, 5)


def wcs_errors(builder: AstrometryBuilder, draws: F64) -> tuple[F64, F64]:
    """Return the error (I,) of the WCS of each image, rms per axis over the image, and the size (I,) of a pixel; arcsec.

    `draws` (P, R) are those of the parameters, see `calibration.joint.solve.draws`.
    """
    image, pixels, offsets = _grid(builder.layout.centre, builder.layout.half)
    n = len(builder.images)
    vector = builder.frames.tangent  # any star does: only what the maps do is asked for
    zero = np.zeros((n, 2))
    stars = StarAstrometry(
        vector, *tangent_frames(vector), zero.copy(), zero, zero[:, 0], zero[:, 0], np.zeros((n, 2, 2)), zero
    )
    measured = MeasuredPositions(offsets, image, pixels, np.ones((image.size, 3)) * [1.0, 1.0, 0.0], zero[image, 0])
    problem = AstrometryProblem(builder.layout, builder.frames, stars, measured, builder.parameters)
    rows = problem.rows(0, n)
    moved = displacements(rows, draws)
    area = 1.0 / np.sqrt(np.linalg.det(rows.weight))  # arcsec^2 of a pixel: its covariance is the unit matrix
    scale = np.sqrt(area).reshape(n, -1).mean(1)
    return np.sqrt((moved**2).reshape(n, -1).mean(1)), scale


def calibration_errors(builder: PhotometryBuilder, draws: F64) -> tuple[F64, F64]:
    """Return the error (I,) of the calibration of each image, rms over the image, and that (I,) of its mean; mag."""
    boxes = builder.images.bbox.astype(np.float64)
    centre, half = boxes[:, :2] + (boxes[:, 2:] - 1) / 2, boxes[:, 2:] / 2
    image, pixels, offsets = _grid(centre, half)
    n = len(builder.images)
    layout = builder.layout
    focal = builder.focal(image, *pixels.T) if layout.order >= 0 else np.zeros_like(pixels)
    stars = StarPhotometry(np.zeros((n, 1)), np.zeros((n, 1, 1)), np.zeros((n, 1)))
    one = np.ones(image.size)
    problem = PhotometryProblem(layout, stars, MeasuredFluxes(offsets, image, focal, one, one), builder.parameters)
    rows = problem.rows(0, n)
    moved = displacements(rows, draws)[:, 0]
    if not layout.magnitude:  # of one count: relative to the calibration itself
        moved = POGSON * moved / rows.residual
    moved = moved.reshape(n, -1, moved.shape[-1])
    return np.sqrt((moved**2).mean((1, 2))), np.sqrt((moved.mean(1) ** 2).mean(1))


def _grid(centre: F64, half: F64) -> tuple[I64, F64, I64]:
    """Return image (N,) and pixel (N, 2) of places over all images, whose middles and half sides are (I, 2), and where
    the places of each begin (I + 1,).
    """
    u, v = (a.ravel() for a in np.meshgrid(_SIDE, _SIDE))
    n = len(centre)
    pixels = centre[:, None] + half[:, None] * np.stack([u, v], 1)[None]
    return np.repeat(np.arange(n), u.size), pixels.reshape(-1, 2), np.arange(n + 1) * u.size
