"""Template sets from frames on disk: characterise each, relative ones to the stars of those before, then build."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pandas as pd

from calibration import ReferenceStars
from calibration.characterize import characterize
from diffim.errors import TemplateSetError
from diffim.templates.store import TemplateSet, build_template, merge_stars
from exposure import Exposure, Instrument

__all__ = ["template_from_frames"]

T = TypeVar("T")


def template_from_frames(
    root: Path,
    name: str,
    frames: Sequence[Path],
    rules: Instrument,
    reference: ReferenceStars | None = None,
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
    bad_frame: Callable[[Path, Exception], None] | None = None,
) -> TemplateSet:
    """Build a new version of a template set.

    Parameters
    ----------
    reference
        Reference catalogue; without one, the first frame sets the scale of relative cameras.
    bad_frame
        Told of a frame that cannot be used, which is then left out; without it such a frame is an error.

    Raises
    ------
    TemplateSetError
        No frame is given, or none can be used.
    """
    if not frames:
        raise TemplateSetError("a template needs at least one frame")
    time_of = {path: _attempt(path, lambda p: _time(p, rules), bad_frame) for path in dict.fromkeys(frames)}
    times = {path: when for path, when in time_of.items() if when is not None}
    exposures: list[Exposure] = []
    for number, path in enumerate(sorted(times, key=lambda p: (times[p], str(p))), start=1):
        act = partial(_calibrated, rules=rules, reference=reference, before=tuple(exposures))
        exposure = _attempt(path, act, bad_frame)
        exposures += [] if exposure is None else [exposure]
        progress("characterise", number, len(times))
    if not exposures:
        raise TemplateSetError(f"none of the {len(frames)} template frames can be used")
    tile = 1024 if max(exposures[0].width, exposures[0].height) > 512 else 512
    return build_template(
        root,
        name,
        exposures,
        pixel_scale=_scale(exposures, rules),
        tile=tile,
        progress=lambda d, n: progress("coadd", d, n),
    )


def _attempt(path: Path, act: Callable[[Path], T], bad_frame: Callable[[Path, Exception], None] | None) -> T | None:
    """Do something with a frame; None for a bad one, where those are left out."""
    try:
        return act(path)
    except Exception as error:  # whatever is wrong with one frame, the others may be good
        if bad_frame is None or isinstance(error, MemoryError):
            raise
        bad_frame(path, error)
        return None


def _calibrated(
    path: Path, rules: Instrument, reference: ReferenceStars | None, before: Sequence[Exposure]
) -> Exposure:
    """Read and characterise a frame; without a reference the stars of the frames before are it.

    The first frame of another detector that has none of them in its field sets its own scale, as the first of all does.
    """
    exposure = Exposure.read_fits(path, rules)
    if reference is None and before:
        stars = merge_stars(list(before), _scale(list(before), rules))
        if _seen(exposure, before) or _in_field(exposure, stars):
            reference = ReferenceStars(stars)
    characterize(exposure, rules, reference)
    return exposure


def _seen(exposure: Exposure, before: Sequence[Exposure]) -> bool:
    """Whether a frame of the same detector is among those before."""
    detector = exposure.require_visit_info().detector
    return any(b.visit_info is not None and b.visit_info.detector == detector for b in before)


def _in_field(exposure: Exposure, stars: pd.DataFrame) -> bool:
    """Whether any of the stars lies on the frame."""
    x, y = exposure.require_wcs().sky_to_pixel(stars.ra.to_numpy(), stars.dec.to_numpy())
    return bool(exposure.contains(x, y).any())


def _scale(frames: list[Exposure], rules: Instrument) -> float:
    """Return arcsec per pixel: what the instrument file says, else what the first frame has."""
    return rules.pixel_scale or frames[0].pixel_scale_arcsec()


def _time(path: Path, rules: Instrument) -> float:
    from exposure.io.native import open_fits
    from exposure.io.plain import header_visit_info

    with open_fits(path) as hdus:
        return header_visit_info(hdus, rules, name=path).midpoint_mjd_tai
