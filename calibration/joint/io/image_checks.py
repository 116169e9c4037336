"""Can what a summary says of its images be so? Times that are no dates are refused; a boresight elsewhere is not used."""

import logging

import numpy as np

from calibration.errors import JointCalibrationError
from calibration.joint.data import Images
from exposure.errors import CardInvalid
from exposure.header.times import check_mjd
from tasks.arrays import F64
from tasks.sphere import unit_vectors

__all__ = ["check_times", "without_far_boresights"]

log = logging.getLogger("alertprod.jointcal")
_FARTHEST = (
    6.0  # degrees from the middle of a visit's images to its boresight: the corner of the widest camera is at 5.2
)
_NAMED = 5


def check_times(images: Images) -> None:
    """Check that the times of the images are MJD; NaN is an unknown time.

    Raises
    ------
    JointCalibrationError
        A time is no date of an image; the message names the image.
    """
    for i in np.flatnonzero(~np.isnan(images.mjd_tai)):
        try:
            check_mjd(float(images.mjd_tai[i]), f"midpoint_mjd_tai={images.mjd_tai[i]:.10g}")
        except (CardInvalid, ValueError, OverflowError) as error:
            visit, detector = images.key(int(i))
            raise JointCalibrationError(
                f"the time of {images.label(int(i))} cannot be so: {error}; MJD (TAI) of the middle of the exposure is "
                "expected, NaN where it is unknown",
                visit=visit,
                detector=detector,
            ) from error


def without_far_boresights(images: Images) -> F64:
    """Return the boresights (I, 2), NaN in the visits whose images all lie elsewhere by their WCS; these are warned of.

    The maps of a visit are made in the plane that touches the sky at its boresight: of half of the sky there is none.
    """
    out = images.boresight.copy()
    visits, of_image = np.unique(images.visit, return_inverse=True)
    middles = np.array(
        [w.pixel_to_sky(*(b[:2] + b[2:] / 2)) for w, b in zip(images.wcs, images.bbox, strict=True)], np.float64
    )
    vectors = unit_vectors(middles[:, 0], middles[:, 1])
    mean = np.stack([np.bincount(of_image, vectors[:, k], visits.size) for k in range(3)], 1)
    mean = mean / np.maximum(np.linalg.norm(mean, axis=1), 1e-9)[:, None]
    with np.errstate(invalid="ignore"):
        cosine = (unit_vectors(out[:, 0], out[:, 1]) * mean[of_image]).sum(1)
    far = np.isfinite(out).all(1) & ~(cosine > np.cos(np.radians(_FARTHEST)))
    if far.any():
        first = np.flatnonzero(far)[np.unique(images.visit[far], return_index=True)[1]]
        listed = ", ".join(
            f"visit {images.visit[i]}: RA {out[i, 0]:.4f}, Dec {out[i, 1]:+.4f}, {np.degrees(np.arccos(np.clip(cosine[i], -1, 1))):.1f} deg off"
            for i in first[:_NAMED]
        )
        log.warning(
            "the boresights of %d visits lie more than %g deg from the middle of their images by their WCS, which is taken "
            "in their place; degrees are expected (boresight_ra, boresight_dec; RABORE, DECBORE): %s",
            first.size,
            _FARTHEST,
            listed,
        )
        out[far] = np.nan
    return out
