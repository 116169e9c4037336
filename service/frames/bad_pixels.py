"""Bad-pixel maps from frames on disk: what ``alertprod instrument bad-pixels`` does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.defects.learned_map import Defects, SkyFrame, learn_defects
from calibration.errors import TooLittleDrift
from exposure import Instrument
from exposure.errors import InstrumentError
from exposure.flagging.bad_pixels import write_bad_pixel_map
from exposure.io.native import open_fits, read_planes
from exposure.io.plain import header_visit_info

__all__ = ["learn_bad_pixels"]

MOST_FRAMES = 60  # of a detector: medians of more gain nothing, and all are in memory at once


@dataclass(frozen=True)
class _Frame:
    path: Path
    mjd: float
    seconds: float
    sky: SkyFrame


def learn_bad_pixels(
    rules: Instrument,
    frames: Sequence[Path],
    out: Path,
    threshold: float = 2.5,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Learn the bad pixels of each detector from frames of a drifting night and write them as one FITS map.

    Bad pixels that the instrument file has already are learned anew. Of more than `MOST_FRAMES` frames of a detector
    some are taken, evenly over the night.

    Returns
    -------
    report : `dict`
        ``map`` (the path) and ``detectors``: by number, what `calibration.defects.learned_map.learn_defects` reports.

    Raises
    ------
    TooLittleDrift
        The stars stay on the same pixels, or frames are too few.
    InstrumentError
        Frames of one detector differ in size; or a header breaks the rules.
    """
    bare = rules.model_copy(update={"bad_pixels": ()})
    by_detector: dict[int, list[_Frame]] = {}
    for number, path in enumerate(frames, start=1):
        with open_fits(path) as hdus:
            info = header_visit_info(hdus, bare, name=path)
        exposure = read_planes(path, bare)  # a WCS is a first guess here, and may be missing
        sky = SkyFrame.of(exposure, rules.characterize.background_mesh)
        frame = _Frame(path, info.midpoint_mjd_tai, info.exposure_time, sky)
        by_detector.setdefault(info.detector, []).append(frame)
        say(f"read {number} of {len(frames)} frames")
    if not by_detector:
        raise TooLittleDrift("no frames were given")
    defects = {d: _learned(d, by_detector[d], threshold) for d in sorted(by_detector)}
    seconds = float(np.median([f.seconds for group in by_detector.values() for f in group]))
    cards = {"INSTRUME": rules.name, "THRESHLD": threshold, "EXPTIME": seconds}
    write_bad_pixel_map(out, {d: f.map for d, f in defects.items()}, cards)
    return {"map": str(out), "detectors": {str(d): f.report for d, f in defects.items()}}


def _learned(detector: int, frames: list[_Frame], threshold: float) -> Defects:
    ordered = sorted(frames, key=lambda f: (f.mjd, f.path.name))
    if len(ordered) > MOST_FRAMES:
        ordered = [ordered[k] for k in np.linspace(0, len(ordered) - 1, MOST_FRAMES).round().astype(int)]
    first = ordered[0]
    for frame in ordered:
        if frame.sky.pixels.shape != first.sky.pixels.shape:
            raise InstrumentError(
                f"{frame.path.name} is of {frame.sky.pixels.shape[1]} x {frame.sky.pixels.shape[0]} px, {first.path.name} of "
                f"{first.sky.pixels.shape[1]} x {first.sky.pixels.shape[0]}: one map needs frames of one size",
                detector=detector,
            )
    try:
        return learn_defects([f.sky for f in ordered], threshold)
    except TooLittleDrift as error:
        error.detector = detector
        raise
