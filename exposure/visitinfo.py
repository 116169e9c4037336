"""What is known about the pointing: times, boresight, rotation, airmass."""

from dataclasses import dataclass

__all__ = ["VisitInfo"]


@dataclass(frozen=True)
class VisitInfo:
    """One detector's visit.

    Times are MJD TAI at mid-exposure, angles degrees (ICRS), exposure time seconds; the telescope's longitude (east),
    latitude in degrees and elevation in metres, NaN where unknown.
    """

    visit: int
    detector: int
    midpoint_mjd_tai: float
    exposure_time: float
    instrument: str = ""
    boresight_ra: float = float("nan")
    boresight_dec: float = float("nan")
    rotation: float = 0.0
    airmass: float = float("nan")
    observation_reason: str = ""
    target_name: str = ""
    longitude: float = float("nan")
    latitude: float = float("nan")
    elevation: float = float("nan")
