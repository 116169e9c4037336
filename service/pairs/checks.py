"""Pairs that are not what they are said to be: the same image twice, or two that do not lie on one grid of pixels."""

import numpy as np
from numpy.typing import NDArray

from calibration.stars import bright_stars
from diffim.errors import DifferencingError, MismatchError
from diffim.matching.registration import StarShifts, displacement_at_stars, fit_displacement, match_lists
from exposure import Exposure, SkyWcs
from exposure.errors import WcsMissing, WcsUnsupported
from exposure.psf_width import psf_fwhm
from exposure.stars import Stars
from service.errors import SameImage
from tasks.arrays import F64, nearest_pixels

__all__ = ["check_distinct", "check_one_grid", "check_wcs"]

ROWS = 64  # of an image that are compared
ALIKE = 0.01  # of the usual step from pixel to pixel: noise makes steps of its own
SAME, PARTLY = 0.98, 0.5  # shares of steps that are alike
FEW = 8  # stars that do not tell where an image lies
ON_GRID = 0.7  # px: what is further is worth a word
MOST = 100  # stars that are looked at
Names = tuple[str, str]
ADVICE = {
    True: "use --register (their stars say how one lies on the other), or drop --registered where both have a WCS",
    False: "mend the WCS of one of them, or use --register (their stars say how one lies on the other)",
}


def check_wcs(exposures: tuple[Exposure, Exposure], names: Names) -> None:
    """Raise `WcsMissing` where an image that is to be put on the pixels of the other by its WCS has none."""
    for exposure, name in zip(exposures, names, strict=True):
        if exposure.wcs is None:
            why = "" if exposure.wcs_problem is None else f" ({exposure.wcs_problem.message})"
            lacks = (
                "a WCS that cannot be used" if isinstance(exposure.wcs_problem, WcsUnsupported) else "no celestial WCS"
            )
            raise type(exposure.wcs_problem or WcsMissing(""))(
                f"{name} has {lacks}{why}: use --register (the stars say how the two lie on each other), or "
                "--registered (they lie on one grid of pixels already)"
            )


def check_distinct(new: Exposure, old: Exposure, names: Names) -> str:
    """Compare the steps from pixel to pixel of two images; returns a warning, empty for most pairs.

    Raises
    ------
    SameImage
        Nearly all steps of the one are a multiple of those of the other: they have their noise in common.
    """
    share = _alike(new, old)
    which = f"{names[0]} and {names[1]}"
    if share > SAME:
        raise SameImage(f"{which} are the same image (a constant or a factor aside): there is nothing to subtract")
    if share > PARTLY:
        return (
            f"{100 * share:.0f} % of the pixels of {which} are the same: they have their noise in common, and what is "
            "said of the noise of the difference is wrong there"
        )
    return ""


