"""A small exposure with everything that can be attached to one."""

import numpy as np

from exposure import (
    ApCorrMap,
    ChebyshevField,
    Exposure,
    MoffatPsf,
    PhotoCalib,
    SkyWcs,
    VisitInfo,
)
from exposure.mask import PLANES

__all__ = ["S", "make_exposure", "tan"]

S = 0.2 / 3600


def tan(crval=(150.0, 2.0), origin=(0, 0)):
    wcs = SkyWcs.tan((100.0, 80.0), crval, [[-S, 0.1 * S], [0.1 * S, S]])
    return wcs


def make_exposure(origin=(12345, 67890)):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(60, 80)).astype(np.float32)
    image[3, 4] = np.nan
    mask = rng.integers(0, 1 << 19, image.shape).astype(np.int32)
    mask[3, 4] |= 1 << PLANES["NO_DATA"]
    box = (*origin, 80, 60)
    field = ChebyshevField(np.array([[1.0, 0.02], [0.01, 0.0]]), box)
    return Exposure(
        image,
        np.abs(image) + 1,
        mask,
        origin,
        tan().shifted(*origin),
        MoffatPsf((4.0, 0.1), 3.0, 31, box, (0.01,)),
        PhotoCalib(2.5, 0.01, field, "refcat"),
        VisitInfo(123456789012, 7, 61000.123456789, 30.0, "simcam", 150.0, 2.0, 12.5, 1.2, "why", "what"),
        "r",
        "r_03",
        ApCorrMap({"base_PsfFlux_instFlux": ChebyshevField.constant(1.01, box)}),
    )
