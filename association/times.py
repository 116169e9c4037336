"""Times that a visit may have, and what the history may say: one wrong clock must not stay in means and first and last times."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from association.errors import TimeRefused

__all__ = ["TimeLimits", "check_midpoint"]


@dataclass(frozen=True)
class TimeLimits:
    """Times of mid-exposure, MJD (TAI), that are taken for real; `settings` name what to set, for messages."""

    earliest_mjd: float
    future_days: float
    settings: tuple[str, str] = ("earliestMjdTai", "futureDays")

    def latest(self, now_mjd: float, midpoint_mjd: float = -np.inf) -> float:
        """Return the end of what a visit's past can reach: its own time, or what the clock allows."""
        return max(now_mjd + self.future_days, midpoint_mjd)

    def of_history(self, frame: pd.DataFrame, latest_mjd: float) -> pd.DataFrame:
        """Return the rows whose times can be real."""
        mjd = frame.midpointMjdTai.to_numpy(np.float64)
        held = (mjd >= self.earliest_mjd) & (mjd <= latest_mjd)
        return frame if held.all() else frame[held].reset_index(drop=True)

    def of_objects(self, objects: pd.DataFrame, latest_mjd: float) -> pd.DataFrame:
        """Return objects without first and last times that cannot be real: they follow from the sources again."""
        wrong = {
            name: (objects[name] < self.earliest_mjd) | (objects[name] > latest_mjd)
            for name in ("firstDiaSourceMjdTai", "lastDiaSourceMjdTai")
        }
        if not any(bool(w.any()) for w in wrong.values()):
            return objects
        return objects.assign(**{name: objects[name].mask(w) for name, w in wrong.items()})


def check_midpoint(mjd_tai: float, limits: TimeLimits, now_mjd: float, visit: int, detector: int) -> None:
    """Refuse a mid-exposure (MJD, TAI) that lies beyond the limits.

    Raises
    ------
    TimeRefused
        The message has the limit, and the setting that moves it.
    """
    latest = now_mjd + limits.future_days
    if limits.earliest_mjd <= mjd_tai <= latest:
        return
    year = 1858.877 + mjd_tai / 365.2425  # near enough to see what is wrong
    if mjd_tai > latest:
        limit = (
            f"{mjd_tai - now_mjd:.1f} days after now, at most {limits.future_days:g} is allowed ({limits.settings[1]})"
        )
    else:
        limit = f"before MJD {limits.earliest_mjd:g}, the earliest that is allowed ({limits.settings[0]})"
    raise TimeRefused(
        f"mid-exposure is MJD (TAI) {mjd_tai:.6f}, about the year {year:.0f}: {limit}. A Julian date in a card of MJD? A clock "
        "that is wrong?",
        visit=visit,
        detector=detector,
    )
