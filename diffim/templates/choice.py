"""Which version of a template set is used: the newest, until one is promoted; then that one, until another is, or it is rolled back.

``ROOT/NAME/choice.json`` holds, by band, the versions that were promoted (the last one is used) and who did it when.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffim.errors import NoTemplate, TemplateSetError

__all__ = ["chosen_version", "promote", "read_choice", "roll_back"]

_FILE = "choice.json"


def read_choice(folder: Path) -> dict[str, Any]:
    """Return what was chosen for a set: by band ``versions`` (the last one is used) and ``record``; empty where nothing was.

    Raises
    ------
    TemplateSetError
        The file is broken.
    """
    try:
        record = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TemplateSetError(f"{folder / _FILE} cannot be read: {error}") from error
    return dict(record)


def chosen_version(folder: Path, band: str) -> int | None:
    """Return the version that was promoted for a band, None where none is."""
    versions = read_choice(folder).get(band, {}).get("versions", [])
    return int(versions[-1]) if versions else None


def promote(folder: Path, band: str, version: int, newest: int, by: str) -> None:
    """Let a version be used from now on; `newest` is that which was used while none was promoted."""
    with _changing(folder, band, by) as (versions, record):
        versions[:] = [*(versions or [newest]), version]
        record("promote", version)


def roll_back(folder: Path, band: str, by: str) -> int:
    """Let the version be used that was used before the last promotion; returns it.

    Raises
    ------
    NoTemplate
        None was promoted.
    """
    with _changing(folder, band, by) as (versions, record):
        if len(versions) < 2:
            raise NoTemplate(
                f"no version of {folder.name} was promoted for band {band}: there is nothing to go back to"
            )
        versions.pop()
        record("roll back", versions[-1])
        return int(versions[-1])


@contextmanager
def _changing(folder: Path, band: str, by: str) -> Iterator[tuple[list[int], Any]]:
    """Change what was chosen, one after the other; readers see the old or the new file whole."""
    with (folder / f".{_FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        choice = read_choice(folder)
        entry = choice.setdefault(band, {"versions": [], "record": []})

        def record(action: str, version: int) -> None:
            entry["record"].append(
                {"at": datetime.now(UTC).isoformat(), "by": by, "action": action, "version": version}
            )

        yield entry["versions"], record
        partial = folder / f".{_FILE}.part"
        partial.write_text(json.dumps(choice, indent=1), encoding="utf-8")
        os.replace(partial, folder / _FILE)
