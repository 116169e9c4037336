"""A small alert packet with cutouts, for tests and for the examples of the documentation."""

import io
from typing import Any

import numpy as np
from astropy.io import fits

__all__ = ["alert_packet"]


def _stamp(seed: int, peak: float) -> bytes:
    y, x = np.indices((31, 31)) - 15
    image = np.random.default_rng(seed).normal(0, 10, (31, 31)) + peak * np.exp(-0.25 * (x**2 + y**2))
    image[0] = np.nan  # beyond the edge of the detector
    out = io.BytesIO()
    fits.PrimaryHDU(image.astype(np.float32)).writeto(out)
    return out.getvalue()


def alert_packet() -> dict[str, Any]:
    """Return a packet of a source that was seen once before."""
    source = {
        "diaSourceId": 42, "diaObjectId": 7, "ssObjectId": None, "ra": 150.0001, "dec": 2.0002, "band": "r",
        "midpointMjdTai": 61000.1, "psfFlux": 5000.0, "psfFluxErr": 100.0, "reliability": None,
    }  # fmt: skip
    earlier = {**source, "diaSourceId": 41, "midpointMjdTai": 60999.1, "psfFlux": 3000.0}
    return {
        "diaSourceId": 42, "diaSource": source, "prvDiaSources": [earlier], "prvDiaForcedSources": None,
        "cutoutDifference": _stamp(1, 500.0), "cutoutScience": _stamp(2, 800.0), "cutoutTemplate": _stamp(3, 300.0),
    }  # fmt: skip
