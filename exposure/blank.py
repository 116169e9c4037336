"""An image of nothing: what tables of no rows are made with, so that they have the columns and types of those with rows."""

import numpy as np

from exposure.apcorr import PSF_FLUX, ApCorrMap
from exposure.exposure import Exposure
from exposure.field import ChebyshevField
from exposure.photocalib import PhotoCalib
from exposure.psf import GaussianPsf
from exposure.visitinfo import VisitInfo
from exposure.wcs.sky_wcs import SkyWcs

__all__ = ["blank_exposure"]


def blank_exposure() -> Exposure:
    """Return a pixel of sky with all calibrations."""
    wcs = SkyWcs.tan((0.0, 0.0), (0.0, 0.0), np.eye(2))
    ap_corr = ApCorrMap({PSF_FLUX: ChebyshevField(np.ones((1, 1)), (0, 0, 1, 1))})
    return Exposure(
        np.zeros((1, 1), np.float32),
        np.ones((1, 1), np.float32),
        np.zeros((1, 1), np.int32),
        wcs=wcs,
        psf=GaussianPsf(1.0, 3),
        photo_calib=PhotoCalib(1.0),
        visit_info=VisitInfo(1, 0, 60000.0, 1.0, ""),
        band="r",
        ap_corr=ap_corr,
    )
