"""The satellite filter service, where a site has one: it answers which detections may become sources."""

from typing import Any

import httpx
import numpy as np
import pandas as pd

from diffim.errors import SatelliteServiceError
from exposure import Exposure
from tasks.arrays import I64, Flags

__all__ = ["allowed_sources"]

_TIMEOUT_S = 10.0


def allowed_sources(base: str, image: Exposure, table: pd.DataFrame, ids: I64) -> Flags:
    """Ask the service which sources are allowed.

    Parameters
    ----------
    base
        URL of the service.
    table
        x, y (frame px) and bboxSize (px) of the sources.
    ids
        Their ids, shape (N,).

    Returns
    -------
    allowed
        Shape (N,). An empty list from the service allows none.

    Raises
    ------
    SatelliteServiceError
        The service does not answer, refuses, or answers something else.
    """
    visit, detector = image.key
    if not len(table):
        return np.zeros(0, np.bool_)
    half = 0.5 * table.bboxSize.to_numpy(np.float64)
    x, y = table.x.to_numpy(np.float64), table.y.to_numpy(np.float64)
    ra, dec = image.require_wcs().pixel_to_sky(
        np.stack([x - half, x + half, x + half, x - half]), np.stack([y - half, y - half, y + half, y + half])
    )
    boxes = np.stack([ra, dec], axis=-1).transpose(1, 0, 2).tolist()
    question = {
        "visit_id": visit,
        "detector_id": detector,
        "historical": False,
        "diasources": [{"diasource_id": int(i), "bbox": box} for i, box in zip(ids, boxes, strict=True)],
    }
    try:
        with httpx.Client(base_url=base, timeout=_TIMEOUT_S) as client:
            reply = client.put("/diasource_allow_list", json=question)
            if reply.status_code == httpx.codes.NOT_FOUND:  # it does not know the visit yet
                client.put("/visit_cache", json=_visit(image)).raise_for_status()
                reply = client.put("/diasource_allow_list", json=question)
            reply.raise_for_status()
            allowed = [int(i) for i in reply.json()["allow_list"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise SatelliteServiceError(f"satellite filter: {error!r}", **image.where) from error
    return np.isin(ids, allowed)


def _visit(image: Exposure) -> dict[str, Any]:
    """What the service wants to know of a visit: when, and where the middle of the image is."""
    info = image.require_visit_info()
    half = 0.5 * info.exposure_time / 86400
    ra, dec = image.require_wcs().pixel_to_sky(image.origin[0] + image.width / 2, image.origin[1] + image.height / 2)
    return {
        "visit_id": info.visit,
        "detector_id": info.detector,
        "exposure_start_mjd": info.midpoint_mjd_tai - half,
        "exposure_end_mjd": info.midpoint_mjd_tai + half,
        "boresight_ra": float(ra),
        "boresight_dec": float(dec),
    }