def _alike(new: Exposure, old: Exposure) -> float:
    """Return the share of steps between neighbours that are the same in two images, one factor aside."""
    if new.image.shape != old.image.shape:
        return 0.0
    step = max(1, new.height // ROWS)
    with np.errstate(invalid="ignore"):
        a, b = (np.diff(e.image[::step].astype(np.float64), axis=1) for e in (new, old))
    use = np.isfinite(a) & np.isfinite(b) & ((a != 0) | (b != 0))
    use &= ~(new.flagged("NO_DATA")[::step] | old.flagged("NO_DATA")[::step])[:, 1:]
    a, b = a[use], b[use]
    moved = np.abs(b) >= (np.median(np.abs(b)) if b.size else 0)
    if a.size < 100 or not (b[moved] != 0).all():
        return 0.0
    factor = float(np.median(a[moved] / b[moved]))
    usual = float(np.median(np.abs(a)))
    return float((np.abs(a - factor * b) <= ALIKE * usual).mean()) if factor != 0 else 0.0


def check_one_grid(
    new: Exposure, old: Exposure, stars: Stars, old_wcs: SkyWcs | None, names: Names, registered: bool = True
) -> str:
    """Look for the stars of the image at their places in the template; returns a warning, empty for most pairs.

    Parameters
    ----------
    new, old
        The pair without sky, on one grid; `new` has a PSF.
    stars
        The stars of the image.
    old_wcs
        The WCS that the template's file has.
    registered
        Whether somebody says that they lie on one grid; else their WCS have brought them there.

    Raises
    ------
    MismatchError
        They lie elsewhere: the message says where, as far as that can be found.
    """
    which = f"{names[0]} and {names[1]}"
    stars = stars.take(_covered(old, stars))
    chosen = np.flatnonzero((stars.snr > 20) & ~stars.flagged & stars.isolated)
    if chosen.size < FEW:
        chosen = np.flatnonzero((stars.snr > 20) & ~stars.flagged)
    apart = _wcs_distance(new, old_wcs) if registered else 0.0
    if chosen.size < FEW:
        wrong = f" (their WCS are {apart:.1f} px apart)" if apart > ON_GRID else ""
        return f"{chosen.size} bright stars are too few to see whether {which} lie on one grid{wrong}" if wrong else ""
    shifts = displacement_at_stars(new, old, stars.take(chosen[:MOST]), psf_fwhm(new.require_psf(), new.bbox))
    median = float(np.median(np.hypot(shifts.dx, shifts.dy))) if shifts.x.size else np.inf
    if _common(shifts, min(chosen.size, MOST), new):
        if median <= ON_GRID:
            return ""
        who = "--registered says one grid" if registered else "their WCS put them on one"
        return f"the stars of {which} lie {median:.2f} px from each other, though {who}: the template is resampled"
    where = _elsewhere(new, old, stars)
    if not where:
        return ""
    told = f"; their WCS are {apart:.1f} px apart" if apart > ON_GRID else ""
    said = "do not lie on one grid of pixels" if registered else "are not brought together by their WCS"
    raise MismatchError(f"{which} {said}: {where}{told}; {ADVICE[registered]}")


def _covered(old: Exposure, stars: Stars) -> NDArray[np.intp]:
    """Return which stars lie where the template has data."""
    ix, iy = (nearest_pixels(v) - o for v, o in zip((stars.x, stars.y), old.origin, strict=True))
    inside = (ix >= 0) & (iy >= 0) & (ix < old.width) & (iy < old.height)
    rows = np.flatnonzero(inside)
    return rows[old.good()[iy[rows], ix[rows]]]


def _common(shifts: StarShifts, n: int, new: Exposure) -> bool:
    """Whether half of `n` stars or more lie near their places, and all by about the same shift."""
    if shifts.x.size < max(0.5 * n, 3):
        return False
    scatter = fit_displacement(shifts.x, shifts.y, shifts.dx, shifts.dy, shifts.error, new.bbox).scatter
    return scatter < ON_GRID


def _elsewhere(new: Exposure, old: Exposure, stars: Stars) -> str:
    """Say where the stars of the template lie; nothing where it has too few, or they do lie where they should."""
    own = bright_stars(old)
    if len(own) < FEW:
        return ""
    try:
        first, second = match_lists(stars.x, stars.y, own.x, own.y)
    except DifferencingError:
        return (
            f"of {len(stars)} and {len(own)} stars hardly any lie at the same place, and no shift up to 60 px brings them "
            "together (they are turned, of another scale, or of another field)"
        )
    x, y, u, v = stars.x[first], stars.y[first], own.x[second], own.y[second]
    dx, dy = float(np.median(u - x)), float(np.median(v - y))
    if np.hypot(dx, dy) <= ON_GRID and np.median(np.hypot(u - x, v - y)) <= 2 * ON_GRID:
        return ""
    turned = _turn(x, y, u, v)
    return f"the template's stars lie ({dx:+.1f}, {dy:+.1f}) px from those of the image{turned}"


def _turn(x: F64, y: F64, u: F64, v: F64) -> str:
    """Say by how much one list of positions is turned and stretched against the other; nothing where that is little."""
    if x.size < FEW:
        return ""
    z, w = (x - x.mean()) + 1j * (y - y.mean()), (u - u.mean()) + 1j * (v - v.mean())
    factor = complex(np.vdot(z, w) / np.vdot(z, z))
    reach = float(np.abs(z).max())
    angle, scale = float(np.degrees(np.angle(factor))), abs(factor)
    if abs(factor - 1) * reach < 1.0:
        return ""
    return f", turned by {angle:.2f} degrees and scaled by {scale:.4f}"


def _wcs_distance(new: Exposure, old_wcs: SkyWcs | None) -> float:
    """Return how far apart (px, median) the two WCS put the same sky; 0 where one is missing."""
    if new.wcs is None or old_wcs is None:
        return 0.0
    x0, y0, width, height = new.bbox
    x, y = (a.ravel() for a in np.meshgrid(x0 + width * np.linspace(0, 1, 5), y0 + height * np.linspace(0, 1, 5)))
    u, v = old_wcs.sky_to_pixel(*new.wcs.pixel_to_sky(x, y))
    away = np.hypot(u - x, v - y)
    return float(np.median(np.where(np.isfinite(away), away, np.inf)))
