"""The frames of a night before anything is started: what their headers say, which are left out, and their visit numbers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from exposure import Instrument
from exposure.errors import FitsUnreadable, ImageAmbiguous
from exposure.instrument import visit_from_mjd
from exposure.io.native import open_fits
from exposure.io.opening import split_choice
from exposure.io.plain import header_visit_info
from exposure.io.several import images_in
from service.errors import DuplicateVisit
from tasks.errors import AlertProdError

__all__ = ["Frame", "LeftOut", "as_typed", "each_image", "read_frames"]

SAME_TIME_DAYS = 1e-3 / 86_400  # detectors of one exposure: their times are equal but for rounding


@dataclass(frozen=True)
class Frame:
    """A frame that can be posted."""

    path: Path
    visit: int
    detector: int
    mjd: float
    by_time: bool = field(compare=False)

    @property
    def key(self) -> tuple[int, int]:
        """(visit, detector)."""
        return self.visit, self.detector

    def message(self, instrument: str) -> dict[str, Any]:
        """Return the visit message."""
        return {
            "instrument": instrument,
            "science": str(self.path),
            "visit": self.visit,
            "detector": self.detector,
            "midpointMjdTai": self.mjd,
        }


@dataclass(frozen=True)
class LeftOut:
    """A frame that is not processed, and why."""

    path: Path
    code: str
    reason: str
    visit: int | None = None
    detector: int | None = None
    template: bool = False


def as_typed(path: Path, error: Exception) -> AlertProdError:
    """Return an error of ours for whatever the reading of a frame raised."""
    if isinstance(error, AlertProdError):
        return error
    return FitsUnreadable(f"{path.name} cannot be used: {type(error).__name__}: {error}")


def read_frames(
    paths: Iterable[Path], rules: Instrument, say: Callable[[str], None]
) -> tuple[list[Frame], list[LeftOut]]:
    """Return the frames in order of time, detector and name, each with a number of its own, and those left out.

    Each image of a file with several is a frame, with the detector that its own header names.

    A number that comes from the time is moved to the next free second where another exposure has it; detectors of one
    exposure share it. Numbers out of headers stay as they are.
    """
    frames: list[Frame] = []
    left: list[LeftOut] = []
    for path in _once(paths, say):
        try:
            good, bad = _of_file(path, rules)
        except Exception as error:  # whatever is wrong with one file, the others are processed
            good, bad = [], [_left_out(path, error)]
        frames += good
        left += bad
    frames.sort(key=_order)
    numbered, twice = _numbered(frames, rules)
    kept = []
    for frame in numbered:
        try:
            rules.packer().catalog_id(frame.visit, frame.detector)
            kept.append(frame)
        except AlertProdError as error:
            left.append(LeftOut(frame.path, error.code, error.message, frame.visit, frame.detector))
    return kept, left + twice


def _order(frame: Frame) -> tuple[float, int, str, str]:
    return frame.mjd, frame.detector, frame.path.name, str(frame.path)


def each_image(path: Path, rules: Instrument) -> list[Path]:
    """Return the path of a frame or, where its file holds several images and it names none, that of each of them.

    Raises
    ------
    FitsUnreadable
        It is no file with an image.
    """
    file, choice = split_choice(path)
    images = [] if choice is not None else images_in(file, rules)
    return [image.of(file) for image in images] if len(images) > 1 else [path]


def _of_file(path: Path, rules: Instrument) -> tuple[list[Frame], list[LeftOut]]:
    """Return the frames of a file, and those of its images that cannot be used.

    Raises
    ------
    ImageAmbiguous
        Images of one file that have one detector: nothing tells them apart.
    """
    _check_name(path)
    try:
        return [_read(path, rules)], []
    except ImageAmbiguous:
        images = each_image(path, rules)
        if len(images) == 1:
            raise
    frames: list[Frame] = []
    left: list[LeftOut] = []
    for image in images:
        try:
            frames.append(_read(image, rules))
        except Exception as error:  # whatever is wrong with one image, the others are processed
            left.append(_left_out(image, error))
    numbers = [f.detector for f in frames]
    twice = next((n for n in numbers if numbers.count(n) > 1), None)
    if twice is not None:
        says = "it names none" if rules.detector.key is None else f"now {rules.detector.key}"
        raise ImageAmbiguous(
            f"{path.name} holds {len(images)} images, and more than one has detector {twice}: name under `detector` of the instrument "
            f"file a card that each has in its own header ({says}), or one image under planes.image"
        )
    return frames, left


def _left_out(path: Path, error: Exception) -> LeftOut:
    typed = as_typed(path, error)
    return LeftOut(path, typed.code, str(typed))


def _once(paths: Iterable[Path], say: Callable[[str], None]) -> list[Path]:
    """Return each file once, by what it is and not by how it was named."""
    path_of: dict[Any, Path] = {}
    for path in paths:
        file, choice = split_choice(path)
        resolved = path.resolve() if choice is None else Path(f"{file.resolve()}[{choice}]")
        try:
            status = file.stat()
            key: Any = (status.st_dev, status.st_ino, choice)
        except OSError:
            key = resolved
        if key in path_of:
            say(f"given twice, processed once: {path}")
        else:
            path_of[key] = resolved
    return list(path_of.values())


def _check_name(path: Path) -> None:
    """Refuse what is no file, or has a name that no message can hold."""
    file, _ = split_choice(path)
    if not file.exists():
        raise FitsUnreadable(f"{path} does not exist")
    if not file.is_file():
        raise FitsUnreadable(
            f"{path} is no file: name the frames one by one, or with a pattern such as {path.name}/*.fits"
        )
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise FitsUnreadable(f"{path!r}: the name of the file is no UTF-8: rename it") from error


def _read(path: Path, rules: Instrument) -> Frame:
    with open_fits(path) as hdus:
        info = header_visit_info(hdus, rules, name=path)
    by_time = rules.visit is None and info.visit == visit_from_mjd(info.midpoint_mjd_tai, rules.visit_rule)
    return Frame(path, info.visit, info.detector, info.midpoint_mjd_tai, by_time)


def _numbered(frames: list[Frame], rules: Instrument) -> tuple[list[Frame], list[LeftOut]]:
    """Give every frame (sorted by `_order`) a (visit, detector) of its own; frames that have none are returned apart."""
    taken: dict[tuple[int, int], Frame] = {}
    out, left = [], []
    for frame in (f for f in frames if not f.by_time):
        other = taken.setdefault(frame.key, frame)
        if other is frame:
            out.append(frame)
            continue
        text = f"the header gives visit {frame.visit}, detector {frame.detector}, which {other.path.name} has already"
        left.append(LeftOut(frame.path, DuplicateVisit.code, text, *frame.key))
    for exposure in _exposures(f for f in frames if f.by_time):
        visit = exposure[0].visit
        while any((visit, f.detector) in taken for f in exposure):
            visit = _next_second(visit, rules.visit_rule)
        moved = [replace(f, visit=visit) for f in exposure]
        taken |= {f.key: f for f in moved}
        out += moved
    return sorted(out, key=_order), left


def _exposures(frames: Iterable[Frame]) -> list[list[Frame]]:
    """Group sorted frames: one exposure is one time, and has each detector once."""
    groups: list[list[Frame]] = []
    open_groups: list[list[Frame]] = []
    for frame in frames:
        open_groups = [g for g in open_groups if frame.mjd - g[0].mjd <= SAME_TIME_DAYS]
        group = next((g for g in open_groups if all(f.detector != frame.detector for f in g)), None)
        if group is None:
            group = []
            groups.append(group)
            open_groups.append(group)
        group.append(frame)
    return groups


def _next_second(visit: int, rule: str) -> int:
    """Return the visit number one second later; after the last second of a day comes the first of the next."""
    day, second = divmod(visit, 100_000)
    if second < 86_399:
        return visit + 1
    form = "%y%m%d" if rule.startswith("yymm") else "%Y%m%d"
    after = datetime.strptime(f"{day:0{6 if rule.startswith('yymm') else 8}d}", form).replace(tzinfo=UTC) + timedelta(1)
    return int(after.strftime(form)) * 100_000
