"""Regions on the sky as boxes of pixels."""

import numpy as np

from exposure import Exposure

__all__ = ["box_of_region"]


def box_of_region(exposure: Exposure, region: list[float]) -> tuple[int, int, int, int] | None:
    """Return x0, y0, width, height of the smallest box of an image that holds what it has of a region.

    Parameters
    ----------
    region
        Three numbers are a circle (ra, dec, radius), four a range (ra, ra, dec, dec), more a polygon (ra, dec, ...): ICRS,
        degrees.

    Returns
    -------
    box
        None where the region is off the image.
    """
    if len(region) == 3:
        ra, dec = _circle(*region)
    elif len(region) == 4:
        ra = np.array([region[0], region[0], region[1], region[1]])
        dec = np.array([region[2], region[3], region[2], region[3]])
    else:
        ra, dec = np.array(region[::2]), np.array(region[1::2])
    x, y = exposure.require_wcs().sky_to_pixel(np.asarray(ra, np.float64), np.asarray(dec, np.float64))
    x0, y0, width, height = exposure.bbox
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    left, right = max(int(np.floor(x.min() + 0.5)), x0), min(int(np.floor(x.max() + 0.5)), x0 + width - 1)
    low, high = max(int(np.floor(y.min() + 0.5)), y0), min(int(np.floor(y.max() + 0.5)), y0 + height - 1)
    if left > right or low > high:
        return None
    return left, low, right - left + 1, high - low + 1


def _circle(ra: float, dec: float, radius: float) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]:
    """Return points on a small circle, exact on the sphere."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    r, d = np.radians(radius), np.radians(dec)
    out_dec = np.arcsin(np.clip(np.sin(d) * np.cos(r) + np.cos(d) * np.sin(r) * np.cos(angle), -1, 1))
    east = np.arctan2(np.sin(angle) * np.sin(r) * np.cos(d), np.cos(r) - np.sin(d) * np.sin(out_dec))
    return (ra + np.degrees(east)) % 360, np.degrees(out_dec)
