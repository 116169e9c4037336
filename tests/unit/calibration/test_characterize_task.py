"""A quantum of the characterisation whose image cannot be used: the failure is that of the image, and others go on."""

import numpy as np
import pytest
from lsst.pipe.base import AnnotatedPartialOutputsError

from calibration.characterize_task import CharacterizeTask
from exposure import Exposure, PhotoCalib, SkyWcs, VisitInfo
from tasks import make_task
from tests.support.quantum import Quantum


def test_a_frame_without_a_good_pixel_fails_for_itself():
    shape = (64, 64)
    wcs = SkyWcs.tan((32.0, 32.0), (10.0, -20.0), [[-0.2 / 3600, 0], [0, 0.2 / 3600]])
    planes = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32), np.zeros(shape, np.int32)
    info = VisitInfo(1004, 1, 61000.0, 30.0, "simcam")
    image = Exposure(*planes, wcs=wcs, photo_calib=PhotoCalib(1.0), visit_info=info, band="r")
    task = make_task(CharacterizeTask)
    with pytest.raises(AnnotatedPartialOutputsError):
        task.runQuantum(Quantum(exposures=[image]), None, None)
    kept = task.metadata["failure"]["metadata"].to_dict()
    assert kept == {"code": "no_good_pixels", "visit": 1004, "detector": 1}
