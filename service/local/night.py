"""A night from files: embedded servers, a template, every frame through the real service, results as files."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apdb import VisitState
from apdb.operate.export import ledger_rows
from service.errors import NightFailed
from service.frames.given_map import check_fits_some, maps_of
from service.local.campaign import post_visits, wait_finished, wait_published
from service.local.night_frames import Frame, LeftOut, as_typed, each_image, read_frames
from service.local.night_report import exit_status, make_report, write_report, write_tables
from service.local.stack import Stack
from service.processing.build_template import template_from_frames
from service.processing.instruments import checked_instrument, instrument_folder
from service.processing.positions import read_positions
from service.settings import load_settings
from service.subprocesses.interrupt import Interrupted, Signals
from service.subprocesses.scratch import Scratch
from service.terminal import progress
from tasks.errors import AlertProdError

__all__ = ["NightPlan", "run_night"]

TEMPLATE_SET = "night"
SECONDS_PER_FRAME = 300.0


@dataclass(frozen=True)
class NightPlan:
    """What `run_night` is asked to do."""

    instrument: str
    template_frames: list[Path]
    frames: list[Path]
    out: Path
    positions: Path | None = None
    bad_pixels: Path | None = None
    keep: bool = False


def run_night(plan: NightPlan, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Process the frames and write report.json, diaObjects, diaSources, diaForcedSources, forcedPositions (Parquet).

    Frames that cannot be used are reported and left out. When the night as a whole fails, or is ended by a signal, its
    servers are stopped and the report is written with what there is.

    Returns
    -------
    report : `dict`
        What report.json holds; ``exitStatus`` is that of the command.

    Raises
    ------
    InstrumentError, BadPositions
        Before anything is started: instrument file, map of bad pixels or positions are wrong.
    """
    rules = checked_instrument(plan.instrument, plan.bad_pixels)
    if plan.bad_pixels is not None:
        check_fits_some(rules, (*plan.frames, *plan.template_frames))
    if plan.positions is not None:
        read_positions(plan.positions)
    plan.out.mkdir(parents=True, exist_ok=True)
    with Signals() as signals, Scratch(crash_point=load_settings().crash_point) as scratch:
        night = _Night(plan, signals, scratch, say, maps_of(rules))
        failure: BaseException | None = None
        try:
            night.read(rules)
            night.build(rules)
            night.process(rules)
        except (Interrupted, AlertProdError) as error:
            failure = error
        except BaseException as error:
            night.report(error)
            raise
        return night.report(failure)


