"""Calibrations to start a photometric fit from: the input's, but for images whose fluxes say that it is far off."""

import logging

import numpy as np

from calibration.joint.model.data import Images
from calibration.joint.model.stars import Associated
from tasks.arrays import F64, I64

__all__ = ["start_calibrations"]

log = logging.getLogger("alertprod.jointcal")
_FAR = np.log(1.3)  # a calibration within this factor is a good start
_LEAST = 3  # ratios that tell of an image
_ROUNDS = 4
_NAMED = 10


def start_calibrations(images: Images, associated: Associated) -> F64:
    """Return nJy per count (I,) of each image to start from.

    The median ratio of an image's calibrated fluxes to those of the reference stars, else to those of the same stars on
    images that are tied to references, else that of its visit, replaces an input that is off by more than a factor of 1.3.
    Magnitude models then converge from any input.
    """
    measurements, stars = associated.measurements, associated.stars
    image, star = measurements.image, stars.of_measurement
    with np.errstate(invalid="ignore", divide="ignore"):
        calibrated = np.log(measurements.flux * images.calib_mean[image])
        known = np.log(associated.references.flux[np.maximum(stars.reference, 0)])
    truth = np.where(stars.reference >= 0, known, np.nan)
    offset = np.full(len(images), np.nan)
    for _ in range(_ROUNDS):
        fresh = np.isnan(offset)
        ratio = calibrated - truth[star]
        offset[fresh] = _medians(ratio, image, len(images))[fresh]
        if not np.isnan(offset).any():
            break
        truth = np.where(np.isfinite(truth), truth, _medians(calibrated - offset[image], star, len(stars), 1))
    for visit in np.unique(images.visit):
        of = images.visit == visit
        if np.isfinite(offset[of]).any():
            offset[of & np.isnan(offset)] = np.nanmedian(offset[of])
    far = np.abs(np.nan_to_num(offset)) > _FAR
    if far.any():
        listed = ", ".join(
            f"{images.label(int(i))}: {1.0857 * offset[i]:+.2f} mag" for i in np.flatnonzero(far)[:_NAMED]
        )
        log.warning(
            "the input calibrations of %d of %d images are far from their stars' fluxes; not started from (%s)",
            int(far.sum()),
            len(images),
            listed,
        )
    return np.asarray(np.where(far, images.calib_mean * np.exp(-np.nan_to_num(offset)), images.calib_mean))


def _medians(values: F64, group: I64, n: int, least: int = _LEAST) -> F64:
    """Return the median (n,) of the finite values (N,) of each group (N,), NaN where fewer than `least` are."""
    good = np.isfinite(values)
    values, group = values[good], group[good]
    order = np.lexsort((values, group))
    count = np.bincount(group, minlength=n)
    first = np.concatenate([[0], np.cumsum(count)])[:-1]
    out = np.full(n, np.nan)
    some = count >= least
    out[some] = values[order][(first + count // 2)[some]]
    return out
