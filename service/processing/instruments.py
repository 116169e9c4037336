"""Instrument files as the service takes them: the options of tasks in them are checked as well, when the file is read."""

import os
import re
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from exposure import Instrument, load_instrument
from exposure.errors import InstrumentError
from service.frames.given_map import with_bad_pixels
from tasks.errors import CallerError

if TYPE_CHECKING:
    from apdb import Database

__all__ = ["checked_instrument", "claim_ids", "instrument_folder"]

TASKS = {"ImageDifferenceTask": "diffim", "DiaPipelineTask": "association"}  # task -> the room that has it


def checked_instrument(name: str, bad_pixels: Path | None = None) -> Instrument:
    """Load an instrument by name or by the path of its file, and check its ``task_config``.

    The tasks are loaded only where the file has options for them. `bad_pixels` is a map instead of the file's own; see
    `service.frames.given_map.with_bad_pixels`.

    Raises
    ------
    InstrumentError
        What `exposure.load_instrument` raises, or an option that no task has, or a value that the task refuses.
    """
    rules = with_bad_pixels(load_instrument(name), bad_pixels)
    for task, options in rules.task_config.items():
        where = f"instrument {name}: task_config: {task}"
        if task not in TASKS:
            raise InstrumentError(f"{where}: no such task; options can be given for {', '.join(sorted(TASKS))}")
        from tasks.base import make_config

        config_class = getattr(import_module(TASKS[task]), task).ConfigClass
        try:
            make_config(config_class, options)
        except CallerError as error:
            fields = list(config_class._fields)
            near = [get_close_matches(str(o), fields, 1) for o in options if str(o).partition(".")[0] not in fields]
            hint = f" (did you mean {near[0][0]}?)" if near and near[0] else ""
            raise InstrumentError(f"{where}: {' '.join(error.message.split())}{hint}") from error
    return rules


def claim_ids(database: "Database", rules: Instrument, claimed: set[str]) -> None:
    """Make sure, once for each name in `claimed`, that the ids of an instrument meet no others in the database.

    Raises
    ------
    IdLayoutConflict
        They could; see `apdb.id_layouts.claim_layout`.
    """
    if rules.name in claimed:
        return
    from apdb.id_layouts import claim_layout  # no driver for commands that need no database

    packer = rules.packer()
    with database.session() as connection:
        claim_layout(connection, rules.name, (packer.n_visits, packer.n_detectors, packer.n_releases))
    claimed.add(rules.name)


def instrument_folder(name: str, folder: Path, rules: Instrument) -> tuple[str, dict[str, str]]:
    """Return the name under which child processes know an instrument, and the environment that they need for it.

    A visit message holds a name, never a path: nobody can make the service read a file of his choice. The file of a path
    is linked into `folder`, which is the first that the children look into; where its bad pixels were given, the
    instrument is written there as it is meant.
    """
    is_path, given = name.endswith((".yaml", ".yml")), rules.bad_pixels_from is not None
    if not (is_path or given):
        return name, {}
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(name).absolute()
    file_stem = (re.sub(r"[^A-Za-z0-9_.\-]", "_", path.stem)[:64] or "instrument") if is_path else name
    copy = folder / f"{file_stem}.yaml"
    if given:
        # what the file leaves open stays open: some rules ask whether it was said
        copy.write_text(yaml.safe_dump(rules.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    else:
        copy.symlink_to(path)
    others = os.environ.get("ALERTPROD_INSTRUMENTS", "")
    return file_stem, {"ALERTPROD_INSTRUMENTS": os.pathsep.join([str(folder), *([others] if others else [])])}