class _Night:
    """One night on its way: what is known of its frames so far, and where its files are."""

    def __init__(
        self,
        plan: NightPlan,
        signals: Signals,
        scratch: Scratch,
        say: Callable[[str], None],
        maps: list[dict[str, str]],
    ) -> None:
        self._plan, self._signals, self._scratch, self._say, self._maps = plan, signals, scratch, say, maps
        self._out = plan.out.resolve()
        self._work = self._out
        if not plan.keep:
            self._work = scratch.make_directory(self._out, "night-")
        self._frames: list[Frame] = []
        self._left_out: list[LeftOut] = []
        self._rows: list[dict[str, Any]] = []

    def read(self, rules: Any) -> None:
        """Read the headers of the frames.

        Raises
        ------
        NightFailed
            None can be used.
        """
        with self._signals.at_once():
            self._frames, self._left_out = read_frames(self._plan.frames, rules, self._say)
        for left in self._left_out:
            self._say(f"refused: {left.path}: {left.code}: {left.reason}")
        if not self._frames:
            raise NightFailed(f"none of the {len(self._plan.frames)} frames can be used: see the reasons in the report")

    def build(self, rules: Any) -> None:
        """Build the template of those of its frames that can be used."""
        frames = self._template_images(rules)
        self._say(f"building the template from {len(frames)} frames")
        with self._signals.at_once():
            template_from_frames(
                self._work / "templates", TEMPLATE_SET, frames, rules, bad_frame=self._bad_template_frame
            )

    def _template_images(self, rules: Any) -> list[Path]:
        """Return the frames of the template, each image of a file with several, once."""
        frames: dict[Path, None] = {}
        for path in self._plan.template_frames:
            try:
                frames |= dict.fromkeys(each_image(path.resolve(), rules))
            except AlertProdError:  # who reads its pixels says what is wrong with it
                frames[path.resolve()] = None
        return list(frames)

    def _bad_template_frame(self, path: Path, error: Exception) -> None:
        typed = as_typed(path, error)
        self._left_out.append(LeftOut(path, typed.code, str(typed), template=True))
        self._say(f"left out of the template: {path}: {typed.code}: {typed}")

    def process(self, rules: Any) -> None:
        """Run all frames through a service.

        Raises
        ------
        NightFailed
            None came to an end without an error.
        """
        name, environment = instrument_folder(self._plan.instrument, self._scratch.path / "instruments", rules)
        stack = Stack(
            self._settings(), say=self._say, scratch=self._scratch, environment=environment, check=self._signals.check
        )
        with stack:
            try:
                self._follow(stack, name)
            finally:
                self._rows = ledger_rows(stack.database)
                write_tables(stack.database, self._out, self._work / "products")
        if all(r["state"] == VisitState.FAILED for r in self._rows):
            raise NightFailed(
                f"none of the {len(self._plan.frames)} frames could be processed: see the reasons in the report"
            )

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "data_roots": sorted({f.path.parent for f in self._frames}),
            "template_set": TEMPLATE_SET,
            "template_dir": self._work / "templates",
            "products_dir": self._work / "products",
            "archive_dir": str(self._work / "alerts"),
        }
        if self._plan.positions is not None:
            settings["forced_positions"] = self._plan.positions.resolve()
        return settings

    def _follow(self, stack: Stack, instrument: str) -> None:
        """Post the frames and wait for their end and that of their alerts."""
        replies = post_visits(stack, [f.message(instrument) for f in self._frames])
        accepted = []
        for frame, reply in zip(self._frames, replies, strict=True):
            if reply["httpStatus"] == 202:
                accepted.append(frame.key)
                continue
            code, reason = str(reply.get("code")), str(reply.get("detail"))
            self._left_out.append(LeftOut(frame.path, code, reason, *frame.key))
            self._say(f"refused: {frame.path}: {code}: {reason}")
        self._say(f"processing {len(accepted)} visits")
        with _shown(self._say) as step:

            def follow(done: int, total: int, failed: int) -> None:
                self._signals.check()
                step(done, total, failed)

            wait_finished(stack, accepted, SECONDS_PER_FRAME * max(len(accepted), 1), follow)
        self._say(f"{wait_published(stack, check=self._signals.check)} alerts published")

    def report(self, failure: BaseException | None) -> dict[str, Any]:
        """Write the report and delete what is not kept."""
        import shutil

        report = make_report(self._frames, self._left_out, self._rows) | {"badPixelMaps": self._maps}
        if failure is not None and not isinstance(failure, Interrupted):
            code = getattr(failure, "code", "internal")
            report["error"] = {"code": code, "message": str(failure) or type(failure).__name__}
        report["exitStatus"] = exit_status(report)
        if isinstance(failure, Interrupted):
            report |= {"interrupted": True, "signal": failure.name, "exitStatus": failure.exit_status}
        write_report(report, self._out)
        if not self._plan.keep:
            shutil.rmtree(self._work, ignore_errors=True)
        return report


@contextmanager
def _shown(say: Callable[[str], None]) -> Iterator[Callable[[int, int, int], None]]:
    """Show progress: a bar on a terminal, else a line whenever another tenth is done."""
    if sys.stderr.isatty():
        with progress("visits") as bar:
            yield lambda done, total, failed: bar(done, total, f"visits, {failed} failed" if failed else None)
        return
    last = -1

    def line(done: int, total: int, failed: int) -> None:
        nonlocal last
        if done * 10 // max(total, 1) > last:
            last = done * 10 // max(total, 1)
            say(f"{done} of {total} visits done" + (f", {failed} of them failed" if failed else ""))

    yield line
