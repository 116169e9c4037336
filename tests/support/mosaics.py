"""Simulated mosaics, small ones kept, and what a joint fit takes of them."""

from functools import cache

import numpy as np
from astropy.table import Table

from calibration.joint.config import JointcalConfig
from exposure import ExposureCatalog, PhotoCalib, SkyWcs, VisitInfo
from exposure.io.exposure_catalog import ExposureRecord
from simulation.focal_plane import MosaicSettings, MosaicSurvey, simulate_mosaic

__all__ = ["config", "summaries", "survey", "true_pixels_to_sky"]


@cache
def survey(seed: int = 1, n_visits: int = 4, n_chips: int = 9, **kwargs) -> MosaicSurvey:
    return simulate_mosaic(MosaicSettings(seed, n_visits, n_chips, **kwargs))


def summaries(s: MosaicSurvey) -> list[ExposureCatalog]:
    rows: dict[int, list] = {}
    records: dict[int, dict] = {}
    for (v, d), h in s.headers.items():
        rows.setdefault(v, []).append(
            {
                "id": d,
                "visit": v,
                "physical_filter": "HSC-Z",
                "band": "z",
                "bbox_min_x": 0,
                "bbox_min_y": 0,
                "bbox_max_x": h["IMAGEW"] - 1,
                "bbox_max_y": h["IMAGEH"] - 1,
            }
        )
        info = VisitInfo(v, d, h["MJD-OBS"], 0.0, boresight_ra=h["RABORE"], boresight_dec=h["DECBORE"], airmass=1.2)
        records.setdefault(v, {})[d] = ExposureRecord(
            wcs=SkyWcs.from_header(h), photo_calib=PhotoCalib(h["CALMEAN"]), visit_info=info
        )
    return [ExposureCatalog(Table(rows=rows[v]), records[v]) for v in rows]


def config(**values) -> JointcalConfig:
    made = JointcalConfig()
    for name, value in values.items():
        setattr(made, name, value)
    made.validate()
    return made


def true_pixels_to_sky(s: MosaicSurvey, visit: int, detector: int, x, y):
    """The simulation's own way back: chip faults undone, then optics."""
    index = [int(t.visit.iloc[0]) for t in s.sources].index(visit)
    d, o = s.camera[detector], s.optics
    turn = np.radians(d.rotation_deg) + o.chip_turn[detector]
    u = (x - d.centre[0] - o.chip_shift[detector][0]) * d.pixel_size_mm[0]
    v = (y - d.centre[1] - o.chip_shift[detector][1]) * d.pixel_size_mm[1]
    fx = d.offset_mm[0] + np.cos(turn) * u - np.sin(turn) * v
    fy = d.offset_mm[1] + np.sin(turn) * u + np.cos(turn) * v
    return o.to_sky(s.extra["visits"][index], fx, fy)
